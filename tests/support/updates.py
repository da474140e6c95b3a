"""Helpers of the update tests: edits, an updater of the configured data sets, and a faulty node source."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l2features.config.datasets import load_datasets
from l2features.core.geometry import Chunk
from l2features.core.ids import Ids
from l2features.core.rows import Rows
from l2features.ingest.node_features import NodeFeatures, NodeSource
from l2features.messages.outcomes import Outcome
from l2features.testing.stores import chunk_rows
from l2features.updates.updater import Update, Updater

EDIT = {"table_id": "sample", "remesh": "true"}


@pytest.fixture
def updater(config: Path) -> Iterator[Updater]:
    updater = Update(tuple(load_datasets(config).values()), attempts=2, pause_s=0.01).open()
    yield updater
    updater.close()


def rows_of(updater: Updater, chunk: Chunk) -> Rows:
    return chunk_rows(updater.store("sample"), chunk)


def edit(*ids: Any) -> bytes:
    return pickle.dumps({"operation_id": 1, "new_lvl2_ids": [int(i) for i in ids]})


def fates(outcomes: list[Outcome]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for outcome in outcomes:
        found[outcome.fate] = sorted([*found.get(outcome.fate, []), *outcome.ids.tolist()])
    return found


class Faulty:
    """A node source that first calls ``before``, which may raise. If it returns None, ``source`` computes."""

    def __init__(self, source: NodeSource, before: Any) -> None:
        self.source, self.before = source, before
        self.asked: list[list[int]] = []

    def compute(self, chunk: Chunk, ids: Ids) -> NodeFeatures:
        self.asked.append(ids.tolist())
        return self.before(ids) or self.source.compute(chunk, ids)

    def close(self) -> None:
        self.source.close()


def faulty(updater: Updater, before: Any) -> Faulty:
    stand_in = Faulty(updater._source("sample"), before)
    updater._sources["sample"] = stand_in  # type: ignore[assignment]
    return stand_in
