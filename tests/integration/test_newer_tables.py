"""Tests of a table in a newer format, which every command refuses and leaves unchanged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from l2features.config.datasets import load_datasets
from l2features.messages.outcomes import Fate
from l2features.messages.parts import Delivery
from l2features.updates.apply import apply_messages
from l2features.updates.updater import Update
from tests.support.command import run
from tests.support.ingest_jobs import run_ingest
from tests.support.updates import EDIT, edit

SAID = "table l2cache_sample in sqlite://{}/l2cache.db: nodes: format 9, expected 2 at most"


@pytest.fixture
def newer(config: Path) -> Path:
    with closing(sqlite3.connect(config.parent / "l2cache.db")) as db, db:
        db.execute("UPDATE formats SET version = 9 WHERE part = 'nodes'")
    return config


@pytest.mark.parametrize("command", [["status", "sample"], ["get", "sample", "144185625606619137"]])
def test_commands_that_read(newer: Path, command: list[str]) -> None:
    result = run(*command, "--config", newer)
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert SAID.format(newer.parent) in line


@pytest.mark.parametrize("flags", [(), ("--create",), ("--recompute",)])
def test_ingest(newer: Path, flags: tuple[str, ...]) -> None:
    before = (newer.parent / "l2cache.db").read_bytes()
    result = run_ingest(newer, *flags)
    assert result.returncode != 0
    assert SAID.format(newer.parent) in result.stderr
    assert "Traceback" not in result.stderr
    assert (newer.parent / "l2cache.db").read_bytes() == before


def test_an_updater_keeps_the_message_for_a_newer_version(newer: Path) -> None:
    with closing(Update(tuple(load_datasets(newer).values()), attempts=2, pause_s=0.01).open()) as updater:
        [outcome] = apply_messages(updater, [Delivery("a", edit(144185625606619137), EDIT)])["a"]
    assert (outcome.fate, outcome.ids.tolist()) == (Fate.FAILED, [144185625606619137])
    assert SAID.format(newer.parent) in outcome.detail
