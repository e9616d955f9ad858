"""Two users of a real Label Studio on one task: what comes back to each of them."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from demo.api import LabelStudioApi
from demo.clip import FRAMES, sample_clip
from demo.label_studio import Account
from demo.projects import SEQUENCE_PROJECT
from tests.e2e.masks import centre
from tests.e2e.services import ACCOUNT, Services

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

SECOND = Account(email="second@example.org", password="annotator-2")
BUD = sample_clip().masks["bud"]


class Annotator:
    """A user of Label Studio without a browser: keeps what is answered, and saves it as a draft."""

    def __init__(self, services: Services, account: Account, project: int, task: int) -> None:
        self._api = LabelStudioApi(services.label_studio.url, account)
        [backend] = self._api.request("GET", "/api/ml", params={"project": project})
        self._answers = f"/api/ml/{backend['id']}/interactive-annotating"
        self._task = task
        self._draft: int | None = None
        self.name = account.email
        self.regions: dict[str, dict[str, Any]] = {}

    def ask(self, **item: Any) -> tuple[list[str], str]:
        """The ids of the regions that come back, and the text."""
        result = {"to_name": "image", "origin": "manual", **item}
        body = {"task": self._task, "context": {"result": [result]}}
        results = self._api.request("POST", self._answers, json=body)["data"]["result"]
        texts = [line for each in results for line in each["value"].get("text", ())]
        shown = [each for each in results if each["type"] == "brushlabels"]
        self.regions |= {each["id"]: each for each in shown}
        return [each["id"] for each in shown], " ".join(texts)

    def click(self) -> list[str]:
        """Click on the bud on the first page."""
        x, y = centre(BUD[0])
        height, width = BUD[0].shape
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        value = {"x": x, "y": y, "width": 0.2, "keypointlabels": ["Flower"]}
        kind = {"type": "keypointlabels", "from_name": "point", "is_positive": True}
        found, _ = self.ask(id=f"point of {self.name}", item_index=0, value=value, **size, **kind)
        return found

    def say(self, text: str) -> tuple[list[str], str]:
        """Type into the text box."""
        return self.ask(id="text", from_name="sam2", type="textarea", value={"text": [text]})

    def save(self, *ids: str) -> None:
        """Save these regions (without any: all) as the draft."""
        kept = [self.regions[each] for each in ids or self.regions]
        body = {"result": kept, "lead_time": 1.0}
        if self._draft is None:
            path = f"/api/tasks/{self._task}/drafts"
            self._draft = self._api.request("POST", path, json=body)["id"]
        else:
            self._api.request("PATCH", f"/api/drafts/{self._draft}", json=body)


def sign_up(url: str, account: Account) -> None:
    page, session = url + "/user/signup/", requests.Session()
    session.trust_env = False
    session.get(page, timeout=60).raise_for_status()
    form = {"email": account.email, "password": account.password}
    form["csrfmiddlewaretoken"] = session.cookies["csrftoken"]
    answer = session.post(page, form, headers={"Referer": page}, timeout=60, allow_redirects=False)
    assert answer.status_code == requests.codes.found, answer.text[:500]


def test_neither_sees_nor_changes_the_others_track(services: Services) -> None:
    project, task = services.demo_task("Two annotators", SEQUENCE_PROJECT)
    sign_up(services.label_studio.url, SECOND)
    first = Annotator(services, ACCOUNT, project, task)
    second = Annotator(services, SECOND, project, task)

    clicked = first.click()
    first.save()
    first.say("track")
    assert len(first.regions) == FRAMES

    for word in ("status", "track", "clear"):
        found, text = second.say(word)
        assert found == []
        assert "your draft is empty" in text
    again = second.click()
    assert set(again).isdisjoint(first.regions)
    second.save()
    second.say("track")
    assert len(second.regions) == FRAMES
    assert first.regions.keys().isdisjoint(second.regions)
    second.say("clear")

    first.save(*clicked)
    back, text = first.say("status")
    assert {*back, *clicked} == set(first.regions)
    assert f"of {FRAMES} done" in text
