"""The audit fails on a known weakness, and claims nothing where the index does not answer."""

from __future__ import annotations

from deploy.audit import verdict


def test_a_weakness_fails_it():
    weak = {"name": "flask", "version": "0.1", "vulns": [{"id": "PYSEC-1"}]}
    code, text = verdict({"dependencies": [weak, {"name": "av", "version": "1", "vulns": []}]})
    assert code == 1
    assert "flask 0.1: PYSEC-1" in text


def test_none_is_said_with_how_many_were_asked_about():
    known = {"name": "av", "version": "1", "vulns": []}
    unknown = {"name": "x", "skip_reason": "not found"}
    code, text = verdict({"dependencies": [known, unknown]})
    assert (code, text) == (0, "1 of 2 packages audited, 0 with known weaknesses")


def test_silence_is_no_clean_bill():
    code, text = verdict({"dependencies": [{"name": "x", "skip_reason": "not found"}]})
    assert code == 0
    assert text.startswith("NOT AUDITED")
