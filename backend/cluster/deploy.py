"""The cluster: its nodes on this machine, the way into it, and what is declared to run in it."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import backend
from backend.engine.engine import ModelChoice
from backend.expected import ExpectedError
from backend.settings import Settings

logger = logging.getLogger(__name__)

PORT = 6379
LOCAL = "local"
APPLICATION = "sam2"
CALLS = 256  # at a time, of a replica; trackers count
PLACES = 1000
"""Of each replica on the ring by which pictures find theirs: with Ray's 100 the fullest of eight
gets more than a tenth above its share, and what is asked of it waits while others rest."""
SHARE = "sam2_replica"
"""The resource of which a replica takes one: how many a machine offers."""
START_SECONDS = 60.0
HEAD_SECONDS = 3.0
JOIN_SECONDS = 5.0  # between two attempts
END_SECONDS = 3.0  # of a node, before it is killed
# A head that is started again knows none of the nodes that it had: they have nothing to wait for.
_OF_NODES = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
_STORE_BYTES = 100 * 1024 * 1024  # of shared memory for large objects, of which there are none
_PR_SET_PDEATHSIG = 1
# Ray takes 127.0.0.1 for a mistake, and puts the machine's public address in its place.
_LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"


class ClusterError(ExpectedError):
    """The cluster cannot be reached or started, and why."""


def choice_as_data(choice: ModelChoice) -> dict[str, Any]:
    """A choice as it is declared, in JSON."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(choice).items()
    }


def choice_from_data(data: Mapping[str, Any]) -> ModelChoice:
    """The choice that was declared."""
    checkpoint = data["checkpoint"]
    return ModelChoice(**{**data, "checkpoint": Path(checkpoint) if checkpoint else None})


@dataclass(frozen=True)
class Declaration:
    """What is to run in the cluster: equal ones change nothing.

    Attributes:
        make: see ``Replica``.
        choice: the model; another one is loaded in place.
        replicas: how many.
        gpus: whether each has a GPU to itself.
    """

    make: str
    speck_share: float
    choice: ModelChoice
    replicas: int = 0
    gpus: bool = False

    def as_data(self) -> dict[str, Any]:
        """For ``declare``."""
        return {
            "proxy_location": "Disabled",
            "applications": [
                {
                    "name": APPLICATION,
                    "route_prefix": None,
                    "import_path": "backend.cluster.replica:application",
                    "args": {"make": self.make, "speck_share": self.speck_share},
                    "deployments": [
                        {
                            "name": "Replica",
                            "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
                            "num_replicas": self.replicas,
                            "max_ongoing_requests": CALLS,
                            "user_config": {"choice": choice_as_data(self.choice)},
                            "health_check_period_s": 2.0,
                            "health_check_timeout_s": 10.0,
                            "graceful_shutdown_timeout_s": 10.0,
                            "ray_actor_options": {
                                "num_cpus": 0,
                                "num_gpus": int(self.gpus),
                                "resources": {SHARE: 1},
                            },
                            "request_router_config": {
                                "request_router_class": "backend.cluster.router.MediaRouter",
                                "request_router_kwargs": {"num_virtual_nodes": PLACES},
                            },
                        }
                    ],
                }
            ],
        }


def head_address(setting: str) -> str:
    """Host and port of the head that CLUSTER_ADDRESS names."""
    host, _, port = setting.removeprefix(LOCAL).removeprefix(":").partition(":")
    if host.isdecimal():
        host, port = "", host
    host = _LOOPBACK if host in ("", "localhost", "127.0.0.1") else host
    return f"{host}:{port or PORT}"


def starts_head(setting: str) -> bool:
    """Whether the cluster begins and ends with the service."""
    return setting == LOCAL or setting.startswith(f"{LOCAL}:")


def own_host(head: str) -> str:
    """The address by which the head, and so others, reach this machine."""
    host, _, port = head.rpartition(":")
    if host == _LOOPBACK:  # where every node has an address of its own
        number = os.getpid()
        return f"127.1.{number // 254 % 254}.{number % 254 + 1}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError as error:
            raise ClusterError(f"{head} cannot be reached from here ({error.strerror})") from None


def token_file(settings: Settings, *, make: bool) -> Path:
    """The file with the token of the cluster, for this user only.

    Raises:
        ClusterError: there is none, and ``make`` is false.
    """
    path = settings.state_dir.expanduser() / "cluster_token"
    token = settings.cluster_token
    if token is None:
        if path.is_file():
            return path
        if not make:
            raise ClusterError(
                "the cluster asks for a token: set CLUSTER_TOKEN_FILE to a copy of the file that "
                "make serve names on the first machine, or CLUSTER_TOKEN to what is in it"
            )
        token = secrets.token_hex(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    partial.replace(path)
    return path


def set_environment(token: Path) -> None:
    """Set what Ray reads from the environment, here when it is imported, and in the processes that
    it starts."""
    root = str(Path(backend.__file__).parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A replica under load that answers late about its queue would lose its clicks to others, which
    # have none of its embeddings.
    os.environ.setdefault("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "1")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # on a busy machine
    # Ray lets everything else on the machine go before its workers, which the replicas are.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


@dataclass(frozen=True)
class Node:
    """What this machine gives to the cluster."""

    host: str
    replicas: int
    gpus: int
    is_head: bool = False

    @classmethod
    def of(cls, settings: Settings, host: str, *, is_head: bool = False) -> Node:
        """One replica for each GPU; without one CLUSTER_REPLICAS, or one."""
        gpus = _count_gpus(settings.device)
        replicas = gpus or settings.cluster_replicas or 1
        return cls(host, replicas, gpus, is_head)

    def command(self, head: str) -> list[str]:
        """What starts it, and runs as long as it does."""
        shares = f'{{"{SHARE}": {self.replicas}}}' if self.replicas else "{}"
        where = [f"--address={head}"]
        if self.is_head:
            port = head.rpartition(":")[2]
            where = ["--head", f"--port={port}", "--include-dashboard=false"]
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block"),
            f"--node-ip-address={self.host}",
            f"--num-cpus={max(1, os.cpu_count() or 1)}",
            f"--num-gpus={self.gpus}",
            f"--resources={shares}",
            f"--object-store-memory={_STORE_BYTES}",
            "--dashboard-agent-listen-port=0",
            "--disable-usage-stats",
        ]


def _count_gpus(device: str) -> int:
    if device not in ("auto", "cuda"):
        return 1 if device.startswith("cuda:") else 0
    import torch

    return torch.cuda.device_count()


class Cluster:
    """The way of this process into a cluster; for one thread.

    Args:
        head: host and port.
        node: what this machine gives.
    """

    def __init__(self, head: str, node: Node) -> None:
        self.head = head
        self._node = node
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, settings: Settings, address: str, *, replicas: int | None = None) -> Cluster:
        """The cluster that the settings name, begun on this machine where they say so.

        Args:
            replicas: of this machine, where that is not for its settings and GPUs to say.

        Raises:
            ClusterError: it has a token that is not known here.
        """
        head, begins = head_address(address), starts_head(address)
        token = token_file(settings, make=begins)
        set_environment(token)
        if begins:
            host = head.rpartition(":")[0]
            node = Node.of(settings, host, is_head=True)
            if replicas is not None:
                node = Node(host, replicas, 0, is_head=True)
            logger.info("to join: CLUSTER_TOKEN_FILE=%s make join HEAD=%s", token, head)
        else:
            node = Node(own_host(head), 0, 0)
        return cls(head, node)

    def connect(self) -> None:
        """Begin to take part, where that is not so.

        Raises:
            ClusterError: why that cannot be.
        """
        self._keep_node()
        import ray  # brings its signal handlers only to the main thread

        self._await_head()
        try:
            ray.init(
                self.head,
                namespace=APPLICATION,
                _node_ip_address=self._node.host,
                logging_level=logging.WARNING,
            )
        except Exception as error:  # noqa: BLE001 - Ray raises all kinds; their text is told
            raise ClusterError(f"no way into the cluster: {_first_line(error)}") from None

    def is_alive(self) -> bool:
        """Whether the head answers, and this machine takes part."""
        import ray

        if self._process is None or self._process.poll() is not None:
            return False
        try:
            worker: Any = ray._private.worker.global_worker
            worker.gcs_client.check_alive([], timeout=HEAD_SECONDS)
        except Exception as error:  # noqa: BLE001 - Ray raises all kinds
            logger.debug("the head does not answer: %s", error)
            return False
        return True

    def shares(self) -> tuple[int, int]:
        """Replicas that all machines offer, and GPUs."""
        import ray

        found = ray.cluster_resources()
        return int(found.get(SHARE, 0)), int(found.get("GPU", 0))

    def disconnect(self) -> None:
        """Leave; what runs there goes on."""
        import ray

        ray.shutdown()

    def close(self) -> None:
        """Leave, and end what was started on this machine."""
        self.disconnect()
        self._end_process()

    def _await_head(self) -> None:
        host, _, port = self.head.rpartition(":")
        until = time.monotonic() + START_SECONDS
        while True:
            self._check_process()
            try:
                socket.create_connection((host, int(port)), HEAD_SECONDS).close()
                return
            except OSError as error:
                if time.monotonic() > until:
                    raise ClusterError(
                        f"the head of the cluster at {self.head} does not answer "
                        f"({error.strerror or error})"
                    ) from None
            time.sleep(0.5)

    def _keep_node(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the node runs
        self._process = start_node(self._node, self.head, self._output)

    def _check_process(self) -> None:
        process = self._process
        if process is not None and process.poll() is not None:
            said = _last_lines(self._output)
            raise ClusterError(f"no cluster can be had at {self.head}: {said}")

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_node(process)


def check_cluster(settings: Settings, address: str) -> None:
    """Look whether this machine could take part in a cluster.

    Raises:
        ClusterError: why not.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError(
            "a cluster needs Ray, which is not installed: pip install -r requirements-cluster.txt"
        )
    token_file(settings, make=starts_head(address))


def join(settings: Settings, head: str) -> int:
    """Give this machine to a cluster until the process is stopped; where the head is lost, wait
    for it to be back.

    Raises:
        ClusterError: that cannot be.
    """

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which make sends a second time
        raise SystemExit(0)

    check_cluster(settings, head)
    head = head_address(head)
    set_environment(token_file(settings, make=False))
    node = Node.of(settings, own_host(head))
    signal.signal(signal.SIGTERM, stop)
    while True:
        logger.info("joining %s with %d replicas", head, node.replicas)
        with tempfile.TemporaryFile() as output:
            process = start_node(node, head, output)
            try:
                process.wait()
            finally:
                end_node(process)
            logger.warning("this machine is out of the cluster: %s", _last_lines(output))
        time.sleep(JOIN_SECONDS)


def start_node(node: Node, head: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a node of the cluster on this machine, which ends with the thread that calls."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_parent() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(  # noqa: S603 - the arguments are our own
        node.command(head),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **_OF_NODES},
        preexec_fn=end_with_parent,
        start_new_session=True,
    )


def end_node(process: subprocess.Popen[bytes]) -> None:
    """End a node and what it started: a node that is killed leaves the store and the scheduler of
    the cluster behind, which are of its process group."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_lines(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return " ".join(lines[-3:])[:500] or "nothing was said"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
