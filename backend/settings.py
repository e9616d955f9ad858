"""Every setting of the service: one frozen object, read once from the environment."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend import setting_values as parse
from backend.expected import ExpectedError
from backend.setting_values import MIB, FinetuneProjects

FILE_SUFFIX = "_FILE"  # of the variable that names the file a secret stands in
# Ours by their beginning, but not read here.
NOT_SETTINGS = {"SAM2_BUILD_CUDA"}  # the official package's build
SIZES = ("tiny", "small", "base_plus", "large")
# ``sam2model.VARIANTS``, which is not asked because importing it takes seconds.
VARIANTS = (
    "demo",
    *(f"{family}_hiera_{size}" for family in ("sam2.1", "sam2") for size in SIZES),
)
# Kubernetes sets these for every Service of the namespace, whatever the Service is called.
_SERVICE_LINK = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)")


class SettingsError(ExpectedError):
    """A setting is unknown or impossible. ``str()`` holds one line per problem."""


def _setting(
    variable: str, default: Any, read: Callable[[str], Any], meaning: str, *, secret: bool = False
) -> Any:
    metadata = {"variable": variable, "parse": read, "meaning": meaning, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator can choose. Defaults serve a first start on one machine."""

    host: str = _setting("HOST", "0.0.0.0", parse.text, "address to listen on")  # noqa: S104
    port: int = _setting("PORT", 9090, parse.port, "port to listen on")
    threads: int = _setting("THREADS", 32, parse.positive_int, "requests answered at the same time")
    log_level: str = _setting(
        "LOG_LEVEL",
        "INFO",
        parse.choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "least severe log level",
    )
    log_format: str = _setting(
        "LOG_FORMAT", "text", parse.choice("json", "text"), "log lines for machines or for people"
    )
    max_body_bytes: int = _setting(
        "MAX_BODY_MB", 256 * MIB, parse.mebibytes, "largest request that is read, in MiB"
    )
    label_studio_url: str | None = _setting(
        "LABEL_STUDIO_URL", None, parse.url, "Label Studio as the backend reaches it"
    )
    label_studio_api_key: str | None = _setting(
        "LABEL_STUDIO_API_KEY",
        None,
        parse.text,
        "personal access token (or legacy token) of a Label Studio user who sees the projects",
        secret=True,
    )
    basic_auth_user: str | None = _setting(
        "BASIC_AUTH_USER", None, parse.text, "user name Label Studio must send to this backend"
    )
    basic_auth_pass: str | None = _setting(
        "BASIC_AUTH_PASS", None, parse.text, "password that goes with it", secret=True
    )
    auth_token: str | None = _setting(
        "AUTH_TOKEN",
        None,
        parse.text,
        "bearer token that is accepted too, for monitoring and scripts",
        secret=True,
    )
    variant: str = _setting(
        "SAM2_VARIANT", "demo", parse.choice(*VARIANTS), f"model variant: {', '.join(VARIANTS)}"
    )
    checkpoint: Path | None = _setting(
        "SAM2_CHECKPOINT",
        None,
        parse.path,
        "weights file; unset: the published ones for the variant",
    )
    device: str = _setting("SAM2_DEVICE", "auto", parse.device, "auto, cpu, cuda, cuda:1, mps")
    dtype: str = _setting(
        "SAM2_DTYPE",
        "auto",
        parse.choice("auto", "float32", "bfloat16", "float16"),
        "number type of the network; auto: bfloat16 where the device has it natively",
    )
    image_size: int | None = _setting(
        "SAM2_IMAGE_SIZE",
        None,
        parse.image_size,
        "side of the network's input, a multiple of 32; unset: the variant's; docs/performance.md",
    )
    compile: bool = _setting(
        "SAM2_COMPILE",
        False,
        parse.flag,
        "compile the image encoder in the background (torch.compile); docs/performance.md",
    )
    num_maskmem: int = _setting(
        "SAM2_NUM_MASKMEM",
        7,
        parse.num_maskmem,
        "spatial memories that a tracked frame reads, 7 as trained; fewer are faster",
    )
    model_version: str | None = _setting(
        "SAM2_MODEL_VERSION",
        None,
        parse.text,
        "fine-tuned version to use, or base for none; unset: the newest, as soon as it is there",
    )
    finetune_projects: FinetuneProjects = _setting(
        "FINETUNE_PROJECTS",
        FinetuneProjects(),
        parse.finetune_projects,
        "projects whose Start training button fine-tunes the model: numbers, or all; unset: none",
    )
    speck_percent: float = _setting(
        "SPECK_PERCENT",
        0.5,
        parse.percent,
        "specks and holes below this share of the object's area are removed; 0: none",
    )
    zoom_small_objects: bool = _setting(
        "ZOOM_SMALL_OBJECTS",
        True,
        parse.flag,
        "look again, in a window, at small objects of pictures twice the network's input",
    )
    embedding_cache_bytes: int = _setting(
        "EMBEDDING_CACHE_MB", 1024 * MIB, parse.mebibytes, "memory for image embeddings, in MiB"
    )
    cache_dir: Path = _setting(
        "CACHE_DIR",
        Path("~/.cache/label-studio-sam2"),
        parse.path,
        "folder for downloaded media",
    )
    state_dir: Path = _setting(
        "STATE_DIR",
        Path("~/.local/state/label-studio-sam2"),
        parse.path,
        "folder for tracking jobs and their masks; keep it over restarts",
    )
    media_cache_bytes: int = _setting(
        "MEDIA_CACHE_MB", 4096 * MIB, parse.mebibytes, "disk space for downloaded media, in MiB"
    )
    media_cache_days: float = _setting(
        "MEDIA_CACHE_DAYS", 30.0, parse.days, "media that nobody used for so many days are removed"
    )
    max_media_bytes: int = _setting(
        "MAX_MEDIA_MB", 512 * MIB, parse.mebibytes, "largest file that is fetched whole, in MiB"
    )
    max_video_bytes: int = _setting(
        "MAX_VIDEO_MB",
        16384 * MIB,
        parse.mebibytes,
        "largest video that is read in ranges (what is watched is fetched), in MiB",
    )
    max_image_pixels: int = _setting(
        "MAX_IMAGE_PIXELS",
        100_000_000,
        parse.positive_int,
        "largest image that is decoded, in pixels",
    )
    local_files_root: Path | None = _setting(
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
        None,
        parse.path,
        "Label Studio's local files folder, where it is mounted here too",
    )
    allowed_private_hosts: tuple[str, ...] = _setting(
        "ALLOWED_PRIVATE_HOSTS",
        (),
        parse.comma_separated,
        "hosts in private networks that task data may point to, comma separated",
    )
    s3_endpoint_url: str | None = _setting(
        "S3_ENDPOINT_URL", None, parse.url, "S3-compatible server; unset: AWS's own"
    )
    s3_region: str | None = _setting("S3_REGION", None, parse.text, "region of the buckets")
    s3_anonymous: bool = _setting("S3_ANONYMOUS", False, parse.flag, "read public buckets unsigned")
    s3_path_style: bool | None = _setting(
        "S3_PATH_STYLE",
        None,
        parse.flag,
        "true: endpoint/bucket/key, false: bucket.endpoint/key; unset: true but for AWS",
    )
    s3_requester_pays: bool = _setting(
        "S3_REQUESTER_PAYS",
        False,
        parse.flag,
        "agree to pay for transfers from requester-pays buckets",
    )
    s3_buckets: Path | None = _setting(
        "S3_BUCKETS", None, parse.path, "JSON file for buckets that differ, see docs/media.md"
    )
    ca_bundle: Path | None = _setting(
        "CA_BUNDLE",
        None,
        parse.path,
        "PEM file that verifies TLS certificates, instead of the usual",
    )
    click_budget_seconds: float = _setting(
        "CLICK_BUDGET_SECONDS",
        20.0,
        parse.seconds,
        "longest wait before a click is told why there is none",
    )
    open_budget_seconds: float = _setting(
        "OPEN_BUDGET_SECONDS", 0.2, parse.seconds, "longest wait of a page that opens a task"
    )
    track_budget_seconds: float = _setting(
        "TRACK_BUDGET_SECONDS", 20.0, parse.seconds, "longest wait of one track command"
    )
    track_on_prompt: bool = _setting(
        "TRACK_ON_PROMPT",
        False,
        parse.flag,
        "track on, in the background, from every click and box on a frame sequence",
    )
    track_jobs: int = _setting(
        "TRACK_JOBS", 2, parse.positive_int, "tracks that advance side by side"
    )
    track_stride: int = _setting(
        "TRACK_STRIDE",
        1,
        parse.stride,
        "track every n-th frame and interpolate the masks between; docs/performance.md",
    )
    retrieve_budget_seconds: float = _setting(
        "RETRIEVE_BUDGET_SECONDS",
        50.0,
        parse.seconds,
        "longest wait of one Retrieve Predictions request",
    )

    def __post_init__(self) -> None:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise SettingsError("BASIC_AUTH_USER and BASIC_AUTH_PASS must be set together")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from ``environ``; an empty value counts as unset.

        Raises:
            SettingsError: one line for each value that cannot be used.
        """
        values: dict[str, Any] = {}
        problems = list(_unknown(environ, dataclasses.fields(cls)))
        for item in dataclasses.fields(cls):
            variable, secret = item.metadata["variable"], item.metadata["secret"]
            try:
                raw = _secret(variable, environ) if secret else environ.get(variable, "").strip()
                if raw:
                    values[item.name] = item.metadata["parse"](raw)
            except ValueError as error:
                shown = "its value" if secret else repr(environ[variable].strip())
                problems.append(f"{variable}: {shown} {_reason(error)}")
        try:
            settings = cls(**values)
        except SettingsError as error:
            problems.append(str(error))
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    def secrets(self) -> list[str]:
        """The values that must never be shown."""
        values = (getattr(self, item.name) for item in dataclasses.fields(self) if _hidden(item))
        return [value for value in values if value]

    def rows(self) -> list[tuple[str, str, str]]:
        """``(variable, effective value with secrets hidden, meaning)`` for every setting."""
        rows = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.metadata["secret"] and value is not None:
                value = "(set)"
            elif item.metadata["parse"] is parse.mebibytes:
                value = value // MIB
            elif isinstance(value, tuple):
                value = ",".join(value)
            shown = "" if value is None else str(value)
            rows.append((item.metadata["variable"], shown, item.metadata["meaning"]))
        return rows


def _hidden(item: dataclasses.Field[Any]) -> bool:
    return bool(item.metadata["secret"])


def _secret(variable: str, environ: Mapping[str, str]) -> str:
    """The value of a secret: itself, or what stands in the file that ``<variable>_FILE`` names."""
    raw = environ.get(variable, "").strip()
    name = environ.get(variable + FILE_SUFFIX, "").strip()
    if not name:
        return raw
    if raw:
        raise ValueError(f"must not be set beside {variable}{FILE_SUFFIX}; use one of them")
    try:
        found = Path(name).expanduser().read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"must be text; {name} is not") from None
    except OSError as error:
        raise ValueError(f"must be readable; {name}: {error.strerror}") from None
    if not found:
        raise ValueError(f"must not be empty; {name} is")
    return found


def _unknown(
    environ: Mapping[str, str], fields: tuple[dataclasses.Field[Any], ...]
) -> Iterator[str]:
    """One line for each variable that was meant for this service but is none of its settings."""
    known = {item.metadata["variable"]: _hidden(item) for item in fields}
    files = {variable + FILE_SUFFIX for variable, hidden in known.items() if hidden}
    for name in sorted(environ):
        if name in known or name in files or name in NOT_SETTINGS or _SERVICE_LINK.fullmatch(name):
            continue
        plain = name.removesuffix(FILE_SUFFIX)
        if plain != name and plain in known:
            yield f"{name}: only secrets are read from files; set {plain}"
            continue
        meant = _meant(name, [*known, *files])
        if meant is not None or name.startswith("SAM2_"):
            hint = f"; did you mean {meant}?" if meant else ", see python -m backend settings"
            yield f"{name}: there is no such setting{hint}"


def _meant(name: str, known: list[str]) -> str | None:
    """The setting that ``name`` is a misspelling of.

    Others' variables often end like ours (``UV_CACHE_DIR``), and short names resemble anything,
    so the first letters must agree and a few letters are no evidence.
    """
    if len(name) < 6:
        return None
    same = [each for each in known if each[0] == name.upper()[0]]
    return next(iter(difflib.get_close_matches(name.upper(), same, n=1, cutoff=0.85)), None)


def _reason(error: ValueError) -> str:
    text = str(error)
    return text if text.startswith("must") else "is not a number"
