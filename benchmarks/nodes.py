"""Compare the speed of computing one node's features with a reference that processes the whole chunk."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.features import agrees, split_up
from benchmarks.plain_worker import plain_node
from l2features.kernel import SegmentedChunk, group_features, warm_up
from l2features.testing.em_volume import em_parser, make_neuropil, read_em

SHAPE = (256, 256, 512)
RESOLUTION = (16, 16, 40)
PERCENTILES = (50, 90, 99, 100)
ROW = "{:<24}{:>12}{:>12}{:>12}{:>9}"
EXAMPLES = """
Measures, on one core, with the volume (256 x 256 x 512 voxels, uint64 supervoxels) in memory:
  ours      SegmentedChunk(volume), and group_features of the node's own supervoxels
  plain     the reference (plain_worker.py): map supervoxels, edt.edt of the chunk, one node's statistics
Nodes are chosen by size, from the median to the largest; then a batch of many nodes is measured.

examples:
  python benchmarks/nodes.py
  python benchmarks/nodes.py --batch 30 --repeats 5
"""


@dataclass
class EmChunk:
    """A chunk in memory: the volume of supervoxels, and the node of each supervoxel (``parents``)."""

    volume: np.ndarray
    parents: dict[int, int]

    @functools.cached_property
    def children(self) -> dict[int, list[int]]:
        children: dict[int, list[int]] = {}
        for supervoxel, node in self.parents.items():
            children.setdefault(node, []).append(supervoxel)
        return children


@dataclass
class Measured:
    """Whether all compared rows are equal; the reference's time divided by ours, for each single node."""

    agreed: bool
    ratios: list[float]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return 0 if measure(load_chunk(options.shared), options.batch, options.repeats).agreed else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = em_parser(__doc__, EXAMPLES)
    parser.add_argument("--batch", type=int, default=30, help="nodes in the batch; default 30")
    parser.add_argument("--repeats", type=int, default=5, help="runs; the reference runs twice; default 5")
    return parser.parse_args(arguments)


def load_chunk(shared: Path) -> EmChunk:
    """Return a crop of the EM volume, with supervoxels cut at every 32nd voxel along z.

    Without the EM volume, uses a synthetic volume.
    """
    path = shared / "data" / "connectomics.npy.ckl.gz"
    if not path.is_file():
        print(f"no EM volume at {path}: a synthetic one is used", file=sys.stderr)
    labels = read_em(path)[tuple(map(slice, SHAPE))] if path.is_file() else make_neuropil(SHAPE)
    volume, mask = split_up(np.asfortranarray(labels))
    ids = SegmentedChunk(volume).ids
    return EmChunk(volume, dict(zip(ids.tolist(), (ids & mask).tolist(), strict=True)))


def measure(chunk: EmChunk, batch: int, repeats: int) -> Measured:
    """Print our times and the reference's, for single nodes and for a batch; return the comparison."""
    warm_up()
    segmented = SegmentedChunk(chunk.volume)
    rows = segmented.features([chunk.parents[i] for i in segmented.ids.tolist()], RESOLUTION)
    order = rows[np.argsort(rows["size_nm3"], kind="stable")]
    print(f"{len(rows)} nodes of {len(segmented.ids)} supervoxels; best of {repeats}, in ms")
    print(ROW.format("", "voxels", "ours", "plain", "ratio"))
    agreed, plain_s, ratios = True, [], []
    for percent in PERCENTILES:
        row = order[(len(order) - 1) * percent // 100]
        node = int(row["label"])
        ours_s, ours = best(functools.partial(ours_of, chunk, [node]), repeats)
        seconds, plain = best(functools.partial(plain_node, chunk.volume, chunk.parents, node, RESOLUTION), 2)
        plain_s.append(seconds)
        ratios.append(seconds / ours_s)
        agreed &= agrees(ours, plain)
        show(f"one node, {percent} % in size", int(row["size_nm3"]), ours_s, seconds)
    chosen = np.random.default_rng(0).choice(rows["label"], min(batch, len(rows)), replace=False)
    ours_s, ours = best(functools.partial(ours_of, chunk, chosen.tolist()), repeats)
    agreed &= ours.tobytes() == rows[np.isin(rows["label"], chosen)].tobytes()
    voxels = int(ours["size_nm3"].sum())
    show(f"{len(chosen)} nodes in a batch", voxels, ours_s, min(plain_s) * len(chosen))
    print("plain for a batch: the shortest time of plain above, multiplied by the number of nodes")
    return Measured(agreed, ratios)


def ours_of(chunk: EmChunk, nodes: list[int]) -> np.ndarray:
    """Return the rows of these nodes, computed from the chunk's volume."""
    groups = {node: chunk.children[node] for node in nodes}
    return group_features(SegmentedChunk(chunk.volume), groups, RESOLUTION)


def best(call: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    """Return the shortest CPU time of ``repeats`` calls in seconds, and the result of the last call."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        result = call()
        times.append(time.process_time() - began)
    return min(times), result


def show(what: str, voxels: int, ours_s: float, plain_s: float) -> None:
    numbers = (f"{voxels:,}", f"{ours_s * 1e3:.1f}", f"{plain_s * 1e3:.0f}", f"{plain_s / ours_s:.0f}x")
    print(ROW.format(what, *numbers))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
