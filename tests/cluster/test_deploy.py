"""The way into a cluster: addresses, the token, what is declared, what is not imported."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from backend.cluster import deploy
from backend.cluster.deploy import ClusterError, Declaration, Node, head_address, token_file
from backend.engine.engine import ModelChoice
from backend.settings import Settings, SettingsError
from backend.wiring import Wiring

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("setting", "head", "begins"),
    [
        ("local", "127.0.0.2:6379", True),
        ("local:6400", "127.0.0.2:6400", True),
        ("local:10.0.0.5", "10.0.0.5:6379", True),
        ("local:10.0.0.5:7000", "10.0.0.5:7000", True),
        ("sam2-head-svc:6379", "sam2-head-svc:6379", False),
        ("127.0.0.1:6379", "127.0.0.2:6379", False),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other machines have one loopback address")
def test_addresses(setting: str, head: str, begins: bool) -> None:
    assert Settings.from_env({"CLUSTER_ADDRESS": setting}).cluster_address == setting
    assert head_address(setting) == head
    assert deploy.starts_head(setting) is begins


@pytest.mark.parametrize("setting", ["auto", "ray://head:10001", "head", "local:a b", "-x:1"])
def test_other_addresses_are_refused(setting: str) -> None:
    with pytest.raises(SettingsError, match="CLUSTER_ADDRESS"):
        Settings.from_env({"CLUSTER_ADDRESS": setting})


class TestToken:
    def test_the_first_machine_makes_it_for_its_user_only_and_keeps_it(
        self, tmp_path: Path
    ) -> None:
        settings = Settings(state_dir=tmp_path)
        path = token_file(settings, make=True)
        token = path.read_text()
        assert len(bytes.fromhex(token)) == 32
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert token_file(settings, make=True).read_text() == token

    def test_who_joins_needs_it(self, tmp_path: Path) -> None:
        with pytest.raises(ClusterError, match="CLUSTER_TOKEN_FILE"):
            token_file(Settings(state_dir=tmp_path), make=False)

    def test_it_comes_by_environment_or_file(self, tmp_path: Path) -> None:
        settings = Settings(state_dir=tmp_path, cluster_token="shown by nobody")
        path = token_file(settings, make=False)
        assert path.read_text() == "shown by nobody"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "shown by nobody" not in repr(settings)

    def test_no_command_line_shows_it(self, tmp_path: Path) -> None:
        token = token_file(Settings(state_dir=tmp_path), make=True).read_text()
        command = Node("127.0.0.2", 2, 0, is_head=True).command("127.0.0.2:6379")
        assert token not in " ".join(command)
        assert "--disable-usage-stats" in command
        assert "--include-dashboard=false" in command

    def test_ray_asks_for_it_reports_no_usage_and_lets_replicas_keep_their_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [*os.environ]:
            if name.startswith("RAY_"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("PYTHONPATH", "")
        before = dict(os.environ)
        try:
            deploy.set_environment(tmp_path / "token")
            assert os.environ["RAY_AUTH_MODE"] == "token"
            assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
            assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
            assert dict(os.environ)["RAY_worker_niceness"] == "0"
        finally:
            os.environ.clear()
            os.environ.update(before)


def test_a_declaration_holds_no_secret(tmp_path: Path) -> None:
    secrets = {"LABEL_STUDIO_API_KEY": "api-key-value", "BASIC_AUTH_PASS": "pass-value"}
    environ = {**secrets, "BASIC_AUTH_USER": "u", "STATE_DIR": str(tmp_path)}
    wiring = Wiring(Settings.from_env(environ))
    declared = Declaration("backend.wiring:replica_engine", 0.005, wiring.model(), 2)
    text = json.dumps(declared.as_data())  # all of what the cluster is told
    assert not any(value in text for value in secrets.values())


def test_what_is_declared_names_weights_and_loads_others_in_place() -> None:
    one = Declaration("m:f", 0.005, ModelChoice("demo"), 2).as_data()
    other = Declaration("m:f", 0.005, ModelChoice("demo", Path("/models/ft1-p5.pt")), 2).as_data()
    [first], [second] = one["applications"], other["applications"]
    # Replicas are started anew where these differ; ``user_config`` goes to running ones.
    assert first["args"] == second["args"]
    assert first["import_path"] == second["import_path"]
    [before], [after] = first["deployments"], second["deployments"]
    assert before.pop("user_config") != after.pop("user_config")
    assert before == after


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray's
def test_pictures_are_shared_out_evenly() -> None:
    from ray.serve._private.common import DeploymentID, ReplicaID

    from backend.cluster.router import MediaRouter

    router = MediaRouter.__new__(MediaRouter)  # no more of it than the ring
    router._deployment_id = DeploymentID("Replica", "sam2")
    router.initialize_state(num_virtual_nodes=deploy.PLACES)
    for ring in range(5):
        names = (ReplicaID(f"{ring} {n}", router._deployment_id) for n in range(8))
        router._rebuild_ring(frozenset(names))
        firsts = Counter(router._lookup_ranked_replicas(f"{n} picture")[0] for n in range(8000))
        assert max(firsts.values()) < 1.15 * 1000


def test_auto_is_for_one_machine(tmp_path: Path) -> None:
    environ = {"CLUSTER_ADDRESS": "local", "SAM2_VARIANT": "auto", "STATE_DIR": str(tmp_path)}
    with pytest.raises(SettingsError, match="name the model"):
        Wiring(Settings.from_env(environ)).check_cluster()


def test_without_a_cluster_nothing_of_ray_is_imported() -> None:
    program = """
import sys, backend.__main__, backend.wsgi, backend.web.app
found = [name for name in sys.modules if name.split(".")[0] == "ray"]
sys.exit(str(found) if found else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
