"""Helpers that make and read static exports."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from cloudvolume import from_cloudpath

from beam_jobs.precomputed import main
from l2features.core.ids import Ids, as_ids
from l2features.pictures.node_layers import NODE_LAYERS
from l2features.volume.sharded import morton_codes
from tests.support.jobs import Ran, run_job
from tests.support.precomputed_reader import Annotation, Decoder

SMALL = ("--shard_size", 20_000, "--cell_nodes", 100)
"""Options that give even a few nodes several levels and shards."""
ROUNDED_NM = 0.01
"""How far the middle of a line may be outside its cell, because its ends are float32."""


def run_export(
    config: Path, output: Path | str, version: int, *flags: object, processes: bool = False
) -> Ran:
    argv = ("--config", config, "--dataset", "sample", "--workers", 1, "--output", output)
    return run_job(main, *argv, "--version", version, *flags, processes=processes)


def values_of(folder: Path, sharding: dict[str, Any]) -> dict[int, bytes]:
    """Return the values in a folder of shards by key, as tensorstore reads them."""
    base = {"driver": "file", "path": f"{folder}/"}
    spec = {"driver": "neuroglancer_uint64_sharded", "base": base, "metadata": sharding}
    store = tensorstore.KvStore.open(spec).result()
    reads = {struct.unpack(">Q", key)[0]: store.read(key) for key in store.list().result()}
    return {key: bytes(read.result().value) for key, read in reads.items()}


@dataclass
class StaticLayer:
    """An annotation layer in a folder, read by tensorstore and decoded by `Decoder`."""

    path: Path

    def __post_init__(self) -> None:
        self.info = json.loads((self.path / "info").read_text())
        self.decoder = Decoder(self.info)

    def source(self) -> Any:
        return from_cloudpath(f"precomputed://file://{self.path}", progress=False)

    def values(self, index: dict[str, Any]) -> dict[int, bytes]:
        return values_of(self.path / index["key"], index["sharding"])

    def level(self, place: int) -> dict[int, dict[int, Annotation]]:
        """Return a level's annotations by cell; check each annotation's place and the level's ``limit``."""
        level = self.info["spatial"][place]
        grid = tuple(level["grid_shape"])
        cells = np.array(list(np.ndindex(*grid)))
        lower = dict(zip(morton_codes(cells, grid).tolist(), cells * level["chunk_size"], strict=True))
        found = {key: self.decoder.listed(body) for key, body in self.values(level).items()}
        assert max(map(len, found.values()), default=1) == level["limit"]
        for key, listed in found.items():
            points = np.array([annotation.points for annotation in listed.values()]).mean(axis=1)
            inside = points - lower[key] - self.info["lower_bound"]
            assert (inside > -ROUNDED_NM).all()
            assert (inside < np.add(level["chunk_size"], ROUNDED_NM)).all()
        return found

    def spatial(self) -> dict[int, Annotation]:
        """Return the annotations of all levels; check that each is in one cell."""
        every = [cell for place in range(len(self.info["spatial"])) for cell in self.level(place).values()]
        found = {node: annotation for cell in every for node, annotation in cell.items()}
        assert len(found) == sum(map(len, every))
        return found

    def by_id(self) -> dict[int, Annotation]:
        return {node: self.decoder.by_id(body) for node, body in self.values(self.info["by_id"]).items()}

    def related(self) -> dict[int, dict[int, Annotation]]:
        (relationship,) = self.info["relationships"]
        return {root: self.decoder.listed(body) for root, body in self.values(relationship).items()}


def by_root(roots: dict[int, int], nodes: Ids) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for node in as_ids(sorted(nodes.tolist())).tolist():
        found.setdefault(roots[node], []).append(node)
    return found


def uneven_indexes(output: Path, wanted: int) -> tuple[dict[str, list[int]], set[str]]:
    """Return the uneven indexes' shard sizes by index name, and the names of all indexes with several shards.

    An index with several shards is uneven if a shard's size differs from ``wanted`` bytes by more than 20%.
    """
    uneven, several = dict[str, list[int]](), set[str]()
    for layer in NODE_LAYERS:
        info = StaticLayer(output / layer).info
        for index in (info["by_id"], *info["relationships"], *info["spatial"]):
            name = f"{layer}/{index['key']}"
            sizes = [path.stat().st_size for path in (output / name).glob("*.shard")]
            if index["sharding"]["shard_bits"]:
                several.add(name)
                if not all(0.8 * wanted <= size <= 1.2 * wanted for size in sizes):
                    uneven[name] = sizes
    return uneven, several
