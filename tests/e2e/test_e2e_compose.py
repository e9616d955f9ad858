"""The compose file's containers as processes: from nothing to a click, with no step in between."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from playwright.sync_api import BrowserContext

from benchmarks.support.s3_server import S3Server
from demo.api import LabelStudioApi
from demo.backend import REPOSITORY
from demo.label_studio import START_SECONDS, Account, LabelStudio
from demo.processes import Child
from deploy import make_secrets
from tests.e2e.editor import Editor
from tests.e2e.masks import brush_masks, iou, true_object
from tests.e2e.services import LABEL_STUDIO_VENV, any_free_port
from tests.waiting import LONGER

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BUD = true_object("quince.jpg", "bud")


class Machine:
    """One machine instead of a network of containers: names and ports become those of processes,
    ``/run/secrets`` and ``/data`` folders of the test."""

    def __init__(self, folder: Path) -> None:
        text = (REPOSITORY / "docker" / "docker-compose.yml").read_text(encoding="utf-8")
        self.services = yaml.safe_load(text)["services"]
        self.folder = folder
        self.ports = {
            f"{name}:{port}": any_free_port()
            for name, port in (("label-studio", 8080), ("backend", 9090), ("s3", 8333))
        }
        make_secrets.main(folder / "secrets")

    def url(self, name: str) -> str:
        """Where a container answers, such as ``s3:8333``."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def here(self, text: str) -> str:
        """What a container is told, for a process."""
        for name in self.ports:
            text = text.replace(f"http://{name}", self.url(name))
        text = text.replace("/run/secrets", str(self.folder / "secrets"))
        # As compose does where nothing is set in its environment.
        return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()

    def environment(self, service: str) -> dict[str, str]:
        """What the container sees, as far as the compose file and the image say."""
        given = self.services[service]["environment"].items()
        folders = {"CACHE_DIR": str(self.folder / "cache"), "STATE_DIR": str(self.folder / "state")}
        listen = {"HOST": "127.0.0.1", "PORT": str(self.ports["backend:9090"])}
        kept = {name: os.environ[name] for name in ("PATH", "HOME")}
        return kept | folders | listen | {name: self.here(str(value)) for name, value in given}

    def keys(self) -> tuple[str, str]:
        """The store's, as boto3 reads them from the secret."""
        file = configparser.ConfigParser()
        file.read(self.folder / "secrets" / "aws_credentials")
        section = file["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Everything that ``make up`` starts and this test needs, in the order of the file."""
    machine = Machine(tmp_path)
    children: list[Child] = []
    try:
        label_studio = LabelStudio(
            LABEL_STUDIO_VENV,
            data_directory=tmp_path / "label-studio",
            port=machine.ports["label-studio:8080"],
            account=account(machine),
            log=tmp_path / "label-studio.log",
            settings={
                name: value
                for name, value in machine.services["label-studio"]["environment"].items()
                if name != "LABEL_STUDIO_HOST"
            }
            | {"LABEL_STUDIO_USER_TOKEN": machine.secret("label_studio_api_key")},
        )
        children.append(label_studio)
        store = S3Server(tmp_path / "s3", machine.ports["s3:8333"], machine.keys())
        children.append(store)
        backend = Child(
            "The backend",
            [sys.executable, "-m", "backend", "--env-file", os.devnull, "serve"],
            environment=machine.environment("backend-cpu"),
            log=tmp_path / "backend.log",
            directory=REPOSITORY,
        )
        children.append(backend)
        store.wait_until_ready()
        label_studio.wait_for(label_studio.url + "/health", seconds=START_SECONDS)
        backend.wait_for(machine.url("backend:9090") + "/health", seconds=LONGER)
        yield machine
    finally:
        for child in children:
            child.stop()


def account(machine: Machine) -> Account:
    email = machine.services["label-studio"]["environment"]["LABEL_STUDIO_USERNAME"]
    return Account(email, machine.secret("label_studio_password"))


def connect(machine: Machine) -> str:
    """What the container that runs once does."""
    command = [machine.here(word) for word in machine.services["connect-cpu"]["command"]]
    done = subprocess.run(
        [sys.executable, "-m", "backend", "--env-file", os.devnull, *command],
        env=machine.environment("connect-cpu"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=LONGER,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_from_nothing_to_a_click(machine: Machine, browser_context: BrowserContext) -> None:
    assert "is connected to" in connect(machine)
    api = LabelStudioApi(machine.url("label-studio:8080"), account(machine))
    project = api.find_project("SAM 2")
    assert project is not None
    connect(machine)  # as after a restart: nothing is doubled
    [backend] = api.request("GET", "/api/ml", params={"project": project})
    assert (backend["state"], backend["is_interactive"]) == ("CO", True)
    assert backend["url"] == machine.url("backend:9090")
    [storage] = api.request("GET", "/api/storages/s3", params={"project": project})

    keys: dict[str, Any] = dict(
        zip(("aws_access_key_id", "aws_secret_access_key"), machine.keys(), strict=True)
    )
    store = boto3.client("s3", endpoint_url=machine.url("s3:8333"), region_name="us-east-1", **keys)
    store.upload_file(str(BUD.photo), storage["bucket"], "quince.jpg")
    api.request("POST", f"/api/storages/s3/{storage['id']}/sync")
    [task] = api.tasks(project)
    assert "/resolve/" in task["data"]["image"]  # handed out by Label Studio

    context = browser_context.browser.new_context(viewport={"width": 1500, "height": 1100})
    try:
        editor = Editor(context.new_page(), api.url)
        editor.log_in(account(machine).email, account(machine).password)
        editor.open(project, task["id"])
        answer = editor.point(*BUD.click, "Animal")
        assert answer.errors == []
        [(mask, _)] = brush_masks(answer.results)
        assert iou(mask, BUD.mask) >= 0.7
    finally:
        context.close()
