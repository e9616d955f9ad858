"""docker-compose.yml and the Kubernetes manifests: they parse, fit their schemas and the code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from string import Template

import kubernetes_validate
import pytest
import yaml

from backend.settings import Settings
from deploy import make_secrets

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "docker-compose.yml"
FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
CLUSTER = FOLDER / "cluster"
PROFILES = ("cpu", "gpu", "cluster")
CUSTOM = {"kustomization.yaml", "servicemonitor.yaml"}  # have no schema in Kubernetes itself


def documents(path):
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def manifest(name):
    [document] = documents(FOLDER / name)
    return document


class Variables(Template):
    """Compose's ``${NAME:-default}`` and ``$$``; whatever else begins with a dollar is refused."""

    braceidpattern = "[A-Z0-9_]+:-[^}]*"


@pytest.fixture(scope="module")
def compose():
    """As Compose reads it where no variable is set."""
    text = Variables(COMPOSE.read_text(encoding="utf-8"))
    defaults = {each: each.split(":-")[1] for each in text.get_identifiers()}
    return yaml.safe_load(text.substitute(defaults))


def misfits(compose, folder):
    """What the Compose Specification's schema finds wrong; empty where nothing is."""
    path = folder / "compose.json"
    path.write_text(json.dumps(compose), encoding="utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, path], capture_output=True, text=True, timeout=600, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


class TestCompose:
    @pytest.fixture
    def secrets(self, tmp_path):
        return make_secrets.main(tmp_path / "secrets"), tmp_path / "secrets"

    def test_the_secrets_made_are_those_that_are_read(self, compose, secrets):
        made, folder = secrets
        wanted = {Path(each["file"]).name for each in compose["secrets"].values()}
        assert set(made) == wanted
        assert make_secrets.main(folder) == []  # and kept

    def test_no_secret_stands_in_it(self, compose):
        for service in compose["services"].values():
            for name, value in service.get("environment", {}).items():
                if any(word in name for word in ("PASS", "KEY", "TOKEN", "SECRET")):
                    is_switch = value in ("true", "false")
                    assert is_switch or str(value).startswith("/run/secrets/"), name

    def test_the_settings_of_both_backends_are_settings(self, compose, secrets, tmp_path):
        _, folder = secrets
        for name in (f"{what}-{each}" for what in ("backend", "connect") for each in PROFILES):
            service = compose["services"][name]
            environ = {
                key: str(value).replace("/run/secrets", str(folder))
                for key, value in service["environment"].items()
            }
            settings = Settings.from_env(environ)
            assert settings.auth_token
            assert settings.label_studio_api_key

    def test_each_profile_has_a_backend_that_cannot_write_and_gains_nothing(self, compose):
        profiles = {}
        for name, service in compose["services"].items():
            for profile in service.get("profiles", []):
                assert service["read_only"] is True, name
                assert service["cap_drop"] == ["ALL"]
                image = "label-studio-sam2-detector:" if profile == "text" else "label-studio-sam2:"
                assert service["image"].startswith(image)
                if name.startswith("backend"):
                    profiles[profile] = service
                    assert "backend" in service["networks"]["default"]["aliases"]
        assert set(profiles) == set(PROFILES)
        assert profiles["gpu"]["deploy"]["resources"]["reservations"]["devices"]
        assert set(profiles["gpu"]["build"]["args"]) == {"VERSION", "BASE_IMAGE", "TORCH_INDEX"}
        several = profiles["cluster"]
        [devices] = several["deploy"]["resources"]["reservations"]["devices"]
        assert devices["count"] == "all"
        assert several["environment"]["CLUSTER_ADDRESS"] == "local"
        assert (ROOT / several["build"]["args"]["REQUIREMENTS"]).exists()

    def test_the_detector_knows_the_backend_and_no_other_secret(self, compose, secrets):
        _, folder = secrets
        detector = compose["services"]["detector"]
        assert detector["profiles"] == ["text"]
        assert detector["secrets"] == ["detector_pass"]
        told, backend = detector["environment"], compose["services"]["backend-cpu"]["environment"]
        assert told["BASIC_AUTH_USER"] == backend["DETECTOR_USER"]
        assert told["BASIC_AUTH_PASS_FILE"] == backend["DETECTOR_PASS_FILE"]
        environ = {"DETECTOR_USER": "backend", "DETECTOR_URL": backend["DETECTOR_URL"]}
        path = backend["DETECTOR_PASS_FILE"].replace("/run/secrets", str(folder))
        settings = Settings.from_env({**environ, "DETECTOR_PASS_FILE": path})
        assert settings.detector_pass
        assert settings.detector_url is None  # without TEXT=1

    def test_volumes_and_mounted_files_exist(self, compose):
        for service in compose["services"].values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    assert (COMPOSE.parent / source).exists(), source
                else:
                    assert source in compose["volumes"]
            for secret in service.get("secrets", []):
                assert secret in compose["secrets"]

    def test_with_a_detector_it_fits_the_schema_too(self, compose, tmp_path):
        detector = {"detector": compose["services"]["detector"]}
        assert misfits(compose | {"services": detector}, tmp_path) == ""

    @pytest.mark.parametrize("profile", PROFILES)
    def test_what_a_profile_starts_fits_the_schema(self, compose, profile, tmp_path):
        started = {
            name: service
            for name, service in compose["services"].items()
            if profile in service.get("profiles", [profile])
        }
        ours = {name for name, service in started.items() if "profiles" in service}
        assert ours == {f"backend-{profile}", f"connect-{profile}"}
        assert set(started[f"connect-{profile}"]["depends_on"]) < set(started)
        assert misfits(compose | {"services": started}, tmp_path) == ""

    @pytest.mark.parametrize(
        "wrong",
        [
            {"read_onyl": True},
            {"cap_drop": "ALL"},
            {"deploy": {"resources": {"reservations": {"devices": [{"driver": "nvidia"}]}}}},
        ],
    )
    def test_a_wrong_service_does_not(self, compose, wrong, tmp_path):
        service = compose["services"]["backend-cpu"] | wrong
        [name] = wrong
        assert name in misfits({"services": {"backend-cpu": service}}, tmp_path)


class TestKubernetes:
    @pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
    def test_it_fits_the_schema(self, path):
        for document in documents(path):
            assert document["kind"]
            if path.name not in CUSTOM:
                kubernetes_validate.validate(document, "1.34", strict=True)

    def test_a_wrong_one_does_not(self):
        wrong = manifest("deployment.yaml")
        wrong["spec"]["replica"] = 1
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, "1.34", strict=True)

    def test_every_file_is_applied_or_named_as_left_out(self):
        text = (FOLDER / "kustomization.yaml").read_text(encoding="utf-8")
        for path in MANIFESTS:
            assert path.name == "kustomization.yaml" or path.name in text
        for name in manifest("kustomization.yaml")["resources"]:
            assert (FOLDER / name).exists()

    def test_its_settings_are_settings(self, tmp_path):
        container = manifest("deployment.yaml")["spec"]["template"]["spec"]["containers"][0]
        environ = dict(manifest("config.yaml")["data"])
        mount = next(m for m in container["volumeMounts"] if m["name"] == "secrets")
        for variable in container["env"]:
            path = tmp_path / Path(variable["value"]).name
            assert Path(variable["value"]).parent == Path(mount["mountPath"])
            path.write_text("a-secret-of-some-length")
            environ[variable["name"]] = str(path)
        # What Kubernetes itself would add for Services of these names.
        environ |= {"SAM2_BACKEND_SERVICE_HOST": "10.0.0.1", "LABEL_STUDIO_PORT": "tcp://10.0.0.2"}
        settings = Settings.from_env(environ)
        assert settings.variant != "demo"
        assert settings.basic_auth_pass

    def test_ports_probes_and_names_agree(self):
        spec = manifest("deployment.yaml")["spec"]["template"]["spec"]
        [container] = spec["containers"]
        [port] = container["ports"]
        assert port["containerPort"] == Settings().port
        for probe, path in (("livenessProbe", "/health"), ("readinessProbe", "/ready")):
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        labels = manifest("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
        assert manifest("service.yaml")["spec"]["selector"] == labels
        policy = manifest("networkpolicy.yaml")["spec"]
        assert policy["podSelector"]["matchLabels"] == labels
        claims = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in spec["volumes"]
            if "persistentVolumeClaim" in volume
        ]
        assert claims == [manifest("storage.yaml")["metadata"]["name"]]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec["securityContext"]["runAsNonRoot"] is True

    def test_the_time_to_stop_is_enough(self, compose):
        spec = manifest("deployment.yaml")["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] > 10
        assert compose["services"]["backend-cpu"]["stop_grace_period"] == "15s"


class TestKubeRay:
    """The front and the cluster of ``deploy/kubernetes/cluster``."""

    @pytest.fixture
    def groups(self):
        [cluster] = documents(CLUSTER / "raycluster.yaml")
        assert cluster["kind"] == "RayCluster"
        spec = cluster["spec"]
        return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]

    @pytest.mark.parametrize("name", ["config.yaml", "models.yaml", "networkpolicy.yaml"])
    def test_it_fits_the_schema(self, name):
        for document in documents(CLUSTER / name):
            kubernetes_validate.validate(document, "1.34", strict=True)

    def test_pods_fit_the_schema_and_gain_nothing(self, groups):
        for group in groups:
            pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
            pod["metadata"]["name"] = "ray"
            kubernetes_validate.validate(pod, "1.34", strict=True)
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            [container] = pod["spec"]["containers"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            names = {volume["name"] for volume in pod["spec"]["volumes"]}
            assert names == {mount["name"] for mount in container["volumeMounts"]}
            for probe in ("readinessProbe", "livenessProbe"):
                port = container[probe]["tcpSocket"]["port"]
                assert str(port) == group["rayStartParams"]["metrics-export-port"]

    def test_everybody_shows_the_token_and_nobody_reports_usage(self, groups):
        for group in groups:
            [container] = group["template"]["spec"]["containers"]
            environ = {each["name"]: each for each in container["env"]}
            assert environ["RAY_AUTH_MODE"]["value"] == "token"
            secret = environ["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
            assert secret == {"name": "sam2-cluster", "key": "token"}
            assert environ["RAY_USAGE_STATS_ENABLED"]["value"] == "0"
            assert group["rayStartParams"]["disable-usage-stats"] == "true"

    def test_it_is_the_ray_that_is_pinned(self):
        [cluster] = documents(CLUSTER / "raycluster.yaml")
        version = cluster["spec"]["rayVersion"]
        assert f"ray[serve]=={version} " in (ROOT / "requirements-cluster.txt").read_text()

    def test_workers_offer_what_replicas_ask_for(self, groups):
        from backend.cluster.deploy import SHARE

        head, *workers = groups
        assert "resources" not in head["rayStartParams"]
        for worker in workers:
            assert json.loads(json.loads(worker["rayStartParams"]["resources"])) == {SHARE: 1}
            assert worker["rayStartParams"]["num-gpus"] == "1"
            [container] = worker["template"]["spec"]["containers"]
            assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"

    def test_the_front_finds_the_head_with_the_token_and_has_no_gpu(self, tmp_path):
        [front] = documents(CLUSTER / "front.yaml")
        spec = front["spec"]["template"]["spec"]
        [container] = spec["containers"]
        environ = {each["name"]: each["value"] for each in container["env"]}
        token = tmp_path / "token"
        token.write_text("a-token-of-some-length")
        settings = Settings.from_env({**environ, "CLUSTER_TOKEN_FILE": str(token)})
        [cluster] = documents(CLUSTER / "raycluster.yaml")
        assert settings.cluster_address == f"{cluster['metadata']['name']}-head-svc:6379"
        for kind in ("requests", "limits"):
            assert container["resources"][kind] == {"nvidia.com/gpu": None}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        [secret] = [each for each in spec["volumes"] if "secret" in each]
        assert mounts[str(Path(environ["CLUSTER_TOKEN_FILE"]).parent)] == secret["name"]
        assert secret["secret"]["secretName"] == "sam2-cluster"

    def test_all_read_weights_under_one_path(self, groups):
        [front] = documents(CLUSTER / "front.yaml")
        pods = [front["spec"]["template"], *(group["template"] for group in groups[1:])]
        for pod in pods:
            [container] = pod["spec"]["containers"]
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts["models"] == "/data/state/models"

    def test_members_reach_each_other_and_in_cluster_s3(self, groups):
        [policy] = documents(CLUSTER / "networkpolicy.yaml")
        [front] = documents(CLUSTER / "front.yaml")
        member = policy["spec"]["podSelector"]["matchLabels"]
        for pod in (front["spec"]["template"], *(group["template"] for group in groups)):
            assert pod["metadata"]["labels"].items() >= member.items()
        between = [{"podSelector": {"matchLabels": member}}]
        assert {"from": between} in policy["spec"]["ingress"]
        assert {"to": between} in policy["spec"]["egress"]
        spaces = [
            each["namespaceSelector"].get("matchLabels", {}).get("kubernetes.io/metadata.name")
            for rule in policy["spec"]["egress"]
            for each in rule["to"]
            if "namespaceSelector" in each
        ]
        assert "storage" in spaces

    def test_every_file_is_applied(self):
        [kustomization] = documents(CLUSTER / "kustomization.yaml")
        patches = {each["path"] for each in kustomization["patches"]}
        applied = {*kustomization["resources"], *patches}
        files = {path.name for path in CLUSTER.glob("*.yaml")}
        assert applied == {"..", *(files - {"kustomization.yaml"})}
