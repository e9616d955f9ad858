"""Cuts, and the way back, told by scripted looks of frames; and which frames have one."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from benchmarks.support.clips import MovingDiscs
from sam2model import VideoTracker, build_model
from sam2model.scenes import CELLS, Look, SceneWatch, look_of

RNG = np.random.default_rng(0)
HOME, AWAY, THIRD = (RNG.standard_normal((8, CELLS, CELLS)).astype(np.float32) for _ in range(3))


def moved(scene: Look, much: float) -> Look:
    """The scene after the camera has moved: ``much`` of another one is in it."""
    return (scene + much * THIRD).astype(np.float32)


def elsewhere(watch: SceneWatch, looks: Sequence[Look | None], first: int = 0) -> str:
    """Of each frame, whether an object is ``x`` elsewhere."""
    seen = [watch.see(frame, ["a"], look) for frame, look in enumerate(looks, first)]
    return "".join("x" if found else "." for [found] in seen)


def marked(look: Look = HOME) -> SceneWatch:
    watch = SceneWatch()
    watch.mark("a", 0, look)
    return watch


def test_a_cut_is_told_until_the_scene_comes_back() -> None:
    looks = [HOME] * 4 + [AWAY] * 3 + [HOME] * 2 + [AWAY, THIRD, HOME]
    assert elsewhere(marked(), looks) == "....xxx..xx."


def test_what_changes_little_by_little_stays_the_same_scene() -> None:
    pan = [moved(HOME, 0.05 * frame) for frame in range(40)]
    cut_in = [*pan, AWAY, pan[-1], pan[0]]
    assert elsewhere(marked(), cut_in) == "." * 40 + "x.."


def test_a_camera_that_always_moves_fast_does_not_cut() -> None:
    angles = np.arange(30) * 0.4  # a cosine distance of 0.08 at each step
    looks = [(np.cos(a) * HOME + np.sin(a) * AWAY).astype(np.float32) for a in angles]
    assert elsewhere(marked(), [*looks, THIRD]) == "." * 30 + "x"


def test_every_object_has_scenes_of_its_own() -> None:
    watch = marked()
    watch.mark("b", 5, AWAY)
    looks = [HOME] * 4 + [AWAY] * 2 + [HOME]
    seen = [watch.see(frame, ["a", "b", "c"], look) for frame, look in enumerate(looks)]
    assert seen[:4] == [[False] * 3] * 4
    assert seen[4:] == [[True, False, True], [True, False, True], [False, True, False]]


def test_where_a_human_marked_it_the_object_is_not_elsewhere() -> None:
    watch = marked()
    watch.mark("a", 5, AWAY)
    assert elsewhere(watch, [*[HOME] * 4, AWAY, None, AWAY, HOME]) == "." * 8


def test_frames_that_do_not_follow_one_another_show_no_cut() -> None:
    watch = marked()
    assert elsewhere(watch, [HOME] * 5) == "....."
    assert elsewhere(watch, [AWAY] * 3, first=20) == "..."
    assert elsewhere(watch, [THIRD], first=23) == "x"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_look_is_of_the_means_of_the_parts(dtype: torch.dtype) -> None:
    features = torch.arange(64, dtype=dtype).reshape(1, 1, 8, 8)
    found = look_of(features)
    assert (found.shape, found.dtype) == ((1, CELLS, CELLS), torch.float32)
    assert found[0, 0].tolist() == [4.5, 6.5, 8.5, 10.5]


def test_answers_say_what_the_frame_looks_like() -> None:
    tracker = VideoTracker(build_model("demo", device="cpu", image_size=64), MovingDiscs(4, 96))
    at_first = tracker.prompt(0, "a", points=[[30, 30]]).look
    tracker.prompt(2, "a", points=[[40, 40]])
    first, *others = tracker.propagate(start=0)
    assert first.look is None  # it was not encoded again: it is prompted
    assert at_first is not None and at_first.shape[1:] == (CELLS, CELLS)
    assert [None if each.look is None else each.look.shape for each in others] == [
        at_first.shape,
        None,
        at_first.shape,
    ]
