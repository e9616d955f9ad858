"""Settings: defaults, parsing, one clear line for each impossible value, no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.settings import MIB, Settings, SettingsError


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
        }
    )
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
        ("CLICK_BUDGET_SECONDS", "-1"),
        ("CLICK_BUDGET_SECONDS", "nan"),
        ("S3_ANONYMOUS", "perhaps"),
    ],
)
def test_an_impossible_value_is_named(variable, value):
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({variable: value})
    assert str(caught.value).startswith(f"{variable}: ")
    assert "\n" not in str(caught.value)


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
