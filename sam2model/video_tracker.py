"""Objects through a video: prompts on any frames in, masks on all frames out, streaming.

The masks are those of the reference's ``SAM2VideoPredictor`` (``sam2`` 1.1.0, whose objects
are independent of each other), with these differences, all deliberate:

* Memory does not grow with the video on the device; see :mod:`sam2model.track_memory`.
  Frames are read one at a time, and forgotten.
* Objects are batched, not looped over: a frame is encoded once; memory attention runs on all
  objects whose memories have the same places in time; decoder and memory encoder on all.
* A frame that is corrected after it was tracked conditions the others from then on
  (``add_all_frames_to_correct_as_cond``, as the models were trained). The reference's default
  overwrites the correction when propagation passes (its issues 546, 719, 731).
* ``clear_non_cond_mem_around_input`` does not exist: the reference raises ``AttributeError``
  where it is set (its issue 571). Tracking again from a corrected frame replaces the outdated
  memories behind it one by one, which is what the option is for.
* Of more than 32 prompted frames of an object a step reads the nearest ones
  (``max_cond_frames_in_attn`` of the reference, which is unset in its configurations): memory on
  the device, and the time of a step, do not grow with every prompt.
* Small holes are not filled, as in the reference without its CUDA extension.
* A memory with no object pointer beside it (an object prompted later in the direction of
  tracking, before anything of it was tracked) is used in float32. The reference passes it to
  float32 layers as bfloat16, which raises outside autocast.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sam2model.frame_masks import FrameMasks, ObjectId
from sam2model.memory_policy import REFERENCE, MemoryPolicy, Step
from sam2model.postprocessing import resize_masks
from sam2model.preprocessing import preprocess
from sam2model.prompts import PointPrompt, check_boxes, check_mask, check_points, point_prompt
from sam2model.sam2 import MAX_OBJECT_POINTERS, SAM2, ImageFeatures
from sam2model.scenes import look_of
from sam2model.track_memory import (
    Answer,
    ObjectTrack,
    SpilledAnswer,
    SuspendedTracks,
)
from sam2model.track_step import (
    Followed,
    answer_mask,
    answer_points,
    condition,
    encode_again,
    follow,
    no_answer,
    unspill,
)
from sam2model.transfer import Download, transfer_for


class Frames(Protocol):
    """A video, or a sequence of images: frames of any size, read one at a time."""

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        """Frame ``index`` as uint8 RGB ``[H, W, 3]``."""


class _Unspilled(NamedTuple):
    """The answers of a tracked frame on their way to host memory, by place in ``arrays``.

    Attributes:
        candidates: masks that the answers were chosen from, bool ``[T, 3, S/4, S/4]``, of those
            tracks whose policy judges them, in their order; None where none does.
    """

    step: Step
    tracks: dict[int, ObjectTrack]
    download: Download
    candidates: Download | None


class RememberedTracks(NamedTuple):
    """What a tracker remembers at one moment, on the device where it is there: what it has given up
    one frame later is held until this goes.

    Attributes:
        tracks: each object, and a copy of it at that moment.
    """

    tracks: dict[ObjectId, tuple[ObjectTrack, ObjectTrack]]
    unspilled: _Unspilled | None
    next: Step | None


class VideoTracker:
    """Track objects through one video.

    Not for several threads at once; several trackers may share a model and take turns.

    Args:
        model: from :func:`sam2model.build_model`.
        frames: the video; a frame is asked for when it is needed, possibly more than once.
        add_all_frames_to_correct_as_cond: whether a frame that gets prompts after it was
            tracked keeps them through later propagations. False is the reference's default.
        history_frames: how many of the last tracked frames a correction, or a propagation that
            starts anew, can build on; older ones are as if they had never been tracked. None:
            all of them, for up to ``S * S / 4 + 1024`` bytes of host memory per frame and
            object (256 KiB at S = 1024), S being the model's image size.
        memory_policy: which tracked frames later ones read; an object keeps that of its first
            prompt. All but the reference's make the host wait for each frame before the next.
        yield_to: called between the steps of a computation; see :mod:`sam2model.yield_point`.
            It may raise: whatever was begun is then as if it had not been asked for.

    Raises:
        ValueError: there are no frames, or fewer than 16 ``history_frames``, which a step reads.
    """

    def __init__(
        self,
        model: SAM2,
        frames: Frames,
        *,
        add_all_frames_to_correct_as_cond: bool = True,
        history_frames: int | None = None,
        memory_policy: MemoryPolicy = REFERENCE,
        yield_to: Callable[[], None] | None = None,
    ) -> None:
        if len(frames) == 0:
            raise ValueError("the video has no frames")
        if history_frames is not None and history_frames < MAX_OBJECT_POINTERS:
            raise ValueError(
                f"history_frames must be at least {MAX_OBJECT_POINTERS}, not {history_frames}"
            )
        self._history_frames = history_frames
        self._memory_policy = memory_policy
        self._yield_to = yield_to
        self._model = model
        self._frames = frames
        self._corrections_condition = add_all_frames_to_correct_as_cond
        self._tracks: dict[ObjectId, ObjectTrack] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._features: tuple[int, ImageFeatures] | None = None
        self._transfer = transfer_for(model.device)
        self._unspilled: _Unspilled | None = None
        self._next: Step | None = None

    @property
    def object_ids(self) -> tuple[ObjectId, ...]:
        """The objects, in the order in which they were first prompted."""
        return tuple(self._tracks)

    @property
    def device_bytes(self) -> int:
        """Bytes on the model's device that are kept between two calls: what is remembered of the
        objects, and the features of the last frame. May be asked from any thread."""
        features = self._features
        found = sum(
            tensor.nbytes
            for track in list(self._tracks.values())
            for tensor in track.tensors()
            if tensor.device.type == self._model.device.type
        )
        return found + (0 if features is None else features[1].nbytes)

    def prompt(
        self,
        frame: int,
        object_id: ObjectId,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> FrameMasks:
        """Say where an object is on a frame, and get that frame's masks at once.

        A new ``object_id`` starts a new object, at any time. Prompts for the same object
        and frame add up: points join the earlier points, and the earlier mask is improved
        by them. A box starts the points of that frame anew, a mask replaces everything.
        Where one call brings several, the mask comes first, then the box, then the points.

        On a frame that has been tracked, points correct the tracked mask. Other frames
        follow when :meth:`propagate` reaches them.

        Args:
            frame: index of the frame, from 0.
            object_id: any hashable name.
            points: float ``[N, 2]``, xy in pixels of the frame.
            labels: int ``[N]``, 1 for points on the object, 0 for points beside it; all 1
                where None.
            box: float ``[4]``, x0, y0, x1, y1 in pixels of the frame.
            mask: bool or 0/1 ``[h, w]``, the object's mask. It covers the whole frame,
                whatever its size; an empty one says that the object is absent.

        Returns:
            The frame's masks of all objects, as far as they are known.

        Raises:
            ValueError: no prompt at all, one of a wrong shape or with values that are not
                finite, or a frame that the video does not have.
        """
        self._check_frame(frame)
        checked_points, checked_labels = check_points(points, labels)
        boxes = None if box is None else check_boxes(np.asarray(box)[None])
        checked_mask = None if mask is None else check_mask(mask)
        if checked_points is None and boxes is None and checked_mask is None:
            raise ValueError("no prompt: give points, a box or a mask")
        self._spill()
        features = self._encode(frame)
        new = point_prompt(
            boxes, checked_points, checked_labels, self._sizes[frame], self._model.image_size
        )
        track = self._tracks.get(object_id) or ObjectTrack(
            num_mask_memories=self._model.num_mask_memories, policy=self._memory_policy
        )
        starts_anew = checked_mask is not None or boxes is not None
        clicks = _joined(None if starts_anew else track.points.get(frame), new)
        earlier = self._known_answer(track, frame)
        with self._model.inference(self._yield_to):
            if checked_mask is not None:
                prompted = answer_mask(self._model, features, checked_mask)
                earlier = prompted.answer
            if clicks is not None:
                conditioned = self._conditioned(track, frame, features)
                prompted = answer_points(self._model, features, conditioned, *clicks, earlier)
        track.pending[frame] = prompted
        track.put_prompts_away()
        track.points[frame] = clicks
        if frame in track.reverse and not self._corrections_condition:
            track.pending_corrections.add(frame)
        self._tracks[object_id] = track
        return self._known_masks(frame)

    def propagate(
        self, start: int | None = None, count: int | None = None, reverse: bool = False
    ) -> Iterator[FrameMasks]:
        """Carry all objects from frame to frame, one frame per step of the iterator.

        Frames with prompts keep their answers. Work is done only while the iterator is
        asked for its next frame, so stopping to ask is all it takes to cancel. Between two
        steps anything may happen: prompts and new objects take part from the next step on,
        removed objects no longer do, and another propagation may start.

        Starting anywhere but at the end of the last propagation encodes up to six earlier
        frames again.

        Args:
            start: first frame; the first prompted one where None.
            count: number of frames; all up to the end (the beginning) of the video where
                None or larger.
            reverse: go towards the beginning of the video.

        Raises:
            ValueError: no object has a prompt yet, or start or count out of range.
        """
        if not self._tracks:
            raise ValueError("nothing to track: prompt an object first")
        if start is None:
            start = min(min(track.prompted_frames()) for track in self._tracks.values())
        self._check_frame(start)
        if count is not None and count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        frames = range(start, -1, -1) if reverse else range(start, len(self._frames))
        return self._steps(frames[:count], reverse)

    def remove(self, object_id: ObjectId) -> None:
        """Forget an object.

        Raises:
            ValueError: there is no such object.
        """
        if object_id not in self._tracks:
            known = ", ".join(map(repr, self._tracks)) or "none"
            raise ValueError(f"there is no object {object_id!r}; objects: {known}")
        del self._tracks[object_id]

    def reset(self) -> None:
        """Forget all objects."""
        self._tracks = {}
        self._next = self._unspilled = self._features = None

    def remembered(self) -> RememberedTracks:
        """What is remembered at the moment, for :meth:`go_back`."""
        tracks = {name: (track, track.copied()) for name, track in self._tracks.items()}
        return RememberedTracks(tracks, self._unspilled, self._next)

    def go_back(self, to: RememberedTracks) -> None:
        """Make everything since :meth:`remembered` as if it had not been asked for; once."""
        self._tracks = {}
        for name, (track, before) in to.tracks.items():
            track.become(before)
            self._tracks[name] = track
        self._unspilled, self._next = to.unspilled, to.next

    def suspend(self) -> SuspendedTracks:
        """Give away all that is remembered, and hold nothing on the device any more.

        Nothing may be asked of the tracker before :meth:`resume` gets it back. The masks are then
        those of a tracker that was never suspended; propagations under way go on.
        """
        self._spill()
        suspended = SuspendedTracks.of(self._tracks, self._sizes, self._next)
        self._tracks, self._features = {}, None
        return suspended

    def resume(self, suspended: SuspendedTracks) -> None:
        """Go on with what :meth:`suspend` gave."""
        self._tracks = suspended.tracks_on(self._model.device)
        self._sizes, self._next = dict(suspended.sizes), suspended.next

    def _conditioned(self, track: ObjectTrack, frame: int, features: ImageFeatures) -> Tensor:
        """A prompted frame's features, with memory where the frame has been tracked."""
        if frame not in track.reverse:
            return self._model.without_memory(features.embedding)
        step = Step(frame, track.reverse[frame])
        track.bring_prompts(frame, self._model.device)
        self._restore([track], step)
        recall = track.recall(step, len(self._frames))
        track.forget_all_but([step] if self._next is None else [step, self._next])
        return condition(self._model, features, [recall], len(self._frames))

    # Steps.

    def _steps(self, frames: Sequence[int], reverse: bool) -> Iterator[FrameMasks]:
        # No context may be entered around the ``yield``: it would reach the caller's code.
        for frame in frames:
            if not self._tracks:
                return
            yield self._track(Step(frame, reverse))
        self._spill()

    def _track(self, step: Step) -> FrameMasks:
        """One frame, all objects. Nothing here makes the host wait for this frame; for the one
        before it only a policy does that has to judge it."""
        if any(track.policy.judges for track in self._tracks.values()):
            self._spill()
        for track in self._tracks.values():
            track.take_in()
            track.bring_prompts(step.frame, self._model.device)
        following = {
            object_id: track
            for object_id, track in self._tracks.items()
            if step.frame not in track.conditioning
        }
        followed = self._follow(step, following) if following else {}
        answers = [
            followed[object_id].answer
            if object_id in followed
            else track.conditioning[step.frame].answer
            for object_id, track in self._tracks.items()
        ]
        download = self._download(step.frame, answers)
        self._spill()  # of the frame before, which has arrived while this one is computed
        places = enumerate(self._tracks.items())
        tracks = {place: track for place, (object_id, track) in places if object_id in followed}
        candidates = self._download_candidates(followed)
        self._unspilled = _Unspilled(step, tracks, download, candidates)
        self._next = step.following()
        for track in self._tracks.values():
            track.reverse[step.frame] = step.reverse
            track.forget_all_but([self._next])
            if self._history_frames is not None:
                track.forget_history(self._next, self._history_frames)
        return FrameMasks(step.frame, tuple(self._tracks), download)

    def _spill(self) -> None:
        """Keep the answers of the frame tracked last in host memory."""
        if self._unspilled is None:
            return
        step, tracks, download, candidates = self._unspilled
        _, logits, scores, ious, pointers = download.arrays()[:5]
        judged = iter(()) if candidates is None else iter(candidates.arrays()[0])
        for i, track in tracks.items():
            answer = SpilledAnswer.of(logits[i], pointers[i], scores[i], ious[i])
            track.history[step.frame] = answer
            if track.policy.judges:
                track.judge(step, answer, next(judged))
        self._unspilled = None

    def _follow(
        self, step: Step, tracks: Mapping[ObjectId, ObjectTrack]
    ) -> dict[ObjectId, Followed]:
        """Find objects by their memories, and remember them."""
        features = self._encode(step.frame)
        with self._model.inference(self._yield_to):
            self._restore(tracks.values(), step)
            recalls = [track.recall(step, len(self._frames)) for track in tracks.values()]
            found = follow(self._model, features, recalls, len(self._frames))
        for track, each in zip(tracks.values(), found, strict=True):
            track.memories[step.frame] = each.memory
            track.pointers[step.frame] = each.answer.pointer[None]
        return dict(zip(tracks, found, strict=True))

    def _restore(self, tracks: Iterable[ObjectTrack], step: Step) -> None:
        """Bring back to the device what a step reads of tracked frames and the last steps did not
        leave there."""
        missing: dict[int, list[ObjectTrack]] = {}
        for track in tracks:
            for frame in track.missing_pointers(step):
                pointer = torch.from_numpy(track.history[frame].pointer)
                track.pointers[frame] = pointer[None].to(self._model.device)
            for frame in track.missing_memories(step):
                missing.setdefault(frame, []).append(track)
        for frame, sharing in missing.items():
            features = self._encode(frame, keep=False)
            for track in sharing:
                track.memories[frame] = encode_again(self._model, features, track.history[frame])

    # Frames and answers.

    def _encode(self, frame: int, keep: bool = True) -> ImageFeatures:
        """A frame's features; the last ones are kept, for several prompts on one frame."""
        if self._features is not None and self._features[0] == frame:
            return self._features[1]
        image = self._frames[frame]
        if keep:
            self._features = None  # before there are others
        with self._model.inference(self._yield_to):
            size, device = self._model.image_size, self._model.device
            pixels = preprocess(image, size, device, self._transfer.upload)
            features = self._model.encode_image(pixels)
        self._sizes[frame] = (image.shape[0], image.shape[1])
        if keep:
            self._features = (frame, features)
        return features

    def _known_answer(self, track: ObjectTrack, frame: int) -> Answer | None:
        """The object's latest answer on a frame."""
        for prompted in (track.pending, track.conditioning):
            if frame in prompted:
                return prompted[frame].on(self._model.device).answer
        if frame in track.history:
            return unspill(track.history[frame], self._model.device)
        return None

    def _known_masks(self, frame: int) -> FrameMasks:
        known = [self._known_answer(track, frame) for track in self._tracks.values()]
        answers = [answer or no_answer(self._model) for answer in known]
        return FrameMasks(frame, tuple(self._tracks), self._download(frame, answers))

    def _download(self, frame: int, answers: Sequence[Answer]) -> Download:
        """Masks, logits, object scores, IoUs and object pointers, and the look of the frame."""
        seen = self._features
        with torch.inference_mode():
            logits = torch.stack([answer.logits for answer in answers])
            return self._transfer.download(
                resize_masks(logits, self._sizes[frame]),
                logits,
                torch.stack([answer.object_score for answer in answers]),
                torch.stack([answer.iou for answer in answers]),
                torch.stack([answer.pointer for answer in answers]),
                *([look_of(seen[1].embedding)] if seen is not None and seen[0] == frame else []),
            )

    def _download_candidates(self, followed: Mapping[ObjectId, Followed]) -> Download | None:
        """Masks that answers were chosen from, of the tracks whose policy judges them."""
        judged = [
            each.candidates
            for object_id, each in followed.items()
            if self._tracks[object_id].policy.judges
        ]
        with torch.inference_mode():
            return self._transfer.download(torch.stack(judged) > 0) if judged else None

    def _check_frame(self, frame: int) -> None:
        count = len(self._frames)
        if not 0 <= frame < count:
            raise ValueError(f"there is no frame {frame}: the video has frames 0 to {count - 1}")


def _joined(earlier: PointPrompt | None, new: PointPrompt | None) -> PointPrompt | None:
    """New points after the earlier ones, as far as there are any of either."""
    if earlier is None or new is None:
        return new
    return (
        np.concatenate((earlier[0], new[0]), axis=1),
        np.concatenate((earlier[1], new[1]), axis=1),
    )
