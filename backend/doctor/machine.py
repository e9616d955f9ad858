"""This machine: its settings, its disks, and the model on its device."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from backend.doctor.findings import Finding, broken, ok, setting_problem, warning
from backend.engine.building import ModelChoice
from backend.engine.engine import State, Status
from backend.expected import ExpectedError
from backend.files import found_aside, is_full, lacks_room
from backend.settings import MIB, Settings
from backend.tracking.database import DamagedStoreError, StoreError
from backend.wiring import Wiring

LABEL_STUDIO_SECONDS = 100.0  # after which it gives up on /predict
NEEDED_BYTES = 100 * MIB  # for the state of jobs, and one file in the cache


def start_problems(wiring: Wiring) -> Iterator[str]:
    """Why the service could not work with these settings on this machine, in one line each;
    nothing is asked of other machines, which may come up later."""
    unusable = list(_folder_problems(wiring.settings))
    yield from unusable
    settings = wiring.settings
    if settings.is_open and not (settings.is_local or settings.allow_anonymous):
        yield (
            f"HOST: other machines reach {settings.host}, and no credentials are asked for: set "
            "BASIC_AUTH_USER and BASIC_AUTH_PASS, and give them to Label Studio too; or leave HOST "
            "unset; or set ALLOW_ANONYMOUS=true where everybody may use this backend"
        )
    checks: list[Callable[[], object]] = [wiring.label_studio, wiring.s3, wiring.check_cluster]
    if not unusable:
        checks.append(wiring.check_tracks)
    for check in checks:
        try:
            check()
        except DamagedStoreError:
            continue  # the service sets it aside
        except StoreError as error:
            if not lacks_room(settings.state_dir.expanduser(), error.__cause__):
                yield str(error)
        except ExpectedError as error:
            yield str(error)


def _folder_problems(settings: Settings) -> Iterator[str]:
    for variable, folder in _folders(settings):
        try:
            place = folder.expanduser()
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"x")
        except OSError as error:
            if is_full(error):
                continue  # what needs no room is answered, and the rest is told
            yield f"{variable}: {folder} must be a folder to write to ({error.strerror})"
        except RuntimeError:  # of expanduser
            yield f"{variable}: {folder} must be an absolute path where there is no home folder"


def _folders(settings: Settings) -> tuple[tuple[str, Path], ...]:
    return ("CACHE_DIR", settings.cache_dir), ("STATE_DIR", settings.state_dir)


def settings_findings(wiring: Wiring) -> Iterator[Finding]:
    """Settings that cannot work on this machine, and those that hardly anybody wants."""
    settings = wiring.settings
    yield from (setting_problem(line) for line in start_problems(wiring))
    if settings.is_open and settings.allow_anonymous:
        fix = "set BASIC_AUTH_USER and BASIC_AUTH_PASS, and give them to Label Studio too"
        yield warning("access", f"whoever reaches port {settings.port} may use the backend", fix)
    for variable in ("CLICK_BUDGET_SECONDS", "TRACK_BUDGET_SECONDS", "RETRIEVE_BUDGET_SECONDS"):
        seconds = getattr(settings, variable.lower())
        if seconds >= LABEL_STUDIO_SECONDS:
            fix = f"set it below {LABEL_STUDIO_SECONDS:.0f}"
            yield warning(variable, f"{seconds:.0f} s is longer than Label Studio waits", fix)
    if settings.label_studio_url is None:
        text = "it is not set, so uploads and storages of Label Studio cannot be read"
        yield warning("LABEL_STUDIO_URL", text, "set it and LABEL_STUDIO_API_KEY")


def disk_findings(settings: Settings) -> Iterator[Finding]:
    """Whether there is room for what may be stored; whether the folders can be written to is among
    the start problems."""
    for variable, written in _folders(settings):
        try:
            folder = written.expanduser()
            free = shutil.disk_usage(folder).free
        except (OSError, RuntimeError):
            continue  # among the start problems
        growth = settings.media_cache_bytes - _size(folder) if variable == "CACHE_DIR" else 0
        left = f"{free // MIB} MiB left"
        if free < NEEDED_BYTES:
            yield broken(variable, f"{folder} has {left}", "make room on that disk")
        elif growth > free:
            text = f"the cache may grow by {growth // MIB} MiB, and {folder} has {left}"
            yield warning(variable, text, "lower MEDIA_CACHE_MB or make room on that disk")
        else:
            yield ok(variable, f"{folder} can be written to, {left}")


def state_findings(wiring: Wiring) -> Iterator[Finding]:
    """What is damaged in STATE_DIR, or was."""
    try:
        folder = wiring.settings.state_dir.expanduser()
        wiring.check_tracks()
    except DamagedStoreError as error:
        yield broken("tracks", str(error))
    except (OSError, RuntimeError, StoreError):
        return  # among the start problems
    for path in found_aside(folder):
        text = f"{path} was damaged and set aside; it is missing"
        yield warning("STATE_DIR", text, "restore a backup, or delete the damaged file")


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total


def engine_finding(status: Status, model_version: str) -> Finding:
    """The model of a service that runs."""
    if status.state is State.FAILED:
        return broken("model", status.detail)
    level = ok if status.state is State.READY else warning
    return level("model", f"{model_version}: {status.detail}")


def model_findings(wiring: Wiring) -> Iterator[Finding]:
    """The model's files and the device, tried out; imports torch."""
    yield from _device(wiring.settings)
    try:
        choice = wiring.model()
    except (OSError, RuntimeError):
        return  # STATE_DIR, among the start problems
    yield from _weights(choice)


def _device(settings: Settings) -> Iterator[Finding]:
    import torch

    from sam2model.precision import (
        native_dtypes,
        resolve_device,
        resolve_dtype,
        why_card_is_unused,
    )

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
    unused = why_card_is_unused(settings.device)
    if unused is not None:
        yield warning(subject, unused, "or set SAM2_DEVICE=cpu, where that is meant")
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
            fix = "unset it, or set SAM2_CHECKPOINT to a file"
            yield broken(subject, f"{text}, and HF_HUB_OFFLINE forbids to fetch them", fix)
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
    seconds = time.monotonic() - begun
    yield ok(subject, f"{choice.variant} loads strictly from {file} in {seconds:.1f} s")
    if is_demo:
        fix = "set SAM2_VARIANT=auto for real work"
        yield warning(subject, "the demo weights are rough", fix)


def _is_fetched(variant: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    from sam2model.checkpoints import PUBLISHED

    published = PUBLISHED[variant]
    found = try_to_load_from_cache(
        published.repo, published.filename, revision=published.revision or "main"
    )
    return isinstance(found, str)
