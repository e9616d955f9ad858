"""Contexts of interactive requests: what gives one mask, signs, labels, pages, commands."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from backend.labelstudio.geometry import Box, Ellipse, point_in_box, points_in_boxes
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.prompts import PointPrompt, prompts_from_context
from backend.labelstudio.read_results import BrushStrokes, Polygon
from backend.labelstudio.write_results import region_id
from tests.labelstudio.configs import box, click, with_answer, with_separate_labels

CONFIG = with_answer("BrushLabels")
MISSING = object()


def read(*items, config=CONFIG):
    return prompts_from_context({"result": list(items)}, config)


def objects(*items, config=CONFIG):
    found = read(*items, config=config)
    assert found.ignored == ()
    return found.objects


def signed(item_sign, value_sign):
    item = click(10, 10)
    del item["is_positive"]
    if item_sign is not MISSING:
        item["is_positive"] = item_sign
    if value_sign is not MISSING:
        item["value"]["positive"] = value_sign
    return item


TRUE = [True, 1, "true", "True", "1"]
FALSE = [False, 0, "false", "FALSE", " false ", "0"]
UNSAID = [MISSING, None, "perhaps", [], {}, 7]


@pytest.mark.parametrize(
    ("item_sign", "value_sign", "positive"),
    [
        *((sign, other, True) for sign, other in itertools.product(TRUE, [MISSING, True, False])),
        *((sign, other, False) for sign, other in itertools.product(FALSE, [MISSING, True, False])),
        *((other, sign, True) for other, sign in itertools.product(UNSAID, TRUE)),
        *((other, sign, False) for other, sign in itertools.product(UNSAID, FALSE)),
        *((one, other, True) for one, other in itertools.product(UNSAID, UNSAID)),
    ],
)
def test_sign(item_sign, value_sign, positive):
    """Either spelling; the editor's own goes first; what nothing says is positive."""
    [prompt] = objects(signed(item_sign, value_sign))
    assert prompt.points[0].positive is positive
    assert prompt.has_positive is positive


def test_points_of_a_label_are_one_object_and_labels_are_apart():
    cat, dog = objects(
        click(10, 10, "Cat", id="a"),
        click(50, 50, "Dog", id="b"),
        click(20, 20, "Cat", id="c", is_positive=False),
    )
    assert cat.labels == ("Cat",)
    assert cat.points == (PointPrompt(10, 10, True), PointPrompt(20, 20, False))
    assert cat.source_ids == ("a", "c")
    assert dog.labels == ("Dog",)
    assert dog.points == (PointPrompt(50, 50, True),)


def test_only_negative_points_say_nothing_alone():
    [prompt] = objects(click(10, 10, is_positive=False))
    assert not prompt.has_positive


def test_every_box_is_its_own_object():
    prompts = objects(*(box(10 * i, 10, 5, 5, id=f"b{i}") for i in range(5)))
    assert [prompt.source_ids for prompt in prompts] == [(f"b{i}",) for i in range(5)]
    assert len({region_id(prompt) for prompt in prompts}) == 5


@pytest.mark.parametrize("point_first", [True, False])
def test_points_in_a_box_belong_to_it(point_first):
    items = [box(10, 10, 30, 30), click(20, 20, id="in"), click(70, 70, id="out")]
    prompts = objects(*(items[::-1] if point_first else items))
    [boxed] = [prompt for prompt in prompts if prompt.box]
    [other] = [prompt for prompt in prompts if not prompt.box]
    assert boxed.points == (PointPrompt(20, 20),)
    assert other.points == (PointPrompt(70, 70),)
    assert boxed.source_ids == ("b1", "in")
    assert other.source_ids == ("out",)


def test_a_point_in_two_boxes_belongs_to_the_smaller():
    big, small = objects(
        box(0, 0, 80, 80, id="big"), box(10, 10, 20, 20, id="small"), click(15, 15)
    )
    assert big.points == ()
    assert len(small.points) == 1


def test_a_point_of_another_label_or_page_does_not_join_a_box():
    prompts = objects(
        box(10, 10, 30, 30, "Cat", id="b", item_index=0),
        click(20, 20, "Dog", id="dog", item_index=0),
        click(20, 20, "Cat", id="page", item_index=1),
    )
    assert [(len(prompt.points), prompt.box is not None) for prompt in prompts] == [
        (0, True),
        (1, False),
        (1, False),
    ]


def test_a_turned_box_holds_only_what_lies_in_it():
    # its upright hull would hold the click
    prompts = objects(box(50, 10, 30, 40, rotation=45, id="b"), click(70, 15))
    assert len(prompts) == 2
    assert prompts[0].box == Box(50, 10, 30, 40, 45)
    assert prompts[0].source_ids == ("b",)
    [joined] = objects(box(50, 10, 30, 40, rotation=45, id="b"), click(50, 40))
    assert len(joined.points) == 1


def test_pages_are_objects_of_their_own():
    prompts = objects(*(click(10, 10, id=f"p{page}", item_index=page) for page in (4, 0, 2)))
    assert [prompt.item_index for prompt in prompts] == [4, 0, 2]
    assert len({region_id(prompt) for prompt in prompts}) == 3


def test_two_results_with_one_id_are_one_prompt_labelled_by_the_labels_result():
    config = with_separate_labels("Brush")
    shape = {**box(10, 10, 20, 20, id="r"), "type": "rectangle"}
    shape["value"] = {key: shape["value"][key] for key in ("x", "y", "width", "height", "rotation")}
    named = {**shape, "from_name": "labels", "type": "labels"}
    named["value"] = {**shape["value"], "labels": ["Dog"]}
    for items in ([shape, named], [named, shape]):
        [prompt] = objects(*items, config=config)
        assert prompt.labels == ("Dog",)
        assert prompt.from_name == "rect"
        assert prompt.source_ids == ("r",)


def test_the_separate_label_goes_before_the_tools_own():
    named = {**click(10, 10, "Dog", id="p"), "from_name": "labels", "type": "labels"}
    for items in ([click(10, 10, "Cat", id="p"), named], [named, click(10, 10, "Cat", id="p")]):
        [prompt] = objects(*items)
        assert prompt.labels == ("Dog",)


def test_unlabelled_prompts():
    bare = click(10, 10)
    bare["value"] = {"x": 10, "y": 10, "width": 0.2}
    [prompt] = objects(bare)
    assert prompt.labels == ()
    [boxed] = objects(bare, box(5, 5, 20, 20, "Dog"))  # joins, and takes the box's label
    assert boxed.labels == ("Dog",)
    assert len(boxed.points) == 1


def test_shapes_from_annotations_are_prompts_too():
    polygon = {**box(0, 0, 1, 1, id="pg"), "value": {"points": [[10, 10], [50, 10], [30, 60]]}}
    ellipse = {
        **box(0, 0, 1, 1, id="el"),
        "value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 5, "rotation": 30},
    }
    brush = {**box(0, 0, 1, 1, id="br"), "value": {"format": "rle", "rle": [0, 1, 2]}}
    found = objects(polygon, ellipse, brush)
    assert [prompt.shape for prompt in found] == [
        Polygon(((10, 10), (50, 10), (30, 60))),
        Ellipse(50, 50, 10, 5, 30),
        BrushStrokes(b"\x00\x01\x02", 80, 60),
    ]


def test_numbers_as_text_are_numbers():
    item = click("10.5", "20")
    item["original_width"] = "80"
    item["item_index"] = "3"
    [prompt] = objects(item)
    assert (prompt.points[0].x, prompt.points[0].y) == (10.5, 20.0)
    assert (prompt.original_width, prompt.item_index) == (80, 3)


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf, 1e300, 1000, -5, "a", None, [], True])
def test_positions_that_are_none_are_left_out_with_a_reason(x):
    found = read(click(x, 10, id="bad"), click(20, 20, id="good"))
    [prompt] = found.objects
    assert prompt.source_ids == ("good",)
    [reason] = found.ignored
    assert "bad" in reason


def test_a_click_on_the_rim_stays_on_the_picture():
    [prompt] = objects(click(100.2, -0.1))
    assert (prompt.points[0].x, prompt.points[0].y) == (100.0, 0.0)


@pytest.mark.parametrize(
    "bad", [box(10, 10, 0, 5), box(10, 10, -3, 5), box(120, 10, 5, 5), box(-20, 10, 15, 15)]
)
def test_boxes_without_area_on_the_picture_are_left_out(bad):
    found = read(bad)
    assert (found.objects, found.commands) == ((), ())
    assert len(found.ignored) == 1


@pytest.mark.parametrize(
    ("width", "height"), [(None, 60), (0, 60), (80.5, 60), (10**9, 10**9), ("x", 60), (math.nan, 1)]
)
def test_sizes_that_cannot_be_true_are_none(width, height):
    [prompt] = objects(click(10, 10, original_width=width, original_height=height))
    assert (prompt.original_width, prompt.original_height) == (None, None)


def test_tags_that_are_not_there():
    found = read(click(10, 10, id="a", to_name="gone"))
    assert (found.objects, found.commands) == ((), ())
    assert found.ignored == ("region a: gone is no <Image>",)
    # the picture is known, so the click is usable; the label decides the answer
    [prompt] = objects(click(10, 10, from_name="gone"))
    assert prompt.image == "img"
    [by_control] = objects({k: v for k, v in click(10, 10).items() if k != "to_name"})
    assert by_control.image == "img"


def test_items_without_id():
    item = {key: value for key, value in click(10, 10).items() if key != "id"}
    other = {key: value for key, value in box(50, 50, 20, 20).items() if key != "id"}
    one, two = objects(item, other)
    assert one.source_ids == two.source_ids == ()
    assert region_id(one) != region_id(two)
    assert region_id(one) == region_id(objects(item)[0])


@pytest.mark.parametrize(
    ("context", "reasons"),
    [
        (None, 0),
        ({}, 0),
        ({"result": None}, 0),
        ({"result": []}, 0),
        ([], 1),
        ("text", 1),
        (5, 1),
        ({"result": {}}, 1),
        ({"result": "x"}, 1),
        ({"result": [None, 1, "x", []]}, 4),
        ({"result": [{}]}, 1),
        ({"result": [{"value": None, "to_name": "img"}]}, 1),
        ({"result": [{"value": {}, "to_name": "img", "id": []}]}, 1),
        ({"event": "prewarm"}, 0),
    ],
)
def test_odd_contexts_give_nothing(context, reasons):
    found = prompts_from_context(context, CONFIG)
    assert (found.objects, found.commands) == ((), ())
    assert len(found.ignored) == reasons


def text_item(*entries, name="status", **more):
    return {
        "value": {"text": list(entries)},
        "id": "t",
        "from_name": name,
        "to_name": "img",
        "type": "textarea",
        **more,
    }


def test_newest_entry_of_a_text_area_is_the_command():
    found = read(text_item("SAM 2: ready", "help"))
    [command] = found.commands
    assert (command.newest, command.area, command.to_name) == ("help", "status", "img")
    assert command.entries == ("SAM 2: ready", "help")
    [page] = read(text_item("help", item_index=4)).commands
    assert page.item_index == 4
    [single] = read({**text_item(), "value": {"text": "help"}}).commands
    assert single.newest == "help"


@pytest.mark.parametrize(
    "item", [text_item(), text_item("x", name="gone"), {**text_item(), "value": None}]
)
def test_texts_that_are_no_commands(item):
    found = read(item)
    assert found.commands == ()
    assert len(found.ignored) == 1


def test_choices_and_ratings_are_passed_over_silently():
    found = read({**text_item("x"), "type": "choices"}, click(10, 10))
    assert found.ignored == ()
    assert len(found.objects) == 1


def test_several_images():
    config = parse_label_config(
        '<View><Image name="a" value="$a"/><Image name="b" value="$b"/>'
        '<KeyPointLabels name="ka" toName="a"/><KeyPointLabels name="kb" toName="b"/></View>'
    )
    one, two = objects(
        click(10, 10, to_name="a", from_name="ka", id="x"),
        click(10, 10, to_name="b", from_name="kb", id="y"),
        config=config,
    )
    assert (one.image, two.image) == ("a", "b")
    assert region_id(one) != region_id(two)


def scattered(boxes, points):
    """Boxes, turned and not, and points all over each other on one page."""
    chance = random.Random(0)
    labels = [("Cat", "Dog")[number % 2] for number in range(boxes + points)]
    items = [
        box(
            *(chance.uniform(0, 60) for _ in "xy"), *(chance.uniform(1, 40) for _ in "wh"),
            labels[number], id=f"b{number}", rotation=chance.choice((0, 0, 30, 200)),
        )
        for number in range(boxes)
    ]  # fmt: skip
    items += [
        click(chance.uniform(0, 100), chance.uniform(0, 100), labels[number], id=f"p{number}")
        for number in range(points)
    ]
    chance.shuffle(items)
    return items


def test_points_belong_to_the_smallest_box_around_them(monkeypatch):
    monkeypatch.setattr("backend.labelstudio.prompts._PAIRS_AT_ONCE", 1000)
    items = scattered(60, 300)
    found = read(*items).objects
    owners = {name: prompt for prompt in found for name in prompt.source_ids}
    boxes = [prompt for prompt in found if prompt.box]
    for item in items:
        if item["type"] != "keypointlabels":
            continue
        x, y, labels = item["value"]["x"], item["value"]["y"], tuple(item["value"]["labels"])
        around = [b for b in boxes if b.labels == labels and point_in_box(x, y, b.box, 80, 60)]
        smallest = min(around, key=lambda each: each.box.width * each.box.height, default=None)
        assert owners[item["id"]] is smallest or (smallest is None and not owners[item["id"]].box)


def test_no_more_points_and_boxes_are_compared_than_a_bound(monkeypatch):
    pairs = []

    def counted(points, boxes, sizes):
        pairs.append(len(points) * len(boxes))
        return points_in_boxes(points, boxes, sizes)

    monkeypatch.setattr("backend.labelstudio.prompts.points_in_boxes", counted)
    monkeypatch.setattr("backend.labelstudio.prompts.MAX_PAIRS", 50_000)
    second = ({**each, "id": each["id"] + "-1", "item_index": 1} for each in scattered(300, 500))
    found = read(*scattered(300, 100), *second)
    assert sum(pairs) <= 50_000
    assert "434 points are left out" in found.ignored[0]
    assert sum(prompt.box is not None for prompt in found.objects) == 600


def test_one_object_takes_no_more_points_than_the_network_should_look_at(monkeypatch):
    monkeypatch.setattr("backend.labelstudio.prompts.MAX_POINTS", 5)
    found = read(*(click(number, 50, id=f"p{number}") for number in range(8)))
    [prompt] = found.objects
    assert [point.x for point in prompt.points] == [0, 1, 2, 3, 4]
    assert "only the first 5 points count" in found.ignored[0]


def test_regions_are_read_until_it_is_late(monkeypatch):
    monkeypatch.setattr("backend.labelstudio.read_results.SURELY_READ", 2)
    clock = iter([False, False, True])
    boxes = [box(number, 0, 10, 10, id=f"b{number}") for number in range(10)]
    found = prompts_from_context({"result": boxes}, CONFIG, lambda: next(clock))
    assert [prompt.source_ids for prompt in found.objects] == [(f"b{n}",) for n in range(4)]
    assert found.ignored == ("6 of 10 regions had no time to be read",)


def test_regions_and_corners_have_a_bound(monkeypatch):
    monkeypatch.setattr("backend.labelstudio.read_results.MAX_REGIONS", 3)
    monkeypatch.setattr("backend.labelstudio.read_results.MAX_CORNERS", 4)
    outline = {**box(0, 0, 1, 1, id="o"), "type": "polygonlabels"}
    outline["value"] = {"points": [[n, n * n / 10] for n in range(5)], "polygonlabels": ["Cat"]}
    found = read(outline, *(box(number, 1, 1, 1, id=f"b{number}") for number in range(4)))
    assert len(found.objects) == 2
    assert found.ignored == (
        "of 5 regions only the first 3 are read",
        "region o: it has 5 corners, more than 4",
    )


def test_an_outline_that_takes_long_to_fill_is_left_out():
    """10,000 corners, up and down through a picture of 81 megapixels."""
    zigzag = {**box(0, 0, 1, 1, id="o"), "type": "polygonlabels"}
    zigzag |= {"original_width": 9000, "original_height": 9000}
    corners = [[n % 90, 100 * (n % 2)] for n in range(10_000)]
    zigzag["value"] = {"points": corners, "polygonlabels": ["Cat"]}
    found = read(zigzag, box(0, 1, 1, 1, id="b"))
    assert len(found.objects) == 1
    [reason] = found.ignored
    assert "crosses the rows of the picture 90000000 times" in reason
