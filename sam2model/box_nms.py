"""Non-maximum suppression: of boxes that lie on one another the one with the best score."""

import numpy as np
from numpy.typing import NDArray


def box_nms(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], threshold: float
) -> NDArray[np.int64]:
    """Which boxes stay, best first: each that no better one that stays covers by more than
    ``threshold`` (IoU), as ``torchvision.ops.nms`` has it.

    Args:
        boxes: ``[N, 4]``, x0, y0, x1, y1; areas without the edge, so that a box of one point has
            none, and covers nothing.
        scores: ``[N]``; of equal ones the first counts as better.

    Returns:
        Their positions in ``boxes``.
    """
    boxes = boxes.astype(np.float32)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.argsort(-scores.astype(np.float32), kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        sides = np.maximum(high - low, np.float32(0))
        shared = sides[:, 0] * sides[:, 1]
        with np.errstate(invalid="ignore"):  # nothing of nothing covers nothing
            covered = shared / (areas[best] + areas[left] - shared) > threshold
        left = left[~covered]
    return np.array(kept, dtype=np.int64)
