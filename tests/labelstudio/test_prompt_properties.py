"""Whatever arrives, reading prompts never raises, and what it yields is usable."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.labelstudio.label_config import parse_label_config
from backend.labelstudio.prompts import ContextPrompts, prompts_from_context, prompts_from_task
from backend.labelstudio.write_results import region_id
from tests.labelstudio import captured
from tests.labelstudio.configs import box, click, with_answer, with_separate_labels

GEOMETRY = ["x", "y", "width", "height", "rotation", "radiusX", "points", "vertices", "rle"]
LABELS = ["labels", "keypointlabels", "rectanglelabels", "text", "imageDataURL"]
ITEM = ["result", "value", "type", "id", "from_name", "to_name", "item_index"]
SIGNS = ["is_positive", "positive", "original_width", "original_height", "image_rotation"]
KEYS = st.sampled_from(GEOMETRY + LABELS + ITEM + SIGNS)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["img", "kp", "rect", "status", "labels", "textarea", "keypointlabels"])
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner),
    max_leaves=25,
)
VALUES = LEAVES | st.dictionaries(KEYS, LEAVES | st.lists(LEAVES, max_size=4), max_size=6)
CONFIGS = st.sampled_from(
    [with_answer("BrushLabels"), with_separate_labels("Brush"), parse_label_config("<View/>")]
)
RECORDED = [
    (request.context, request.config)
    for name in captured.names()
    if name[:3] in ("02a", "02c", "02g", "02y", "02z", "03d", "03s", "04t", "05t")
    for request in captured.requests(name)
    if request.context
]


def check(found: ContextPrompts, config) -> None:
    for prompt in found.objects:
        assert config.image(prompt.image) is not None
        assert prompt.points or prompt.box or prompt.shape
        assert prompt.item_index is None or prompt.item_index >= 0
        for point in prompt.points:
            assert 0 <= point.x <= 100
            assert 0 <= point.y <= 100
        if prompt.box:
            assert all(map(math.isfinite, (prompt.box.x, prompt.box.y, prompt.box.rotation)))
            assert prompt.box.width > 0
            assert prompt.box.height > 0
        assert len(region_id(prompt)) >= 10
    named = [region_id(prompt) for prompt in found.objects if prompt.source_ids]
    assert len(set(named)) == len(named)
    for command in found.commands:
        assert command.newest
        assert command.newest == command.entries[-1]
    assert all(isinstance(reason, str) and reason for reason in found.ignored)


@settings(max_examples=300, deadline=None)
@given(JSON, CONFIGS)
def test_any_json_as_context(context, config):
    check(prompts_from_context(context, config), config)
    check(prompts_from_context({"result": context}, config), config)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=10), max_size=5), CONFIGS)
def test_any_objects_as_results(results, config):
    check(prompts_from_context({"result": results}, config), config)
    task = {"annotations": [{"result": results}], "predictions": [{"result": results}]}
    for prompt in prompts_from_task(task, config):
        assert prompt.points or prompt.box or prompt.shape


@settings(max_examples=200, deadline=None)
@given(JSON, CONFIGS)
def test_any_json_as_task(task, config):
    assert isinstance(prompts_from_task(task, config), list)


def paths(node, prefix=()):
    yield prefix
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, value in items:
        yield from paths(value, (*prefix, key))


def mutated(node, path, change):
    """A copy with the value at ``path`` replaced, or left out where ``change`` is None."""
    node = copy.deepcopy(node)
    if not path:
        return change
    parent = node
    for key in path[:-1]:
        parent = parent[key]
    if change is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = change
    return node


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(RECORDED), st.data())
def test_recorded_contexts_with_something_wrong(recorded, data):
    context, config = recorded
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths(context))))
        context = mutated(context, path, data.draw(JSON))
    check(prompts_from_context(context, config), config)


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0, 90), st.floats(0, 90), st.sampled_from("AB")),
        max_size=12,
    )
)
def test_nothing_is_lost_and_nothing_twice(drawn):
    config = with_answer("BrushLabels", ("A", "B"))
    items = [
        click(x, y, label, id=f"i{n}") if is_point else box(x, y, 8, 8, label, id=f"i{n}")
        for n, (is_point, x, y, label) in enumerate(drawn)
    ]
    found = prompts_from_context({"result": items}, config)
    used = [name for prompt in found.objects for name in prompt.source_ids]
    assert sorted(used) == sorted(item["id"] for item in items)
    boxes = sum(not is_point for is_point, *_ in drawn)
    assert sum(prompt.box is not None for prompt in found.objects) == boxes
    for prompt in found.objects:
        labels = {
            item["value"].get("keypointlabels", item["value"].get("rectanglelabels"))[0]
            for item in items
            if item["id"] in prompt.source_ids
        }
        assert labels == set(prompt.labels)
