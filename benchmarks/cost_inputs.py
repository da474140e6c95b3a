"""Measure what ingesting a chunk takes: CPU time, bytes read and stored, rows, memory.

The chunks are cut from an EM volume (l2features/testing/em.py); graph and table are in the Bigtable emulator.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from l2features.config.datasets import load_dataset
from l2features.core.chunks import whole_box
from l2features.core.geometry import Chunk, Triple
from l2features.core.ids import row_keys
from l2features.core.rows import encode_cells
from l2features.graph.base import map_supervoxels
from l2features.ingest.chunk_results import STEPS
from l2features.ingest.compute import ChunkFeatures, ChunkSource, read_supervoxels
from l2features.ingest.steps import Ingest, save_chunk
from l2features.jobs.ingest_run import chunk_job
from l2features.kernel import warm_up
from l2features.local.job_run import JobRun
from l2features.local.pool import LocalPool
from l2features.store.base import Store, open_store
from l2features.store.bigtable.cells import FAMILY
from l2features.testing.em import NAME, EmDataset, make_crops, make_dataset, read_labels, write_parents
from l2features.testing.emulators import Emulator

GRID = (2, 2, 1)
TIMESTAMP_BYTES, BLOCK_BYTES = 8, 1 << 16


@dataclass(frozen=True)
class Inputs:
    """Measurements of the ingest of ``chunks`` chunks, each of ``size`` voxels.

    Averages per chunk: core-seconds (``cpu_s``) and seconds (``wall_s``) by step, ``supervoxels``, ``nodes``,
    and the segmentation's ``files`` and ``file_bytes``. Averages per node: ``row_bytes`` (uncompressed) and
    ``packed_bytes`` (lightly compressed) in Bigtable, and ``sqlite_bytes``. ``start_s``: core-seconds that a
    worker process spends outside the steps, mostly on its start.
    """

    machine: str
    size: Triple
    chunks: int
    cpu_s: dict[str, float]
    wall_s: dict[str, float]
    supervoxels: float
    nodes: float
    files: float
    file_bytes: float
    row_bytes: float
    packed_bytes: float
    sqlite_bytes: float
    peak_mb: float
    start_s: float

    @property
    def core_s(self) -> float:
        return sum(self.cpu_s.values())


def measure_em(shared: Path, size: Triple, repeats: int) -> Inputs:
    """Measure the ingest of four EM chunks of ``size`` voxels, with a fresh Bigtable emulator."""
    crops = make_crops(read_labels(shared, size[2]), size, prod(GRID))
    with own_emulator(), tempfile.TemporaryDirectory() as name:
        with tqdm(total=prod(GRID), unit="chunk", leave=False, disable=None) as bar:
            dataset = make_dataset(Path(name).resolve(), crops, GRID, bar.update)
        return measure(dataset, repeats)


@contextmanager
def own_emulator() -> Iterator[None]:
    """Run a Bigtable emulator; set the environment variable by which clients find the emulator."""
    emulator = Emulator()
    before = os.environ.get(emulator.variable)
    os.environ[emulator.variable] = emulator.host
    try:
        yield
    finally:
        emulator.stop()
        del os.environ[emulator.variable]
        if before is not None:
            os.environ[emulator.variable] = before


def measure(dataset: EmDataset, repeats: int) -> Inputs:
    """Ingest an EM data set step by step in this process, then with a worker process; return averages."""
    for chunk in dataset.chunks:
        write_parents(dataset, chunk)
    ingest = prepared(dataset)
    with threadpool_limits(1):
        clock, results, supervoxels = ingest_here(ingest, dataset.chunks, repeats)
    features = np.concatenate([result.features for result in results])
    files = [path for path in (dataset.config.parent / "segmentation").glob("*_*_*/*") if path.is_file()]
    content, n = row_content(features), len(dataset.chunks)
    each = repeats * n
    cpu_s = {step: clock.cpu[step] / each for step in STEPS}
    before = _cpu_of_children()
    peak_mb = run_job(ingest)
    return Inputs(
        machine=f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        size=dataset.geometry.chunk_size,
        chunks=n,
        cpu_s=cpu_s,
        wall_s={step: clock.wall[step] / each for step in STEPS},
        supervoxels=supervoxels / n,
        nodes=len(features) / n,
        files=len(files) / n,
        file_bytes=sum(path.stat().st_size for path in files) / n,
        row_bytes=len(content) / len(features),
        packed_bytes=packed_bytes(content) / len(features),
        sqlite_bytes=sqlite_growth(ingest, results, dataset.config.parent) / len(features),
        peak_mb=peak_mb,
        start_s=_cpu_of_children() - before - n * sum(cpu_s.values()),
    )


def prepared(dataset: EmDataset) -> Ingest:
    """Return an ingest of all chunks, also of done ones. Raises ValueError for a table without metadata."""
    entry = load_dataset(NAME, dataset.config)
    with closing(open_store(entry.store, entry.l2cache_id)) as store:
        meta = store.meta()
    if meta is None:
        raise ValueError(f"table {entry.l2cache_id} has no metadata: expected a table of an earlier ingest")
    return Ingest(entry, dataset.geometry, whole_box(dataset.geometry.grid), meta, recompute=True)


class Clock:
    """Measures CPU time of all threads of this process, and wall time, by step."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[name] += time.process_time() - cpu
        self.wall[name] += time.perf_counter() - wall


def ingest_here(
    ingest: Ingest, chunks: Sequence[Chunk], repeats: int
) -> tuple[Clock, list[ChunkFeatures], int]:
    """Ingest the chunks ``repeats`` times, after a warm-up chunk that does not count.

    Returns a tuple: times by step, summed over the ``repeats`` ingests; the last ingest's results, one per
    chunk; number of supervoxels in all chunks.
    """
    warm_up()
    source, clock = ingest.open_source(), Clock()
    with closing(ingest.open_store()) as store:
        ingest_chunk(ingest, source, store, chunks[0], Clock())
        for _ in range(repeats):
            done = [ingest_chunk(ingest, source, store, chunk, clock) for chunk in chunks]
    return clock, [result for result, _ in done], sum(supervoxels for _, supervoxels in done)


def run_job(ingest: Ingest) -> float:
    """Run the ingest with one worker process; return the peak memory of the worker process in MB.

    Reads the peak while the worker runs. The kernel's figure after the worker's exit can be too high: it is
    at least the memory of the parent process at the worker's start.
    """
    peaks = [0.0]
    pool = LocalPool(1)

    def look(_: int) -> None:
        for worker in pool.workers:
            status = Path(f"/proc/{worker.pid}/status").read_text()
            peaks.extend(float(kib) / 1024 for kib in re.findall(r"^VmHWM:\s*(\d+)", status, re.MULTILINE))

    JobRun(chunk_job(ingest), pool, lambda result: None).run(look)
    return max(peaks)


def ingest_chunk(
    ingest: Ingest, source: ChunkSource, store: Store, chunk: Chunk, clock: Clock
) -> tuple[ChunkFeatures, int]:
    """Ingest a chunk with the same steps as `ChunkSource.compute` and `save_chunk`, each timed.

    Returns a tuple: the features; the number of supervoxels.
    """
    geometry = ingest.geometry
    with clock.step("read"):
        segmented, _ = read_supervoxels(source.volume, chunk, geometry)
    with clock.step("map"):
        mapping = map_supervoxels(source.graph, geometry, chunk, segmented.ids, source.time)
    with clock.step("compute"):
        features = segmented.features(mapping.l2_ids, geometry.resolution)
    result = ChunkFeatures(chunk, features, None, mapping.orphans, mapping.errors)
    with clock.step("write"):
        save_chunk(store, geometry, result)
    return result, len(segmented.ids)


def row_content(features: np.ndarray) -> bytes:
    """Return the bytes that Bigtable stores for rows: keys; each cell's family, qualifier, value, time."""
    time_ = (10**15).to_bytes(TIMESTAMP_BYTES, "big")
    rows = zip(row_keys(features["label"]), encode_cells(features), strict=True)
    return b"".join(
        key + b"".join(FAMILY.encode() + name + value + time_ for name, value in cells) for key, cells in rows
    )


def packed_bytes(content: bytes) -> int:
    """Return an estimate of the bytes stored in Bigtable: the size of 64 KiB blocks after zlib at level 1."""
    blocks = (content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES))
    return sum(len(zlib.compress(block, 1)) for block in blocks)


def sqlite_growth(ingest: Ingest, results: Sequence[ChunkFeatures], folder: Path) -> int:
    """Return the bytes by which the results of chunks enlarge a SQLite file."""
    file = folder / "cost.db"
    sizes = []
    for part in ([], results):
        with closing(open_store(f"sqlite://{file}", ingest.dataset.l2cache_id)) as store:
            store.create(ingest.meta)
            for result in part:
                save_chunk(store, ingest.geometry, result)
        sizes.append(file.stat().st_size)
    return sizes[1] - sizes[0]


def inputs_text(inputs: Inputs) -> list[str]:
    """Return the lines of a Markdown table of the measurements."""
    share = 256 * 256 * 512 / prod(inputs.size)
    steps = ", ".join(f"{step} {inputs.cpu_s[step]:.2f}" for step in STEPS)
    waits = ", ".join(f"{step} {inputs.wall_s[step]:.2f}" for step in STEPS)
    rows = [
        ("measured on", inputs.machine),
        ("chunks", f"{inputs.chunks} of {' × '.join(map(str, inputs.size))} voxels"),
        ("core-seconds a chunk", f"{inputs.core_s:.2f} ({steps})"),
        ("seconds a chunk, with waiting", f"{sum(inputs.wall_s.values()):.2f} ({waits})"),
        ("core-seconds a worker process, to start and end", f"{inputs.start_s:.1f}"),
        ("nodes a chunk", f"{inputs.nodes:,.0f}"),
        ("nodes per 256 × 256 × 512 voxels", f"{inputs.nodes * share:,.0f}"),
        ("supervoxels a chunk: rows of the graph that are scanned", f"{inputs.supervoxels:,.0f}"),
        ("bytes read a chunk, as stored", f"{inputs.file_bytes:,.0f} in {inputs.files:g} files"),
        ("bytes a node in Bigtable: key, qualifiers, values, times", f"{inputs.row_bytes:.0f}"),
        ("the same, blocks of 64 KiB packed by zlib 1", f"{inputs.packed_bytes:.0f}"),
        ("bytes a node in SQLite", f"{inputs.sqlite_bytes:.0f}"),
        ("peak memory of a worker process", f"{inputs.peak_mb:,.0f} MB"),
    ]
    return ["| measured | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
