"""``make demo`` as a newcomer gets it: one process that starts everything and cleans up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from demo.api import LabelStudioApi
from demo.backend import REPOSITORY, Backend
from demo.clip import FRAMES
from demo.guide import WALKS, Walk, as_html
from demo.processes import NotReadyError
from demo.projects import PROJECTS, SEQUENCE_PROJECT, VIDEO_PROJECT
from tests.e2e.editor import Editor
from tests.e2e.services import (
    ACCOUNT,
    LABEL_STUDIO_VENV,
    Services,
    any_free_port,
    empty_label_studio,
)
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

START_SECONDS = 180.0
STOP_SECONDS = 120.0


def sessions_of_children(pid: int) -> set[int]:
    """Session ids of the direct children of a process, from Linux's /proc."""
    sessions = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            sessions.add(int(fields[3]))
    return sessions


def members(sessions: set[int]) -> list[str]:
    """The command lines of all living processes of some sessions."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) in sessions and fields[0] != "Z":
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_the_demo_sets_everything_up_and_leaves_no_process_behind(tmp_path: Path) -> None:
    shutil.copytree(empty_label_studio(), tmp_path / "state" / "label-studio")
    output = tmp_path / "output.txt"
    with socket.socket() as taken:
        wanted = any_free_port()
        taken.bind(("127.0.0.1", wanted))
        taken.listen()
        demo = subprocess.Popen(
            [sys.executable, "-m", "demo.run"],
            env={
                **os.environ,
                "DEMO_DIR": str(tmp_path / "state"),
                "SAM2_VARIANT": "demo",
                "LABEL_STUDIO_VENV": str(LABEL_STUDIO_VENV.resolve()),
                "LABEL_STUDIO_PORT": str(wanted),
                "PORT": str(any_free_port()),
            },
            cwd=REPOSITORY,
            stdout=output.open("wb"),
            stderr=subprocess.STDOUT,
        )
        try:
            text = _wait_for_text(demo, output, "The demo runs.")
            assert f"Port {wanted} is in use" in text
            _check_what_it_says(text)
            _paste_its_commands(text, tmp_path)
            children = sessions_of_children(demo.pid)
            assert len(children) == 2
        finally:
            demo.send_signal(signal.SIGINT)
            code = demo.wait(STOP_SECONDS)
    assert code == 0, output.read_text()
    assert members(children) == []


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.title)
def test_a_project_is_set_up_once_with_its_steps(
    walk: Walk, services: Services, editor: Editor, tmp_path: Path
) -> None:
    project, steps = walk.project, as_html(walk)
    number = project.set_up(services.api, tmp_path, steps)
    tasks = [task["id"] for task in services.api.tasks(number)]
    assert tasks
    assert project.set_up(services.api, tmp_path, steps) == number
    assert [task["id"] for task in services.api.tasks(number)] == tasks
    # They stand before whoever begins to label, and not in the way of who opens a task.
    editor.open(number, tasks[0])
    assert not editor.page.locator(".ant-modal:visible, .lsf-modal:visible").count()
    editor.page.goto(f"{services.label_studio.url}/projects/{number}/data?labeling=1")
    editor.page.get_by_text(str(walk.steps[0])).first.wait_for()


def test_a_backend_that_cannot_load_its_model_says_why_at_once(tmp_path: Path) -> None:
    backend = Backend(
        port=any_free_port(),
        label_studio_url="http://127.0.0.1:9",
        token="none",
        cache_directory=tmp_path / "cache",
        state_directory=tmp_path / "tracks",
        log=tmp_path / "backend.log",
        env_file=tmp_path / "env",
        settings={"SAM2_CHECKPOINT": str(tmp_path / "missing.pt")},
    )
    try:
        with pytest.raises(NotReadyError, match=r"missing\.pt"):
            backend.wait_until_ready()
    finally:
        backend.stop()


def _check_what_it_says(text: str) -> None:
    addresses = re.findall(r"(http://\S+)/projects/(\d+)/data", text)
    backend = re.search(r"Backend +(http://\S+)", text)
    assert len(addresses) == len(PROJECTS)
    assert backend
    assert ACCOUNT.email in text
    assert ACCOUNT.password in text

    api = LabelStudioApi(addresses[0][0], ACCOUNT)
    for project, (_, number) in zip(PROJECTS, addresses, strict=True):
        assert api.find_project(project.title) == int(number)
        tasks = api.tasks(int(number))
        assert tasks
        if project is SEQUENCE_PROJECT:
            assert len(tasks[0]["data"]["frames"]) == FRAMES
        if project is VIDEO_PROJECT:
            assert tasks[0]["data"]["video"].endswith(".mp4")
        [connected] = api.request("GET", "/api/ml", params={"project": number})
        assert connected["url"] == backend.group(1)
        assert connected["is_interactive"]
        assert connected["state"] == "CO"
    ready = requests.get(backend.group(1) + "/ready", timeout=PATIENCE)
    assert ready.status_code == requests.codes.ok


def _paste_its_commands(text: str, elsewhere: Path) -> None:
    """In a shell whose variables are about another Label Studio."""
    _, lines = text.split("COMMAND LINE", 1)
    pasted = [line.strip() for line in lines.splitlines()[1:] if line.startswith("  ")][:4]
    wrong = {"PORT": "1", "LABEL_STUDIO_URL": "http://127.0.0.1:9", "STATE_DIR": "/nowhere"}

    def paste(command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", f"{pasted[0]} && {command}"],
            env={**os.environ, **wrong},
            cwd=elsewhere,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "sam2-demo" not in said
        return said

    doctor = paste(pasted[1])
    assert "judged by its own settings" in doctor
    assert "0 broken" in doctor
    assert re.search(r"^[1-9]\d* stored", paste(pasted[2]), re.MULTILINE)
    masks = re.search(r"(\d+) masks of \d+ tasks in ([^\s;,]+)", paste(pasted[3]))
    assert masks, "export says where they are"
    assert (Path(masks[2]) / "annotations.json").is_file()


def _wait_for_text(demo: subprocess.Popen[bytes], output: Path, wanted: str) -> str:
    def said() -> bool:
        assert demo.poll() is None, output.read_text()
        return wanted in output.read_text()

    until(said, START_SECONDS, pause=0.2)
    return output.read_text()
