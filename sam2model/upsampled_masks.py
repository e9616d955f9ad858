"""What masks are at the size of a picture, without making pictures of them.

Mask logits are small squares; a picture may have 80 million pixels. Bilinear upsampling makes each
pixel of the four logits around it, of a *cell*, so that a cell whose corners all lie above a
threshold has no pixel below it. Only cells that the outline goes through are computed pixel by
pixel, and only their corners have to be kept to make the mask later, to the pixel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Pixels computed at once; those of mixed cells take about ten float32 and int64 each.
_PIXELS_AT_ONCE = 1 << 20
# Where mixed cells have more pixels than this share of the picture's, noise mostly, it is faster to
# compute all of them.
_RAGGED = 0.25


@dataclass(frozen=True)
class _Axis:
    """How one side of a map is stretched, as ``interpolate(align_corners=False)`` does it.

    Attributes:
        low: int64 ``[length]``, for each pixel the logit before it.
        weight: float32 ``[length]``, what the logit after it counts.
        start: int64 ``[cells + 1]``, the first pixel of each cell.
    """

    low: NDArray[np.int64]
    weight: NDArray[np.float32]
    start: NDArray[np.int64]

    @classmethod
    def of(cls, cells: int, length: int) -> "_Axis":
        scale = np.float32(cells) / np.float32(length)
        place = (np.arange(length, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        place = np.maximum(place, np.float32(0))
        low = np.minimum(place.astype(np.int64), cells - 1)
        weight = np.clip(place - low.astype(np.float32), np.float32(0), np.float32(1))
        return cls(low, weight, np.searchsorted(low, np.arange(cells + 1)))

    @property
    def longest(self) -> int:
        """Pixels of the largest cell."""
        return int(np.diff(self.start).max())

    def pixels(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Every pixel of each of ``cells`` ``[N]``: the position of its cell among them, the pixel,
        and the weight of the logit after it."""
        start, weight = (
            torch.from_numpy(each).to(cells.device) for each in (self.start, self.weight)
        )
        first = start[cells]
        counts = start[cells + 1] - first
        number = torch.repeat_interleave(torch.arange(len(cells), device=cells.device), counts)
        before = counts.cumsum(0) - counts
        pixel = torch.arange(len(number), device=cells.device) + (first - before)[number]
        return number, pixel, weight[pixel]


@dataclass(frozen=True)
class Measured:
    """M masks at the size of the picture.

    Attributes:
        areas: int64 ``[M]``, pixels above 0.
        boxes: int64 ``[M, 4]``, first and last column and row: x0, y0, x1, y1, the last two
            inclusive; all 0 for an empty mask.
        stability: float32 ``[M]``, how many of the pixels above ``-offset`` lie above ``offset``;
            NaN where there are none.
    """

    areas: Tensor
    boxes: Tensor
    stability: Tensor


class Upsampling:
    """From logits ``[M, h, w]`` to masks of a picture.

    Args:
        logits: height and width of the maps.
        size: height and width of the picture.
    """

    def __init__(self, logits: tuple[int, int], size: tuple[int, int]) -> None:
        self.size = size
        self._rows, self._columns = (
            _Axis.of(cells, length) for cells, length in zip(logits, size, strict=True)
        )

    def measure(self, logits: Tensor, offset: float) -> Measured:
        """Areas, boxes and stability of the masks ``logits > 0``."""
        thresholds = (0.0, offset, -offset)
        cells = [cells_of(logits > threshold) for threshold in thresholds]
        work = sum((self._count(mixed) for _, mixed in cells), torch.zeros(len(logits)))
        ragged = work > _RAGGED * self.size[0] * self.size[1]
        found = [self._by_pixels(each, thresholds) for each in logits[ragged]]
        few = ~ragged
        parts = [
            self._by_cells(logits[few], threshold, full[few], mixed[few])
            for threshold, (full, mixed) in zip(thresholds, cells, strict=True)
        ]
        areas = torch.empty(3, len(logits), dtype=torch.int64)
        boxes = torch.empty(len(logits), 4, dtype=torch.int64)
        areas[:, few], boxes[few] = (
            torch.stack([part[0] for part in parts]).cpu(),
            parts[0][1].cpu(),
        )
        if found:
            areas[:, ragged] = torch.stack([each[0] for each in found], dim=1)
            boxes[ragged] = torch.stack([each[1] for each in found])
        return Measured(areas[0], boxes, areas[1].float() / areas[2].float())

    def _count(self, cells: Tensor) -> Tensor:
        """How many pixels are in cells, bool ``[M, h, w]``: float64 ``[M]`` (exact below 2^53)."""
        tall, wide = (
            torch.from_numpy(np.diff(axis.start)).to(cells.device, torch.float64)
            for axis in (self._rows, self._columns)
        )
        return (cells.to(torch.float64) @ wide @ tall).cpu()

    def _by_cells(
        self, logits: Tensor, threshold: float, full: Tensor, mixed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Areas ``[M]`` and boxes ``[M, 4]`` of what lies above a threshold, from its cells."""
        height, width = self.size
        areas = self._count(full).long().to(logits.device)
        tall, wide = (
            torch.from_numpy(np.diff(axis.start) > 0).to(logits.device)
            for axis in (self._rows, self._columns)
        )
        seen = full & tall[:, None] & wide  # cells may have no pixel where a picture is small
        first_row, last_row = self._ends(seen.any(2), self._rows, height)
        first_column, last_column = self._ends(seen.any(1), self._columns, width)
        lows, highs = [first_column, first_row], [last_column, last_row]
        for mask, row, column in self._pixels(logits, threshold, mixed):
            areas += torch.bincount(mask, minlength=len(areas))
            for place, low, high in zip((column, row), lows, highs, strict=True):
                low.scatter_reduce_(0, mask, place, "amin")
                high.scatter_reduce_(0, mask, place, "amax")
        boxes = torch.stack([*lows, *highs], dim=1)
        return areas, torch.where((areas > 0)[:, None], boxes, 0)

    def _by_pixels(self, logits: Tensor, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """For one mask ``[h, w]``, from all pixels: areas ``[thresholds]`` of what lies above each,
        and the box ``[4]`` of what lies above the first."""
        height, width = self.size
        wide = _stretched(logits, self._columns)
        areas = torch.zeros(len(thresholds), dtype=torch.int64)
        rows, columns = torch.zeros(height, dtype=torch.bool), torch.zeros(width, dtype=torch.bool)
        band = max(1, _PIXELS_AT_ONCE // width)
        for top in range(0, height, band):
            part = slice(top, top + band)
            pixels = _stretched(wide.T, self._rows, part).T
            areas += torch.stack([(pixels > each).sum() for each in thresholds]).cpu()
            above = pixels > thresholds[0]
            rows[part] = above.any(1).cpu()
            columns |= above.any(0).cpu()
        ends = [each.nonzero()[:, 0] for each in (columns, rows)]
        if not len(ends[0]):
            return areas, torch.zeros(4, dtype=torch.int64)
        return areas, torch.stack([*(each[0] for each in ends), *(each[-1] for each in ends)])

    def _ends(self, some: Tensor, axis: _Axis, length: int) -> tuple[Tensor, Tensor]:
        """First and last pixel of the cells in which there is ``some``, bool ``[M, cells]``."""
        start = torch.from_numpy(axis.start).to(some.device)
        first = torch.where(some, start[:-1], length).amin(1)
        last = torch.where(some, start[1:] - 1, -1).amax(1)
        return first, last

    def _pixels(
        self, logits: Tensor, threshold: float, mixed: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The pixels of mixed cells that lie above a threshold, a part at a time: three int64
        ``[N]``, the number of the mask, row and column."""
        height, width = logits.shape[1:]
        flat = logits.flatten()
        most = self._rows.longest * self._columns.longest
        for cells in mixed.nonzero().split(max(1, _PIXELS_AT_ONCE // most)):
            number, row, down = self._rows.pixels(cells[:, 1])
            cells = cells[number]
            number, column, across = self._columns.pixels(cells[:, 2])
            mask, i, j = cells[number].unbind(1)
            row, down = row[number], down[number]
            below, beside = (i + 1).clamp(max=height - 1), (j + 1).clamp(max=width - 1)
            top, bottom = ((mask * height + each) * width for each in (i, below))
            upper, lower = (
                flat[start + j] * (1 - across) + flat[start + beside] * across
                for start in (top, bottom)
            )
            above = upper * (1 - down) + lower * down > threshold
            yield mask[above], row[above], column[above]

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The mask ``logits > 0`` of one object, ``[h, w]``: bool ``[H, W]``."""
        one = torch.from_numpy(np.ascontiguousarray(logits))[None]
        full, mixed = cells_of(one > 0)
        rows, columns = self._rows.low, self._columns.low
        mask = full[0].numpy()[rows][:, columns]
        for _, row, column in self._pixels(one, 0.0, mixed):
            mask[row.numpy(), column.numpy()] = True
        return mask


@dataclass(frozen=True)
class OutlineLogits:
    """The logits ``[h, w]`` of one mask as far as its outline depends on them.

    Attributes:
        shape: height and width of the map.
        positive, near: packed bits of the map: where the mask is, and what the outline depends on.
        values: float32, the logits of the latter.
    """

    shape: tuple[int, int]
    positive: NDArray[np.uint8]
    near: NDArray[np.uint8]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, logits: Tensor) -> list["OutlineLogits"]:
        """Of M masks, ``[M, h, w]``."""
        above = logits > 0
        mixed = cells_of(above)[1]
        near = mixed.clone()  # the corners of each: its own logit, and those after it
        near[:, 1:] |= mixed[:, :-1]
        near[:, :, 1:] |= near[:, :, :-1].clone()
        values = logits[near].cpu().numpy()
        ends = near.sum(dim=(1, 2)).cumsum(0).tolist()
        bits = [np.packbits(each.flatten(1).cpu().numpy(), axis=1) for each in (above, near)]
        shape = (logits.shape[1], logits.shape[2])
        starts = [0, *ends]
        return [
            cls(shape, positive, edge, values[start:end].copy())
            for positive, edge, start, end in zip(*bits, starts, ends, strict=False)
        ]

    def restored(self) -> NDArray[np.float32]:
        """A map ``[h, w]`` that gives the same mask at any size: the logits, or 1 and -1."""
        count = self.shape[0] * self.shape[1]
        positive, near = (np.unpackbits(bits, count=count) for bits in (self.positive, self.near))
        logits = positive.astype(np.float32) * 2 - 1
        logits[near.astype(bool)] = self.values
        return logits.reshape(self.shape)


def _stretched(logits: Tensor, axis: _Axis, part: slice = slice(None)) -> Tensor:
    """The columns of ``[n, cells]`` stretched to the pixels of ``part``: ``[n, pixels]``."""
    low = torch.from_numpy(axis.low[part]).to(logits.device)
    weight = torch.from_numpy(axis.weight[part]).to(logits.device)
    high = (low + 1).clamp(max=logits.shape[1] - 1)
    return logits[:, low] * (1 - weight) + logits[:, high] * weight


def cells_of(above: Tensor) -> tuple[Tensor, Tensor]:
    """Cells all of whose corners lie above a threshold, and those of which only some do.

    Args:
        above: bool ``[M, h, w]``, of the logits.

    Returns:
        Two bool ``[M, h, w]``; the cell of a logit lies after it, in both directions.
    """
    down = torch.cat((above[:, 1:], above[:, -1:]), dim=1)
    every, some = above & down, above | down
    full = every & torch.cat((every[:, :, 1:], every[:, :, -1:]), dim=2)
    any_corner = some | torch.cat((some[:, :, 1:], some[:, :, -1:]), dim=2)
    return full, any_corner & ~full
