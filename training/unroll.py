"""The network unrolled over prompts and frames, with the losses of every decoding."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sam2model.sam2 import (
    MAX_OBJECT_POINTERS,
    NO_OBJECT_LOGIT,
    NUM_MASK_MEMORIES,
    SAM2,
    ImageFeatures,
    ObjectPointer,
    SpatialMemory,
    is_ambiguous,
)
from training import prompts
from training.losses import Losses, mean_losses, segmentation_losses
from training.prompts import Points

_MASK_PROMPT = 0.25  # share of clips that begin with a mask
_LATER_CLICK = 0.3  # share of clips with a corrective click on a later frame


@dataclass(frozen=True)
class Answer:
    """One decoding of B objects.

    Attributes:
        candidates: ``[B, M, S/4, S/4]`` raw logits, whatever the object score says.
        ious: ``[B, M]`` predicted.
        object_score_logits: ``[B, 1]``.
        logits: ``[B, 1, S/4, S/4]``, the candidate of the highest predicted IoU.
        pointer: ``[B, C]`` object pointer.
    """

    candidates: Tensor
    ious: Tensor
    object_score_logits: Tensor
    logits: Tensor
    pointer: Tensor

    @property
    def masked_logits(self) -> Tensor:
        """``logits``, and "nothing" where the object is said to be absent."""
        present = (self.object_score_logits > 0)[:, :, None, None]
        return torch.where(present, self.logits, NO_OBJECT_LOGIT)


def decode(
    model: SAM2,
    conditioned: Tensor,
    high_res: tuple[Tensor, Tensor],
    points: Points | None,
    mask_logits: Tensor | None = None,
) -> Answer:
    """Decode as :meth:`SAM2.segment_object` does, but keep the raw logits for the losses.

    There, the masks of objects that are said to be absent are overwritten, and a wrong
    score would keep the mask from being trained.
    """
    if points is None:
        batch = len(conditioned)
        xy = conditioned.new_zeros(batch, 1, 2)
        labels = torch.full((batch, 1), prompts.NOT_A_POINT, dtype=torch.int32)
        count = 0
    else:
        xy, labels, count = points.xy, points.labels, points.labels.shape[1]
    decoded = model.decode_masks(
        conditioned, high_res, xy, labels, mask_logits, multimask=is_ambiguous(count)
    )
    best = decoded.ious.argmax(dim=1)
    rows = torch.arange(len(best), device=best.device)
    # A single mask has a single token, and where the single mask was exchanged for a
    # stabler one (evaluation only) the pointer stays that of the single mask's token.
    token = decoded.tokens[rows, best if decoded.tokens.shape[1] > 1 else 0]
    present = decoded.object_score_logits > 0
    pointer = torch.where(present, model.obj_ptr_proj(token).float(), model.no_obj_ptr)
    return Answer(
        candidates=decoded.logits,
        ious=decoded.ious,
        object_score_logits=decoded.object_score_logits,
        logits=decoded.logits[rows, best][:, None].float(),
        pointer=pointer,
    )


def answer_masks(model: SAM2, logits: Tensor) -> np.ndarray:
    """Logits ``[B, 1, S/4, S/4]`` to bool masks ``[B, S, S]``."""
    with torch.no_grad():
        return (model.upscale(logits)[:, 0] > 0).numpy()


def image_losses(
    model: SAM2,
    images: Tensor,
    masks: list[np.ndarray],
    rng: np.random.Generator,
    rounds: int,
) -> Losses:
    """Losses on images: a first prompt, then ``rounds`` corrective clicks.

    Args:
        model: in training mode.
        images: float ``[B, 3, S, S]``, normalised.
        masks: per image, bool ``[N, S, S]``: the objects to ask for.
        rng: decides the prompts.
        rounds: corrections after the first prompt.
    """
    features = model.encode_image(images)
    owners = torch.tensor([i for i, group in enumerate(masks) for _ in group])
    truth = np.concatenate(masks)
    points = prompts.boxes(truth, rng) if rng.random() < 0.4 else prompts.clicks(truth, rng)
    return prompted_losses(model, features, owners, truth, points, rng, rounds)


def prompted_losses(
    model: SAM2,
    features: ImageFeatures,
    owners: Tensor,
    truth: np.ndarray,
    points: Points,
    rng: np.random.Generator,
    rounds: int,
) -> Losses:
    """Losses of a first prompt and of corrective clicks after it.

    Args:
        model: in training mode.
        features: of a batch of pictures.
        owners: int ``[B]``, for each object the picture it is on.
        truth: bool ``[B, S, S]``.
        points: the first prompt.
        rng: decides the corrections.
        rounds: how many.
    """
    conditioned = model.without_memory(features.embedding)[owners]
    high_res = (features.high_res[0][owners], features.high_res[1][owners])
    targets = torch.from_numpy(truth)
    answer = decode(model, conditioned, high_res, points)
    losses = [_losses(answer, targets)]
    for _ in range(rounds):
        wrong = answer_masks(model, answer.logits)
        points = points.add(prompts.corrections(wrong, truth, rng))
        previous = answer.logits.detach().clamp(-32, 32)
        answer = decode(model, conditioned, high_res, points, previous)
        losses.append(_losses(answer, targets))
    return mean_losses(losses)


@dataclass
class MemoryBank:
    """What is remembered of the objects of one clip, as the tracker keeps it.

    Attributes:
        length: frames of the clip.
        prompted: frame -> (spatial memory, pointers) of frames with prompts.
        tracked: the same of other frames.
    """

    length: int
    prompted: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    tracked: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def condition(self, model: SAM2, embedding: Tensor, frame: int) -> Tensor:
        """The features ``[1, C, h, w]`` of a frame conditioned on what is remembered."""
        if not self.prompted:
            return model.without_memory(embedding)
        memories = [SpatialMemory(0, memory) for memory, _ in self.prompted.values()]
        pointers = [
            ObjectPointer(frame - at, pointer) for at, (_, pointer) in self.prompted.items()
        ]
        for ago in range(1, MAX_OBJECT_POINTERS):
            found = self.tracked.get(frame - ago)
            if found is None:
                continue
            if ago < NUM_MASK_MEMORIES:
                memories.append(SpatialMemory(ago, found[0]))
            pointers.append(ObjectPointer(ago, found[1]))
        horizon = min(self.length, MAX_OBJECT_POINTERS) - 1
        return model.condition_on_memory(embedding, memories, pointers, horizon)

    def remember(
        self, model: SAM2, embedding: Tensor, answer: Answer, frame: int, prompted: bool
    ) -> None:
        """Encode and keep the answer of a frame.

        As in the reference, masks that answer prompts are thresholded first, but not while
        training: nothing would be learned through them.
        """
        memory = model.encode_memory(
            embedding,
            model.upscale(answer.masked_logits),
            answer.object_score_logits,
            binarize=prompted and not model.training,
        )
        (self.prompted if prompted else self.tracked)[frame] = (memory, answer.pointer)


def clip_losses(model: SAM2, frames: Tensor, masks: np.ndarray, rng: np.random.Generator) -> Losses:
    """Losses on a clip: a prompt on frame 0, tracking, sometimes a click on a later frame.

    Args:
        model: in training mode.
        frames: float ``[T, 3, S, S]``, normalised.
        masks: bool ``[O, T, S, S]``, every object visible on frame 0.
        rng: decides the prompts.
    """
    return tracking_losses(model, model.encode_image(frames), masks, rng)


def tracking_losses(
    model: SAM2, features: ImageFeatures, masks: np.ndarray, rng: np.random.Generator
) -> Losses:
    """``clip_losses`` of frames that are encoded already, batch T."""
    length = len(features.embedding)
    bank = MemoryBank(length)
    losses = []
    corrected = int(rng.integers(1, length)) if rng.random() < _LATER_CLICK else -1
    for t in range(length):
        embedding = features.embedding[t : t + 1]
        high_res = (features.high_res[0][t : t + 1], features.high_res[1][t : t + 1])
        truth = masks[:, t]
        targets = torch.from_numpy(np.ascontiguousarray(truth))
        if t == 0 and rng.random() < _MASK_PROMPT:
            _remember_masks(model, bank, features.embedding, high_res, targets)
            continue
        conditioned = bank.condition(model, embedding, t)
        if t == 0:
            box = rng.random() < 0.5
            points = prompts.boxes(truth, rng) if box else prompts.clicks(truth, rng)
            conditioned = conditioned.expand(len(masks), -1, -1, -1)
            answer = decode(model, conditioned, high_res, points)
        else:
            answer = decode(model, conditioned, high_res, None)
        losses.append(_losses(answer, targets))
        if t == corrected:
            wrong = answer_masks(model, answer.masked_logits)
            points = prompts.corrections(wrong, truth, rng)
            answer = decode(model, conditioned, high_res, points)
            losses.append(_losses(answer, targets))
        if t < length - 1:
            bank.remember(model, embedding, answer, t, prompted=t in (0, corrected))
    return mean_losses(losses)


def _remember_masks(
    model: SAM2,
    bank: MemoryBank,
    embeddings: Tensor,
    high_res: tuple[Tensor, Tensor],
    targets: Tensor,
) -> None:
    """Begin with given masks, which are their own answer (:meth:`SAM2.mask_as_output`)."""
    masks = targets[:, None].float()
    embedding = embeddings[:1]
    decoded = model.decode_masks(
        embedding,
        high_res,
        embedding.new_zeros(len(masks), 1, 2),
        torch.full((len(masks), 1), prompts.NOT_A_POINT, dtype=torch.int32),
        model.mask_downsample(masks),
    )
    pointer = model.obj_ptr_proj(decoded.tokens[:, 0]).float()
    certain = torch.full((len(masks), 1), 10.0)
    memory = model.encode_memory(embedding, masks * 20.0 - 10.0, certain, binarize=True)
    bank.prompted[0] = (memory, pointer)


def _losses(answer: Answer, targets: Tensor) -> Losses:
    return segmentation_losses(answer.candidates, answer.ious, answer.object_score_logits, targets)
