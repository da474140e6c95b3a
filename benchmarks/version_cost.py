"""Measure what it costs to materialize a version; extrapolate bytes, time and memory to whole data sets.

Bytes are measured on EM chunks, core-seconds on a synthetic graph in the Bigtable emulator. Time and
memory of each stage of `beam_jobs.materialize` are measured separately, at the scale of a version of
10 million chunks and 10 billion nodes. Prints Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import materialize
from benchmarks.cost import VOLUMES
from l2features.config.datasets import Dataset
from l2features.core.chunks import ChunkBox, whole_box
from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout, as_ids
from l2features.graph.base import NodeRoots
from l2features.kernel import SegmentedChunk
from l2features.testing.em import RESOLUTION, make_crops, read_labels
from l2features.testing.em_volume import em_parser
from l2features.versions.folders import Folder
from l2features.versions.manifest import BY_NODE, BY_ROOT, ROOTS, Layer, Manifest, Totals, VersionFile
from l2features.versions.materialization import Materialization, divided
from l2features.versions.node_rows import NODE_ROW
from l2features.versions.partitions import Partition, PartitionWriter, Written, divide
from l2features.versions.plan import BLOCK, PARTITION_ROWS, UNIT_ROWS, Plan
from l2features.versions.units import Units, block_grid

CHUNK = (256, 256, 512)
GRID = (250, 400, 100)
"""Chunks along each axis, 10,000,000 in all."""
NODES_A_CHUNK, NODES_A_ROOT = 1_000, 50
GIANT = 1_000_000
GEOMETRY = Geometry(
    (16, 16, 40), (0, 0, 0), (GRID[0] * 256, GRID[1] * 256, GRID[2] * 512), CHUNK, IdLayout({1: 10, 2: 10})
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLES = """
examples:
  python benchmarks/version_cost.py > benchmarks/version_cost.md
  python benchmarks/version_cost.py --machines 400 --gb_month 0.023
"""


@dataclass
class Measured:
    """``by_root`` and ``by_node``: bytes per node in a version's files of these layouts. ``roots``: bytes per
    root. ``nodes``: EM nodes per chunk. ``core_s``: core-seconds per million nodes."""

    by_root: float
    by_node: float
    roots: float
    nodes: float
    core_s: float


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    measured = measure(options)
    lines = [*measured_text(measured), "", *table_text(measured, options), "", *scale_text()]
    print("\n".join(lines))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = em_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--roots", type=int, default=4_000, help="roots (of 50 nodes) in the synthetic graph; default 4,000")
    add("--machines", type=int, default=100, help="machines of 4 vCPUs; default 100")
    add("--busy", type=float, default=0.5, help="share of its time for which a vCPU computes; default 0.5")
    add("--vcpu_hour", type=float, default=0.056, help="US dollars per hour of a vCPU; default 0.056")
    add("--gb_month", type=float, default=0.02, help="US dollars per month of a GB in a bucket; default 0.02")
    return parser.parse_args(arguments)


# ------------------------------------------------------------------ measured
def measure(options: argparse.Namespace) -> Measured:
    """Measure the file sizes of a version of EM nodes, and core-seconds by running the materialize job."""
    rows, chunks = em_rows(options.shared)
    with tempfile.TemporaryDirectory() as folder:
        writer = PartitionWriter(Folder(folder), GEOMETRY, 1)
        files = [
            file
            for layout in (BY_ROOT, BY_NODE)
            for file in writer.write(Partition(layout, 0), lambda: [rows]).files
        ]
    sizes = {file.layout: file.bytes / file.rows for file in files}
    return Measured(
        sizes[BY_ROOT], sizes[BY_NODE], sizes[ROOTS], len(rows) / chunks, core_seconds(options.roots)
    )


def em_rows(shared: Path) -> tuple[np.ndarray, int]:
    """Return a tuple: the nodes of EM chunks with random roots, dtype `NODE_ROW`; the number of chunks."""
    crops, random = make_crops(read_labels(shared, CHUNK[2]), CHUNK, 4), np.random.default_rng(0)
    parts = []
    for x, crop in enumerate(crops):
        ids = np.uint64(GEOMETRY.layout.chunk_id(x, 0, 0)) + np.concatenate([[0], crop.nodes]).astype(
            np.uint64
        )
        segmented = SegmentedChunk(crop.voxels)
        parts.append(segmented.features(ids[segmented.ids], RESOLUTION))
    features = np.concatenate(parts)
    rows = np.zeros(len(features), dtype=NODE_ROW)
    rows["features"], rows["present"] = features, True
    rows["root"] = (5 << 56) + random.integers(1, len(rows) // NODES_A_ROOT, len(rows))
    return rows, len(crops)


def core_seconds(roots: int) -> float:
    """Run the materialize job on ``roots`` roots; return core-seconds per million nodes, minus start-up."""
    options, sizes = materialize.parse([f"--roots={roots}"]), [materialize.NODES_PER_ROOT] * roots
    with materialize.started(sizes, options, Console(stderr=True)) as (bench, _, _):
        fresh = bench.materialize("versions", materialize.BEFORE)
        empty = bench.materialize("part", materialize.BEFORE, materialize.ONE_CHUNK)
    return (fresh.core_seconds - empty.core_seconds) / sum(sizes) * 1e6


def measured_text(m: Measured) -> list[str]:
    return [
        "| measured | |",
        "|---|---|",
        f"| bytes a node, `by_root` | {m.by_root:.0f} |",
        f"| bytes a node, `by_node` | {m.by_node:.0f} |",
        f"| bytes a root, `roots` ({NODES_A_ROOT} nodes) | {m.roots:.0f} |",
        f"| nodes a chunk of {' × '.join(map(str, CHUNK))} voxels of EM | {m.nodes:,.0f} |",
        f"| core-seconds a million nodes, without start-up | {m.core_s:,.0f} |",
    ]


def table_text(m: Measured, options: argparse.Namespace) -> list[str]:
    """Return the lines of the Markdown table of costs, with a column per data set."""
    columns = []
    for volume in VOLUMES:
        nodes = volume.chunks * prod(volume.size) / prod(CHUNK) * m.nodes
        hours = nodes / 1e6 * m.core_s / 3600
        machine_hours = hours / 4 / options.busy
        gb = nodes * (m.by_root + m.by_node + m.roots / NODES_A_ROOT) / 1e9
        columns.append(
            {
                "nodes": f"{nodes / 1e6:,.0f} M",
                "core-hours": f"{hours:,.0f}",
                f"minutes with {options.machines} machines": f"{60 * machine_hours / options.machines:,.0f}",
                "files of 260 MB": f"{2 * ceil(nodes / PARTITION_ROWS):,}",
                "`by_root`, `by_node`": f"{nodes * m.by_root / 1e9:,.0f}, {nodes * m.by_node / 1e9:,.0f} GB",
                "`roots`": f"{nodes / NODES_A_ROOT * m.roots / 1e9:,.1f} GB",
                "shuffled on Dataflow": f"{2 * nodes * NODE_ROW.itemsize / 1e9:,.0f} GB",
                "vCPUs of a fresh version": f"${hours / options.busy * options.vcpu_hour:,.2f}",
                "storage of a month": f"${gb * options.gb_month:,.2f}",
            }
        )
    return [
        f"Prices: a vCPU hour ${options.vcpu_hour:g}, a GB-month ${options.gb_month:g}. "
        f"A vCPU computes {options.busy:.0%} of its time.",
        "",
        f"| | {' | '.join(volume.name for volume in VOLUMES)} |",
        "|---" * (len(VOLUMES) + 1) + "|",
        *(f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]),
    ]


# ------------------------------------------------------------------ at scale
def scale_text() -> list[str]:
    """Run each stage of the job in a separate process; return the Markdown table of time and memory."""
    stages: dict[str, Callable[[], str]] = {
        "launcher: plan": launcher,
        f"scan: a block of {UNIT_ROWS:,} nodes": scan,
        f"write: a partition of {PARTITION_ROWS:,} nodes": write,
        f"write: one root of {GIANT:,} nodes": write_giant,
        "manifest, written and read": manifest,
    }
    lines = [
        f"{prod(GRID):,} chunks of {NODES_A_CHUNK:,} nodes, and {NODES_A_ROOT} nodes a root:",
        "",
        "| stage | seconds | peak memory, of which imports | |",
        "|---|---|---|---|",
    ]
    for name, stage in stages.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, before, peak, what = pool.apply(_observed, (stage,))
        lines.append(f"| {name} | {seconds:.1f} | {peak:,.0f} MB, {before:,.0f} MB | {what} |")
    return lines


def _observed(stage: Callable[[], str]) -> tuple[float, float, float, str]:
    before, start = _peak_mb(), time.perf_counter()
    what = stage()
    return time.perf_counter() - start, before, _peak_mb(), what


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s*(\d+)", status, re.MULTILINE)[0]) / 1024


class _SampledUnits(Units):
    """Units of work without a graph: each chunk has `NODES_A_CHUNK` nodes with random roots."""

    def open(self) -> Any:
        return _SampledNodes()


class _SampledNodes:
    random = np.random.default_rng(0)

    def nodes_in(self, box: ChunkBox) -> NodeRoots:
        n = len(box) * NODES_A_CHUNK
        return NodeRoots(
            as_ids(range(n)), self.random.integers(5 << 56, (5 << 56) + (1 << 32), n, dtype=np.uint64)
        )

    def close(self) -> None:
        pass


def plan_at_scale() -> tuple[Units, Plan]:
    """Return the units of work and the plan, with partition bounds, of a version of 10,000,000 chunks."""
    dataset = Dataset(
        name="large",
        cv_path="precomputed://gs://bucket/large",
        l2cache_id="large",
        store="bigtable://project/instance",
        graph="bigtable://project/instance/large",
    )
    box = whole_box(GRID)
    about = {"dataset": "large", "l2cache_id": "large", "graph_id": "large", "cv_path": dataset.cv_path}
    plan = Plan(number=1, timestamp=NOW, box=str(box), units=prod(block_grid(box, BLOCK)), **about)
    units = _SampledUnits(dataset, GEOMETRY, NOW, plan)
    return units, divided(units)


def launcher() -> str:
    import apache_beam as beam

    from beam_jobs.materialize_pipeline import build, unit_shards

    units, plan = plan_at_scale()
    run = Materialization(replace(units, plan=plan), "gs://bucket/versions")
    pipeline = beam.Pipeline()
    build(pipeline, run)
    size = len(pipeline.to_runner_api().SerializeToString())
    return (
        f"{plan.units:,} blocks in {sum(1 for _ in unit_shards(run)):,} shards; "
        f"{len(plan.root_bounds) + len(plan.node_bounds) + 2:,} partitions; "
        f"plan.json {len(plan.model_dump_json()) / 1e3:,.0f} kB, job {size / 1e3:,.0f} kB"
    )


def synthetic_rows(n: int, roots: int) -> np.ndarray:
    """Return ``n`` synthetic nodes of this number of roots, (n,), dtype `NODE_ROW`."""
    random = np.random.default_rng(0)
    rows = np.zeros(n, dtype=NODE_ROW)
    rows["root"] = random.integers(5 << 56, (5 << 56) + (1 << 32), roots, dtype=np.uint64)[
        random.integers(0, roots, n)
    ]
    features, chunks = rows["features"], np.arange(n) // NODES_A_CHUNK
    grid = np.stack(np.unravel_index(chunks, (64, 64, 64)), axis=-1)
    features["label"] = GEOMETRY.layout.chunk_id_array(grid) + (np.arange(n) % NODES_A_CHUNK + 1).astype(
        np.uint64
    )
    for name in ("size_nm3", "area_nm2", "max_dt_nm"):
        features[name] = random.integers(1, 60_000, n)
    features["rep_coord_nm"] = random.integers(0, 256, (n, 3))
    rows["present"] = True
    return rows


def scan() -> str:
    _, plan = plan_at_scale()
    rows = synthetic_rows(UNIT_ROWS, UNIT_ROWS // NODES_A_ROOT)
    parts = sum(1 for _ in divide(rows, plan))
    return f"{parts:,} pieces, {2 * rows.nbytes / 1e6:,.0f} MB to the shuffle"


def write() -> str:
    return _written(synthetic_rows(PARTITION_ROWS, PARTITION_ROWS // NODES_A_ROOT))


def write_giant() -> str:
    return _written(synthetic_rows(GIANT, 1))


def _written(rows: np.ndarray) -> str:
    with tempfile.TemporaryDirectory() as folder:
        written = PartitionWriter(Folder(folder), GEOMETRY, 1).write(
            Partition(BY_ROOT, 0), lambda: _pieces(rows)
        )
    return f"{len(written.files)} files, {sum(file.bytes for file in written.files) / 1e6:,.0f} MB"


def _pieces(rows: np.ndarray) -> Iterator[np.ndarray]:
    yield from np.array_split(rows, len(rows) // 10_000)


def manifest() -> str:
    partitions = ceil(prod(GRID) * NODES_A_CHUNK / PARTITION_ROWS)
    done = [_done(i, layouts) for layouts in ((BY_ROOT, ROOTS), (BY_NODE,)) for i in range(partitions)]
    texts = [written.model_dump_json() for written in done]
    files = [file for text in texts for file in Written.model_validate_json(text).files]
    about = {"dataset": "large", "l2cache_id": "large", "graph_id": "large", "cv_path": "", "software": ""}
    whole = Manifest(
        number=1,
        timestamp=NOW,
        created=NOW,
        box=str(whole_box(GRID)),
        layers=(Layer(version=1, files=tuple(files)),),
        totals=Totals(nodes=1, roots=1, missing=0, empty=0),
        **about,
    )
    content = whole.to_json()
    start = time.perf_counter()
    Manifest.model_validate_json(content)
    return f"{len(files):,} files, {len(content) / 1e6:.1f} MB, read in {time.perf_counter() - start:.2f} s"


def _done(number: int, layouts: tuple[Any, ...]) -> Written:
    files = (
        VersionFile(
            path=f"000001/{layout}/part-{number:05d}-000.parquet",
            layout=layout,
            rows=PARTITION_ROWS,
            bytes=256_000_000,
            sha256=f"{number:064x}",
            min_root=number << 32,
            max_root=number << 33,
        )
        for layout in layouts
    )
    return Written(layout=layouts[0], files=tuple(files), nodes=PARTITION_ROWS)


if __name__ == "__main__":
    sys.exit(main())
