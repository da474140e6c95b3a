"""Measure how the batch ingest scales from one to two Dask worker processes.

Runs alternate between a cluster of one worker and a cluster of two workers, each after a warm-up. Scheduler,
store and this process share the cores with the workers. A run's time is from the first chunk to the last.

example:
  python -m benchmarks.dask_scaling
  python -m benchmarks.dask_scaling --grid 4,4,4 --chunk-size 96,96,64 --rounds 1
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from benchmarks.ingest import triple
from l2features.config.datasets import load_dataset
from l2features.core.chunks import centre_box
from l2features.ingest.chunk_results import Summary
from l2features.ingest.steps import Ingest, prepare
from l2features.jobs.dask_workers import DaskWorkers
from l2features.jobs.ingest_run import chunk_job
from l2features.local.job_run import JobRun
from l2features.local.sample.segmentation_files import NAME, Sample, make_sample
from l2features.testing.bars import Bar, begin, print_bars
from l2features.testing.dask_cluster import DaskCluster

WORKERS = (1, 2)
MIN_SCALING = 1.6


def measure(ingest: Ingest, cluster: DaskCluster) -> float:
    """Ingest all chunks on a cluster after a warm-up; return the seconds from the first chunk to the last."""
    for warm in (True, False):
        box = centre_box(ingest.geometry.grid) if warm else ingest.box
        summary = Summary()
        run = JobRun(chunk_job(replace(ingest, box=box)), DaskWorkers(cluster.address), summary.add)
        with tqdm(
            total=len(box), unit="chunk", desc="warm-up" if warm else None, leave=False, disable=None
        ) as bar:
            progress = run.run(bar.update)
        if summary.done != len(box):
            raise RuntimeError(f"{summary.done} of {len(box)} chunks done: expected all")
    return progress.last - progress.first


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--grid", type=triple, default=(4, 4, 4), help="chunks along each axis; default 4,4,4"
    )
    parser.add_argument(
        "--chunk-size", type=triple, default=(256, 256, 512), help="voxels of a chunk; default 256,256,512"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs with each number of workers; default 3")
    args = parser.parse_args()
    console = begin()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary).resolve()
        with tqdm(total=math.prod(args.grid), unit="chunk", desc="sample", leave=False, disable=None) as bar:
            make_sample(folder / "sample", Sample(args.grid, args.chunk_size), bar.update)
        dataset = load_dataset(NAME, folder / "sample" / "datasets.yml")
        seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
        clusters = {n: stack.enter_context(closing(DaskCluster(folder, n))) for n in WORKERS}
        for round_ in range(args.rounds):
            for n, cluster in clusters.items():
                store = f"sqlite://{folder}/{round_}-{n}.db"
                ingest = prepare(dataset.model_copy(update={"store": store}), create=True)
                seconds[n].append(measure(replace(ingest, recompute=True), cluster))
                console.print(f"{n} workers: {len(ingest.box)} chunks in {seconds[n][-1]:.2f} s")
    one, two = (statistics.median(seconds[n]) for n in WORKERS)
    return 0 if print_bars(console, [Bar("from 1 to 2 workers", one / two, MIN_SCALING)]) else 1


if __name__ == "__main__":
    sys.exit(main())
