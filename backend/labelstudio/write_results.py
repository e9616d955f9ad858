"""From masks to the results Label Studio takes: regions and the text of the status box."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from backend.expected import ExpectedError
from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.commands import STATUS_PREFIX, TypedText, kept, status_line
from backend.labelstudio.geometry import (
    Mask,
    Points,
    mask_bounds,
    mask_to_box,
    points_to_percent,
    resize_mask,
)
from backend.labelstudio.json_values import Result, Results
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.tags import AnswerControl, LabelConfig, Shape, TextAreaTag, tags_on

MAX_VERTICES = 500
"""Vertices of one ring; more make the editor slow and say nothing an annotator can use."""
MAX_PARTS = 200
"""Parts of one mask, the largest first; a mask with more is noise."""
MAX_HOLES = 20
"""Holes of one part, the largest first."""
TOLERANCE = 0.04
"""Simplification in units of area / perimeter: what keeps IoU of smooth shapes above 0.98."""
MIN_HOLE_SHARE = 0.001
"""A hole below this share of its part's area is filled."""
_DISTANCES = 4_000_000  # worked out at a time


@dataclass(frozen=True)
class RingLimits:
    """How much of a mask its outlines say.

    Attributes:
        vertices: of one ring.
        parts: of a mask, the largest first.
        holes: of a part, the largest first.
        hole_share: a hole below this share of its part's area is filled.
    """

    vertices: float = MAX_VERTICES
    parts: int = MAX_PARTS
    holes: int = MAX_HOLES
    hole_share: float = MIN_HOLE_SHARE


EDITOR_LIMITS = RingLimits()


class LabelMismatch(ExpectedError):
    """No answer tag has the prompt's label; the message is one line for the status box."""


def region_id(prompt: ObjectPrompt, *, anchor: str | None = None, owner: str = "") -> str:
    """The id of the region a prompt's answer becomes: 12 characters of [0-9a-f].

    It follows from the first pending prompt's own id, the page and the Image tag: the same prompts,
    with or without new ones behind them, give the same id, and the editor then replaces the
    region instead of stacking another; two objects or two pages never share one (pages that
    do are merged by the editor).

    Args:
        prompt: the object.
        anchor: stands for the first prompt's id, to keep the region of an earlier answer.
        owner: whose region it is, where that is known: two people never share one.
    """
    first = anchor
    if first is None:
        drawn = (prompt.labels, prompt.points, prompt.box, prompt.shape)
        first = prompt.source_ids[0] if prompt.source_ids else repr(drawn)
    named = [owner] if owner else []
    return _digest(first, str(prompt.item_index), prompt.image, *named)


def with_note(result: Mapping[str, Any], line: str) -> dict[str, Any]:
    """A copy of a result with ``line`` in the region's own note, which Label Studio keeps and shows
    in the region's details. What a human wrote there stays, an earlier line of ours does not."""
    meta = result.get("meta")
    earlier = meta.get("text", ()) if isinstance(meta, Mapping) else ()
    texts = [earlier] if isinstance(earlier, str) else earlier
    if any(not str(each).startswith(STATUS_PREFIX) for each in texts):
        return dict(result)
    return {**result, "meta": {"text": [STATUS_PREFIX + line]}}


def part_id(region_id: str, part: int) -> str:
    """The id of the region that shows part ``part`` of a mask; part 0 has the mask's own."""
    return region_id if part == 0 else _digest(region_id, str(part))


def region_results(
    prompt: ObjectPrompt, mask: Mask, *, score: float, config: LabelConfig, region_id: str
) -> Results:
    """The results that show ``mask``, in the form the label config asks for.

    Args:
        prompt: the object; its labels, page, picture size and rotation are copied.
        mask: bool [H, W]; resized (nearest neighbour) if the prompt says another picture size.
        score: the model's confidence, 0 to 1.
        region_id: id of the region; further parts of a polygon get ids derived from it.

    Returns:
        An empty list for an empty mask (the editor would save an invisible region).

    Raises:
        LabelMismatch: no answer tag of the picture has the prompt's labels.
    """
    answer = _answer(prompt, config)
    height, width = mask.shape
    width, height = prompt.original_width or width, prompt.original_height or height
    mask = resize_mask(mask, width, height)
    if not mask.any():
        return []
    common: Result = {
        "to_name": prompt.image,
        "original_width": width,
        "original_height": height,
        "image_rotation": _plain(prompt.image_rotation),
        "score": float(score),
    }
    if prompt.item_index is not None:
        common["item_index"] = prompt.item_index
    results: Results = []
    values = _values(mask, answer.control.shape, region_id, config.polygon_detail)
    for part, value in enumerate(values):
        results += _labelled({"id": part_id(region_id, part), **common}, value, answer)
    return results


def status_results(
    text: str | None,
    config: LabelConfig,
    shown: str,
    item_index: int | None = None,
    typed: TypedText | None = None,
) -> Results:
    """The results that show ``text`` in the global text area of a picture or video; None or ""
    clears it.

    Every text gets STATUS_PREFIX. Empty where the config has no such text area.

    Args:
        item_index: the page; written only for a text area with ``perItem``.
        typed: what the request was, if it was typed: commands are taken out of its text area,
            notes stay.
    """
    area = config.status_area(shown, typed.area if typed else None)
    if area is None:
        return []
    status = [status_line(text)] if text else []
    if typed is None:
        return [_text_result(area, status, item_index)]
    if typed.area == area.name:
        notes = kept(typed.entries, shared=True)
        return [_text_result(area, [*notes, *status], item_index)]
    results = [_text_result(area, status, item_index)]
    box = config.text_area(typed.area)
    notes = kept(typed.entries, shared=False)
    if box is not None and notes != typed.entries:
        results.append(_text_result(box, notes, typed.item_index))
    return results


def _text_result(area: TextAreaTag, lines: Sequence[str], item_index: int | None) -> Result:
    """What puts ``lines`` in the place of all that a text area holds.

    Without any the result would be saved all the same, as an empty text: it is called ``dynamic``,
    as prompts are, and like these the editor deletes it when an answer is accepted.
    """
    page = item_index if area.per_item else None
    result: Result = {
        "id": _digest("status", area.name, area.to_name, str(page)),
        "from_name": area.name,
        "to_name": area.tied_to,
        "type": "textarea",
        "value": {"text": list(lines)},
    }
    if not lines:
        result["dynamic"] = True
    if page is not None:
        result["item_index"] = page
    return result


def _answer(prompt: ObjectPrompt, config: LabelConfig) -> AnswerControl:
    answer = config.find_answer(prompt.image, prompt.labels, prompt.from_name)
    if answer is not None:
        return answer
    controls = config.answers_for(prompt.image)
    if not controls:
        raise LabelMismatch(
            f"the label config has no answer tag for <Image name={prompt.image}>: add "
            f'<BrushLabels name="brush" toName="{prompt.image}">'
        )
    labels = ", ".join(prompt.labels)
    separate = tags_on(config.labels_tags, prompt.image)
    holder = controls[0].tag if controls[0].has_labels or not separate else separate[0].tag
    raise LabelMismatch(f"label {labels} is not in {holder}: add it to the label config")


def _labelled(common: Result, value: Result, answer: AnswerControl) -> Results:
    """One result, or two with one id where the labels live in a separate ``<Labels>``."""
    control, labels = answer.control, list(answer.labels)
    kind = control.result_type
    if control.has_labels and labels:
        value = {**value, kind: labels}
    results = [{**common, "from_name": control.name, "type": kind, "value": value}]
    if answer.labels_tag is not None and labels:
        named = {**value, "labels": labels}
        tag = answer.labels_tag.name
        results.append({**common, "from_name": tag, "type": "labels", "value": named})
    return results


def _values(mask: Mask, shape: Shape, region_id: str, detail: float | None) -> Results:
    """The ``value`` of each region that shows ``mask``, without labels."""
    match shape:
        case Shape.BRUSH:
            return [{"format": "rle", "rle": encode_brush(mask)}]
        case Shape.BITMASK:
            return [{"imageDataURL": _bitmask(mask)}]
        case Shape.POLYGON:
            return [{"points": ring, "closed": True} for ring in _percent_rings(mask, detail)]
        case Shape.VECTOR:
            parts = enumerate(_percent_rings(mask, detail))
            return [_vector(ring, region_id, str(part)) for part, ring in parts]
        case Shape.RECTANGLE:
            box = mask_to_box(mask)
            assert box is not None  # noqa: S101 - the mask is not empty
            return [box._asdict()]
    raise AssertionError(shape)


def _percent_rings(mask: Mask, detail: float | None) -> list[list[list[float]]]:
    """The outlines of a mask for JSON: five decimals are a thousandth of a pixel in a picture of
    10 000."""
    height, width = mask.shape
    rings = (points_to_percent(ring, width, height) for ring in mask_rings(mask, detail))
    return [ring.round(5).tolist() for ring in rings]


def _vector(ring: list[list[float]], *part: str) -> Result:
    names = [_digest(*part, str(vertex)) for vertex in range(len(ring))]
    vertices = [
        {"id": name, "x": x, "y": y, "prevPointId": previous, "isBezier": False}
        for name, previous, (x, y) in zip(names, [None, *names[:-1]], ring, strict=True)
    ]
    return {"vertices": vertices, "closed": True}


def _bitmask(mask: Mask) -> str:
    """A mask as the ``imageDataURL`` of a bitmask region: black where the mask is, transparent
    elsewhere, as the editor writes it (``regions/BitmaskRegion.jsx``)."""
    picture = np.zeros((*mask.shape, 4), dtype=np.uint8)
    picture[mask, 3] = 255
    return png_url(picture)


def png_url(picture: np.ndarray) -> str:
    """A picture, uint8 [H, W] or [H, W, 4], as the ``data:`` URL of a PNG."""
    done, png = cv2.imencode(".png", picture)
    if not done:
        raise ValueError(f"OpenCV cannot write a PNG of {picture.shape}")
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode("ascii")


def _plain(number: float) -> float | int:
    """90.0 as 90, as the editor writes it."""
    return int(number) if number == int(number) else number


def _digest(*parts: str) -> str:
    joined = "\x1f".join(parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:12]


# --- outlines -----------------------------------------------------------------------------


def mask_rings(
    mask: Mask, detail: float | None = None, limits: RingLimits = EDITOR_LIMITS
) -> list[Points]:
    """One closed ring per part of a mask, largest part first, holes cut in.

    Label Studio's polygons are single rings. A hole is joined to the ring around it by a cut of no
    width, walked once in each direction, so that the filled ring is the part without its hole:
    ``findContours`` walks holes the other way round than outer contours, so the ring encloses the
    part by the even-odd rule and by the non-zero rule alike.

    Args:
        mask: bool [H, W].
        detail: how far a ring may leave the outline, in pixels; None lets it follow from the
            part's thickness (TOLERANCE), between 0.4 and 1 pixel. It is more only where the
            limit of vertices forces it.

    Returns:
        float64 [N, 2] each, N >= 3, pixel edges as coordinates (see geometry.py); the first vertex
        is not repeated. An empty mask has none.
    """
    bounds = mask_bounds(mask)
    if bounds is None:
        return []
    left, top, right, bottom = bounds
    corner = np.array((left, top), dtype=np.float64)
    parts = _trace(mask[top:bottom, left:right], limits)
    return [_ring(part, detail, limits.vertices) + corner for part in parts]


def _trace(mask: Mask, limits: RingLimits) -> list[list[np.ndarray]]:
    """The parts of a mask, largest first: of each its outer contour and then its holes, int32
    [N, 1, 2] on a grid of twice the size.

    ``findContours`` walks through pixel centres, half a pixel inside. On a grid of twice the size
    that also holds what lies between the pixels (even coordinates), the mask grown by one step, the
    walk runs along the pixels' edges.
    """
    grid = np.zeros((2 * mask.shape[0] + 1, 2 * mask.shape[1] + 1), dtype=np.uint8)
    grid[1::2, 1::2] = mask
    grown = cv2.dilate(grid, np.ones((3, 3), dtype=np.uint8))
    contours, hierarchy = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return contour_parts(contours, hierarchy, limits)


def contour_parts(
    contours: Sequence[np.ndarray], hierarchy: np.ndarray, limits: RingLimits
) -> list[list[np.ndarray]]:
    """What ``findContours`` found in two levels: of each part, largest first, its outer contour
    and then its holes."""
    areas = [cv2.contourArea(contour) for contour in contours]
    by_size = sorted(range(len(contours)), key=lambda index: -areas[index])
    parents = hierarchy[0][:, 3]
    outer = [index for index in by_size if parents[index] < 0][: limits.parts]
    parts: dict[int, list[np.ndarray]] = {index: [contours[index]] for index in outer}
    for index in by_size:
        part = parts.get(int(parents[index]))
        if part is None or len(part) > limits.holes:
            continue
        if areas[index] >= limits.hole_share * areas[parents[index]]:
            part.append(contours[index])
    return list(parts.values())


def _ring(part: list[np.ndarray], detail: float | None, most: float) -> Points:
    """A part as one ring of at most so many vertices, in pixels."""
    tolerance = detail
    if tolerance is None:
        # both at twice the scale; a part of one pixel has a perimeter of 8
        thickness = cv2.contourArea(part[0]) / (2.0 * cv2.arcLength(part[0], True))
        tolerance = min(max(TOLERANCE * thickness, 0.4), 1.0)
    while True:
        rings = [_simplified(contour, tolerance) for contour in part]
        if sum(len(ring) + 2 for ring in rings) - 2 <= most:
            break
        tolerance = max(tolerance * 1.5, 0.4)
    return joined_rings(rings)


def joined_rings(rings: Sequence[Points]) -> Points:
    """One ring that walks the first and then the others, each by a cut of no width from the
    nearest vertex and back; the nearest one first, so that no cut crosses another ring."""
    ring, left = rings[0], list(rings[1:])
    nearest = [_nearest(ring, other) for other in left]
    while left:
        place = min(range(len(left)), key=lambda index: nearest[index][0])
        _, at, first = nearest.pop(place)
        added = left.pop(place)
        around = np.roll(added, -first, axis=0)
        ring = np.concatenate([ring[: at + 1], around, around[:1], ring[at:]])
        grown = len(around) + 2
        for index, (distance, where, vertex) in enumerate(nearest):
            nearer, at_added, of_left = _nearest(added, left[index])
            if nearer < distance:
                turned = (at_added - first) % len(added)
                nearest[index] = nearer, at + 1 + turned, of_left
            elif where > at:
                nearest[index] = distance, where + grown, vertex
    return ring


def _nearest(ring: Points, other: Points) -> tuple[float, int, int]:
    """The square of the smallest distance between vertices of two rings, and which they are."""
    step = max(_DISTANCES // len(other), 1)
    best = math.inf, 0, 0
    for start in range(0, len(ring), step):
        some = ring[start : start + step]
        distances = ((some[:, None, :] - other[None, :, :]) ** 2).sum(axis=2)
        at, first = np.unravel_index(int(distances.argmin()), distances.shape)
        best = min(best, (float(distances[at, first]), start + int(at), int(first)))
    return best


def _simplified(contour: np.ndarray, tolerance: float) -> Points:
    """A contour as a ring in pixels, at least three vertices, within ``tolerance`` pixels."""
    # The middles of the pixels' edges (one coordinate odd): the staircase without its corners.
    middles = contour[contour.sum(axis=2) % 2 == 1][:, None, :]
    ring = cv2.approxPolyDP(middles, 2.0 * tolerance, True)
    if len(ring) < 3:  # a part thinner than the tolerance
        ring = middles
    pixels: Points = ring.reshape(-1, 2).astype(np.float64) / 2.0
    return pixels
