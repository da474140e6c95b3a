"""Compare the updater with a reference that computes one id at a time.

Measurement (a) is compute time with a chunk in memory; (b) is the time of a burst of edits, from the first
publish until the last row is written.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.features import agrees
from benchmarks.nodes import EmChunk, measure
from benchmarks.plain_updates import PlainUpdater
from l2features.core.geometry import Chunk
from l2features.core.ids import as_ids
from l2features.store.base import Store, open_store
from l2features.testing.bars import Bar, begin, print_bars
from l2features.testing.em import (
    STORE_URL,
    TABLE,
    Crop,
    EditMessage,
    Editor,
    EmDataset,
    make_crops,
    make_dataset,
    read_labels,
    write_children,
    write_parents,
)
from l2features.testing.em_volume import em_parser
from l2features.testing.updating import TimedFeed, UpdaterProcess, emulators, wait_for_rows, warm_up

SIZE = (256, 256, 512)
GRID = (7, 3, 1)
"""Chunks along each axis; the last chunk serves to warm up."""
CROPS = 4
LEAST_NODE, LEAST_BURST = 20.0, 240.0
BURST_S = 1_800.0
EXAMPLES = """
Measures:
  (a) CPU time of one node in a chunk of 256 x 256 x 512 voxels in memory, on one core: ours (SegmentedChunk
      and group_features), and the reference (plain_worker.py: map supervoxels to nodes, edt.edt of the chunk,
      one node's statistics). The required ratio is for the median node.
  (b) wall time of 200 edits, a split and a merge each, that name 600 ids in 20 such chunks. Ours: from the
      first publish to the Pub/Sub emulator, for a warmed-up updater, until all rows are in the Bigtable
      emulator. Reference (plain_updates.py): for a sample of the same ids, half before and half after our
      run, it reads the chunk from the same files, maps it by the graph's table, computes as in (a) and writes
      the row. The reference's total is extrapolated: mean time per id, times number of ids, divided by number
      of processes. The rows of both are compared.

examples:
  python benchmarks/update.py
  python benchmarks/update.py --edits 50 --sample 4
"""


@dataclass
class Burst:
    """Result of a burst: seconds of the updater, mean seconds per id of the reference, whether rows agree."""

    edits: int
    ids: int
    ours_s: float
    plain_s: float
    sample: int
    millis: dict[str, float]
    agreed: bool


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = begin()
    crops = make_crops(read_labels(options.shared, SIZE[2]), SIZE, CROPS)
    console.print("\n(a) nodes of a chunk in memory")
    measured = measure(in_memory(crops[0]), 30, options.repeats)
    median, worst = measured.ratios[0], min(measured.ratios)
    bars = [
        Bar("(a) compute time of one new id, median node: plain / ours", median, LEAST_NODE),
        Bar("(a) the same, worst of those above: plain / ours", worst, None),
    ]
    console.print("\n(b) a burst of edits")
    burst = run_burst(crops, options)
    show(console, burst, options.workers)
    plain_s = burst.plain_s * burst.ids / options.workers
    bars.append(
        Bar(
            "(b) from publish to all rows durable: plain (extrapolated) / ours",
            plain_s / burst.ours_s,
            LEAST_BURST,
        )
    )
    agreed = measured.agreed and burst.agreed
    if not agreed:
        console.print("[red]rows of the updater and of the reference (plain) differ: see above")
    return 0 if print_bars(console, bars) and agreed else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = em_parser(__doc__, EXAMPLES)
    parser.add_argument("--edits", type=int, default=200, help="edits in the burst, 3 ids each; default 200")
    parser.add_argument("--sample", type=int, default=8, help="ids measured with the reference; default 8")
    parser.add_argument("--workers", type=int, default=2, help="processes of each updater; default 2")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the project's code in (a); default 5")
    return parser.parse_args(arguments)


def in_memory(crop: Crop) -> EmChunk:
    parents = dict(enumerate(crop.nodes.tolist(), 1))
    return EmChunk(crop.voxels.astype(np.uint64), parents)


def make_edits(dataset: EmDataset, chunks: Sequence[Chunk], n: int) -> list[EditMessage]:
    """Return ``n`` edits, each a split in a random chunk and a merge in the next chunk."""
    editor, order = Editor(dataset), np.random.default_rng(2).permutation(len(chunks)).tolist()
    after = list(zip(chunks, [*chunks[1:], chunks[0]], strict=True))
    pairs = itertools.islice(itertools.cycle([after[i] for i in order]), n)
    return [dataset.edit(editor.split(one) + editor.merge(other)) for one, other in pairs]


def run_burst(crops: list[Crop], options: argparse.Namespace) -> Burst:
    with tempfile.TemporaryDirectory() as name, emulators():
        folder = Path(name).resolve()
        with tqdm(
            total=int(np.prod(GRID)), unit="chunk", desc="segmentation", leave=False, disable=None
        ) as bar:
            dataset = make_dataset(folder, crops, GRID, bar.update)
        *chunks, spare = dataset.chunks
        edits = make_edits(dataset, chunks, options.edits)
        write_children(dataset.children)
        ids = [node for edit in edits for node in edit.ids]
        sample = np.random.default_rng(3).choice(as_ids(ids), options.sample, replace=False).tolist()
        for chunk in {
            Chunk(*xyz) for xyz in dataset.geometry.layout.chunk_coordinates(as_ids(sample)).tolist()
        }:
            write_parents(dataset, chunk)
        store = open_store(STORE_URL, TABLE)
        plain, half = PlainUpdater(dataset), len(sample) // 2
        began = time.perf_counter()
        rows = [plain.handle(node) for node in tqdm(sample[:half], unit="id", leave=False, disable=None)]
        plain_s = time.perf_counter() - began
        ours_s = burst_of_ours(dataset, edits, spare, store, options.workers)
        began = time.perf_counter()
        rows += [plain.handle(node) for node in tqdm(sample[half:], unit="id", leave=False, disable=None)]
        plain_s = (plain_s + time.perf_counter() - began) / len(sample)
        ours = [store.read(as_ids([node])).features for node in sample]
        agreed = all(map(agrees, ours, rows))
        plain.close()
        store.close()
    return Burst(len(edits), len(ids), ours_s, plain_s, len(sample), plain.millis, agreed)


def burst_of_ours(
    dataset: EmDataset, edits: Sequence[EditMessage], spare: Chunk, store: Store, workers: int
) -> float:
    """Publish the edits for a warmed-up updater; return the seconds until all rows exist."""
    folder, feed = dataset.config.parent, TimedFeed()
    ids = [node for edit in edits for node in edit.ids]
    with UpdaterProcess(dataset.config, feed, folder / "dead", folder / "updater.log", workers) as updater:
        warm_up(dataset, [spare], feed, store, updater)
        time.sleep(5)
        began = time.perf_counter()
        feed.publish_all(edits)
        return wait_for_rows(store, ids, updater, BURST_S) - began


def show(console: Console, burst: Burst, workers: int) -> None:
    per_id = burst.plain_s * burst.ids / workers
    steps = ", ".join(f"{step} {ms / burst.sample / 1e3:.2f}" for step, ms in burst.millis.items())
    console.print(
        f"ours, measured: {burst.edits} edits, {burst.ids} ids, all rows after {burst.ours_s:.2f} s"
    )
    console.print(f"plain, measured: {burst.plain_s:.2f} s an id, on average of {burst.sample} ({steps})")
    console.print(f"plain, extrapolated to {burst.ids} ids and {workers} processes: {per_id:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
