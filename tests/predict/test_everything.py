"""``everything Label``, typed into the text box: what the engine is asked, and what comes of it."""

from __future__ import annotations

import numpy as np
import pytest

from backend.engine.engine import Answer, Everything
from backend.engine.packed_masks import PackedMask
from backend.engine.scheduler import Priority
from backend.labelstudio.commands import STATUS_PREFIX
from backend.labelstudio.geometry import Box
from backend.predict.everything_command import MOST_REGIONS
from backend.threads.fair_queue import Busy
from tests.backend.conftest import CONFIG, box, click

TYPED = CONFIG.replace(
    '<TextArea name="status"', '<TextArea name="cmd" toName="image"/>\n<TextArea name="status"'
)
SEQUENCE = TYPED.replace('value="$image"', 'valueList="$pages"')
VIDEO = """<View>
  <Video name="video" value="$video" framerate="30"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="labels" toName="video"><Label value="Cat"/></Labels>
  <TextArea name="cmd" toName="video"/>
</View>"""
POLYGONS = TYPED.replace("BrushLabels", "PolygonLabels")
ONE_LABEL = """<View>
  <Image name="image" value="$image"/>
  <BitmaskLabels name="mask" toName="image"><Label value="Red Cell" alias="rbc"/></BitmaskLabels>
  <TextArea name="cmd" toName="image"/>
</View>"""
TASK = {"id": 7, "data": {"image": "/data/upload/1/a.png"}}


def square(x, y, side=20):
    mask = np.zeros((200, 300), bool)
    mask[y : y + side, x : x + side] = True
    return mask


class Searched:
    """Stands in for the search of the engine, and keeps what was asked."""

    def __init__(self):
        self.masks = [square(20, 20), square(100, 50), square(200, 120, 30)]
        self.more, self.looked = 0, 1.0
        self.asked = []
        self.error = None

    def __call__(self, image, priority, timeout, *, within=None, taken=(), most):
        self.asked.append((image, priority, within, tuple(taken), most))
        if self.error is not None:
            raise self.error
        answers = [Answer(PackedMask.pack(mask), 0.9) for mask in self.masks]
        return Everything(tuple(answers[:most]), self.more, self.looked)


@pytest.fixture
def searched():
    return Searched()


@pytest.fixture
def everything(bench, searched):
    """``everything("everything Cat")``: the regions, what is said, and what is taken away."""
    bench.engine.everything = searched

    def send(text, *, config=TYPED, task=None, page=None, to_name="image"):
        item = {"type": "textarea", "from_name": "cmd", "to_name": to_name, "id": "t"}
        item |= {"value": {"text": [text]}} | ({} if page is None else {"item_index": page})
        reply = bench.predict([item], config=config, task=task or TASK)["result"]
        said = [each["value"]["text"] for each in reply if each["type"] == "textarea"]
        regions = [each for each in reply if each["type"] != "textarea"]
        gone = [each["id"] for each in regions if each.get("dynamic")]
        shown = [each for each in regions if not each.get("dynamic")]
        return shown, " ".join(said[0]).removeprefix(STATUS_PREFIX), gone

    return send


def draft(*results):
    return {**TASK, "drafts": [{"id": 1, "user": "ada@example.org", "result": list(results)}]}


def test_every_object_becomes_a_region_with_the_label(everything, searched):
    regions, said, _ = everything("everything cat")
    assert said == "found 3 Cat"
    assert [each["value"]["brushlabels"] for each in regions] == [["Cat"]] * 3
    assert {each["from_name"] for each in regions} == {"mask"}
    assert len({each["id"] for each in regions}) == 3
    assert all(each["score"] == pytest.approx(0.9) for each in regions)
    [(image, priority, within, taken, most)] = searched.asked
    assert image.address == TASK["data"]["image"]
    assert (priority, within, taken, most) == (Priority.TRACK, None, (), MOST_REGIONS)


def test_the_same_masks_are_the_same_regions(everything):
    first, again = everything("everything Cat")[0], everything("everything Cat")[0]
    assert [each["id"] for each in first] == [each["id"] for each in again]
    other, _, _ = everything("everything Dog")
    assert {each["id"] for each in other}.isdisjoint(each["id"] for each in first)


def test_a_label_is_found_by_name_or_alias_and_is_the_only_one_where_none_was_typed(everything):
    for text in ("everything", "everything red cell", "everything RBC", "everything in box"):
        regions, said, _ = everything(text, config=ONE_LABEL)
        if "box" in text:
            assert said.startswith("no box was drawn in the last minute: drag one")
            continue
        assert said == "found 3 rbc"
        assert [each["value"]["bitmasklabels"] for each in regions] == [["rbc"]] * 3


def test_outlines_where_the_config_wants_them(everything):
    regions, said, _ = everything("everything Dog", config=POLYGONS)
    assert said == "found 3 Dog"
    assert [each["type"] for each in regions] == ["polygonlabels"] * 3


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("everything Cow", "there is no label Cow; the labels are Cat, Dog"),
        ("everything", "which label? Type everything Cat; the labels are Cat, Dog"),
        (
            "everything Cat in box",
            "no box was drawn in the last minute: drag one with the smart rectangle, then type "
            "everything again",
        ),
    ],
)
def test_mistakes_are_answered_with_what_to_do(everything, searched, text, answer):
    regions, said, _ = everything(text)
    assert (regions, said, searched.asked) == ([], answer, [])


def test_many_labels_are_not_all_listed(everything):
    labels = "".join(f'<Label value="L{n}"/>' for n in range(30))
    config = TYPED.replace(
        '<Label value="Cat"/><Label value="Dog"/></BrushLabels>', f"{labels}</BrushLabels>"
    )
    _, said, _ = everything("everything Cow", config=config)
    assert said.endswith("L10, L11 and 18 more")


def test_what_is_labelled_already_is_told_to_the_engine(everything, searched):
    value = {"points": [[10, 10], [20, 10], [20, 20]], "polygonlabels": ["Dog"], "closed": True}
    drawn = {"id": "a", "type": "polygonlabels", "from_name": "p", "to_name": "image",
             "original_width": 300, "original_height": 200, "value": value}  # fmt: skip
    config = TYPED.replace(
        "</View>",
        '<PolygonLabels name="p" toName="image"><Label value="Dog"/></PolygonLabels></View>',
    )
    everything("everything Cat", config=config, task=draft(drawn))
    [(_, _, _, [taken], _)] = searched.asked
    assert taken.source_ids == ("a",)
    # What was sent just now is labelled, too, though no draft holds it yet.
    everything("everything Cat", config=config, task=draft(drawn))
    assert len(searched.asked[1][3]) == 1 + 3


def test_in_the_box_drawn_just_before(everything, searched, bench):
    [mask] = [
        each
        for each in bench.predict([box(10, 10, 40, 40, "Cat")], config=TYPED, task=TASK)["result"]
        if each["type"] == "brushlabels"
    ]
    regions, said, gone = everything("everything Dog")
    assert said == "found 3 Dog in the box"
    assert searched.asked[0][2] == Box(10, 10, 40, 40)
    assert searched.asked[0][3] == ()  # the mask of the box itself is not in the way
    assert (len(regions), gone) == (3, [mask["id"]])
    # Accepted, its mask is an object like others.
    bench.now += 30
    _, said, gone = everything("everything Dog", task=draft(mask))
    assert (said, gone, searched.asked[1][2]) == ("found 3 Dog", [], None)
    assert mask["id"] in [each.source_ids[0] for each in searched.asked[1][3]]


def test_in_the_box_though_its_mask_was_accepted(everything, searched, bench):
    [mask] = [
        each
        for each in bench.predict([box(10, 10, 40, 40)], config=TYPED, task=draft())["result"]
        if each["type"] == "brushlabels"
    ]
    regions, said, gone = everything("everything Cat in the box", task=draft(mask))
    assert said == "found 3 Cat in the box"
    assert searched.asked[0][2:4] == (Box(10, 10, 40, 40), ())
    assert (len(regions), gone) == (3, [mask["id"]])
    bench.now += 61
    assert everything("everything Cat in box")[1].startswith("no box was drawn in the last minute")


def test_a_click_is_no_box(everything, searched, bench):
    bench.predict([click(50, 50)], config=TYPED, task=TASK)
    assert everything("everything Cat")[1] == "found 3 Cat"


def test_what_did_not_fit_is_said(everything, searched):
    searched.looked = 0.254
    _, said, _ = everything("everything Cat")
    assert said == (
        "found 3 Cat; only 25% was looked through in the time: type everything Cat again to go on"
    )
    searched.more, searched.looked = 7, 1.0
    _, said, _ = everything("everything Cat")
    assert said == (
        "found 3 Cat; 7 are left out: accept these, wait 5 seconds, then type everything Cat for "
        "the next"
    )
    searched.masks, searched.more = [], 0
    assert everything("everything Cat")[1] == "found nothing that is not labelled already"
    searched.looked = 0.0
    _, said, _ = everything("everything Cat")
    assert said == (
        "found nothing; only 0% was looked through in the time: type everything Cat again to go on"
    )


def test_a_busy_engine_says_so(everything, searched):
    searched.error = Busy("the model had no time to encode the image yet; try again in a moment")
    assert everything("everything Cat")[1] == str(searched.error)


class TestSequences:
    TASK = {"id": 7, "data": {"pages": [f"/data/upload/1/{n}.png" for n in range(4)]}}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("text", "page", "at"),
        [("everything Cat", None, 1), ("everything Cat", 2, 3), ("everything Cat at 4", 2, 4)],
    )
    def test_it_is_the_page_at_hand(self, everything, searched, text, page, at):
        regions, said, _ = everything(text, config=SEQUENCE, task=self.TASK, page=page)
        assert said == f"found 3 Cat on page {at}"
        assert {each["item_index"] for each in regions} == {at - 1}
        assert searched.asked[0][0].address == f"/data/upload/1/{at - 1}.png"

    def test_there_must_be_such_a_page(self, everything, searched):
        _, said, _ = everything("everything Cat at 5", config=SEQUENCE, task=self.TASK)
        assert said == "there is no page 5: the pages are 1-4"

    def test_other_pages_are_not_in_the_way(self, everything, searched):
        first, _, _ = everything("everything Cat", config=SEQUENCE, task=self.TASK, page=0)
        everything("everything Cat", config=SEQUENCE, task=self.TASK, page=1)
        everything("everything Cat", config=SEQUENCE, task=self.TASK, page=0)
        assert [len(each[3]) for each in searched.asked] == [0, 0, len(first)]

    def test_track_carries_on_what_was_found(self, everything, bench):
        found, _, _ = everything("everything Cat", config=SEQUENCE, task=self.TASK, page=0)
        task = {**self.TASK, "drafts": [{"id": 1, "user": "a", "result": found}]}
        regions, said, _ = everything("track", config=SEQUENCE, task=task, page=0)
        assert {each["item_index"] for each in regions} == {1, 2, 3}
        assert len(regions) == 3 * 3
        assert {tuple(each["value"]["brushlabels"]) for each in regions} == {("Cat",)}
        assert "4 of 4" in said or "done" in said


def test_on_a_video_it_says_what_to_do(everything):
    task = {"id": 7, "data": {"video": "/data/upload/1/a.mp4"}}
    _, said, _ = everything("everything Cat", config=VIDEO, task=task, to_name="video")
    assert said.startswith(
        "everything is for pictures, and for the pages of a sequence; on a video"
    )
