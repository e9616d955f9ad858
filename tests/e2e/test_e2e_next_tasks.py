"""Opening a task in Label Studio has those behind it encoded."""

from __future__ import annotations

import re

import pytest
import requests

from demo.projects import PHOTO_PROJECT
from tests.e2e.masks import true_object
from tests.e2e.services import Services
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

PHOTOS = [true_object("quince.jpg", "bud").photo, true_object("bowl.jpg", "bowl").photo]


def encoded(services: Services) -> int:
    """Pictures that the backend has encoded since its start."""
    said = requests.get(f"{services.backend.url}/metrics", timeout=PATIENCE).text
    found = re.search(r'^sam2_embedding_lookups_total\{outcome="miss"\} (\S+)$', said, re.M)
    return int(float(found[1])) if found else 0


def test_the_next_task_is_encoded_when_one_is_opened(services: Services) -> None:
    project = services.project("Next tasks", PHOTO_PROJECT.label_config)
    tasks = services.photo_tasks(project, *PHOTOS)
    other = services.project("Other tasks", PHOTO_PROJECT.label_config)
    services.photo_tasks(other, *PHOTOS)
    before = encoded(services)
    services.api.request("GET", f"/api/tasks/{tasks[0]}/?project={project}")
    until(lambda: encoded(services) == before + len(PHOTOS))
