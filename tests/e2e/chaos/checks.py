"""Final checks of the chaos test: the tables' rows and the dead letters are as expected."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2features.core.errors import message_of
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids, row_keys
from l2features.core.rows import encode_cells
from l2features.pubsub.letter_folder import LetterFolder
from l2features.pubsub.subscription import Subscription
from l2features.testing.oracle import check_equal, plain_features
from tests.e2e.chaos.messages import Parcel
from tests.e2e.chaos.world import INSTANCE, PROJECT, World

SHOWN = 5
ORACLE_NODES = 100
"""Number of true rows that are compared with the reference computation."""


@dataclass
class Check:
    """A check, and its failures as text; passed if empty."""

    question: str
    wrong: list[str] = field(default_factory=list)
    answer: str = ""

    @property
    def passed(self) -> bool:
        return not self.wrong


def check_rows(world: World, name: str) -> list[Check]:
    """Check that a data set's table has exactly the expected rows, with one version of each cell."""
    truth, there = _true_cells(world, name), _cells_there(world.targets[name].l2cache_id)
    missing = sorted(truth.keys() - there.keys())
    wrong = [key for key in truth.keys() & there.keys() if [(q, v) for q, v, _ in there[key]] != truth[key]]
    again = [key for key, cells in there.items() if any(versions > 1 for _, _, versions in cells)]
    named = {key for edit in world.targets[name].edits for key in row_keys(as_ids(edit.new_l2_ids))}
    rows = f"{len(truth):,} nodes, {len(named):,} of them named by messages"
    return [
        Check(f"{name}: ids missing", _keys(missing), rows),
        Check(f"{name}: rows with wrong bytes", _keys(wrong), rows),
        Check(f"{name}: cells with several versions", _keys(again)),
        Check(f"{name}: rows of what is no node", _keys(there.keys() - truth.keys())),
    ]


def check_truth(world: World, random: np.random.Generator) -> Check:
    """Check the expected rows of random nodes against `plain_features`, the reference computation."""
    check = Check("truth: rows that differ from the plain oracle", answer=f"{ORACLE_NODES} nodes by it")
    for graph in world.graphs.values():
        nodes = list(graph.children.items())
        for i in random.permutation(len(nodes))[: ORACLE_NODES // 2]:
            node, supervoxels = nodes[i]
            chunk = Chunk(*graph.geometry.layout.chunk_coordinates(as_ids([node]))[0].tolist())
            mask = world.segmentation.mask(chunk, node, supervoxels)
            row = world.segmentation.true_row(node, supervoxels)
            try:
                check_equal(row, plain_features(mask, graph.geometry.resolution))
            except AssertionError as error:
                check.wrong.append(f"{node}: {message_of(error)}")
    return check


def check_audit(world: World, name: str) -> Check:
    done = world.run("audit", "--dataset", name, "--workers", "1")
    complete = done.returncode == 0 and "\ncomplete" in done.stdout
    said = " ".join(done.stdout.split())
    return Check(f"{name}: audit", [] if complete else [f"status {done.returncode}: {said}"], "complete")


def check_letters(folder: Path, parcels: Iterable[Parcel]) -> list[Check]:
    """Check that each poison message has a dead letter with its reason and ids, and that no others exist."""
    expected = {parcel.letter_name: parcel for parcel in parcels if parcel.reason}
    letters = {letter.name: letter for _, letter in LetterFolder(folder).letters()} if folder.is_dir() else {}
    wrong = []
    for name in sorted(expected.keys() & letters.keys()):
        letter, parcel = letters[name], expected[name]
        if letter.reasons != [parcel.reason] or tuple(letter.ids) != parcel.bad_ids:
            wrong.append(f"{name}: {letter.reasons} of {letter.ids}, expected {parcel.reason}")
    others = [f"{name}: {letters[name].refusals}" for name in sorted(letters.keys() - expected.keys())]
    kinds = f"{len(expected)} messages, {len({parcel.reason for parcel in expected.values()})} reasons"
    absent = [f"{name}: {expected[name].reason}" for name in sorted(expected.keys() - letters.keys())]
    return [
        Check("dead letters: poison without", absent, kinds),
        Check("dead letters: with another reason or other ids", wrong),
        Check("dead letters: of what is no poison", others),
    ]


def messages_left(subscriptions: Sequence[str], seconds: float) -> list[str]:
    """Return the ids of messages delivered within some seconds, and nack them."""
    left = []
    until = time.monotonic() + seconds
    opened = [Subscription(path) for path in subscriptions]
    held: dict[str, list[str]] = {path: [] for path in subscriptions}
    while time.monotonic() < until:
        for subscription in opened:
            for message in subscription.pull(1_000, 1.0):
                left.append(f"{message.message_id} of {message.attributes.get('table_id')}")
                held[subscription.path].append(message.ack_id)
    for subscription in opened:
        subscription.lease(held[subscription.path], 0)
        subscription.close()
    return left


def _true_cells(world: World, name: str) -> dict[bytes, list[tuple[bytes, bytes]]]:
    children = world.graphs[name].children
    rows = np.concatenate([world.segmentation.true_row(node, own) for node, own in children.items()])
    cells = (sorted(row) for row in encode_cells(rows))
    return dict(zip(row_keys(rows["label"]), cells, strict=True))


def _cells_there(table_name: str) -> dict[bytes, list[tuple[bytes, bytes, int]]]:
    """Read each node's cells without our reader: sorted (qualifier, newest value, number of versions)."""
    from google.cloud.bigtable.data import BigtableDataClient, ReadRowsQuery

    table: Any = BigtableDataClient(project=PROJECT).get_table(INSTANCE, table_name)
    rows: dict[bytes, list[tuple[bytes, bytes, int]]] = {}
    for row in table.read_rows(ReadRowsQuery()):
        if row.row_key.isdigit():
            versions: dict[bytes, list[bytes]] = {}
            for cell in row.cells:
                versions.setdefault(cell.qualifier, []).append(cell.value)
            rows[row.row_key] = sorted((key, values[0], len(values)) for key, values in versions.items())
    return rows


def _keys(keys: Iterable[bytes]) -> list[str]:
    return [key.decode().lstrip("0") for key in sorted(keys)]
