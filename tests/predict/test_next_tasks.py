"""Opening a task encodes those that are opened next."""

from __future__ import annotations

from typing import Any

from backend.labelstudio.client import LabelStudioError
from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.project_task import ProjectTask
from backend.predict.retrieve import NEXT, NextTasks
from tests.backend.conftest import CONFIG, Bench, bench, make_bench
from tests.waiting import until

__all__ = ["bench", "make_bench"]


class Lister:
    """Tasks 8, 9, 10 of project 1."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.fails = False

    def tasks_after(self, project: int, task: int, count: int) -> list[dict[str, Any]]:
        self.asked.append((project, task, count))
        if self.fails:
            raise LabelStudioError("it is away")
        numbers = [number for number in (8, 9, 10) if number > task][:count]
        return [
            {"id": number, "data": {"image": f"/data/upload/1/{number}.png"}} for number in numbers
        ]


def opened(number: object, project: str = "1.100") -> ProjectTask:
    return ProjectTask(project, {"id": number, "data": {}}, CONFIG, parse_label_config(CONFIG))


def test_opening_a_task_encodes_it_and_the_next_ones(bench: Bench) -> None:
    lister = Lister()
    bench.service.retrieval._next_tasks = NextTasks(lister)
    bench.predict(None)
    until(lambda: bench.predictor.embeds == 1 + NEXT)
    assert lister.asked == [(1, 7, NEXT)]
    bench.predict(None)
    bench.predict(None, task={"id": 8, "data": {"image": "/data/upload/1/8.png"}})
    until(lambda: bench.predictor.embeds == 2 + NEXT)  # 10, the others are there
    assert lister.asked == [(1, 7, NEXT), (1, 8, NEXT)]


def test_a_label_studio_that_is_away_costs_only_the_next_ones(bench: Bench) -> None:
    lister = Lister()
    lister.fails = True
    bench.service.retrieval._next_tasks = NextTasks(lister)
    bench.predict(None)
    until(lambda: bench.predictor.embeds == 1 and lister.asked)


def test_where_no_order_is_known_nobody_is_asked() -> None:
    lister = Lister()
    tasks = NextTasks(lister)
    assert tasks.after(opened("7")) == []
    assert tasks.after(opened(7, "somewhere")) == []
    assert tasks.after(opened(7, "")) == []
    assert lister.asked == []
    assert [each.task["id"] for each in tasks.after(opened(7))] == [8, 9]
    assert tasks.after(opened(7)) == []
    assert len(lister.asked) == 1
