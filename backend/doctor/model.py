"""The model: of a service that runs, or its files and the device tried out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from backend.doctor.findings import Finding, broken, ok, warning
from backend.engine.building import ModelChoice
from backend.engine.engine import State, Status
from backend.runs.command_line import Parts
from backend.settings import Settings


def engine_findings(status: Status, model_version: str) -> list[Finding]:
    """The model of a service that runs."""
    if status.state is State.FAILED:
        return [broken("model", status.detail)]
    level = ok if status.state is State.READY else warning
    return [level("model", f"{model_version}: {status.detail}")]


def model_findings(parts: Parts) -> Iterator[Finding]:
    """The model's files and the device, tried out; imports torch."""
    yield from _device(parts.settings)
    try:
        choice = parts.model()
    except (OSError, RuntimeError):
        return  # STATE_DIR, told by the settings' problems
    yield from _weights(choice)


def _device(settings: Settings) -> Iterator[Finding]:
    import torch

    from sam2model.precision import native_dtypes, resolve_device, resolve_dtype

    subject = "SAM2_DEVICE"
    try:
        device = resolve_device(settings.device)
        dtype = resolve_dtype(native_dtypes(device), settings.dtype)
        started = torch.ones(8, 8, device=device, dtype=dtype)
        worked = float((started @ started).sum()) == 512.0
    except (ValueError, RuntimeError) as error:
        text = str(error).splitlines()[0]
        yield broken(subject, f"{settings.device} with {settings.dtype}: {text}", "use auto")
        return
    if not worked:
        yield broken(subject, f"{device} computes wrongly in {dtype}", "use another device")
    elif device.type == "cpu" and dtype not in (torch.float32, *native_dtypes(device)):
        yield warning("SAM2_DTYPE", f"{settings.dtype} is slow on this CPU", "use auto")
    else:
        name = str(dtype).removeprefix("torch.")
        card = "" if device.type != "cuda" else f", {torch.cuda.get_device_name(device)}"
        yield ok(subject, f"{device} computes in {name}{card}")


def _weights(choice: ModelChoice) -> Iterator[Finding]:
    from sam2model import build_model
    from sam2model.checkpoints import CheckpointError, find_checkpoint

    subject = "model"
    if choice.checkpoint is None and choice.variant != "demo" and not _is_fetched(choice.variant):
        text = f"the weights of {choice.variant} are not on this machine yet"
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            yield broken(
                subject,
                f"{text}, and HF_HUB_OFFLINE forbids to fetch them",
                "unset it, or set SAM2_CHECKPOINT to a file",
            )
        else:
            yield warning(subject, text, "they are fetched from huggingface.co at the first start")
        return
    begun = time.monotonic()
    try:
        path = find_checkpoint(choice.variant, choice.checkpoint)
        build_model(choice.variant, checkpoint=path, device="cpu", image_size=choice.image_size)
    except (CheckpointError, ValueError, OSError, MemoryError) as error:
        yield broken(subject, str(error))
        return
    is_demo = choice.variant == "demo" and choice.checkpoint is None
    published = choice.checkpoint is None and not is_demo
    file = f"{path.name}, as published," if published else path.name
    yield ok(
        subject,
        f"{choice.variant} loads strictly from {file} in {time.monotonic() - begun:.1f} s",
    )
    if is_demo:
        yield warning(
            subject,
            "the demo weights are rough",
            "set SAM2_VARIANT=sam2.1_hiera_base_plus for real work",
        )


def _is_fetched(variant: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    from sam2model.checkpoints import PUBLISHED

    published = PUBLISHED[variant]
    found = try_to_load_from_cache(
        published.repo, published.filename, revision=published.revision or "main"
    )
    return isinstance(found, str)
