"""Every setting of the service: one frozen object, read once from the environment."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from backend.expected import ExpectedError

MIB = 1024 * 1024
FILE_SUFFIX = "_FILE"  # of the variable that names the file with a secret
# Ours by their beginning, but not read here.
NOT_SETTINGS = {"SAM2_BUILD_CUDA"}  # the official package's build
SIZES = ("tiny", "small", "base_plus", "large")
# ``sam2model.VARIANTS``, which is not asked because importing it takes seconds.
VARIANTS = (
    "demo",
    "edgetam",
    *(f"{family}_hiera_{size}" for family in ("sam2.1", "sam2") for size in SIZES),
)
# ``sam2model.memory_policy.POLICIES``, likewise.
MEMORIES = ("reference", "careful", "distractors")
AUTO = "auto"  # what suits the device
# Kubernetes sets these for every Service of the namespace, whatever the Service is called.
_SERVICE_LINK = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)")
Number = TypeVar("Number", int, float)


class SettingsError(ExpectedError):
    """A setting is unknown or impossible. ``str()`` holds one line per problem."""


@dataclass(frozen=True)
class FinetuneProjects:
    """The projects of Label Studio that may have the model fine-tuned."""

    every: bool = False
    numbers: frozenset[int] = frozenset()

    def __contains__(self, project: int) -> bool:
        return self.every or project in self.numbers

    def __str__(self) -> str:
        return "all" if self.every else ",".join(str(number) for number in sorted(self.numbers))


# The text of the ``ValueError`` that each function raises completes "<variable>: <value> ...".


def _number(
    kind: Callable[[str], Number], accepts: Callable[[Number], bool], rule: str
) -> Callable[[str], Number]:
    def parse(value: str) -> Number:
        try:
            number = kind(value)
        except ValueError:
            raise ValueError("is not a number") from None
        if not accepts(number):
            raise ValueError(f"must be {rule}")
        return number

    return parse


_positive = _number(int, lambda number: number > 0, "a whole number above 0")
_at_least_none = _number(int, lambda number: number >= 0, "a whole number, 0 or more")
_seconds = _number(float, lambda number: 0 < number < 86400, "a number of seconds above 0")


def _mebibytes(value: str) -> int:
    return _positive(value) * MIB


def _mebibytes_or_none(value: str) -> int:
    return _at_least_none(value) * MIB


def _mebibytes_or_auto(value: str) -> int | None:
    return None if value == AUTO else _mebibytes(value)


def _path(value: str) -> Path:
    return Path(value).expanduser()


def _comma_separated(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _flag(value: str) -> bool:
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def _url(value: str) -> str:
    """An http or https address, without the slash at its end."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://label-studio:8080")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password")
    return value.rstrip("/")


def _proxy(value: str) -> str:
    value = value if "://" in value else f"http://{value}"
    parts = urlsplit(value)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise ValueError("must be the URL of an HTTP proxy such as http://proxy:3128")
    parts.port  # noqa: B018 - raises ValueError where it is none
    return value.rstrip("/")


def _head(value: str) -> str:
    if not re.fullmatch(r"local(:\w[\w.-]*)?(:\d{1,5})?|\w[\w.-]*:\d{1,5}", value):
        raise ValueError("must be local, local:ADDRESS, or HOST:PORT")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, mps, cuda, or cuda: and a number")
    return value


def _projects(value: str) -> FinetuneProjects:
    if value.lower() == "all":
        return FinetuneProjects(every=True)
    if not re.fullmatch(r"\s*\d{1,9}(\s*,\s*\d{1,9})*\s*", value):
        raise ValueError("must be numbers of projects, separated by commas, or all")
    return FinetuneProjects(numbers=frozenset(int(part) for part in value.split(",")))


def _renamed(value: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(equals and said.strip() and label.strip() for said, equals, label in pairs):
        raise ValueError("must be pairs such as car=Vehicle,truck=Vehicle")
    return tuple((said.strip(), label.strip()) for said, _, label in pairs)


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return parse


class SettingRow(NamedTuple):
    """A setting as people read it; ``value`` is the effective one, secrets hidden."""

    group: str
    variable: str
    value: str
    meaning: str


_READERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": _positive,
    "float": _seconds,
    "bool": _flag,
    "Path": _path,
}
"""By the type of a setting: what reads it where nothing else is given."""


def _setting(
    group: str,
    default: Any,
    meaning: str,
    *,
    variable: str | None = None,
    read: Callable[[str], Any] | None = None,
    secret: bool = False,
) -> Any:
    """A field of ``Settings``; ``variable`` where that is not the name of the field in capitals,
    ``read`` where the type does not say how."""
    metadata = {"group": group, "meaning": meaning, "variable": variable, "read": read}
    return field(default=default, repr=not secret, metadata={**metadata, "secret": secret})


def _variable(item: dataclasses.Field[Any]) -> str:
    return item.metadata["variable"] or item.name.upper()


_server = partial(_setting, "Server")
_access = partial(_setting, "Who may use it")
_label_studio = partial(_setting, "Label Studio")
_model = partial(_setting, "Model")
_finetuning = partial(_setting, "Fine-tuning")
_detector = partial(_setting, "Detector")
_masks = partial(_setting, "Masks")
_tracking = partial(_setting, "Tracking")
_budgets = partial(_setting, "Longest waits")
_folders = partial(_setting, "Folders")
_media = partial(_setting, "Media")
_s3 = partial(_setting, "S3")
_cluster = partial(_setting, "Cluster")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator can choose. Defaults serve a first start on one machine."""

    host: str = _server(
        "127.0.0.1", "address to listen on; 0.0.0.0: all of this machine's, with credentials"
    )
    port: int = _server(
        9090,
        "port to listen on",
        read=_number(int, lambda n: 0 < n < 65536, "a port between 1 and 65535"),
    )
    threads: int = _server(32, "requests answered at the same time")
    log_level: str = _server(
        "INFO",
        "least severe log level: DEBUG, INFO, WARNING, ERROR",
        read=_choice("DEBUG", "INFO", "WARNING", "ERROR"),
    )
    log_format: str = _server(
        "text", "log lines: text for people, json for machines", read=_choice("json", "text")
    )
    max_body_bytes: int = _server(
        256 * MIB, "largest request that is read, in MiB", variable="MAX_BODY_MB", read=_mebibytes
    )
    basic_auth_user: str | None = _access(None, "user name Label Studio must send to this backend")
    basic_auth_pass: str | None = _access(None, "password that goes with it", secret=True)
    auth_token: str | None = _access(
        None, "bearer token that is accepted too, for monitoring and scripts", secret=True
    )
    allow_anonymous: bool = _access(
        False, "true: listen on other addresses than 127.0.0.1 without credentials, for everybody"
    )
    label_studio_url: str | None = _label_studio(
        None, "Label Studio as the backend reaches it", read=_url
    )
    label_studio_api_key: str | None = _label_studio(
        None,
        "personal access token (or legacy token) of a Label Studio user who sees the projects",
        secret=True,
    )
    variant: str = _model(
        "demo",
        f"model variant: {', '.join(VARIANTS)}; auto: sam2.1_hiera_base_plus on a CUDA device with "
        "8 GB free, sam2.1_hiera_tiny on one with less, edgetam elsewhere",
        variable="SAM2_VARIANT",
        read=_choice(AUTO, *VARIANTS),
    )
    checkpoint: Path | None = _model(
        None, "weights file; unset: the published ones for the variant", variable="SAM2_CHECKPOINT"
    )
    device: str = _model(
        "auto", "auto, cpu, cuda, cuda:1, mps", variable="SAM2_DEVICE", read=_device
    )
    dtype: str = _model(
        "auto",
        "number type of the network: auto, float32, bfloat16, float16; auto is bfloat16 where the "
        "device has it natively",
        variable="SAM2_DTYPE",
        read=_choice("auto", "float32", "bfloat16", "float16"),
    )
    image_size: int | None = _model(
        None,
        "side of the network's input, a multiple of 32 (edgetam: of 256); unset: the variant's; "
        "docs/performance.md",
        variable="SAM2_IMAGE_SIZE",
        read=_number(int, lambda n: n > 0 and n % 32 == 0, "a multiple of 32, such as 512"),
    )
    num_maskmem: int = _model(
        7,
        "spatial memories that a tracked frame reads, 7 as trained; fewer are faster",
        variable="SAM2_NUM_MASKMEM",
        read=_number(int, lambda n: 1 <= n <= 7, "1 to 7"),
    )
    embedding_cache_bytes: int | None = _model(
        1024 * MIB,
        "memory for image embeddings, in MiB: on the device, and as much again of the host's for "
        "those that leave it (not where the device is the CPU); auto: a quarter of what a CUDA "
        "device has free at the start, 256 to 8192, and 1024 of the host's",
        variable="EMBEDDING_CACHE_MB",
        read=_mebibytes_or_auto,
    )
    embedding_disk_bytes: int = _model(
        0,
        "disk space in CACHE_DIR for image embeddings, in MiB, about 8 for a picture: the first "
        "click on a picture seen before is as quick as a further one, also after a restart; 0: "
        "none; docs/performance.md",
        variable="EMBEDDING_DISK_MB",
        read=_mebibytes_or_none,
    )
    finetune_projects: FinetuneProjects = _finetuning(
        FinetuneProjects(),
        "projects whose Start training button fine-tunes the model: numbers, or all; unset: none",
        read=_projects,
    )
    model_version: str | None = _finetuning(
        None,
        "fine-tuned version to use, or base for none; unset: the newest, as soon as it is there",
        variable="SAM2_MODEL_VERSION",
    )
    detector_url: str | None = _detector(
        None,
        "another ML backend, asked where objects are; docs/leading.md#a-detector",
        read=_url,
    )
    detector_user: str | None = _detector(None, "user name that it asks for")
    detector_pass: str | None = _detector(None, "password that goes with it", secret=True)
    detector_score: float = _detector(
        0.3,
        "what it is less sure of is left out, 0 to 1",
        read=_number(float, lambda n: 0 <= n <= 1, "a number between 0 and 1"),
    )
    detector_labels: tuple[tuple[str, str], ...] = _detector(
        (), "its names for labels, and yours: car=Vehicle,truck=Vehicle", read=_renamed
    )
    detector_fetch_url: str | None = _detector(
        None,
        "this backend as the detector reaches it, to fetch pictures from; unset: pictures are sent "
        "along as data: addresses",
        read=_url,
    )
    speck_percent: float = _masks(
        0.5,
        "specks and holes below this share of the object's area are removed, and of the answer to "
        "clicks also doubtful pieces far off; 0: none",
        read=_number(float, lambda n: 0 <= n <= 100, "a percentage between 0 and 100"),
    )
    polygon_detail: float | None = _masks(
        None,
        "how far polygon answers and exported polygons may leave a mask's outline, in pixels; "
        "unset: 0.4 to 1, by the thickness of the object",
        read=_number(float, lambda n: 0 <= n <= 100, "a number of pixels between 0 and 100"),
    )
    zoom_small_objects: bool = _masks(
        True, "look again, in a window, at small objects of pictures twice the network's input"
    )
    track_on_prompt: bool = _tracking(
        False, "track on, in the background, from every click and box on a frame sequence"
    )
    track_jobs: int = _tracking(
        2, "tracks of one project that advance side by side; as many of all others may beside them"
    )
    track_stride: int = _tracking(
        1,
        "track every n-th frame and interpolate the masks between; docs/performance.md",
        read=_number(int, lambda n: 1 <= n <= 99, "1 to 99"),
    )
    track_memory: str = _tracking(
        "distractors",
        f"which tracked frames later ones read: {', '.join(MEMORIES)}; docs/performance.md",
        read=_choice(*MEMORIES),
    )
    click_budget_seconds: float = _budgets(
        20.0, "longest wait of a click, after which the reply says why there is no mask"
    )
    open_budget_seconds: float = _budgets(0.2, "longest wait of a page that opens a task")
    track_budget_seconds: float = _budgets(
        20.0, "longest wait of one `track` or `everything` command"
    )
    retrieve_budget_seconds: float = _budgets(
        50.0, "longest wait of one Retrieve Predictions request"
    )
    cache_dir: Path = _folders(Path("~/.cache/label-studio-sam2"), "folder for downloaded media")
    state_dir: Path = _folders(
        Path("~/.local/state/label-studio-sam2"),
        "folder for tracking jobs and their masks; keep it over restarts",
    )
    state_keep_days: float = _folders(
        30.0,
        "tracking jobs leave with their masks so many days after they ended, if their result was "
        "delivered or was to be shown only; 0 keeps them for ever",
        read=_number(float, lambda n: 0 <= n < 100_000, "a number of days, 0 or more"),
    )
    media_cache_bytes: int = _media(
        4096 * MIB,
        "disk space for downloaded media, in MiB",
        variable="MEDIA_CACHE_MB",
        read=_mebibytes,
    )
    media_cache_days: float = _media(
        30.0,
        "media, and embeddings on the disk, that nobody used for so many days are removed",
        read=_number(float, lambda n: 0 < n < 100_000, "a number of days above 0"),
    )
    media_min_kib_per_second: float = _media(
        16.0,
        "slowest download that is waited for, in KiB/s averaged over 10 s; 0: any",
        read=_number(float, lambda n: 0 <= n < 1_000_000, "a number of KiB per second, or 0"),
    )
    max_media_bytes: int = _media(
        512 * MIB,
        "largest file that is fetched whole, in MiB",
        variable="MAX_MEDIA_MB",
        read=_mebibytes,
    )
    max_video_bytes: int = _media(
        16384 * MIB,
        "largest video that is read in ranges (what is watched is fetched), in MiB",
        variable="MAX_VIDEO_MB",
        read=_mebibytes,
    )
    max_image_pixels: int = _media(100_000_000, "largest image that is decoded, in pixels")
    local_files_root: Path | None = _media(
        None,
        "Label Studio's local files folder, where it is mounted here too",
        variable="LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
    )
    allowed_private_hosts: tuple[str, ...] = _media(
        (),
        "hosts in private networks that task data may point to, comma separated",
        read=_comma_separated,
    )
    https_proxy: str | None = _media(
        None,
        "HTTP proxy for https media of others than Label Studio and ALLOWED_PRIVATE_HOSTS, for "
        "S3 and published weights; asked for addresses that were checked",
        read=_proxy,
        secret=True,
    )
    no_proxy: str = _media("", "hosts, and ends of their names, that need no proxy")
    ca_bundle: Path | None = _media(
        None, "PEM file that verifies TLS certificates, instead of the usual"
    )
    s3_endpoint_url: str | None = _s3(None, "S3-compatible server; unset: AWS's own", read=_url)
    s3_region: str | None = _s3(None, "region of the buckets")
    s3_anonymous: bool = _s3(False, "read public buckets unsigned")
    s3_path_style: bool | None = _s3(
        None, "true: endpoint/bucket/key, false: bucket.endpoint/key; unset: true but for AWS"
    )
    s3_requester_pays: bool = _s3(False, "agree to pay for transfers from requester-pays buckets")
    s3_buckets: Path | None = _s3(None, "JSON file for buckets that differ, see docs/media.md")

    cluster_address: str | None = _cluster(
        None,
        "run the model on a cluster: local, for one that begins with the service on this machine "
        "(local:ADDRESS, so that other machines reach it), or HOST:PORT of the head of another; "
        "docs/operating.md",
        read=_head,
    )
    cluster_replicas: int | None = _cluster(
        None, "models that this machine gives to the cluster; unset: one for each GPU, or one"
    )
    cluster_token: str | None = _cluster(
        None,
        "what machines of the cluster know each other by; unset: made by the first",
        secret=True,
    )

    def __post_init__(self) -> None:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise SettingsError("BASIC_AUTH_USER and BASIC_AUTH_PASS must be set together")
        if (self.detector_user is None) != (self.detector_pass is None):
            raise SettingsError("DETECTOR_USER and DETECTOR_PASS must be set together")

    @property
    def is_open(self) -> bool:
        """Whether anybody may use the service, without credentials."""
        return self.basic_auth_user is None and self.auth_token is None

    @property
    def has_pages(self) -> bool:
        """Whether web pages and pictures are shown: not to everybody on a network."""
        return self.is_local or not self.is_open

    @property
    def bind(self) -> str:
        """Address and port to listen on."""
        host = self.host.strip("[]")
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the service."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @classmethod
    def variables(cls) -> list[str]:
        """The names of all settings in the environment, and of the files that hold secrets."""
        fields = dataclasses.fields(cls)
        files = [_variable(item) + FILE_SUFFIX for item in fields if item.metadata["secret"]]
        return [*map(_variable, fields), *files]

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from ``environ``; an empty value counts as unset.

        Raises:
            SettingsError: one line for each value that cannot be used.
        """
        values: dict[str, Any] = {}
        problems = list(_unknown(environ))
        for item in dataclasses.fields(cls):
            variable, secret = _variable(item), item.metadata["secret"]
            read = item.metadata["read"] or _READERS[str(item.type).removesuffix(" | None")]
            try:
                raw = _secret(variable, environ) if secret else environ.get(variable, "").strip()
                if raw:
                    values[item.name] = read(raw)
            except ValueError as error:
                shown = "its value" if secret else repr(environ[variable].strip())
                problems.append(f"{variable}: {shown} {error}")
        try:
            settings = cls(**values)
        except SettingsError as error:
            problems.append(str(error))
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    def secrets(self) -> list[str]:
        """The values that must never be shown."""
        secret = [item.name for item in dataclasses.fields(self) if item.metadata["secret"]]
        return [value for name in secret if (value := getattr(self, name))]

    def rows(self) -> list[SettingRow]:
        """Every setting, group by group."""
        rows = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.metadata["secret"] and value is not None:
                value = "(set)"
            elif item.metadata["read"] in (_mebibytes, _mebibytes_or_none, _mebibytes_or_auto):
                value = AUTO if value is None else value // MIB
            elif isinstance(value, tuple):
                parts = (each if isinstance(each, str) else "=".join(each) for each in value)
                value = ",".join(parts)
            shown, about = "" if value is None else str(value), item.metadata
            rows.append(SettingRow(about["group"], _variable(item), shown, about["meaning"]))
        return rows


def _secret(variable: str, environ: Mapping[str, str]) -> str:
    """The value of a secret: itself, or the content of the file that ``<variable>_FILE`` names."""
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


def _unknown(environ: Mapping[str, str]) -> Iterator[str]:
    """One line for each variable that was meant for this service but is none of its settings."""
    known = Settings.variables()
    for name in sorted({*environ} - {*known} - NOT_SETTINGS):
        if _SERVICE_LINK.fullmatch(name):
            continue
        plain = name.removesuffix(FILE_SUFFIX)
        if plain != name and plain in known:
            yield f"{name}: only secrets are read from files; set {plain}"
            continue
        meant = _meant(name, known)
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
