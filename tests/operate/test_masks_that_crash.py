"""Regions whose masks end whatever decodes them: nothing but such a region is lost."""

from __future__ import annotations

import numpy as np
import pytest

from backend.labelstudio.brush_rle import encode_brush
from backend.pixels.sandbox.image_decoding import ImageDecoder
from tests.backend.conftest import box
from tests.backend.test_sequences import Editor
from tests.pixels.sandbox.conftest import FAULTY
from tests.waiting import PATIENCE

BOXES = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image"><Label value="Cat"/></RectangleLabels>
  <TextArea name="status" toName="image" editable="false" maxSubmissions="0"/>
</View>"""
BOMB = b"crash: what the decoding process of this test does with it"


@pytest.fixture
def bench(bench):
    decoder = ImageDecoder(max_pixels=1_000_000, warm=1, seconds=PATIENCE, module=FAULTY)
    bench.pixels.masks = decoder.masks
    bench.decoder = decoder
    yield bench
    decoder.close()


def brush(name, rle, page=None):
    item = {**box(0, 0, 1, 1, identifier=name), "type": "brushlabels", "from_name": "mask"}
    item["value"] = {"format": "rle", "rle": list(rle), "brushlabels": ["Cat"]}
    return item if page is None else {**item, "item_index": page}


def drawn(rows):
    mask = np.zeros((200, 300), bool)
    mask[rows, 100:150] = True
    return encode_brush(mask)


def test_a_task_that_is_opened_or_retrieved(bench):
    marks = [brush("good", drawn(slice(50, 90))), brush("bomb", BOMB), brush("b2", BOMB + b"2")]
    task = {
        "id": 5,
        "data": {"image": "/data/upload/1/5.png"},
        "annotations": [{"id": 1, "result": marks}],
    }
    [found] = bench.client.post(
        "/predict",
        json={"tasks": [task], "project": "1.1", "label_config": BOXES, "params": {}},
    ).json["results"]
    regions, texts = found["result"][:-1], found["result"][-1]["value"]["text"]
    assert [item["type"] for item in regions] == ["rectanglelabels"]
    assert "its mask made its decoder crash; draw it anew" in "".join(texts)
    assert bench.decoder.failures == 2


def test_an_interactive_request(bench):
    reply = bench.predict([brush("bomb", BOMB)], config=BOXES)
    [text] = [item["value"]["text"] for item in reply["result"] if item["type"] == "textarea"]
    assert "its mask made its decoder crash; draw it anew" in "".join(text)
    assert bench.decoder.failures == 1


def test_track_on_a_draft(bench):
    editor = Editor(bench)
    editor.click(30, 50, page=0)
    editor.regions["bomb"] = brush("bomb", BOMB, page=2)
    assert len(editor.say("track")) == 9
    assert "a region on page 3 is left out: its mask made its decoder crash" in editor.text
