"""What a user of the tracker sees, with the demo weights and a disc that moves."""

import gc
import pickle
import weakref
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sam2model import ImagePredictor, build_model
from sam2model.memory_policy import (
    POLICIES,
    REFERENCE,
    Found,
    MemoryPolicy,
    Places,
    Step,
    Verdict,
)
from sam2model.sam2 import SAM2
from sam2model.track_memory import SuspendedTracks
from sam2model.video_tracker import FrameMasks, VideoTracker

HEIGHT, WIDTH, RADIUS = 120, 160, 22
NUM_FRAMES = 12


@pytest.fixture(scope="module")
def model(predictor: ImagePredictor) -> SAM2:
    return predictor.model


@pytest.fixture(scope="module")
def fast_model() -> SAM2:
    """For tests of bookkeeping: rough masks, a few milliseconds per frame."""
    return build_model("demo", device="cpu", dtype="float32", image_size=64)


@pytest.fixture(scope="module")
def tiny_images_model() -> SAM2:
    """For tests of many frames, whatever their masks."""
    return build_model("demo", device="cpu", dtype="float32", image_size=32)


class Clip:
    """A disc that crosses the picture; knows the truth, and which frames were asked for."""

    def __init__(self, num_frames: int = NUM_FRAMES, hidden: Iterable[int] = ()) -> None:
        self.num_frames = num_frames
        self.hidden = frozenset(hidden)
        self.asked: list[int] = []
        self.handed_out: list[weakref.ref[NDArray[np.uint8]]] = []

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, frame: int) -> NDArray[np.uint8]:
        self.asked.append(frame)
        colours = np.where(self.truth(frame)[..., None], (220, 40, 40), (40, 90, 60))
        noise = np.random.default_rng(frame).normal(0, 8, colours.shape)
        image = (colours + noise).clip(0, 255).astype(np.uint8)
        self.handed_out.append(weakref.ref(image))
        return image

    def centre(self, frame: int) -> tuple[int, int]:
        return 40 + 6 * (frame % 14), 50 + 2 * (frame % 14)

    def truth(self, frame: int) -> NDArray[np.bool_]:
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        x, y = self.centre(frame)
        inside = (columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2
        return inside & (frame not in self.hidden)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def by_frame(answers: Iterable[FrameMasks]) -> dict[int, FrameMasks]:
    return {answer.frame: answer for answer in answers}


def assert_follows(clip: Clip, answers: Iterable[FrameMasks], row: int = 0) -> None:
    ious = [iou(answer.masks[row], clip.truth(answer.frame)) for answer in answers]
    assert np.mean(ious) > 0.8
    assert min(ious) > 0.6


def test_a_click_is_answered_at_once_and_followed_to_the_end(model: SAM2) -> None:
    clip = Clip()
    tracker = VideoTracker(model, clip)
    first = tracker.prompt(0, "disc", points=[clip.centre(0)])
    answers = list(tracker.propagate())
    assert iou(first.masks[0], clip.truth(0)) > 0.8
    assert [answer.frame for answer in answers] == list(range(NUM_FRAMES))
    np.testing.assert_array_equal(answers[0].masks, first.masks)
    assert_follows(clip, answers)


def test_a_box_is_followed_backwards(model: SAM2) -> None:
    clip = Clip()
    last = NUM_FRAMES - 1
    x, y = clip.centre(last)
    tracker = VideoTracker(model, clip)
    tracker.prompt(last, "disc", box=[x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS])
    answers = list(tracker.propagate(reverse=True))
    assert [answer.frame for answer in answers] == list(range(last, -1, -1))
    assert_follows(clip, answers)


def test_a_mask_is_followed_both_ways(model: SAM2) -> None:
    clip = Clip()
    tracker = VideoTracker(model, clip)
    given = clip.truth(6)
    answer = tracker.prompt(6, "disc", mask=given)
    assert iou(answer.masks[0], given) > 0.9
    assert answer.ious[0] == 1.0
    assert_follows(clip, tracker.propagate())
    assert_follows(clip, tracker.propagate(start=6, reverse=True))


def test_answers_have_the_documented_shapes(model: SAM2) -> None:
    clip = Clip()
    tracker = VideoTracker(model, clip)
    tracker.prompt(0, "disc", points=[clip.centre(0)])
    tracker.prompt(0, 2, box=[100, 80, 150, 110])
    side = model.image_size // 4
    for answer in tracker.propagate(count=2):
        assert answer.object_ids == ("disc", 2)
        assert (answer.masks.shape, answer.masks.dtype) == ((2, HEIGHT, WIDTH), np.bool_)
        assert (answer.logits.shape, answer.logits.dtype) == ((2, side, side), np.float32)
        for values in (answer.object_scores, answer.ious):
            assert (values.shape, values.dtype) == ((2,), np.float32)
        assert ((answer.ious >= 0) & (answer.ious <= 1)).all()


def test_a_lost_object_has_an_empty_mask_and_is_found_again(model: SAM2) -> None:
    clip = Clip(hidden=(5, 6))
    tracker = VideoTracker(model, clip)
    tracker.prompt(0, "disc", mask=clip.truth(0))
    answers = by_frame(tracker.propagate())
    for frame in clip.hidden:
        assert answers[frame].object_scores[0] <= 0
        assert (answers[frame].logits == -1024).all()
        assert not answers[frame].masks[0].any()
    for frame in range(8, NUM_FRAMES):
        assert answers[frame].object_scores[0] > 0
        assert iou(answers[frame].masks[0], clip.truth(frame)) > 0.6


def test_a_correction_stays_and_changes_only_what_comes_after(model: SAM2) -> None:
    clip = Clip()
    tracker = VideoTracker(model, clip)
    tracker.prompt(0, "disc", points=[clip.centre(0)])
    before = by_frame(tracker.propagate())
    painted = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    painted[90:110, 20:50] = True
    preview = tracker.prompt(6, "disc", mask=painted)
    after = by_frame(tracker.propagate(start=6))
    assert sorted(after) == list(range(6, NUM_FRAMES))
    np.testing.assert_array_equal(after[6].masks, preview.masks)
    again = by_frame(tracker.propagate())
    np.testing.assert_array_equal(again[6].masks, preview.masks)
    assert (before[7].masks != after[7].masks).any()


def test_the_reference_default_forgets_a_correction_when_tracked_over(fast_model: SAM2) -> None:
    tracker = VideoTracker(fast_model, Clip(), add_all_frames_to_correct_as_cond=False)
    tracker.prompt(0, "disc", points=[Clip().centre(0)])
    before = by_frame(tracker.propagate())
    preview = tracker.prompt(6, "disc", mask=np.zeros((HEIGHT, WIDTH), dtype=np.bool_))
    after = by_frame(tracker.propagate(start=6))
    assert (preview.masks != before[6].masks).any()
    np.testing.assert_allclose(after[6].logits, before[6].logits, atol=0.1)


def test_tracking_again_from_the_middle_gives_the_same_masks(fast_model: SAM2) -> None:
    clip = Clip(40)
    tracker = VideoTracker(fast_model, clip)
    tracker.prompt(0, "disc", points=[clip.centre(0)])
    tracker.prompt(3, "other", box=[100, 80, 150, 110])
    first = by_frame(tracker.propagate())
    again = by_frame(tracker.propagate(start=25))
    assert sorted(again) == list(range(25, 40))
    for frame, answer in again.items():
        np.testing.assert_allclose(answer.logits, first[frame].logits, atol=1e-2)
        assert (answer.masks != first[frame].masks).mean() < 1e-3


def test_points_on_a_frame_add_up(fast_model: SAM2) -> None:
    """Two calls know both points; a box starts anew, a mask replaces everything."""
    tracker = VideoTracker(fast_model, Clip())
    tracker.prompt(0, "disc", points=[[40, 50]])
    tracker.prompt(0, "disc", points=[[90, 90]], labels=[0])
    both = tracker.prompt(0, "disc", points=[[41, 52]])
    fresh = VideoTracker(fast_model, Clip())
    last_only = fresh.prompt(0, "disc", points=[[41, 52]])
    assert (both.logits != last_only.logits).any()
    mask = Clip().truth(0)
    replaced = tracker.prompt(0, "disc", mask=mask)
    np.testing.assert_array_equal(replaced.logits, fresh.prompt(0, "disc", mask=mask).logits)
    # Nothing of the points is left behind the mask.
    np.testing.assert_array_equal(
        tracker.prompt(0, "disc", points=[[45, 50]]).logits,
        fresh.prompt(0, "disc", points=[[45, 50]]).logits,
    )


def test_a_mask_and_points_in_one_call_are_the_mask_improved_by_the_points(
    fast_model: SAM2,
) -> None:
    mask = Clip().truth(0)
    together = VideoTracker(fast_model, Clip()).prompt(0, 1, mask=mask, points=[[60, 60]])
    apart = VideoTracker(fast_model, Clip())
    apart.prompt(0, 1, mask=mask)
    np.testing.assert_array_equal(together.logits, apart.prompt(0, 1, points=[[60, 60]]).logits)


def test_the_order_of_prompts_does_not_matter(fast_model: SAM2) -> None:
    clip = Clip()

    def track(order: list[int]) -> dict[int, FrameMasks]:
        tracker = VideoTracker(fast_model, clip)
        for frame in order:
            tracker.prompt(frame, "disc", points=[clip.centre(frame)])
        return by_frame(tracker.propagate(start=0))

    one, other = track([0, 8]), track([8, 0])
    for frame in range(NUM_FRAMES):
        np.testing.assert_allclose(one[frame].logits, other[frame].logits, atol=1e-3)


def test_objects_do_not_influence_each_other(fast_model: SAM2) -> None:
    """Batched or alone, joining late or removed: an object's masks are the same."""
    clip = Clip()
    alone = VideoTracker(fast_model, clip)
    alone.prompt(0, "disc", points=[clip.centre(0)])
    expected = by_frame(alone.propagate())

    tracker = VideoTracker(fast_model, clip)
    tracker.prompt(0, "twin", points=[clip.centre(0)])
    tracker.prompt(0, "disc", points=[clip.centre(0)])
    seen: dict[int, FrameMasks] = {}
    for answer in tracker.propagate():
        seen[answer.frame] = answer
        if answer.frame == 4:
            tracker.prompt(4, "late", box=[100, 80, 150, 110])
        if answer.frame == 8:
            tracker.remove("twin")
    assert [seen[frame].object_ids for frame in (4, 5, 9)] == [
        ("twin", "disc"),
        ("twin", "disc", "late"),
        ("disc", "late"),
    ]
    for frame, answer in seen.items():
        logits = answer.logits[answer.object_ids.index("disc")]
        np.testing.assert_allclose(logits, expected[frame].logits[0], atol=1e-2)


def test_frames_are_read_only_when_their_turn_comes(fast_model: SAM2) -> None:
    clip = Clip()
    tracker = VideoTracker(fast_model, clip)
    tracker.prompt(0, "disc", points=[clip.centre(0)])
    assert clip.asked == [0]
    steps = tracker.propagate()
    for _ in range(3):
        next(steps)
    steps.close()
    assert clip.asked == [0, 1, 2]
    # Goes on where it was cancelled without reading anything twice.
    next(tracker.propagate(start=3))
    assert clip.asked == [0, 1, 2, 3]


def test_two_trackers_take_turns_and_leave_no_mode_behind(fast_model: SAM2) -> None:
    clips = [Clip(), Clip(hidden=(3,))]
    expected = []
    for clip in clips:
        tracker = VideoTracker(fast_model, clip)
        tracker.prompt(0, 1, points=[clip.centre(0)])
        expected.append([answer.logits for answer in tracker.propagate()])
    trackers = [VideoTracker(fast_model, clip) for clip in clips]
    for tracker, clip in zip(trackers, clips, strict=True):
        tracker.prompt(0, 1, points=[clip.centre(0)])
    runs = [tracker.propagate() for tracker in trackers]
    for i, answers in enumerate(zip(*runs, strict=True)):
        assert not torch.is_inference_mode_enabled()
        for answer, alone in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(answer.logits, alone[i])


class _Scripted(MemoryPolicy):
    """Remembers the frames up to one, and reads the last of those that it remembers."""

    judges = True

    def __init__(self, last: int) -> None:
        self._last = last

    def judge(self, step: Step, found: Found, verdicts: Mapping[int, Verdict]) -> Verdict:
        assert found.alternatives.shape == (3, *found.mask.shape)
        assert (found.alternatives == found.mask).all(axis=(1, 2)).any()
        return Verdict(int(found.mask.sum()), recent=step.frame <= self._last)

    def memories(self, step: Step, count: int, verdicts: Mapping[int, Verdict]) -> Places:
        passed = (frame for frame in range(step.frame - 1, -1, -1) if frame in verdicts)
        recent = [frame for frame in passed if verdicts[frame].recent]
        return list(enumerate(recent[:count], start=1))


def test_a_policy_that_remembers_all_changes_no_bit_and_what_another_remembers_stays(
    fast_model: SAM2,
) -> None:
    def steps(tracker: VideoTracker, detours: bool) -> Iterator[FrameMasks]:
        for frame in range(24):
            if detours:
                before = tracker.remembered()
                next(tracker.propagate(frame, 1))
                tracker.go_back(before)
            yield from tracker.propagate(frame, 1)

    def track(policy: MemoryPolicy, detours: bool) -> tuple[VideoTracker, list[FrameMasks]]:
        clip = Clip(24, hidden=range(8, 12))
        tracker = VideoTracker(fast_model, clip, history_frames=16, memory_policy=policy)
        for name in ("one", "two"):
            tracker.prompt(0, name, points=[clip.centre(0)])
        return tracker, list(steps(tracker, detours))

    _, expected = track(REFERENCE, detours=False)
    _, got = track(_Scripted(last=24), detours=False)
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
    # However long ago, and no more than that.
    tracker, found = track(_Scripted(last=5), detours=True)
    for each in tracker._tracks.values():
        assert sorted(each.memories) == [1, 2, 3, 4, 5, 23]
        assert sorted(each.history) == [*range(1, 6), *range(8, 24)]
    assert not np.array_equal(found[20].logits, expected[20].logits)


@pytest.mark.slow
def test_a_short_history_changes_no_mask_and_bounds_host_memory(tiny_images_model: SAM2) -> None:
    clip = Clip(60)
    trackers = {
        "all": VideoTracker(tiny_images_model, clip),
        "short": VideoTracker(tiny_images_model, clip, history_frames=16),
    }
    answers: dict[str, dict[int, FrameMasks]] = {}
    for name, tracker in trackers.items():
        tracker.prompt(0, 1, points=[clip.centre(0)])
        tracker.prompt(30, 1, points=[clip.centre(30)])
        tracker.prompt(5, 2, mask=clip.truth(5))
        answers[name] = by_frame(tracker.propagate())
    for frame, answer in answers["all"].items():
        np.testing.assert_array_equal(answer.logits, answers["short"][frame].logits)
    kept = {
        name: [len(track.history) for track in tracker._tracks.values()]
        for name, tracker in trackers.items()
    }
    assert kept == {"all": [58, 59], "short": [16, 16]}
    # A frame that is forgotten is prompted as if it had not been tracked.
    fresh = VideoTracker(tiny_images_model, clip).prompt(9, 1, points=[clip.centre(9)])
    again = trackers["short"].prompt(9, 1, points=[clip.centre(9)])
    np.testing.assert_array_equal(again.logits[0], fresh.logits[0])
    with pytest.raises(ValueError, match="at least 16"):
        VideoTracker(tiny_images_model, clip, history_frames=15)


def held_tensor_bytes() -> int:
    """Bytes of all tensors alive, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_tracker_that_was_suspended_at_every_step_gives_the_same_masks(
    fast_model: SAM2, policy: str
) -> None:
    def track(*, suspended: bool) -> list[FrameMasks]:
        clip = Clip()
        tracker = VideoTracker(fast_model, clip, history_frames=16, memory_policy=POLICIES[policy])
        found: list[FrameMasks] = []

        def note(answer: FrameMasks) -> None:
            found.append(answer)
            if suspended:
                away = pickle.dumps(tracker.suspend())
                assert tracker.object_ids == ()
                tracker.resume(pickle.loads(away))

        note(tracker.prompt(2, "clicked", points=[clip.centre(2)]))
        note(tracker.prompt(2, "clicked", points=[[10, 10]], labels=[0]))
        note(tracker.prompt(4, "drawn", mask=clip.truth(4)))
        for answer in tracker.propagate(2, 5):
            note(answer)
        note(tracker.prompt(5, "clicked", points=[clip.centre(5)]))
        for reverse in (False, True):
            for answer in tracker.propagate(6, 6, reverse=reverse):
                note(answer)
        return found

    for expected, got in zip(track(suspended=False), track(suspended=True), strict=True):
        assert got.object_ids == expected.object_ids
        for name in ("masks", "logits", "object_scores", "ious"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_a_suspended_tracker_holds_nothing_and_tells_how_much_it_gave(
    tiny_images_model: SAM2,
) -> None:
    def suspended() -> SuspendedTracks:
        clip = Clip()
        tracker = VideoTracker(tiny_images_model, clip, history_frames=16)
        for name in "abcd":  # which share a batch, of which each has a part
            tracker.prompt(0, name, points=[clip.centre(0)])
        for _ in tracker.propagate(count=9):
            pass
        trackers.append(tracker)
        return tracker.suspend()

    trackers: list[VideoTracker] = []  # they live on
    suspended()  # what the model makes once
    before = held_tensor_bytes()
    away = suspended()
    answers = [each for track in away.tracks.values() for each in track.history.values()]
    points = [each for track in away.tracks.values() for each in track.points.values() if each]
    elsewhere = sum(each.nbytes for each in answers)
    elsewhere += sum(array.nbytes for each in points for array in each)
    assert 0 < held_tensor_bytes() - before == away.nbytes - elsewhere
    del answers, points, away
    assert held_tensor_bytes() == before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tiny_images_model: SAM2) -> None:
    clip = Clip(300)
    tracker = VideoTracker(tiny_images_model, clip)
    tracker.prompt(0, 1, points=[clip.centre(0)])
    tracker.prompt(0, 2, box=[100, 80, 150, 110])
    tracker.prompt(20, 3, mask=clip.truth(20))
    held: dict[int, int] = {}
    frames_alive: dict[int, int] = {}
    for answer in tracker.propagate(count=260):
        if answer.frame in (50, 150, 250):
            held[answer.frame] = held_tensor_bytes()
            frames_alive[answer.frame] = sum(ref() is not None for ref in clip.handed_out)
    assert held[50] == held[150] == held[250]
    assert set(frames_alive.values()) == {0}


def test_frames_of_a_sequence_may_differ_in_size(fast_model: SAM2) -> None:
    images = [np.full((40 + 10 * i, 60, 3), 90, dtype=np.uint8) for i in range(3)]
    tracker = VideoTracker(fast_model, images)
    tracker.prompt(1, 1, box=[10, 10, 40, 40])
    sizes = {answer.frame: answer.masks.shape for answer in tracker.propagate(start=0)}
    assert sizes == {0: (1, 40, 60), 1: (1, 50, 60), 2: (1, 60, 60)}


def test_an_object_without_an_answer_on_the_frame_is_marked(fast_model: SAM2) -> None:
    tracker = VideoTracker(fast_model, Clip())
    tracker.prompt(0, 1, points=[[40, 50]])
    answer = tracker.prompt(5, 2, points=[[40, 50]])
    assert answer.object_ids == (1, 2)
    assert answer.object_scores[0] == -1024
    assert answer.ious[0] == 0
    assert not answer.masks[0].any()


def test_reset_forgets_all_objects(fast_model: SAM2) -> None:
    tracker = VideoTracker(fast_model, Clip())
    fresh = tracker.prompt(0, 1, points=[[40, 50]])
    list(tracker.propagate(count=3))
    tracker.reset()
    assert tracker.object_ids == ()
    again = tracker.prompt(0, 1, points=[[40, 50]])
    np.testing.assert_array_equal(again.logits, fresh.logits)


def test_a_failed_read_leaves_the_tracker_as_it_was(fast_model: SAM2) -> None:
    class Broken(Clip):
        def __getitem__(self, frame: int) -> NDArray[np.uint8]:
            if frame == 4 and not self.hidden:
                self.hidden = frozenset({-1})
                raise OSError("no such frame")
            return super().__getitem__(frame)

    tracker = VideoTracker(fast_model, Broken())
    tracker.prompt(0, 1, points=[[40, 50]])
    with pytest.raises(OSError, match="no such frame"):
        list(tracker.propagate())
    intact = VideoTracker(fast_model, Clip())
    intact.prompt(0, 1, points=[[40, 50]])
    expected = by_frame(intact.propagate())
    for answer in tracker.propagate(start=4):
        np.testing.assert_allclose(answer.logits, expected[answer.frame].logits, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame": 12, "points": [[1, 1]]}, "frames 0 to 11"),
        ({"frame": -1, "points": [[1, 1]]}, "frames 0 to 11"),
        ({"frame": 0}, "no prompt"),
        ({"frame": 0, "labels": [1]}, "without points"),
        ({"frame": 0, "points": [[1, 1]], "labels": [2]}, "labels must be"),
        ({"frame": 0, "points": [[1, float("nan")]]}, "finite"),
        ({"frame": 0, "box": [1, 2, 3]}, "box"),
        ({"frame": 0, "box": [5, 5, 1, 1]}, "top left corner first"),
        ({"frame": 0, "mask": np.zeros((1, 4, 4), bool)}, "shape"),
        ({"frame": 0, "mask": np.full((4, 4), 0.5)}, "0 and 1"),
    ],
)
def test_bad_prompts_are_refused_and_start_no_object(
    fast_model: SAM2, arguments: dict[str, object], message: str
) -> None:
    tracker = VideoTracker(fast_model, Clip())
    with pytest.raises(ValueError, match=message):
        tracker.prompt(object_id=1, **arguments)  # type: ignore[arg-type]
    assert tracker.object_ids == ()


def test_bad_requests_are_refused(fast_model: SAM2) -> None:
    with pytest.raises(ValueError, match="no frames"):
        VideoTracker(fast_model, [])
    tracker = VideoTracker(fast_model, Clip())
    with pytest.raises(ValueError, match="prompt an object first"):
        tracker.propagate()
    with pytest.raises(ValueError, match="no object 'a'; objects: none"):
        tracker.remove("a")
    tracker.prompt(0, "b", points=[[40, 50]])
    with pytest.raises(ValueError, match="no object 'a'; objects: 'b'"):
        tracker.remove("a")
    with pytest.raises(ValueError, match="frames 0 to 11"):
        tracker.propagate(start=12)
    with pytest.raises(ValueError, match="at least 1"):
        tracker.propagate(count=0)
