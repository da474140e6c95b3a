"""Chains of versions of random roots: a fresh version, then renewals, each based on the one before."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from l2features.core.ids import Ids
from l2features.testing.version_files import NodeRows, VersionWriter
from l2features.versions.folders import Folder
from l2features.versions.manifest import Manifest
from tests.support.known_roots import FIRST_ROOT, GEOMETRY, features_in_chunks

ROOTS, NODES = 40, 300


class Chain(NamedTuple):
    folder: Folder
    manifests: list[Manifest]


def node_ids(count: int, seed: int = 0) -> Ids:
    """Return distinct, sorted L2 ids in random chunks."""
    rng = np.random.default_rng(seed)
    chunks = GEOMETRY.layout.chunk_id_array(rng.integers(0, GEOMETRY.grid, (count, 3)))
    return np.sort(chunks + np.arange(1, count + 1, dtype=np.uint64))


def write_chain(
    path: Path, renewals: int = 2, seed: int = 0, parts: int = 3, group_rows: int = 17, nodes: int = NODES
) -> Chain:
    """Write a fresh version, then renewals. Each renewal moves most nodes of some roots to new roots."""
    files, manifests = _files(renewals, seed, parts, group_rows, nodes)
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return Chain(Folder(str(path)), list(manifests))


@lru_cache(32)
def _files(
    renewals: int, seed: int, parts: int, group_rows: int, nodes: int
) -> tuple[dict[str, bytes], list[Manifest]]:
    with TemporaryDirectory() as folder:
        manifests = _write(Path(folder), renewals, seed, parts, group_rows, nodes)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}, manifests


def _write(path: Path, renewals: int, seed: int, parts: int, group_rows: int, nodes: int) -> list[Manifest]:
    rng, folder = np.random.default_rng(seed), Folder(str(path))
    writer = VersionWriter(folder, GEOMETRY, parts, group_rows)
    ids = node_ids(nodes, seed)
    features = features_in_chunks(ids, seed)
    # one root has a fifth of all nodes
    owners = rng.integers(0, ROOTS, nodes) * (rng.random(nodes) > 0.2)
    roots = np.uint64(FIRST_ROOT + 1) + owners.astype(np.uint64)
    missing = np.flatnonzero(rng.random(nodes) < 0.1)
    manifests = [writer.write(1, NodeRows.of(roots, features, missing))]
    for number in range(2, renewals + 2):
        known = np.unique(roots)
        retired = rng.choice(known, rng.integers(0, 1 + len(known) // 3), replace=False)
        moved = np.isin(roots, retired)
        fresh = np.uint64(FIRST_ROOT + 1 + number * 1000) + rng.integers(0, 6, moved.sum()).astype(np.uint64)
        # some nodes are superseded: they are in no root since
        stay = rng.random(len(fresh)) > 0.1
        keep = ~moved
        keep[np.flatnonzero(moved)[stay]] = True
        roots[moved] = fresh
        added = np.flatnonzero(moved)[stay]
        late = np.intersect1d(missing, added)
        manifests.append(
            writer.write(
                number,
                NodeRows.of(roots[added], features[added], np.flatnonzero(np.isin(added, late))),
                base=number - 1,
                retired=retired,
            )
        )
        ids, roots, features = ids[keep], roots[keep], features[keep]
        missing = np.flatnonzero(np.isin(np.flatnonzero(keep), missing))
    return manifests
