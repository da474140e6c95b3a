"""Hostile messages with their expected reason codes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2features.messages.decoding import Reason
from l2features.testing.em import GRAPH, TABLE, EmDataset

EDIT = {"table_id": GRAPH, "user_id": "1", "remesh_priority": "true", "remesh": "true"}
MISSING = {"table_id": GRAPH, "l2_cache_id": TABLE}
UNKNOWN = 1_000_000
"""Number of a node that no chunk has."""


@dataclass(frozen=True)
class Hostile:
    """A message and its expected reason code; None for the empty message, which the updater drops."""

    name: str
    data: bytes
    attributes: Mapping[str, str]
    reason: Reason | None


class _Command:
    """Calls os.system when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


def pickles(random: np.random.Generator, marker: Path) -> Iterator[Hostile]:
    """Yield edits with malicious or broken payloads, all different. Code in them would touch ``marker``."""
    salt = random.bytes(8)
    good = pickle.dumps({"operation_id": 1, "new_lvl2_ids": [1, 2, 3], "salt": salt})
    for name, data in {
        "a pickle that calls os.system": pickle.dumps([_Command(marker), salt]),
        "the same, of protocol 0": b"(cos\nsystem\nS'touch %s'\no." % str(marker).encode() + salt,
        "a bomb: lists of lists, each twice": _nested_twice(salt),
        "a bomb: lists in lists": b"]" * 100_000 + b"a" * 99_999 + salt.hex().encode() + b".",
        "a bomb: a number of a million digits": b"L" + b"9" * 1_000_000 + b"%dL\n." % salt[0],
        "a truncated pickle": good[: len(good) // 2],
        "random bytes": random.bytes(1_000),
    }.items():
        yield Hostile(name, data, EDIT, Reason.BAD_PICKLE)


def _nested_twice(salt: bytes) -> bytes:
    """Return a pickle of 200 nested lists. Each holds the next one twice, so a copy has 2^200 lists."""
    value: list[Any] = [salt]
    for _ in range(200):
        value = [value, value]
    return pickle.dumps({"operation_id": 1, "new_lvl2_ids": value})


def wrong_ids(dataset: EmDataset, random: np.random.Generator) -> Iterator[Hostile]:
    """Yield edits and a missing-ids message whose ids are not L2 nodes, and two malformed edits."""
    layout = dataset.geometry.layout
    x, y, z = dataset.geometry.grid
    chunk, number = layout.chunk_id(0, 0, 0), int(random.integers(1, UNKNOWN))
    for name, node, reason in (
        ("an id of layer 3", (3 << 56) + number, Reason.OTHER_LAYER),
        ("a supervoxel", layout.chunk_id(0, 0, 0, layer=1) + number, Reason.OTHER_LAYER),
        ("an id outside the grid", layout.chunk_id(x, y, z) + number, Reason.OUTSIDE_GRID),
        ("a chunk's id", chunk, Reason.NO_SEGMENT),
        ("a negative id", -number, Reason.OUT_OF_RANGE),
        ("an id of 2^64 and more", (1 << 64) + number, Reason.OUT_OF_RANGE),
        ("a text", str(number), Reason.NOT_AN_INTEGER),
        ("a float", number + 0.5, Reason.NOT_AN_INTEGER),
        ("None", None, Reason.NOT_AN_INTEGER),
        ("a list among the ids", [number], Reason.NOT_AN_INTEGER),
    ):
        edit = {"operation_id": number, "new_lvl2_ids": [node]}
        yield Hostile(name, pickle.dumps(edit), EDIT, reason)
    raw = np.array([(3 << 56) + number], "<u8").tobytes()
    yield Hostile("a missing id of layer 3", raw, MISSING, Reason.OTHER_LAYER)
    yield Hostile("no dictionary", pickle.dumps([number]), EDIT, Reason.BAD_EDIT)
    yield Hostile("a dictionary without ids", pickle.dumps({"operation_id": number}), EDIT, Reason.BAD_EDIT)


def strange(random: np.random.Generator) -> Iterator[Hostile]:
    """Messages whose attributes or length are wrong, and one that is empty."""
    ids = random.integers(1, 1 << 56, 4).astype("<u8").tobytes()  # whose last byte is not that of a pickle
    yield Hostile("no attributes", ids, {}, Reason.NO_TABLE)
    yield Hostile("a table that nobody knows", ids, {"table_id": "nowhere"}, Reason.UNKNOWN_TABLE)
    yield Hostile("random bytes as missing ids", random.bytes(1_001), MISSING, Reason.BAD_LENGTH)
    yield Hostile("an empty message", b"", MISSING, None)


def unknown_node(dataset: EmDataset, random: np.random.Generator) -> Hostile:
    """An edit of a node that the graph does not know: refused only after some attempts."""
    node = dataset.geometry.layout.chunk_id(0, 0, 0) + UNKNOWN + int(random.integers(1, UNKNOWN))
    edit = {"operation_id": 1, "new_lvl2_ids": [node]}
    return Hostile("a node that the graph does not know", pickle.dumps(edit), EDIT, Reason.UNKNOWN_NODE)


def large(megabytes: float, random: np.random.Generator) -> Hostile:
    """Return an edit whose payload is a valid pickle of some MB of zeros."""
    n = int(megabytes * 1e6)
    data = pickle.dumps({"operation_id": 1, "new_lvl2_ids": [], "salt": random.bytes(8), "zeros": bytes(n)})
    return Hostile(f"a payload of {megabytes:g} MB", data, EDIT, Reason.TOO_LARGE)
