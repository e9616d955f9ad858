"""A run whose prompts are all objects of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.engine.engine import Answer, Everything
from backend.engine.packed_masks import PackedMask
from backend.engine.scheduler import Priority
from tests.command_line import LabelStudio, use_fake_model
from tests.labelstudio.masks import region_mask
from tests.runs.service import Service, pages_of, running_service, stored

WIDTH, HEIGHT, PAGES = 60, 40, 6
IMAGE = """<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="Cell"/><Label value="Dust"/></BrushLabels>
</View>"""
SEQUENCE = IMAGE.replace('value="$image"', 'valueList="$frames"')
VIDEO = """<View>
  <Video name="video" value="$video"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="labels" toName="video"><Label value="Cell"/></Labels>
</View>"""


def square(x: int, y: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + 8, x : x + 8] = True
    return mask


class Searched:
    """Stands in for the search of the engine: finds three objects anywhere."""

    masks = (square(5, 5), square(25, 10), square(40, 25))

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.looked, self.overlapping = 1.0, 0

    def __call__(self, image: Any, priority: Priority, timeout: float, **how: Any) -> Everything:
        self.asked.append((image.address, priority, how))
        answers = [Answer(PackedMask.pack(mask), 0.8) for mask in self.masks][: how["most"]]
        return Everything(tuple(answers), 3 - len(answers), self.looked, self.overlapping)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> Searched:
    use_fake_model(monkeypatch)
    return Searched()


@pytest.fixture
def service(label_studio: LabelStudio, run: Any, searched: Searched) -> Iterator[Service]:
    with running_service() as service:
        service.engine.everything = searched  # type: ignore[method-assign,assignment]
        yield service


@pytest.fixture
def addresses(label_studio: LabelStudio, tmp_path: Path) -> list[str]:
    return pages_of(label_studio, tmp_path, PAGES, (WIDTH, HEIGHT))


def test_on_pictures_the_masks_are_the_result(
    service: Service, label_studio: LabelStudio, addresses: list[str], searched: Searched
) -> None:
    label_studio.add_project(5, IMAGE)
    value = {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["Cell"], "closed": True}
    drawn = {"id": "a", "type": "polygonlabels", "from_name": "mask", "to_name": "image",
             "value": value}  # fmt: skip
    label_studio.add_task(10, 5, {"image": addresses[0]})
    label_studio.add_task(
        11, 5, {"image": addresses[1]}, annotations=[{"id": 1, "result": [drawn]}]
    )
    service.run(source="everything", label="cell", concurrency=1)
    for task in (10, 11):
        found = stored(label_studio, task)
        assert found["score"] == pytest.approx(0.8)
        assert [each["value"]["brushlabels"] for each in found["result"]] == [["Cell"]] * 3
        for region, mask in zip(found["result"], searched.masks, strict=True):
            assert (region_mask(region) == mask).all()
    by_address = {address: (priority, how) for address, priority, how in searched.asked}
    assert by_address[addresses[0]][0] is Priority.RUN
    assert by_address[addresses[0]][1]["taken"] == []
    [taken] = by_address[addresses[1]][1]["taken"]
    assert taken.source_ids == ("a",)


def test_on_sequences_the_masks_of_one_page_are_tracked(
    service: Service, label_studio: LabelStudio, addresses: list[str], searched: Searched
) -> None:
    label_studio.add_project(5, SEQUENCE)
    label_studio.add_task(7, 5, {"frames": addresses})
    service.run(source="everything", label="Dust", cap=2, range=[2, 5], direction="forward")
    assert [(asked[0], asked[2]["most"]) for asked in searched.asked] == [(addresses[1], 2)]
    results = stored(label_studio, 7)["result"]
    assert sorted(each["item_index"] for each in results) == sorted(2 * [1, 2, 3, 4])
    assert {each["value"]["brushlabels"][0] for each in results} == {"Dust"}


def test_the_report_says_what_was_left_out(
    service: Service, label_studio: LabelStudio, addresses: list[str], searched: Searched
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(10, 5, {"image": addresses[0]})
    searched.looked, searched.overlapping = 0.5, 4
    run = service.run(source="everything", label="Cell", cap=2)
    found = service.get(run["id"], "/report")
    cap, overlap, time = (f"<Image name=image>: {said}" for said in (
        "1 object beyond the 2 of the cap",
        "4 masks that a better one or an annotation covers",
        "only 50% was looked through in the time",
    ))  # fmt: skip
    assert found["left_out"] == [{"task": 10, "messages": [cap, overlap, time]}]
    assert f"  task 10: {cap}; {overlap}; {time}\n" in found["text"]
    assert found["look_first"][0]["left_out"] == [cap, overlap, time]


def test_a_dry_run_looks_at_nothing(
    service: Service, label_studio: LabelStudio, addresses: list[str], searched: Searched
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(10, 5, {"image": addresses[0]})
    run = service.run(source="everything", label="Cell", dry_run=True)
    assert service.messages(run["id"]) == {10: "would be labelled (image)"}
    assert searched.asked == []


def test_a_label_that_is_not_there_fails_the_task_with_those_that_are(
    service: Service, label_studio: LabelStudio, addresses: list[str], searched: Searched
) -> None:
    label_studio.add_project(5, IMAGE)
    label_studio.add_task(10, 5, {"image": addresses[0]})
    for label, said in (
        ("Cow", "there is no label Cow; the labels are Cell, Dust"),
        (None, "which label? Type everything Cell; the labels are Cell, Dust"),
    ):
        name = service.start(source="everything", label=label)
        service.until(name, lambda now: now["state"] in ("done", "failed"))
        assert said in service.messages(name)[10]
    assert searched.asked == []


def test_a_video_has_no_pictures(service: Service, label_studio: LabelStudio) -> None:
    label_studio.add_project(5, VIDEO)
    label_studio.add_task(10, 5, {"video": "/data/upload/5/a.mp4"})
    run = service.run(source="everything", label="Cell")
    assert "everything is for pictures and pages" in service.messages(run["id"])[10]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"text": "cells"}, "takes no text: name the label"),
        ({"every": 5}, "looks at one page of a sequence"),
        ({"cap": 301}, "finds at most 300 objects: choose a lower cap"),
    ],
)
def test_options_that_are_of_no_use_are_refused(
    service: Service, label_studio: LabelStudio, options: dict[str, Any], reason: str
) -> None:
    label_studio.add_project(5, IMAGE)
    reply = service.client.post("/runs", json={"project": 5, "source": "everything", **options})
    assert reply.status_code == 400
    assert reason in reply.get_data(as_text=True)
