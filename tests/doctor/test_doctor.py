"""The doctor on set-ups that are broken on purpose, one thing at a time."""

from __future__ import annotations

import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from backend.doctor.label_studio import connection_findings, server_findings
from backend.doctor.samples import address_kind
from backend.labelstudio.client import LabelStudioClient
from backend.settings import MIB
from benchmarks.support.recording_server import Reply
from sam2model.precision import native_dtypes, resolve_dtype
from tests.doctor.conftest import CONFIG, SetUp, picture
from tests.media.servers import LEGACY_TOKEN, PERSONAL_ACCESS_TOKEN, jwt
from tests.pixels.clips import steady, write_clip
from tests.waiting import LONGER


def test_a_good_set_up(doctor, setup):
    ran = doctor("--project", 1)
    assert ran.of("broken") == []
    assert ran.code == 0
    assert ran.of("warning") == [
        "model: the demo weights are rough; set SAM2_VARIANT=auto for real work"
    ]
    said = "\n".join(ran.of("ok"))
    assert "service: none runs at http://127.0.0.1:9, so" in said
    assert f"Label Studio: 1.23.2 at {setup.label_studio.url}" in said
    assert "API key: a personal access token of a@b.co is accepted" in said
    assert "clock: within 60 s" in said
    assert "CACHE_DIR:" in said and "STATE_DIR:" in said
    name = str(resolve_dtype(native_dtypes(torch.device("cpu")))).removeprefix("torch.")
    assert f"SAM2_DEVICE: cpu computes in {name}" in said
    assert "model: demo loads strictly from demo.safetensors" in said
    assert "label config of project 1: <Image name=image> can be answered" in said
    assert f"connection of project 1: {setup.backend.url} is connected" in said
    assert "media in uploads: task 7: /data/upload/1/a.png is a picture of 64x48" in said
    assert ran.lines[-1] == "0 broken, 1 warning"


def test_a_config_in_which_nothing_can_be_told_is_a_warning(doctor, setup):
    setup.config = CONFIG.replace("TextArea", "Rating")
    ran = doctor("--project", 1)
    assert ran.code == 0
    assert any("no <TextArea> for <Image name=image>" in line for line in ran.of("warning"))


def test_a_task_stands_for_its_project(doctor):
    ran = doctor("--task", 7)
    assert ran.code == 0
    assert any("connection of project 1" in line for line in ran.of("ok"))


def test_without_a_project_there_is_a_hint(doctor, setup):
    ran = doctor()
    assert ran.code == 0
    assert "project: none was looked at; add --project ID or --task ID" in ran.of("warning")
    assert setup.label_studio.server.count("/api/projects") == 0


def nobody_there(setup: SetUp) -> None:
    setup.env["LABEL_STUDIO_URL"] = "http://127.0.0.1:9"


def another_program_at_the_address(setup: SetUp) -> None:
    setup.env["LABEL_STUDIO_URL"] = f"{setup.backend.url}/somewhere"


def redirected_to_https(setup: SetUp) -> None:
    moved = Reply(301, b"", {"Location": "https://ls.example/"})
    setup.backend.route("/api/", moved)
    setup.env["LABEL_STUDIO_URL"] = setup.backend.url


def legacy_token(setup: SetUp) -> None:
    setup.env["LABEL_STUDIO_API_KEY"] = LEGACY_TOKEN


def revoked_token(setup: SetUp) -> None:
    setup.env["LABEL_STUDIO_API_KEY"] = jwt(token_type="refresh", jti="other")


def expired_access_token(setup: SetUp) -> None:
    setup.env["LABEL_STUDIO_API_KEY"] = jwt(token_type="access", exp=time.time() - 9)


def no_token(setup: SetUp) -> None:
    del setup.env["LABEL_STUDIO_API_KEY"]


def word_before_the_token(setup: SetUp) -> None:
    setup.env["LABEL_STUDIO_API_KEY"] = f"Token {LEGACY_TOKEN}"


def no_such_project(setup: SetUp) -> None:
    setup.label_studio.server.route("/api/projects/1/", Reply(404, b"{}"))


def label_without_a_mask(setup: SetUp) -> None:
    setup.config = CONFIG.replace(
        '"true"><Label value="Cat"/>', '"true"><Label value="Cat"/><Label value="Dog"/>'
    )


def nothing_that_takes_masks(setup: SetUp) -> None:
    setup.config = '<View><Image name="image" value="$image"/></View>'


def config_that_is_no_xml(setup: SetUp) -> None:
    setup.config = "<View><Image"


def not_connected(setup: SetUp) -> None:
    setup.backends.clear()


def not_interactive(setup: SetUp) -> None:
    setup.backends[0]["is_interactive"] = False


def connected_to_a_dead_address(setup: SetUp) -> None:
    setup.backends[0]["url"] = "http://127.0.0.1:9"


def connected_to_another_program(setup: SetUp) -> None:
    setup.backend.route("/health", Reply(200, b'{"status": "UP", "model_class": "YOLO"}'))


def label_studio_cannot_reach_it(setup: SetUp) -> None:
    setup.backends[0]["state"] = "DI"


def label_studio_was_refused(setup: SetUp) -> None:
    setup.backends[0] |= {"state": "ER", "error_message": "no <Image>"}


def no_password_for_label_studio(setup: SetUp) -> None:
    setup.backends[0]["auth_method"] = "NONE"


def model_failed_in_the_service(setup: SetUp) -> None:
    setup.says("demo", model_state="failed", detail="out of memory")


def upload_is_gone(setup: SetUp) -> None:
    setup.tasks[0]["data"]["image"] = "/data/upload/1/b.png"


def upload_is_no_picture(setup: SetUp) -> None:
    setup.label_studio.add("/data/upload/1/a.png", b"<html>log in</html>")


def bucket_that_label_studio_cannot_read(setup: SetUp) -> None:
    setup.tasks[0]["data"]["image"] = "s3://photos/a.png"


def task_data_points_into_the_network(setup: SetUp) -> None:
    setup.tasks[0]["data"]["image"] = "http://169.254.169.254/latest/meta-data"


def another_key_in_the_data(setup: SetUp) -> None:
    setup.tasks[0]["data"] = {"photo": "/data/upload/1/a.png"}


def no_tasks(setup: SetUp) -> None:
    setup.tasks.clear()


def checkpoint_is_gone(setup: SetUp) -> None:
    setup.env["SAM2_CHECKPOINT"] = "/nowhere/sam2.pt"


def checkpoint_of_another_variant(setup: SetUp) -> None:
    demo = Path("sam2model/weights/demo.safetensors").resolve()
    setup.env |= {"SAM2_CHECKPOINT": str(demo), "SAM2_VARIANT": "sam2.1_hiera_tiny"}


def damaged_checkpoint(setup: SetUp) -> None:
    folder = Path(setup.env["CACHE_DIR"]).parent
    (folder / "sam2.pt").write_bytes(b"PK\x03\x04 half of a file")
    setup.env["SAM2_CHECKPOINT"] = str(folder / "sam2.pt")


def no_such_device(setup: SetUp) -> None:
    setup.env["SAM2_DEVICE"] = "cuda"


def cache_folder_is_a_file(setup: SetUp) -> None:
    Path(setup.env["CACHE_DIR"]).write_text("in the way")


def misspelt_setting(setup: SetUp) -> None:
    setup.env["SAM2_CHECKPONT"] = "/models/sam2.pt"


def impossible_setting(setup: SetUp) -> None:
    setup.env["SAM2_VARIANT"] = "sam3"


BROKEN = {
    nobody_there: ("Label Studio", "cannot be reached", "localhost"),
    another_program_at_the_address: ("API key", "404", "check LABEL_STUDIO_URL"),
    redirected_to_https: ("API key", "redirects to https://ls.example", "set LABEL_STUDIO_URL"),
    legacy_token: ("API key", "401 to a legacy token", "create a personal access token"),
    revoked_token: ("API key", "refused the personal access token", "create a personal"),
    expired_access_token: ("API key", "has probably expired", "create a personal access token"),
    no_token: ("API key", "none is configured", "create a personal access token"),
    word_before_the_token: ("settings", "spaces", "give the bare token"),
    no_such_project: ("project", "404", "the user's access to the project"),
    label_without_a_mask: ("label config", "label Dog of <KeyPointLabels", "add it to <BrushLabel"),
    nothing_that_takes_masks: ("label config", "no BrushLabels", "add <BrushLabels"),
    config_that_is_no_xml: ("label config", "not valid XML", ""),
    not_connected: ("connection", "no ML backend is connected", "Connect Model"),
    not_interactive: ("connection", "not used for clicks", "Interactive preannotations on"),
    connected_to_a_dead_address: ("connection", "does not answer from this machine", "start it"),
    connected_to_another_program: ("connection", "another ML backend", "correct the address"),
    label_studio_cannot_reach_it: ("connection", "cannot reach it", "ML_BLOCK_LOCAL_IP=false"),
    label_studio_was_refused: ("connection", "refused the project: no <Image>", ""),
    no_password_for_label_studio: ("connection", "sends none", "basic authentication"),
    model_failed_in_the_service: ("connection", "out of memory", "log says why"),
    upload_is_gone: ("media in uploads", "task 7", ""),
    upload_is_no_picture: ("media in uploads", "task 7", ""),
    bucket_that_label_studio_cannot_read: ("media in s3://photos", "s3://photos/a.png", ""),
    task_data_points_into_the_network: ("media in http://169.254.169.254", "task 7", ""),
    another_key_in_the_data: ("media of task 7", "wants $image", "correct the label config"),
    no_tasks: ("media", "no tasks", "import one"),
    checkpoint_is_gone: ("model", "there is no such file", ""),
    checkpoint_of_another_variant: ("model", "demo", ""),
    damaged_checkpoint: ("model", "sam2.pt", ""),
    no_such_device: ("SAM2_DEVICE", "no CUDA device", "use auto"),
    cache_folder_is_a_file: ("CACHE_DIR", "must be a folder", ""),
    misspelt_setting: ("SAM2_CHECKPONT", "no such setting", "did you mean SAM2_CHECKPOINT"),
    impossible_setting: ("SAM2_VARIANT", "must be one of", ""),
}


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda function: function.__name__)
def test_what_is_broken_is_said_in_one_line_with_the_fix(doctor, setup, break_it):
    break_it(setup)
    ran = doctor("--project", 1)
    subject, text, fix = BROKEN[break_it]
    found = [line for line in ran.of("broken") if line.startswith(subject) and text in line]
    assert len(found) == 1, ran.lines
    assert fix in found[0]
    assert len(ran.of("broken")) == 1, ran.lines  # one cause, one line
    assert ran.code == 1


def test_every_kind_of_address_is_tried_once(doctor, setup, foreign):
    foreign.serve("/b.png", picture())
    setup.env["ALLOWED_PRIVATE_HOSTS"] = "127.0.0.1"
    addresses = [
        "/data/upload/1/a.png",
        "/data/upload/1/again.png",
        "s3://photos/a.png",
        "s3://photos/b.png",
        "s3://other/a.png",
        f"{foreign.url}/b.png",
        "data:image/png;base64,AAAA",
    ]
    setup.tasks = [
        {"id": number, "project": 1, "data": {"image": uri}} for number, uri in enumerate(addresses)
    ]
    ran = doctor("--project", 1)
    kinds = [line.split(": task")[0] for line in ran.lines if "media in" in line]
    assert [kind.split("media in ")[1] for kind in kinds] == [
        "uploads",
        "s3://photos",
        "s3://other",
        "http://127.0.0.1",
        "data: addresses",
    ]
    assert len(ran.of("broken")) == 3
    assert setup.label_studio.server.count("/data/upload/1/again.png") == 0


def test_the_last_tasks_of_a_large_project_are_looked_at_too(doctor, setup):
    setup.tasks = [
        {"id": number, "project": 1, "data": {"image": "/data/upload/1/a.png"}}
        for number in range(250)
    ]
    setup.tasks[249]["data"] = {"image": "s3://added-later/a.png"}
    ran = doctor("--project", 1)
    assert "media in s3://added-later: task 249" in ran.of("broken")[0]
    assert setup.label_studio.server.count("/api/tasks/") == 2


def test_a_video_is_read_and_not_downloaded(doctor, setup, tmp_path):
    clip = write_clip(tmp_path / "a.mp4", times=steady(30, 30))
    setup.config = (
        '<View><Video name="v" value="$video"/><VideoRectangle name="b" toName="v"/>'
        '<TextArea name="t" toName="v"/></View>'
    )
    setup.label_studio.add("/data/upload/1/a.mp4", clip.read_bytes())
    setup.tasks[0]["data"] = {"video": "/data/upload/1/a.mp4"}
    ran = doctor("--project", 1)
    assert ran.of("broken") == []
    assert any("a video of 30 frames of 192x108" in line for line in ran.of("ok"))


def test_a_server_that_hangs_does_not_stop_the_doctor(doctor, setup, monkeypatch):
    monkeypatch.setattr("backend.doctor.samples.SAMPLE_SECONDS", 0.3)
    go_on = threading.Event()

    def slow(seen):
        go_on.wait(LONGER)
        return Reply(404)

    setup.label_studio.server.route("/data/", slow)
    ran = doctor("--project", 1)
    go_on.set()
    [line] = ran.of("broken")
    assert "was not read within" in line


def test_token_that_expires_soon(setup):
    client = LabelStudioClient(setup.label_studio.url, PERSONAL_ACCESS_TOKEN)
    client.expires = time.time() + 86400
    lines = [finding.line for finding in server_findings(client)[0]]
    assert any(line.startswith("warning  API key") and "expires on" in line for line in lines)


@pytest.mark.parametrize(
    ("skew", "start"),
    [(5, "ok"), (-5, "ok"), (120, "warning"), (-120, "warning"), (3600, "broken")],
)
def test_clock(setup, skew, start):
    client = LabelStudioClient(setup.label_studio.url, PERSONAL_ACCESS_TOKEN)
    found, usable = server_findings(client, now=lambda: time.time() + skew)
    [line] = [finding.line for finding in found if finding.subject == "clock"]
    assert line.startswith(start)
    assert usable
    if start != "ok":
        assert ("ahead of" if skew > 0 else "behind") in line


def test_a_legacy_token_that_works_is_a_warning(doctor, setup):
    setup.label_studio.accepts_legacy = True
    setup.env["LABEL_STUDIO_API_KEY"] = LEGACY_TOKEN
    ran = doctor("--project", 1)
    assert ran.code == 0
    assert any("a default Label Studio 1.23 refuses" in line for line in ran.of("warning"))


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "level", "text"),
    [
        (10 * MIB, "broken", "has 10 MiB left"),
        (1000 * MIB, "warning", "the cache may grow by 4096 MiB"),
        (9000 * MIB, "ok", "9000 MiB left"),
    ],
)
def test_disk(doctor, monkeypatch, free, level, text):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1, 1, free))
    ran = doctor()
    assert any(line.startswith("CACHE_DIR") and text in line for line in ran.of(level))
    assert ran.code == int(level == "broken")


def test_weights_that_are_not_here_yet(doctor, setup, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    setup.env["SAM2_VARIANT"] = "sam2.1_hiera_tiny"
    ran = doctor()
    assert ran.code == 0
    assert any("are not on this machine yet" in line for line in ran.of("warning"))
    setup.env["HF_HUB_OFFLINE"] = "1"
    ran = doctor()
    assert ran.code == 1
    assert "HF_HUB_OFFLINE forbids" in ran.of("broken")[0]


def test_published_weights_with_a_wrong_digest(doctor, setup, monkeypatch, tmp_path):
    from sam2model.checkpoints import PUBLISHED

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    published = PUBLISHED["sam2.1_hiera_tiny"]
    name = published.repo.replace("/", "--")
    folder = tmp_path / f"models--{name}" / "snapshots" / published.revision
    folder.mkdir(parents=True)
    (folder / published.filename).write_bytes(b"something else")
    setup.env["SAM2_VARIANT"] = "sam2.1_hiera_tiny"
    ran = doctor()
    assert "SHA-256" in ran.of("broken")[0]


def test_other_settings_than_the_service_has(doctor, setup):
    setup.says("sam2.1_hiera_large")
    ran = doctor("--project", 1)
    assert ran.code == 0
    [line] = [line for line in ran.of("warning") if line.startswith("connection")]
    assert "runs sam2.1_hiera_large, these settings say demo" in line


def test_a_backend_beside_others_is_found(setup, doctor):
    dead = {**setup.backends[0], "url": "http://127.0.0.1:9", "is_interactive": False}
    setup.backends.insert(0, dead)
    assert doctor("--project", 1).code == 0


@pytest.mark.parametrize("url", ["", None, "ftp://x", "javascript:1", "http://[::1", "http://\n"])
def test_addresses_of_backends_that_are_none(setup, url):
    from backend.settings import Settings

    setup.backends[0]["url"] = url
    client = LabelStudioClient(setup.label_studio.url, PERSONAL_ACCESS_TOKEN)
    [finding] = connection_findings(client, Settings(), 1, "demo")
    assert finding.line.startswith("broken")
    assert "\n" not in finding.line


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("/data/upload/1/a.png", "uploads"),
        ("/data/local-files/?d=a.png", "local files"),
        ("s3://Photos/a", "s3://photos"),
        ("https://user:word@host/a?sig=1", "https://host"),
        ("data:image/png;base64,AA", "data: addresses"),
        ("a.png", "addresses without a scheme"),
        ("http://[", "addresses that cannot be read"),
    ],
)
def test_kinds_of_addresses(uri, kind):
    assert address_kind(uri) == kind


def test_no_one_is_refused_where_access_is_open(doctor, setup):
    del setup.env["BASIC_AUTH_USER"], setup.env["BASIC_AUTH_PASS"]
    setup.env["CLICK_BUDGET_SECONDS"] = "120"
    setup.env["HOST"] = "0.0.0.0"
    ran = doctor()
    assert ran.code == 1
    assert any("HOST: other machines reach 0.0.0.0" in line for line in ran.of("broken"))
    setup.env["ALLOW_ANONYMOUS"] = "true"
    ran = doctor()
    assert ran.code == 0
    assert any("whoever reaches port 9 " in line for line in ran.of("warning"))
    assert any("longer than Label Studio waits" in line for line in ran.of("warning"))


class TestDetector:
    def test_one_that_answers(self, doctor, setup):
        setup.backend.route("/owl/health", Reply(200, b'{"status": "UP", "model_class": "Owl"}'))
        setup.backend.route("/owl/setup", Reply(200, b'{"model_version": "owl"}'))
        setup.env["DETECTOR_URL"] = f"{setup.backend.url}/owl"
        [line] = [line for line in doctor().of("ok") if line.startswith("detector: ")]
        assert line.endswith(f"the detector at {setup.backend.url} answers as Owl; "
                             "pictures are sent along")  # fmt: skip

    @pytest.mark.parametrize(
        ("reply", "said"),
        [
            (Reply(401), "it wants a user name and password: set DETECTOR_USER and DETECTOR_PASS"),
            (Reply(404), "answered 404; check DETECTOR_URL, with the path if there is one"),
            (Reply(200, b"<html>"), "something other than an ML backend does; check that"),
        ],
    )
    def test_one_that_does_not(self, doctor, setup, reply, said):
        # Probes are often open: what is behind them is asked too.
        setup.backend.route("/owl/health", Reply(200, b'{"status": "UP"}'))
        setup.backend.route("/owl/setup", reply)
        setup.env["DETECTOR_URL"] = f"{setup.backend.url}/owl"
        ran = doctor()
        assert ran.code == 1
        assert any(line.startswith("detector: ") and said in line for line in ran.of("broken"))
