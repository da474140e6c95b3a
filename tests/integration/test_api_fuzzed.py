"""Tests of the server with requests that Schemathesis generates from the OpenAPI document."""

from __future__ import annotations

from pathlib import Path

from tests.support.fuzz_api import fuzz


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    ran = fuzz(tmp_path, examples=15, arguments=["--seed", "1"])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "35 selected / 35 total" in ran.stdout
    assert "No issues found" in ran.stdout
    assert "⚠" not in ran.stdout
