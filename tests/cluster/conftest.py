"""A cluster on this machine: a head that has no model, and two nodes with one each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.cluster.deploy import Cluster, Declaration, Node, end_node, start_node
from backend.engine.engine import Engine
from backend.metrics import Metrics
from backend.settings import Settings
from tests.cluster.replicas import CHOICE, FOLDER, MAKE, SPECK_SHARE, Control, make
from tests.waiting import PATIENCE, until

NODES = ("127.0.0.11", "127.0.0.12")


def kill_all(mark: str) -> None:
    """All processes in whose command line ``mark`` is."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    for line in listed.splitlines():
        pid, _, arguments = line.strip().partition(" ")
        if mark in f"{arguments} " and int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)


class LocalCluster:
    """Its nodes can be ended and started one by one."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:  # below the ports that Ray gives to its workers
            free.bind(("127.0.0.2", 0))
            port = 6400 + free.getsockname()[1] % 3000
        self.address = f"local:127.0.0.2:{port}"
        state = Path(os.environ["STATE_DIR"])
        self.settings = Settings(state_dir=state, cache_dir=folder / "cache")
        self.metrics = Metrics()
        self.cluster = Cluster.of(self.settings, self.address, replicas=0)
        from backend.cluster.ray_engine import RayEngine  # Ray, after its environment is set

        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        declared = Declaration(MAKE, SPECK_SHARE, CHOICE)
        self.engine = RayEngine(CHOICE, self.cluster, declared, self.metrics)

    def wait_whole(self, replicas: int = len(NODES)) -> None:
        """Until all replicas answer. Two nodes that begin at the same moment on one machine take
        each other's sockets: one is started after the other."""
        for host in NODES:
            until(lambda host=host: self._takes_part(host), 4 * PATIENCE, pause=0.2)
        for _ in range(2):  # a look may have begun before the last fault
            self._await_look(replicas)
        self.engine.wait_ready(PATIENCE)

    def _await_look(self, replicas: int) -> None:
        before = self.engine.replicas

        def whole() -> bool:
            now = self.engine.replicas
            return now is not before and len(now) == replicas

        until(whole, 4 * PATIENCE, pause=0.2)

    def _takes_part(self, host: str) -> bool:
        """Started anew where it ended, as ``make join`` does."""
        if host not in self.nodes or self.nodes[host].poll() is not None:
            self.nodes[host] = self._start(host)
        return host in self.alive()

    def alive(self) -> set[str]:
        """The addresses of the nodes that take part."""
        import ray

        if not ray.is_initialized():
            return set()
        return {each["NodeManagerAddress"] for each in ray.nodes() if each["Alive"]}

    def close(self) -> None:
        self.engine.close()
        for node in self.nodes.values():
            end_node(node)

    def _start(self, host: str) -> subprocess.Popen[bytes]:
        output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the node runs
        return start_node(Node(host, 1, 0), self.cluster.head, output)


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory) -> Control:
    return Control(tmp_path_factory.mktemp("control"))


@pytest.fixture(scope="module")
def environment(control: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the nodes, and the replicas on them, read their settings from."""
    folder = tmp_path_factory.mktemp("cluster")
    # Ray reads the token once in a process: all clusters have the same.
    state = tmp_path_factory.getbasetemp() / "cluster_state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(control.folder))
        patch.setenv("CACHE_DIR", str(folder / "cache"))
        patch.setenv("STATE_DIR", str(state))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # others use the machine too
        yield folder


@pytest.fixture(scope="module")
def cluster(environment: Path) -> Iterator[LocalCluster]:
    """Ends with the file that uses it: also idle, it takes CPU time from other tests."""
    before = dict(os.environ)
    cluster = LocalCluster(environment)
    try:
        cluster.wait_whole()
        yield cluster
    finally:
        cluster.close()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def local(environment: Path) -> Iterator[Engine]:
    engine, _ = make(CHOICE, speck_share=SPECK_SHARE)
    engine.wait_ready(PATIENCE)
    yield engine
    engine.close()


@pytest.fixture(params=["local", "cluster"])
def engine(request: pytest.FixtureRequest, control: Control) -> Iterator[Engine]:
    """Both engines, one after the other."""
    found = request.getfixturevalue(request.param)
    yield found if request.param == "local" else found.engine
    control.clear()


@pytest.fixture
def both(local: Engine, cluster: LocalCluster, control: Control) -> Iterator[tuple[Engine, Engine]]:
    """The local engine and the cluster's."""
    yield local, cluster.engine
    control.clear()
