"""Settings: defaults, parsing, one clear line for each impossible value, no secrets."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.settings import MEMORIES, MIB, VARIANTS, Settings, SettingsError


def test_defaults_start_the_demo_model():
    settings = Settings.from_env({})
    assert (settings.port, settings.variant, settings.device) == (9090, "demo", "auto")
    assert settings.label_studio_url is None


def test_values_are_read_and_empty_ones_count_as_unset():
    settings = Settings.from_env(
        {
            "PORT": "8000",
            "LABEL_STUDIO_URL": "https://ls.example/label-studio/",
            "SAM2_CHECKPOINT": "/models/tiny.pt",
            "EMBEDDING_CACHE_MB": "64",
            "ALLOWED_PRIVATE_HOSTS": "minio, 10.0.0.5",
            "SAM2_DEVICE": "",
            "DETECTOR_LABELS": "car=Vehicle, big truck = Vehicle",
        }
    )
    assert settings.detector_labels == (("car", "Vehicle"), ("big truck", "Vehicle"))
    assert settings.port == 8000
    assert settings.label_studio_url == "https://ls.example/label-studio"
    assert settings.checkpoint == Path("/models/tiny.pt")
    assert settings.embedding_cache_bytes == 64 * MIB
    assert settings.allowed_private_hosts == ("minio", "10.0.0.5")
    assert settings.device == "auto"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "0"),
        ("PORT", "http"),
        ("LABEL_STUDIO_URL", "label-studio:8080"),
        ("LABEL_STUDIO_URL", "http://user:pw@ls"),
        ("SAM2_DTYPE", "int8"),
        ("SAM2_DEVICE", "gpu"),
        ("SAM2_IMAGE_SIZE", "0"),
        ("SAM2_IMAGE_SIZE", "500"),
        ("SAM2_NUM_MASKMEM", "0"),
        ("SAM2_NUM_MASKMEM", "8"),
        ("TRACK_STRIDE", "0"),
        ("TRACK_MEMORY", "elephant"),
        ("SAM2_VARIANT", "sam2.1_hiera_huge"),
        ("LOG_FORMAT", "xml"),
        ("MAX_BODY_MB", "0"),
        ("CLICK_BUDGET_SECONDS", "-1"),
        ("CLICK_BUDGET_SECONDS", "nan"),
        ("DETECTOR_URL", "http://ada:lovelace@detector:9091"),
        ("DETECTOR_SCORE", "30"),
        ("DETECTOR_LABELS", "car"),
        ("DETECTOR_LABELS", "car=,=Vehicle"),
        ("S3_ANONYMOUS", "perhaps"),
        ("HTTPS_PROXY", "https://proxy:3128"),
        ("HTTPS_PROXY", "http://proxy:port"),
        ("HTTPS_PROXY", "http://proxy:3128/path"),
    ],
)
def test_an_impossible_value_is_named(variable, value):
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({variable: value})
    assert str(caught.value).startswith(f"{variable}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["proxy:3128", "http://a:b@proxy:3128/"])
def test_a_proxy_is_read_and_its_password_not_shown(value):
    settings = Settings.from_env({"HTTPS_PROXY": value})
    assert settings.https_proxy.startswith("http://") and settings.https_proxy.endswith(":3128")
    assert "proxy:3128" not in repr(settings)
    assert {row.variable: row.value for row in settings.rows()}["HTTPS_PROXY"] == "(set)"


@pytest.mark.parametrize(
    ("host", "bind", "is_local"),
    [
        ("", "127.0.0.1:9090", True),
        ("localhost", "localhost:9090", True),
        ("127.8.9.1", "127.8.9.1:9090", True),
        ("::1", "[::1]:9090", True),
        ("[::]", "[::]:9090", False),
        ("0.0.0.0", "0.0.0.0:9090", False),
        ("localhost.example", "localhost.example:9090", False),
    ],
)
def test_where_it_listens(host, bind, is_local):
    settings = Settings.from_env({"HOST": host})
    assert (settings.bind, settings.is_local) == (bind, is_local)


def test_every_problem_is_told_at_once():
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"PORT": "x", "THREADS": "none"})
    assert len(str(caught.value).splitlines()) == 2


def test_half_a_login_is_refused():
    with pytest.raises(SettingsError, match="together"):
        Settings.from_env({"BASIC_AUTH_USER": "sam"})


def test_secrets_are_hidden():
    settings = Settings.from_env(
        {"LABEL_STUDIO_API_KEY": "tok-123", "BASIC_AUTH_USER": "u", "BASIC_AUTH_PASS": "pw-456"}
    )
    shown = repr(settings) + str(settings.rows())
    assert "tok-123" not in shown
    assert "pw-456" not in shown


def test_the_variants_are_the_models():
    from sam2model import VARIANTS as known

    assert set(VARIANTS) == set(known)


def test_the_memories_are_the_trackers():
    from sam2model.memory_policy import POLICIES

    assert set(MEMORIES) == set(POLICIES)


SECRETS = [item.name.upper() for item in dataclasses.fields(Settings) if item.metadata["secret"]]


class TestSecretsFromFiles:
    def test_there_are_secrets(self):
        assert set(SECRETS) == {
            "LABEL_STUDIO_API_KEY",
            "BASIC_AUTH_PASS",
            "AUTH_TOKEN",
            "DETECTOR_PASS",
            "HTTPS_PROXY",  # it may hold a password
            "CLUSTER_TOKEN",
        }

    @pytest.mark.parametrize("variable", SECRETS)
    def test_each_is_read(self, variable, tmp_path):
        (tmp_path / "secret").write_text("tok-123\n")
        settings = Settings.from_env(
            {"BASIC_AUTH_USER": "u", "DETECTOR_USER": "u"}
            | {name: "pw" for name in ("BASIC_AUTH_PASS", "DETECTOR_PASS") if name != variable}
            | {variable + "_FILE": str(tmp_path / "secret")}
        )
        assert any(secret.endswith("tok-123") for secret in settings.secrets())

    @pytest.mark.parametrize(
        ("content", "part"), [(None, "No such file"), ("\n", "empty"), (b"\xff\xfe", "text")]
    )
    def test_one_that_cannot_be_used_is_named(self, content, part, tmp_path):
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(SettingsError, match=part) as caught:
            Settings.from_env({"AUTH_TOKEN_FILE": str(path)})
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_not_both(self, tmp_path):
        (tmp_path / "secret").write_text("from-file")
        with pytest.raises(SettingsError, match="AUTH_TOKEN_FILE") as caught:
            Settings.from_env(
                {"AUTH_TOKEN": "from-env", "AUTH_TOKEN_FILE": str(tmp_path / "secret")}
            )
        assert "from-" not in str(caught.value)

    @pytest.mark.parametrize("variable", ["PORT_FILE", "BASIC_AUTH_USER_FILE"])
    def test_nothing_else_is_read_from_files(self, variable):
        with pytest.raises(SettingsError, match="only secrets are read from files"):
            Settings.from_env({variable: "/etc/hostname"})


class TestUnknownVariables:
    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ("SAM2_VARIENT", "SAM2_VARIANT"),
            ("LABLE_STUDIO_URL", "LABEL_STUDIO_URL"),
            ("BASIC_AUTH_PASSWORD", "BASIC_AUTH_PASS"),
            ("THREAD", "THREADS"),
            ("label_studio_url", "LABEL_STUDIO_URL"),
            ("LABEL_STUDIO_API_KEY_FIEL", "LABEL_STUDIO_API_KEY_FILE"),
        ],
    )
    def test_a_misspelling_stops_the_start_and_names_what_was_meant(self, given, meant):
        with pytest.raises(SettingsError) as caught:
            Settings.from_env({given: "x-secret"})
        assert str(caught.value) == f"{given}: there is no such setting; did you mean {meant}?"

    def test_one_that_can_only_be_ours_stops_it_too(self):
        with pytest.raises(SettingsError, match="SAM2_FLAVOUR: there is no such setting"):
            Settings.from_env({"SAM2_FLAVOUR": "x"})

    @pytest.mark.parametrize(
        "variable",
        [
            "LABEL_STUDIO_HOST",  # Label Studio's own
            "LABEL_STUDIO_USERNAME",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED",
            "LABEL_STUDIO_PORT",  # Kubernetes, for a Service called label-studio
            "LABEL_STUDIO_PORT_8080_TCP_ADDR",
            "SAM2_SERVICE_HOST",
            "SAM2_BACKEND_SERVICE_PORT_HTTP",
            "UV_CACHE_DIR",
            "HOSTNAME",
            "PATH",
            "WORKERS",
        ],
    )
    def test_those_of_others_do_not(self, variable):
        Settings.from_env({variable: "tcp://10.0.0.1:8080"})


def test_the_command_line_prints_the_settings_without_secrets_and_stops_on_a_wrong_one():
    def run(**variables):
        return subprocess.run(
            [sys.executable, "-m", "backend", "--env-file", os.devnull, "settings"],
            env={"PATH": os.environ["PATH"], **variables},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    good = run(AUTH_TOKEN="tok-789", PORT="8000")
    assert good.returncode == 0
    assert "PORT=8000" in good.stdout
    assert "AUTH_TOKEN=(set)" in good.stdout
    assert "tok-789" not in good.stdout + good.stderr
    wrong = run(PORT="-1", SAM2_VARIENT="demo")
    assert wrong.returncode == 2
    assert [line.split(":")[0] for line in wrong.stderr.splitlines()] == ["SAM2_VARIENT", "PORT"]
