"""Export a synthetic version by `python -m beam_jobs.precomputed`; check its spatial index and file sizes.

Core-seconds are user and system time of the job and its workers, start-up included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.job_runs import run_job
from benchmarks.servers import make_features
from benchmarks.synthetic_neurons import GEOMETRY
from l2features.core.chunks import whole_box
from l2features.core.rows import Rows
from l2features.graph.base import NodeRoots
from l2features.pictures.annotations import AnnotationLayer
from l2features.pictures.node_layers import NODE_LAYERS
from l2features.store.base import Meta, open_store
from l2features.testing.bars import Bar, begin, print_bars
from l2features.versions.folders import Folder
from l2features.versions.manifest import Layer, Manifest, Totals, manifest_path
from l2features.versions.node_rows import blank, put_rows
from l2features.versions.partitions import LAYOUTS, Partition, PartitionWriter

EPILOG = """
examples:
  python benchmarks/precomputed.py
  python benchmarks/precomputed.py --nodes 200000 --shard_size 1000000 --no-check
"""
TABLE, TIME = "l2cache_bench", datetime(2026, 11, 21, tzinfo=UTC)
FIRST_ROOT = (5 << 56) + 1


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = begin()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_version(folder, options.nodes, options.root_nodes)
        console.print(f"a version of {options.nodes:,} nodes written")
        passed = print_bars(console, measure(folder, options, console))
    return 0 if passed or options.no_check else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nodes", type=int, default=1_000_000, help="nodes of the version; default 1,000,000"
    )
    parser.add_argument("--root_nodes", type=int, default=500, help="mean nodes of a root; default 500")
    parser.add_argument(
        "--shard_size", type=int, default=5_000_000, help="target size of a file in bytes; default 5,000,000"
    )
    parser.add_argument(
        "--cell_nodes",
        type=int,
        default=1_000,
        help="maximum nodes in a cell of a level; default 1,000, with which a file has as many cells as with "
        "the job's defaults (10,000 nodes, files of 50 MB)",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes of the job; default: number of cores"
    )
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument(
        "--no-check", action="store_true", help="exit with 0 even if a result misses its limit"
    )
    return parser.parse_args(arguments)


def write_version(folder: Path, nodes: int, root_nodes: int) -> None:
    """Write version 1 of a synthetic data set, and a data sets file; 1 % of the nodes have no features."""
    random = np.random.default_rng(0)
    features = make_features(nodes)
    roots = np.uint64(FIRST_ROOT) + random.integers(0, max(1, nodes // root_nodes), nodes).astype(np.uint64)
    rows = blank(NodeRoots(np.ascontiguousarray(features["label"]), roots))
    put_rows(rows, Rows.complete(features[random.random(nodes) > 0.01]))
    versions = Folder(str(folder / "versions"))
    writer = PartitionWriter(versions, GEOMETRY, 1)
    written = [writer.write(Partition(layout, 0), lambda: [rows]) for layout in LAYOUTS]
    totals = Totals(**{name: sum(getattr(part, name) for part in written) for name in Totals.model_fields})
    manifest = Manifest(
        number=1,
        timestamp=TIME,
        created=TIME,
        dataset="bench",
        l2cache_id=TABLE,
        graph_id="",
        cv_path="precomputed://file:///nowhere",
        box=str(whole_box(GEOMETRY.grid)),
        software="benchmark",
        layers=(Layer(version=1, files=tuple(file for part in written for file in part.files)),),
        totals=totals,
    )
    versions.write(manifest_path(1), manifest.to_json())
    store_url = f"sqlite://{folder}/features.db"
    with closing(open_store(store_url, TABLE)) as store:
        store.create(Meta("", manifest.cv_path, "2026-01-01 00:00:00", GEOMETRY))
    entry: dict[str, Any] = {
        "cv_path": manifest.cv_path,
        "l2cache_id": TABLE,
        "store": store_url,
        "graph": "flat",
    }
    entry |= {"versions": versions.url, "chunk_size": list(GEOMETRY.chunk_size)}
    (folder / "datasets.yml").write_text(json.dumps({"bench": entry}))


def measure(folder: Path, options: argparse.Namespace, console: Console) -> list[Bar]:
    """Export the version; return the measured values, each with its required minimum or maximum."""
    output = folder / "export"
    arguments = ["--dataset=bench", "--version=1", f"--config={folder}/datasets.yml", f"--output={output}"]
    arguments += [f"--workers={options.workers}", f"--shard_size={options.shard_size}"]
    arguments.append(f"--cell_nodes={options.cell_nodes}")
    run = run_job("beam_jobs.precomputed", arguments, folder / "job.log")
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    console.print(f"{counts}: {run.seconds:.1f} s, {run.core_seconds:.1f} core-seconds")
    near = sizes(output, options.shard_size, console)
    wrong = sum(wrong_cells(output / layer, layer, counts[layer]) for layer in NODE_LAYERS)
    return [
        Bar("nodes a core-second, both layers", options.nodes / run.core_seconds, None, unit=""),
        Bar("memory of the largest process", run.memory_mb, None, unit="MB"),
        Bar("files within 20 % of the wanted size, where an index has several", near, 100, unit="%"),
        Bar("levels whose limit or number of nodes is wrong", wrong, 0, most=True, unit=""),
    ]


def sizes(output: Path, wanted: int, console: Console) -> float:
    """Print the file sizes of each index; return the percentage of files within 20 % of ``wanted`` bytes.

    The percentage ignores an index of a single file, which may be smaller than ``wanted``.
    """
    near: list[bool] = []
    for path in sorted(path for path in output.glob("*/*") if path.is_dir()):
        found = sorted(file.stat().st_size for file in path.glob("*.shard"))
        ends = f"{found[0] / 1e6:.2f} to {found[-1] / 1e6:.2f} MB" if found else ""
        within = [0.8 * wanted <= size <= 1.2 * wanted for size in found]
        described = f"{path.relative_to(output)}: {len(found)} files of {ends}"
        console.print(f"{described}, {sum(within)} within 20 % of the wanted size")
        near += within if len(within) > 1 else []
    if not near:
        sys.exit(f"no index has several files: expected a --shard_size below {wanted:,}")
    return 100 * float(np.mean(near))


def wrong_cells(layer: Path, name: str, nodes: int) -> int:
    """Return how many levels of the spatial index state a wrong limit, plus 1 if the layer has not all nodes.

    The right limit is the number of nodes in the level's fullest cell.
    """
    info, wrong, total = json.loads((layer / "info").read_text()), 0, 0
    for level in info["spatial"]:
        counts = cell_counts(layer, level, NODE_LAYERS[name].annotations)
        wrong += max(counts, default=1) != level["limit"]
        total += sum(counts)
    return wrong + (total != nodes)


def cell_counts(layer: Path, level: dict[str, Any], annotations: AnnotationLayer) -> list[int]:
    """Return the number of nodes in each cell of a level.

    Raises AssertionError if a cell's length in bytes does not match its number of nodes.
    """
    base = {"driver": "file", "path": f"{layer}/{level['key']}/"}
    spec = {"driver": "neuroglancer_uint64_sharded", "base": base, "metadata": level["sharding"]}
    store = tensorstore.KvStore.open(spec).result()
    counts = []
    for read in [store.read(key) for key in store.list().result()]:
        body = read.result().value
        counts.append(int.from_bytes(body[:8], "little"))
        assert len(body) == 8 + counts[-1] * (annotations.dtype.itemsize + 8)
    return counts


if __name__ == "__main__":
    sys.exit(main())
