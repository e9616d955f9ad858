"""Every setting of the service: one frozen object, read once from the environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MIB = 1024 * 1024


class SettingsError(Exception):
    """A setting is unknown or impossible. ``str()`` holds one line per problem."""


def _text(value: str) -> str:
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://label-studio:8080")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password")
    return value.rstrip("/")


def _positive_int(value: str) -> int:
    number = int(value)
    if number <= 0:
        raise ValueError("must be a whole number above 0")
    return number


def _port(value: str) -> int:
    number = int(value)
    if not 0 < number < 65536:
        raise ValueError("must be a port between 1 and 65535")
    return number


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 < number < 86400:
        raise ValueError("must be a number of seconds above 0")
    return number


def _percent(value: str) -> float:
    number = float(value)
    if not 0 <= number <= 100:
        raise ValueError("must be a percentage between 0 and 100")
    return number


def _mebibytes(value: str) -> int:
    return _positive_int(value) * MIB


def _path(value: str) -> Path:
    return Path(value).expanduser()


def _list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _flag(value: str) -> bool:
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return parse


def _setting(
    variable: str, default: Any, parse: Callable[[str], Any], meaning: str, *, secret: bool = False
) -> Any:
    metadata = {"variable": variable, "parse": parse, "meaning": meaning, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator can choose. Defaults serve a first start on one machine."""

    host: str = _setting("HOST", "0.0.0.0", _text, "address to listen on")  # noqa: S104
    port: int = _setting("PORT", 9090, _port, "port to listen on")
    threads: int = _setting("THREADS", 16, _positive_int, "requests answered at the same time")
    log_level: str = _setting(
        "LOG_LEVEL", "INFO", _choice("DEBUG", "INFO", "WARNING", "ERROR"), "least severe log level"
    )
    label_studio_url: str | None = _setting(
        "LABEL_STUDIO_URL", None, _url, "Label Studio as the backend reaches it"
    )
    label_studio_api_key: str | None = _setting(
        "LABEL_STUDIO_API_KEY",
        None,
        _text,
        "personal access token (or legacy token) of a Label Studio user who sees the projects",
        secret=True,
    )
    basic_auth_user: str | None = _setting(
        "BASIC_AUTH_USER", None, _text, "user name Label Studio must send to this backend"
    )
    basic_auth_pass: str | None = _setting(
        "BASIC_AUTH_PASS", None, _text, "password that goes with it", secret=True
    )
    variant: str = _setting("SAM2_VARIANT", "demo", _text, "model variant, see the model table")
    checkpoint: Path | None = _setting(
        "SAM2_CHECKPOINT", None, _path, "weights file; unset: the published ones for the variant"
    )
    device: str = _setting("SAM2_DEVICE", "auto", _text, "auto, cpu, cuda, cuda:1, mps")
    dtype: str = _setting(
        "SAM2_DTYPE",
        "auto",
        _choice("auto", "float32", "bfloat16", "float16"),
        "number type of the network",
    )
    image_size: int | None = _setting(
        "SAM2_IMAGE_SIZE", None, _positive_int, "side of the network's input; unset: the variant's"
    )
    speck_percent: float = _setting(
        "SPECK_PERCENT",
        0.5,
        _percent,
        "specks and holes below this share of the object's area are removed; 0: none",
    )
    embedding_cache_bytes: int = _setting(
        "EMBEDDING_CACHE_MB", 1024 * MIB, _mebibytes, "memory for image embeddings, in MiB"
    )
    cache_dir: Path = _setting(
        "CACHE_DIR",
        Path("~/.cache/label-studio-sam2"),
        _path,
        "folder for downloaded media",
    )
    state_dir: Path = _setting(
        "STATE_DIR",
        Path("~/.local/state/label-studio-sam2"),
        _path,
        "folder for tracking jobs and their masks; keep it over restarts",
    )
    media_cache_bytes: int = _setting(
        "MEDIA_CACHE_MB", 4096 * MIB, _mebibytes, "disk space for downloaded media, in MiB"
    )
    max_media_bytes: int = _setting(
        "MAX_MEDIA_MB", 512 * MIB, _mebibytes, "largest file that is fetched, in MiB"
    )
    max_image_pixels: int = _setting(
        "MAX_IMAGE_PIXELS", 100_000_000, _positive_int, "largest image that is decoded, in pixels"
    )
    local_files_root: Path | None = _setting(
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
        None,
        _path,
        "Label Studio's local files folder, where it is mounted here too",
    )
    allowed_private_hosts: tuple[str, ...] = _setting(
        "ALLOWED_PRIVATE_HOSTS",
        (),
        _list,
        "hosts in private networks that task data may point to, comma separated",
    )
    s3_endpoint_url: str | None = _setting(
        "S3_ENDPOINT_URL", None, _url, "S3-compatible server; unset: AWS's own"
    )
    s3_region: str | None = _setting("S3_REGION", None, _text, "region of the buckets")
    s3_anonymous: bool = _setting("S3_ANONYMOUS", False, _flag, "read public buckets unsigned")
    click_budget_seconds: float = _setting(
        "CLICK_BUDGET_SECONDS",
        20.0,
        _seconds,
        "longest wait before a click is told why there is none",
    )
    open_budget_seconds: float = _setting(
        "OPEN_BUDGET_SECONDS", 0.2, _seconds, "longest wait of a page that opens a task"
    )
    track_budget_seconds: float = _setting(
        "TRACK_BUDGET_SECONDS", 20.0, _seconds, "longest wait of one track command"
    )
    track_jobs: int = _setting("TRACK_JOBS", 2, _positive_int, "tracks that advance side by side")
    retrieve_budget_seconds: float = _setting(
        "RETRIEVE_BUDGET_SECONDS",
        50.0,
        _seconds,
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
        problems: list[str] = []
        for item in dataclasses.fields(cls):
            variable = item.metadata["variable"]
            raw = environ.get(variable, "").strip()
            if not raw:
                continue
            try:
                values[item.name] = item.metadata["parse"](raw)
            except ValueError as error:
                shown = "its value" if item.metadata["secret"] else repr(raw)
                problems.append(f"{variable}: {shown} {_reason(error)}")
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(**values)

    def rows(self) -> list[tuple[str, str, str]]:
        """``(variable, effective value with secrets hidden, meaning)`` for every setting."""
        rows = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.metadata["secret"] and value is not None:
                value = "(set)"
            elif item.metadata["parse"] is _mebibytes:
                value = value // MIB
            elif isinstance(value, tuple):
                value = ",".join(value)
            shown = "" if value is None else str(value)
            rows.append((item.metadata["variable"], shown, item.metadata["meaning"]))
        return rows


def _reason(error: ValueError) -> str:
    text = str(error)
    return text if text.startswith("must") else "is not a number"
