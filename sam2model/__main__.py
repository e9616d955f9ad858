"""Try the model on a photo, without Label Studio.

python -m sam2model segment photo.jpg --point 320,200 --out mask.png --overlay overlay.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sam2model import VARIANTS, CheckpointError, ImagePredictor, Prediction, build_model

_OVERLAY_COLOUR = (255, 64, 64)


class _UserError(Exception):
    """Something the user can put right; the message is one line."""


def _numbers(count: int, form: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")
    return numbers


def _point(text: str) -> tuple[float, ...]:
    return _numbers(2, "x,y", text)


def _box(text: str) -> tuple[float, ...]:
    return _numbers(4, "x0,y0,x1,y1", text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sam2model")
    commands = parser.add_subparsers(dest="command", required=True)
    segment = commands.add_parser(
        "segment",
        help="find one object in a photo",
        description="Find one object in a photo. Coordinates are pixels of the upright photo.",
    )
    segment.add_argument("photo", type=Path)
    segment.add_argument(
        "--point", type=_point, action="append", default=[], metavar="X,Y",
        help="a click on the object; may be given several times",
    )  # fmt: skip
    segment.add_argument(
        "--negative", type=_point, action="append", default=[], metavar="X,Y",
        help="a click beside the object; may be given several times",
    )  # fmt: skip
    segment.add_argument("--box", type=_box, metavar="X0,Y0,X1,Y1", help="a box around it")
    segment.add_argument("--variant", choices=list(VARIANTS), default="demo", metavar="NAME",
                         help=f"one of {', '.join(VARIANTS)} (default: demo)")  # fmt: skip
    segment.add_argument("--checkpoint", type=Path, help="weights; default: the published ones")
    segment.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    segment.add_argument("--out", type=Path, help="write the mask here, white on black")
    segment.add_argument("--overlay", type=Path, help="write the photo with the mask on it here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, or 1 with one line on standard error; wrong usage exits with 2.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not (arguments.point or arguments.negative or arguments.box):
        parser.error("say where the object is: --point, --negative or --box")
    if not (arguments.out or arguments.overlay):
        parser.error("say where to write the result: --out or --overlay")
    try:
        _segment(arguments)
    except (_UserError, CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _segment(arguments: argparse.Namespace) -> None:
    image = _read(arguments.photo)
    model = build_model(arguments.variant, arguments.checkpoint, arguments.device)
    predictor = ImagePredictor(model)
    points = [*arguments.point, *arguments.negative]
    labels = [1] * len(arguments.point) + [0] * len(arguments.negative)
    prediction = predictor.predict(
        predictor.embed(image),
        points=points or None,
        labels=labels if points else None,
        box=arguments.box,
    )
    mask = prediction.masks[0]
    if arguments.out:
        _write(arguments.out, mask.astype(np.uint8) * 255)
    if arguments.overlay:
        _write(arguments.overlay, _overlay(image, mask))
    print(_summary(prediction))


def _read(path: Path) -> NDArray[np.uint8]:
    """The photo as uint8 RGB ``[H, W, 3]``, turned upright by its EXIF orientation."""
    try:
        with Image.open(path) as photo:
            return np.asarray(ImageOps.exif_transpose(photo).convert("RGB"))
    except FileNotFoundError:
        raise _UserError(f"there is no file {path}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise _UserError(f"cannot read {path} as an image: {error}") from error


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    try:
        Image.fromarray(pixels).save(path)
    except (OSError, ValueError) as error:
        raise _UserError(f"cannot write {path}: {error}") from error


def _overlay(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image with the mask's pixels half covered by a colour."""
    overlay = image.copy()
    overlay[mask] = (overlay[mask].astype(np.uint16) + _OVERLAY_COLOUR) // 2
    return overlay


def _summary(prediction: Prediction) -> str:
    mask = prediction.masks[0]
    return (
        f"{int(mask.sum())} of {mask.size} pixels, predicted IoU {prediction.scores[0]:.3f}, "
        f"object score {prediction.object_score:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
