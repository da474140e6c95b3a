"""Helpers of the freshness tests: a fixed time, invalid texts of the note ``updates``, and a `Recorder`."""

from __future__ import annotations

from datetime import UTC, datetime

from l2features.store.base import Store, open_store
from l2features.updates.freshness import Updates, read_updates
from l2features.updates.recorder import Recorder

NOW = 1_795_000_000.0
BAD_NOTES = [
    "",
    "nothing",
    "[]",
    "null",
    '{"updaters": 3}',
    '{"newest_operation": null, "newest_message": "0001-01-01T00:00:00+23:00", "updaters": []}',
]


def kept(store: Store) -> Updates:
    found = read_updates(store)
    assert found
    return found


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def recorder_of(store: Store, who: str = "") -> Recorder:
    return Recorder(lambda name: open_store(store.url, store.name, deadline_s=20), ["d"], who)
