"""Pictures of tracks: small, with masks, bounded for each client, of nothing but jobs' frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest

from backend.engine.packed_masks import PackedMask
from backend.threads.fair_queue import Busy
from backend.tracking.store import TrackedMask
from backend.web.pictures import (
    BY_A_HUMAN,
    COLOURS,
    WIDTHS,
    Allowance,
    Layer,
    NoSuchFrame,
    Pictures,
    draw,
)
from tests.backend.conftest import CONFIG as BACKEND_CONFIG
from tests.backend.conftest import box
from tests.waiting import PATIENCE, until

CONFIG = """
<View>
  <Image name="image" valueList="$pages"/>
  <BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>
</View>
"""


def add_track(bench: Any, *, pages: int = 3, address: str = "/data/upload/1/{}.png") -> str:
    """A job on a sequence of pictures of 300 x 200 pixels: of two objects, the left half of every
    page and the right one."""
    data = {"pages": [address.format(page) for page in range(pages)]}
    request = {
        "project": "1.100",
        "task": {"id": 7, "data": data},
        "label_config": CONFIG,
        "kind": "sequence",
        "image": "image",
        "objects": [{"id": "left", "prompts": {}}, {"id": "right", "prompts": {}}],
    }
    bench.store.add_job("job", "track", "digest", request)
    left = np.zeros((200, 300), bool)
    left[:, :150] = True
    for page in range(pages):
        found = [
            TrackedMask(name, page, "a", PackedMask.pack(mask), 0.9, 5.0)
            for name, mask in (("left", left), ("right", ~left))
        ]
        bench.store.put_masks("track", found, job_id="job", done=page)
    return "/jobs/job/pictures/"


def seen(reply: Any) -> np.ndarray:
    assert (reply.status_code, reply.mimetype) == (200, "image/jpeg")
    return cv2.imdecode(np.frombuffer(reply.data, np.uint8), cv2.IMREAD_COLOR)


class TestPictures:
    def test_the_frame_comes_with_the_masks_that_are_asked_for(self, bench: Any) -> None:
        path = add_track(bench)
        bare = seen(bench.client.get(path + "1?width=300&objects=")).astype(int)
        assert bare.shape == (200, 300, 3)
        for objects, tinted in (("0", [0]), ("1", [1]), ("0,1", [0, 1]), (None, [0, 1])):
            query = "" if objects is None else f"&objects={objects}"
            drawn = seen(bench.client.get(f"{path}1?width=300{query}")).astype(int)
            moved = np.abs(drawn - bare).mean(axis=(0, 2))
            halves = [moved[20:130].mean() > 10, moved[170:280].mean() > 10]
            assert [side for side in (0, 1) if halves[side]] == tinted

    def test_it_is_as_large_as_it_is_shown(self, bench: Any) -> None:
        path = add_track(bench)
        for asked, width in (("1", 160), ("160", 160), ("161", 300), ("999999", 300), ("x", 300)):
            assert seen(bench.client.get(f"{path}0?width={asked}")).shape[1] == width

    def test_the_browser_keeps_it_until_a_mask_changes(self, bench: Any) -> None:
        path = add_track(bench)
        first = bench.client.get(path + "0")
        tag = {"If-None-Match": first.headers["ETag"]}
        fetched = len(bench.shelf.fetched)
        assert bench.client.get(path + "0", headers=tag).status_code == 304
        assert bench.client.get(path + "0").data == first.data
        assert len(bench.shelf.fetched) == fetched  # and it is not made again
        other = PackedMask.pack(np.ones((200, 300), bool))
        found = [TrackedMask("left", 0, "b", other, 0.9, 5.0)]
        bench.store.put_masks("track", found, job_id="job", done=1)
        until(lambda: bench.client.get(path + "0", headers=tag).status_code == 200)

    def test_who_asks_a_moment_later_costs_the_store_nothing(
        self, bench: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_track(bench)
        monkeypatch.setattr("backend.web.pictures.SHARED_SECONDS", PATIENCE)
        pictures = Pictures(bench.tracking, 32)
        read: list[str] = []
        job = bench.store.job

        def reading(name: str) -> Any:
            read.append(name)
            return job(name)

        monkeypatch.setattr(bench.tracking.store, "job", reading)
        for objects in (None, None, [0], [0], None):
            with bench.client.application.test_request_context():
                assert pictures.of_job("job", 0, 160, objects).status_code == 200
        assert len(read) == 2

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/jobs/job/pictures/3", 404),
            ("/jobs/job/pictures/-1", 404),
            ("/jobs/job/pictures/http://127.0.0.1/", 404),
            ("/jobs/none/pictures/0", 404),
            ("/jobs/job/pictures/99999999999999999999999", 404),
            ("/jobs/job/pictures/0?objects=7,-1,x,%00,99999999999999", 200),
            ("/jobs/job/pictures/0?width=-1&objects=" + "0," * 1000, 200),
        ],
    )
    def test_whatever_is_asked_for(self, bench: Any, path: str, code: int) -> None:
        add_track(bench)
        reply = bench.client.get(path)
        assert reply.status_code == code
        assert code == 200 or reply.json["error"]

    def test_a_picture_that_cannot_be_had_says_why(self, bench: Any) -> None:
        path = add_track(bench, address="/data/missing-{}.png")
        reply = bench.client.get(path + "0")
        assert (reply.status_code, reply.json["error"]) == (404, "the picture is not there")

    def test_who_looks_at_many_is_told_to_wait_and_holds_nobody_up(
        self, make_bench: Callable[..., Any]
    ) -> None:
        bench = make_bench(threads=8)  # two of which may make pictures
        path = add_track(bench)
        bench.shelf.hold.clear()
        replies: list[Any] = []
        clients = [bench.client.application.test_client() for _ in range(2)]
        threads = [
            threading.Thread(
                target=lambda each=each, page=page: replies.append(each.get(path + page))
            )
            for each, page in zip(clients, "01", strict=True)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(bench.shelf.fetched) == 2)
        third = bench.client.get(path + "2")
        assert (third.status_code, third.headers["Retry-After"]) == (429, "1")
        bench.shelf.hold.set()
        for thread in threads:
            thread.join()
        assert [reply.status_code for reply in replies] == [200, 200]
        assert bench.client.get(path + "2").status_code == 200


def drawn_item(kind: str, **value: Any) -> dict[str, Any]:
    """A result item on a picture of 300 x 200 pixels."""
    size = {"original_width": 300, "original_height": 200}
    named = {"id": kind, "type": kind, "from_name": "x", "to_name": "image"}
    return {**named, **size, "value": value}


SMALL = drawn_item("polygonlabels", points=[[60, 40], [80, 40], [80, 80], [60, 80]])
BOX = drawn_item("rectanglelabels", x=10, y=30, width=20, height=40)
CLICKS = [
    {**drawn_item("keypointlabels", x=15, y=50, width=1), "id": "yes", "is_positive": True},
    {**drawn_item("keypointlabels", x=35, y=50, width=1), "id": "no", "is_positive": False},
]
COLOUR = {
    name: [int(text[at : at + 2], 16) for at in (1, 3, 5)]
    for name, text in zip(("left", "right"), COLOURS, strict=False)
}


class TestMarksOfHumans:
    """What somebody drew or clicked stands in the picture, in the object's colour."""

    @pytest.fixture(autouse=True)
    def exactly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pictures with the colours that were drawn."""
        monkeypatch.setattr(
            "backend.web.pictures.jpeg",
            lambda shown, quality: cv2.imencode(".png", shown[..., ::-1])[1].tobytes(),
        )

    def marked(self, bench: Any, said: dict[str, Any]) -> Callable[[str], Any]:
        """A job on the track with prompts on page 1, by object; gives its pictures."""
        if bench.store.job("job") is None:
            add_track(bench)
        asked = bench.store.job("job").request
        objects = [
            {**each, "prompts": {"1": said[each["id"]]} if each["id"] in said else {}}
            for each in asked["objects"]
        ]
        name = f"marks{len(bench.store.jobs())}"
        bench.store.add_job(name, "track", name, {**asked, "objects": objects})
        return lambda query: bench.client.get(f"/jobs/{name}/pictures/{query}width=300")

    @staticmethod
    def near(drawn: np.ndarray, bare: np.ndarray, name: str, x: int, y: int) -> bool:
        """Whether a pixel around a place was given an object's colour."""
        window = np.s_[y - 2 : y + 3, x - 2 : x + 3, ::-1]
        shown, before = drawn[window].astype(int), bare[window].astype(int)
        alike = np.abs(shown - COLOUR[name]).max(axis=-1) < 80  # lines have soft edges
        return bool((alike & (shown != before).any(axis=-1)).any())

    def test_a_drawn_shape_stands_instead_of_what_was_tracked(self, bench: Any) -> None:
        look = self.marked(bench, {"right": [SMALL]})
        bare, drawn = seen(look("1?objects=&")), seen(look("1?objects=1&"))
        moved = np.abs(drawn.astype(int) - bare).mean(axis=2)
        assert moved[90:150, 190:230].mean() > 10  # in it
        assert moved[100:190, 255:295].mean() < 3  # tracked earlier, and not what was drawn
        assert self.near(drawn, bare, "right", 210, 160)  # its line
        assert not np.array_equal(seen(look("1?objects=0&")), drawn)

    def test_it_says_who_marked_and_only_there(self, bench: Any, monkeypatch: Any) -> None:
        written: list[str] = []
        monkeypatch.setattr(
            "backend.web.pictures._write", lambda shown, text, *rest: written.append(text)
        )
        look = self.marked(bench, {"right": [SMALL], "left": [BOX]})
        for query, times in (("0?", 0), ("1?objects=&", 0), ("1?objects=1&", 1), ("1?", 2)):
            written.clear()
            seen(look(query))
            assert written == [BY_A_HUMAN] * times

    def test_boxes_and_clicks_of_all_kinds_of_jobs(self, bench: Any) -> None:
        video = list(BOX["value"].values())
        session = {"points": [[15, 50, True], [35, 50, False]], "box": [10, 30, 20, 40, 0]}
        for said, clicks in (([BOX], False), ([*video, 0], False), (session, True), (CLICKS, True)):
            look = self.marked(bench, {"left": said})
            bare, drawn = seen(look("1?objects=&")), seen(look("1?objects=0&"))
            boxed = said is not CLICKS
            assert self.near(drawn, bare, "left", 30, 100) == boxed  # an edge of the box
            assert self.near(drawn, bare, "left", 45, 103) == clicks
            dark = not drawn[97:104, 100:111].any(axis=-1).all()
            assert dark == clicks  # a click on the background

    def test_a_mark_that_says_nothing_is_passed_over(self, bench: Any) -> None:
        look = self.marked(bench, {"left": [], "right": [{"type": "brushlabels", "value": {}}]})
        assert seen(look("1?")).shape == (200, 300, 3)
        unreadable = drawn_item("brushlabels", format="rle", rle=[1, 2, 3])
        look = self.marked(bench, {"left": [unreadable]})
        assert seen(look("1?")).shape == (200, 300, 3)


def test_a_picture_that_many_ask_for_at_once_is_made_once(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add_track(bench)
    made: list[int] = []
    waiting = threading.Barrier(2, timeout=PATIENCE)
    take = Allowance.take

    @contextmanager
    def together(self: Allowance, client: str) -> Iterator[None]:
        with take(self, client):
            waiting.wait()  # both found that it is not kept
            yield

    def draw_one(*given: Any) -> bytes:
        made.append(1)
        return draw(*given)

    monkeypatch.setattr(Allowance, "take", together)
    monkeypatch.setattr("backend.web.pictures.draw", draw_one)
    clients = [bench.client.application.test_client() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda each: each.get(path + "0"), clients))
    assert replies[0].data == replies[1].data
    assert [reply.status_code for reply in replies] == [200, 200]
    assert len(made) == 1


class LabelStudio:
    """As much of it as a picture of a task needs."""

    name = "Label Studio"

    def __init__(self, result: list[dict[str, Any]]) -> None:
        self.result = result
        self.asked = 0

    def get_project(self, number: int) -> dict[str, Any]:
        return {"label_config": BACKEND_CONFIG, "created_at": "2026-01-01T00:00:00Z"}

    def get_task(self, number: int) -> dict[str, Any]:
        self.asked += 1
        data = {"image": "/data/upload/1/a.png"}
        predictions = [{"id": 1, "model_version": "m", "result": self.result}]
        return {"id": number, "project": 1, "data": data, "predictions": predictions}


class TestPicturesOfTasks:
    def test_it_comes_with_the_masks_of_the_newest_prediction(self, bench: Any) -> None:
        [answer, *_] = bench.predict([box(0, 0, 50, 100)])["result"]
        broken = {**answer, "id": "broken", "value": {**answer["value"], "rle": [1, 2, 3]}}
        for result, tinted in (([], False), ([broken, answer], True)):
            label_studio = LabelStudio(result)
            pictures = Pictures(bench.tracking, 32, lambda one=label_studio: one)
            with bench.client.application.test_request_context("/"):
                drawn = seen(pictures.of_task(1, 7, 300))
                assert pictures.of_task(1, 7, 300).data
                assert label_studio.asked == 1
            if not tinted:
                bare = drawn.astype(int)
        moved = np.abs(drawn - bare).mean(axis=(0, 2))
        assert (moved[20:130].mean() > 10, moved[170:280].mean() > 10) == (True, False)

    def test_only_tasks_of_the_project_that_is_named(self, bench: Any) -> None:
        pictures = Pictures(bench.tracking, 32, lambda: LabelStudio([]))
        with (
            bench.client.application.test_request_context("/"),
            pytest.raises(NoSuchFrame, match="no task 7 in project 2"),
        ):
            pictures.of_task(2, 7, 300)

    def test_without_a_label_studio_it_says_so(self, bench: Any) -> None:
        reply = bench.client.get("/projects/1/tasks/7/picture")
        assert (reply.status_code, "LABEL_STUDIO_URL" in reply.json["error"]) == (404, True)


class TestAllowance:
    def test_each_client_has_its_own(self) -> None:
        now = 0.0
        allowance = Allowance(32, a_second=2, at_once=3, clock=lambda: now)

        def takes(client: str) -> bool:
            try:
                with allowance.take(client):
                    return True
            except Busy:
                return False

        assert [takes("a") for _ in range(4)] == [True, True, True, False]
        assert takes("b")
        now = 0.5
        assert [takes("a") for _ in range(2)] == [True, False]
        now = 100.0
        assert [takes("a") for _ in range(4)] == [True, True, True, False]

    def test_clients_that_are_gone_are_forgotten(self) -> None:
        allowance = Allowance(32, clients=10)
        for number in range(1000):
            with allowance.take(str(number)):
                pass
        assert len(allowance._left.values(lambda key: True)) == 10
        assert not allowance._inside


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (1080, 1920)])
def test_pictures_of_all_shapes_are_drawn(size: tuple[int, int]) -> None:
    layer = Layer(PackedMask.pack(np.ones(size, bool)), 5)
    made = draw(np.zeros((*size, 3), np.uint8), [layer], WIDTHS[2])
    found = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR)
    assert found.shape[1] == min(size[1], WIDTHS[2])
