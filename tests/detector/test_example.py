"""``examples/detector``: a backend of the contract that finds what it is told."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from benchmarks.support.recording_server import Reply, recording_server
from tests.detector.conftest import PROGRAM, ROOT
from tests.detector.tiny_model import write_owl
from tests.media.servers import LEGACY_TOKEN, PERSONAL_ACCESS_TOKEN, FakeLabelStudio
from tests.test_dependencies import pins

CONFIG = """<View><Image name="img" value="$photo"/>
<RectangleLabels name="boxes" toName="img"><Label value="Person"/><Label value="Red car"/>
</RectangleLabels><TextArea name="what" toName="img"/></View>"""


def jpeg():
    file = io.BytesIO()
    Image.linear_gradient("L").resize((120, 80)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


PICTURE = "data:image/jpeg;base64," + base64.b64encode(jpeg()).decode()


@pytest.fixture(scope="session")
def model(program):
    return program.Model()


@pytest.fixture
def client(program, model):
    return program.create_app(model).test_client()


def body(*addresses, context=None, config=CONFIG):
    tasks = [{"id": 7, "data": {"photo": address}} for address in addresses]
    params = {"login": None, "password": None, "context": context}
    return {"tasks": tasks, "project": "1.17", "label_config": config, "params": params}


def typed(*texts):
    return {"result": [{"type": "textarea", "value": {"text": list(texts)}}]}


def names(prediction):
    return {each["value"]["rectanglelabels"][0] for each in prediction["result"]}


def test_it_is_no_longer_than_it_says():
    assert len(PROGRAM.read_text(encoding="utf-8").splitlines()) <= 200


def test_its_packages_are_pinned_as_those_of_the_project_are():
    own = pins("examples/detector/requirements.txt")
    assert own.items() <= {**pins("requirements-test.txt"), "waitress": own["waitress"]}.items()
    assert own["waitress"] == pins("requirements.txt")["waitress"]
    imports = {"torch", "transformers", "pillow", "requests", "flask", "waitress"}
    assert set(own) == imports
    for line in (ROOT / "examples/detector/Dockerfile").read_text().splitlines():
        assert not line.startswith("FROM") or ":latest" not in line


def test_it_speaks_the_contract(client):
    health = client.get("/health").json
    assert (health["status"], health["model_class"]) == ("UP", "ZeroShotDetector")
    setup = client.post("/setup", json={"project": "1.17", "schema": CONFIG, "hostname": ""})
    assert setup.json["model_version"] == health["model_version"]
    first, second = client.post("/predict", json=body(PICTURE, PICTURE)).json["results"]
    assert len(first["result"]) == len(second["result"]) > 0
    assert names(first) <= {"Person", "Red car"}
    for each in first["result"]:
        assert (each["from_name"], each["to_name"]) == ("boxes", "img")
        assert each["type"] == "rectanglelabels"
        assert (each["original_width"], each["original_height"]) == (120, 80)
        value = each["value"]
        assert 0 < each["score"] <= 1
        assert -1 < value["x"] < value["x"] + value["width"] < 101
        assert -1 < value["y"] < value["y"] + value["height"] < 101


@pytest.mark.parametrize("texts", [["person"], ["dog", "person"], ["person."]])
def test_it_finds_what_was_typed(client, texts):
    [found] = client.post("/predict", json=body(PICTURE, context=typed(*texts))).json["results"]
    assert names(found) == {"person"}


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("person . red car", ["person", "red car"]),
        ("person, red car", ["person", "red car"]),
        ("St. Bernard", ["St. Bernard"]),
    ],
)
def test_names_are_told_apart(program, text, known):
    assert program.typed(typed(text)) == known


def test_it_takes_an_owl_too(program, monkeypatch, tmp_path):
    write_owl(tmp_path)
    monkeypatch.setattr(program, "MODEL", str(tmp_path))
    client = program.create_app(program.Model()).test_client()
    [found] = client.post("/predict", json=body(PICTURE)).json["results"]
    assert len(found["result"]) == 4  # one for each patch of the picture
    assert names(found) <= {"Person", "Red car"}


def test_a_click_is_no_text(client, program):
    context = {"result": [{"type": "keypointlabels", "value": {"x": 1, "y": 1}}]}
    [found] = client.post("/predict", json=body(PICTURE, context=context)).json["results"]
    assert found["result"] == []


def test_phrases_become_names(program):
    known = ["person", "red car", "car"]
    said = {"red car": "red car", "red car person": "red car", "car": "car", "kite": None}
    assert {text: program.meant(text, known) for text in said} == said


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (body("http://169.254.169.254/latest"), "169.254.169.254 is not among those it may ask"),
        (body("/data/upload/1/a.png"), "Label Studio is not among those it may ask"),
        (body("data:image/png;base64,AAAA"), "cannot identify image file"),
        (body(PICTURE, config="<!DOCTYPE a []><View/>"), "has a document type"),
        (body(PICTURE, config="<View/>"), "the label config has no Image"),
        (body(PICTURE, config="<View"), "unclosed token"),
        (body(PICTURE, config=CONFIG.replace("$photo", "$other")), "other"),
    ],
)
def test_what_it_cannot_do_it_says_in_the_status(client, sent, said):
    reply = client.post("/predict", json=sent)
    assert reply.status_code == 422
    assert said in reply.status
    assert said in reply.text


def test_credentials(program, model, monkeypatch):
    monkeypatch.setattr(program, "USER", "backend")
    monkeypatch.setattr(program, "PASSWORD", "s3cret")
    client = program.create_app(model).test_client()
    assert client.get("/health").status_code == 200
    assert client.post("/setup", json={}).status_code == 401
    assert client.post("/setup", json={}, auth=("backend", "wrong")).status_code == 401
    assert client.post("/setup", json={}, auth=("backend", "s3cret")).status_code == 200


def test_it_listens_to_others_with_credentials_only(program, model, monkeypatch):
    monkeypatch.setattr(program, "HOST", "0.0.0.0")
    with pytest.raises(SystemExit, match="set BASIC_AUTH_USER"):
        program.create_app(model)


@pytest.mark.parametrize("token", [LEGACY_TOKEN, PERSONAL_ACCESS_TOKEN])
def test_pictures_of_label_studio_and_where_its_token_goes(program, monkeypatch, token):
    with recording_server() as server, recording_server() as storage:
        studio = FakeLabelStudio(server, legacy=True)
        studio.add("/data/upload/1/a.jpg", jpeg())
        signed = f"{storage.url}/a.jpg?X-Amz-Signature=1"
        studio.cloud["s3://media/a.jpg"] = Reply(303, headers={"Location": signed})
        storage.route("/a.jpg", Reply(200, jpeg()))
        monkeypatch.setattr(program, "LABEL_STUDIO", server.url)
        monkeypatch.setattr(program, "TOKEN", token)
        assert program.fetch("/data/upload/1/a.jpg", 7) == jpeg()
        assert program.fetch("s3://media/a.jpg", 7) == jpeg()
        assert all("authorization" not in seen.headers for seen in storage.seen)
        for other in (storage.url + "/a.jpg", f"{server.url}@127.0.0.1:{storage.port}/a.jpg"):
            with pytest.raises(ValueError, match="not among those"):
                program.fetch(other, 7)
        monkeypatch.setattr(program, "HOSTS", {f"127.0.0.1:{storage.port}"})
        assert program.fetch(storage.url + "/a.jpg", 7) == jpeg()
        assert all("authorization" not in seen.headers for seen in storage.seen)
        assert json.dumps([seen.target for seen in storage.seen]).count("Signature") == 1
