"""Prompts: checked, with errors that say what is wrong, and in the model's coordinates."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam2model.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, POSITIVE

# Points float32 ``[B, P, 2]``, xy in pixels of the model's input, and their labels int64
# ``[B, P]``, see :meth:`sam2model.sam2.SAM2.decode_masks`.
PointPrompt: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]


def check_points(
    points: ArrayLike | None, labels: ArrayLike | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | tuple[None, None]:
    """Points as float32 ``[N, 2]`` and labels as int64 ``[N]``, or both None.

    Raises:
        ValueError: wrong shapes, no points, coordinates that are not finite, labels other
            than 1 and 0, another number of labels than of points, labels without points.
    """
    if points is None:
        if labels is not None:
            raise ValueError("labels were given without points")
        return None, None
    xy = _finite(points, "points")
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) == 0:
        raise ValueError(f"points must have shape [N, 2] with N >= 1, not {list(xy.shape)}")
    if labels is None:
        return xy, np.full(len(xy), POSITIVE, dtype=np.int64)
    kinds = np.asarray(labels)
    if kinds.shape != (len(xy),):
        raise ValueError(
            f"labels must have shape [{len(xy)}], one per point, not {list(kinds.shape)}"
        )
    if not np.isin(kinds, (NEGATIVE, POSITIVE)).all():
        raise ValueError(f"labels must be 1 (on the object) or 0 (beside it), not {kinds}")
    return xy, kinds.astype(np.int64)


def check_boxes(boxes: ArrayLike) -> NDArray[np.float32]:
    """Boxes as float32 ``[N, 4]``, N possibly 0.

    Raises:
        ValueError: a wrong shape, coordinates that are not finite, or x1 < x0 or y1 < y0.
    """
    checked = _finite(boxes, "a box")
    if checked.shape == (0,):
        return checked.reshape(0, 4)
    if checked.ndim != 2 or checked.shape[1] != 4:
        raise ValueError(
            "a box must have shape [4] (x0, y0, x1, y1), boxes [N, 4]; "
            f"the array of boxes has shape {list(checked.shape)}"
        )
    if (checked[:, 2:] < checked[:, :2]).any():
        raise ValueError("a box must have x0 <= x1 and y0 <= y1: top left corner first")
    return checked


def check_mask_logits(mask: ArrayLike, size: int) -> NDArray[np.float32]:
    """Logits as a mask prompt, as float32 ``[1, size, size]``.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    checked = _finite(mask, "a mask prompt")
    if checked.shape != (1, size, size):
        raise ValueError(
            f"a mask prompt must be logits of shape [1, {size}, {size}], as an earlier "
            f"prediction returned them, not {list(checked.shape)}"
        )
    return checked


def check_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    """A mask as a prompt, as bool ``[h, w]``.

    Raises:
        ValueError: another shape, or values other than 0 and 1.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"a mask prompt must have shape [h, w], not {list(array.shape)}")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise ValueError("a mask prompt must hold 0 and 1; threshold logits with mask > 0")
    return array.astype(np.bool_)


def point_prompt(
    boxes: NDArray[np.float32] | None,
    points: NDArray[np.float32] | None,
    labels: NDArray[np.int64] | None,
    size: tuple[int, int],
    image_size: int,
) -> PointPrompt | None:
    """Boxes and points as the prompt encoder takes them: the corners of a box, then the points.

    Args:
        boxes: ``[B, 4]`` in pixels of the image; None for none.
        points: ``[N, 2]`` in pixels of the image, of one object (B = 1); None for none.
        labels: ``[N]``; None together with ``points``.
        size: height and width of the image.
        image_size: side of the model's input.

    Returns:
        None where there are neither boxes nor points.
    """
    xy: list[NDArray[np.float32]] = []
    kinds: list[NDArray[np.int64]] = []
    if boxes is not None:
        xy.append(boxes.reshape(-1, 2, 2))
        kinds.append(np.tile([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], (len(boxes), 1)))
    if points is not None and labels is not None:
        xy.append(points[None])
        kinds.append(labels[None])
    if not xy:
        return None
    scaled = np.concatenate(xy, axis=1)
    scaled /= np.array(size[::-1], dtype=np.float32)  # before the product, as in the reference
    scaled *= image_size
    return scaled, np.concatenate(kinds, axis=1)


def _finite(values: ArrayLike, what: str) -> NDArray[np.float32]:
    try:
        array = np.array(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be an array of numbers: {error}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{what} must have finite values, found NaN or infinity")
    return array
