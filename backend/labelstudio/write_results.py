"""From masks to the results Label Studio takes: regions and the text of the status box."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from backend.expected import ExpectedError
from backend.labelstudio.brush_rle import encode_brush
from backend.labelstudio.geometry import Mask, Points, mask_to_box, points_to_percent, resize_mask
from backend.labelstudio.outlines import mask_rings
from backend.labelstudio.prompts import ObjectPrompt
from backend.labelstudio.regions import encode_bitmask, region_mask
from backend.labelstudio.tags import Answer, LabelConfig, Shape

__all__ = [
    "STATUS_PREFIX",
    "LabelMismatch",
    "noted",
    "region_id",
    "region_mask",
    "region_results",
    "status_results",
]

STATUS_PREFIX = "SAM 2: "
"""How every line we write into a text area begins, so that it is known when it comes back."""

Result = dict[str, object]


class LabelMismatch(ExpectedError):
    """No answer tag has the prompt's label; the message is one line for the status box."""


def region_id(prompt: ObjectPrompt, *, anchor: str | None = None) -> str:
    """The id of the region a prompt's answer becomes: 12 characters of [0-9a-f].

    It follows from the first pending prompt's own id, the page and the Image tag: the same prompts,
    with or without new ones behind them, give the same id, and the editor then replaces the
    region instead of stacking another; two objects or two pages never share one (pages that
    do are merged by the editor).

    Args:
        prompt: the object.
        anchor: stands for the first prompt's id, to keep the region of an earlier answer.
    """
    first = anchor
    if first is None:
        drawn = (prompt.labels, prompt.points, prompt.box, prompt.shape)
        first = prompt.source_ids[0] if prompt.source_ids else repr(drawn)
    parts = (first, str(prompt.item_index), prompt.image)
    return _digest(*parts)


def noted(result: Mapping[str, Any], line: str) -> dict[str, Any]:
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
) -> list[Result]:
    """The results that show ``mask``, in the form the label config asks for.

    Args:
        prompt: the object; its labels, page, picture size and rotation are copied.
        mask: bool [H, W]; resized (nearest neighbour) if the prompt says another picture size.
        score: the model's confidence, 0 to 1.
        config: the label config of the request.
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
    results: list[Result] = []
    for position, value in enumerate(_ENCODERS[answer.control.shape](mask, region_id)):
        identifier = part_id(region_id, position)
        common: Result = {
            "id": identifier,
            "to_name": prompt.image,
            "original_width": width,
            "original_height": height,
            "image_rotation": _plain(prompt.image_rotation),
            "score": float(score),
        }
        if prompt.item_index is not None:
            common["item_index"] = prompt.item_index
        results += _labelled(common, value, answer)
    return results


def status_results(
    text: str | None, config: LabelConfig, image: str, item_index: int | None = None
) -> list[Result]:
    """The result that shows ``text`` in the picture's global text area; None or "" clears it.

    Every text gets STATUS_PREFIX. Empty where the config has no such text area.

    Args:
        item_index: the page; written only for a text area with ``perItem``.
    """
    area = config.status_area(image)
    if area is None:
        return []
    result: Result = {
        "id": _digest("status", area.name, image, str(item_index if area.per_item else None)),
        "from_name": area.name,
        "to_name": image,
        "type": "textarea",
        "value": {"text": [_prefixed(text)] if text else []},
    }
    if area.per_item and item_index is not None:
        result["item_index"] = item_index
    return [result]


def _answer(prompt: ObjectPrompt, config: LabelConfig) -> Answer:
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
    separate = config.labels_for(prompt.image)
    holder = controls[0].tag if controls[0].has_labels or not separate else separate[0].tag
    raise LabelMismatch(f"label {labels} is not in {holder}: add it to the label config")


def _labelled(common: Result, value: Result, answer: Answer) -> list[Result]:
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


def _brush(mask: Mask, identifier: str) -> list[Result]:
    return [{"format": "rle", "rle": encode_brush(mask)}]


def _bitmask(mask: Mask, identifier: str) -> list[Result]:
    return [{"imageDataURL": encode_bitmask(mask)}]


def _polygon(mask: Mask, identifier: str) -> list[Result]:
    height, width = mask.shape
    return [{"points": _percent(ring, width, height), "closed": True} for ring in mask_rings(mask)]


def _vector(mask: Mask, identifier: str) -> list[Result]:
    height, width = mask.shape
    results: list[Result] = []
    for part, ring in enumerate(mask_rings(mask)):
        names = [_digest(identifier, str(part), str(vertex)) for vertex in range(len(ring))]
        vertices = [
            {"id": name, "x": x, "y": y, "prevPointId": previous, "isBezier": False}
            for name, previous, (x, y) in zip(
                names,
                [None, *names],
                _percent(ring, width, height),
                strict=False,
            )
        ]
        results.append({"vertices": vertices, "closed": True})
    return results


def _percent(ring: Points, width: int, height: int) -> list[list[float]]:
    """A ring for JSON: five decimals are a thousandth of a pixel in a picture of 10 000."""
    pairs: list[list[float]] = points_to_percent(ring, width, height).round(5).tolist()
    return pairs


def _rectangle(mask: Mask, identifier: str) -> list[Result]:
    box = mask_to_box(mask)
    if box is None:
        return []
    return [{"x": box.x, "y": box.y, "width": box.width, "height": box.height, "rotation": 0}]


_ENCODERS: dict[Shape, Callable[[Mask, str], list[Result]]] = {
    Shape.BRUSH: _brush,
    Shape.BITMASK: _bitmask,
    Shape.POLYGON: _polygon,
    Shape.VECTOR: _vector,
    Shape.RECTANGLE: _rectangle,
}


def _prefixed(text: str) -> str:
    return text if text.startswith(STATUS_PREFIX) else STATUS_PREFIX + text


def _plain(number: float) -> float | int:
    """90.0 as 90, as the editor writes it."""
    return int(number) if number == int(number) else number


def _digest(*parts: str) -> str:
    joined = "\x1f".join(parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:12]
