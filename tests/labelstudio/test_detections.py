"""What a detector is told of a picture, and what is made of its answers, whatever they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.detections import (
    MAX_FOUND,
    Wanted,
    one_picture,
    read_detections,
)
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.labelstudio.read_results import BrushStrokes, no_masks
from tests.pixels.in_process import decoded_mask

LABELS = '<Label value="Person"/><Label value="Vehicle" alias="veh"/>'
PICTURE = f"""<View><Image name="img" value="$photo"/>
<BrushLabels name="mask" toName="img">{LABELS}</BrushLabels>
<RectangleLabels name="box" toName="img" smart="true">{LABELS}</RectangleLabels></View>"""
SEQUENCE = PICTURE.replace('value="$photo"', 'valueList="$pages"')
VIDEO = f"""<View><Video name="clip" value="$clip"/><VideoRectangle name="box" toName="clip"/>
<Labels name="labels" toName="clip">{LABELS}</Labels></View>"""


def project_task(xml):
    return ProjectTask("3.17", {"id": 7, "data": {}}, xml, parse_label_config(xml))


def rectangle(x, y, width, height, label="person", score=0.9, **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    if label is not None:
        value["rectanglelabels"] = [label]
    item = {"from_name": "box", "to_name": "img", "type": "rectanglelabels", "value": value}
    return {**item, **({} if score is None else {"score": score}), **more}


def read(items, xml=PICTURE, wanted=Wanted(), page=None, decode=decoded_mask):  # noqa: B008
    task = project_task(xml)
    tag = (*task.config.images, *task.config.videos)[0]
    sent = one_picture(task, tag)
    entry = {"result": items}
    return read_detections(
        entry, sent, wanted, task=task, tag=tag, page=page, size=(400, 200), decode=decode
    )


def labels(found):
    return [each.prompt.labels for each in found.found]


class TestWhatIsSent:
    def test_a_project_of_pictures_is_asked_as_label_studio_asks(self):
        task = project_task(PICTURE)
        sent = one_picture(task, task.config.images[0])
        assert (sent.label_config, sent.key) == (PICTURE, "photo")
        assert sent.task(7, "http://a/b.jpg") == {"id": 7, "data": {"photo": "http://a/b.jpg"}}

    @pytest.mark.parametrize("xml", [SEQUENCE, VIDEO, PICTURE.replace("$photo", "$a.b[0]")])
    def test_everything_else_becomes_a_task_of_one_picture(self, xml):
        task = project_task(xml)
        sent = one_picture(task, (*task.config.images, *task.config.videos)[0])
        [image] = sent.config.images
        assert (image.value, sent.key) == ("$image", "image")
        kinds = {control.tag.split()[0] for control in sent.config.answers}
        assert kinds == {"<RectangleLabels", "<BrushLabels"}
        for control in sent.config.answers:
            assert [label.names for label in control.labels] == [("Person",), ("veh", "Vehicle")]

    def test_words_are_one_text(self):
        assert Wanted(words=("person", "dog")).text == "person . dog"
        assert Wanted().text is None


class TestPrompts:
    def test_shapes_of_all_kinds(self):
        polygon = {
            "type": "polygonlabels",
            "value": {"points": [[50, 50], [60, 50], [55, 70]], "polygonlabels": ["Person"]},
        }
        mask = np.zeros((100, 200), bool)
        mask[80:90, 150:170] = True
        brush = {
            "type": "brushlabels",
            "original_width": 200,
            "original_height": 100,
            "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["Vehicle"]},
        }
        point = {"type": "keypointlabels", "value": {"x": 5, "y": 95, "keypointlabels": ["veh"]}}
        points = [point, {**point, "value": {**point["value"], "x": 95}}]
        found = read([rectangle(10, 10, 20, 20), polygon, brush, *points], page=3)
        assert found.notes == ()
        box, outline, drawn, left, right = found.prompts
        assert box.box[:4] == (10, 10, 20, 20)
        assert outline.shape.points[0] == (50, 50)
        assert isinstance(drawn.shape, BrushStrokes)
        assert [(p.x, p.positive) for p in (*left.points, *right.points)] == [(5, 1), (95, 1)]
        for each in found.prompts:
            assert (each.image, each.item_index) == ("img", 3)
            assert (each.original_width, each.original_height) == (400, 200)
        assert [each.labels for each in found.prompts] == [
            *2 * [("Person",)],
            *3 * [("veh",)],
        ]

    def test_the_surest_come_first_and_the_unsure_not_at_all(self):
        items = [rectangle(x, 0, 5, 5, score=s) for x, s in ((0, 0.2), (20, 0.5), (40, 0.8))]
        items.append(rectangle(60, 0, 5, 5, score=None))
        found = read(items, wanted=Wanted(score=0.3))
        assert [each.score for each in found.found] == [0.8, 0.5, None]
        assert found.notes == ("1 less sure than 0.3 are left out",)

    def test_the_same_thing_twice_is_one(self):
        mask = np.zeros((100, 200), bool)
        mask[10:30, 20:60] = True  # the first box, in pixels of another size
        brush = {
            "type": "brushlabels",
            "original_width": 200,
            "original_height": 100,
            "score": 0.5,
            "value": {"rle": encode_brush(mask), "brushlabels": ["Person"]},
        }
        found = read(
            [
                rectangle(11, 10, 20, 20, score=0.6),
                rectangle(10, 10, 20, 20, score=0.9),
                rectangle(10, 10, 20, 20, "Vehicle", score=0.7),
                rectangle(40, 10, 20, 20, score=0.8),
                brush,
            ]
        )
        assert [(each.prompt.box[0], each.score) for each in found.found] == [
            (10, 0.9),
            (40, 0.8),
            (10, 0.7),
        ]

    def test_no_more_than_a_bound(self):
        items = [rectangle(n % 100, n // 10, 0.4, 4) for n in range(0, 1000, 2)]
        found = read(items)
        assert len(found.found) == MAX_FOUND
        assert found.notes == (f"of 500 only the surest {MAX_FOUND} are taken",)

    def test_a_huge_mask_is_left_out(self):
        huge = {
            "type": "brushlabels",
            "original_width": 10_000,
            "original_height": 10_000,
            "value": {"rle": [0] * 20, "brushlabels": ["Person"]},
        }
        found = read([huge, rectangle(1, 1, 5, 5)], decode=no_masks)
        assert len(found.found) == 1
        assert found.notes == ("masks of more than 16 megapixels are left out",)


class TestLabels:
    def test_kept_renamed_and_unknown(self):
        items = [
            rectangle(0, 0, 5, 5, "Person"),
            rectangle(20, 0, 5, 5, "VEHICLE"),
            rectangle(40, 0, 5, 5, "Truck"),
            rectangle(60, 0, 5, 5, "kite"),
        ]
        found = read(items, wanted=Wanted(labels={"truck": "Vehicle"}))
        assert labels(found) == [("Person",), ("veh",), ("veh",)]
        [note] = found.notes
        assert (
            note == "no label for 1 kite: name one, as in find kite=Person, or set DETECTOR_LABELS"
        )

    def test_what_was_asked_for_names_what_comes_without_a_name(self):
        items = [rectangle(0, 0, 5, 5, None), rectangle(20, 0, 5, 5, "a person")]
        assert labels(read(items, wanted=Wanted(words=("person",)))) == 2 * [("Person",)]
        found = read(items[:1], wanted=Wanted(words=("person", "vehicle")))
        assert not found.found
        assert found.notes == (
            "1 came without a label: look for one thing at a time, such as find person",
        )

    def test_the_only_label_is_that_of_everything(self):
        xml = PICTURE.replace('<Label value="Vehicle" alias="veh"/>', "")
        assert labels(read([rectangle(0, 0, 5, 5, "kite")], xml)) == [("Person",)]

    def test_labels_that_the_task_has_are_taken_as_they_come(self):
        xml = PICTURE.replace(LABELS, "").replace(
            'name="mask" toName="img"', 'name="mask" toName="img" value="$labels"'
        )
        assert labels(read([rectangle(0, 0, 5, 5, "kite")], xml)) == [("kite",)]

    def test_a_config_without_labels(self):
        xml = """<View><Image name="img" value="$photo"/><Brush name="mask" toName="img"/>
        <Rectangle name="box" toName="img" smart="true"/></View>"""
        assert labels(read([rectangle(0, 0, 5, 5, "kite")], xml)) == [()]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["result", "value", "score", "id", "x", "y", "width", "height", "type"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@given(entry=JSON, xml=st.sampled_from([PICTURE, SEQUENCE, VIDEO]))
def test_no_answer_makes_it_raise(entry, xml):
    json.dumps(entry)
    task = project_task(xml)
    tag = (*task.config.images, *task.config.videos)[0]
    sent = one_picture(task, tag)
    found = read_detections(
        entry, sent, Wanted(), task=task, tag=tag, page=0, size=(40, 20), decode=no_masks
    )
    for each in found.prompts:
        assert each.labels in (("Person",), ("veh",))
