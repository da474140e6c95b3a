"""Measure the batch ingest's speed on a large synthetic data set, by number of workers.

Each run is a local ingest into a fresh store. Overhead is the workers' total time from the first chunk to the
last, divided by the workers' time in reading, mapping, computing and writing. Start-up (imports, workers,
compiled code) and shutdown are reported separately.

example:
  python benchmarks/ingest.py
  python benchmarks/ingest.py --grid 4,4,4 --chunk-size 256,256,128 --workers 1,2
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from l2features.config.datasets import load_dataset
from l2features.ingest.chunk_results import STEPS, Summary
from l2features.ingest.steps import prepare
from l2features.jobs.ingest_run import chunk_job
from l2features.local.job_run import JobRun
from l2features.local.pool import LocalPool
from l2features.local.sample.segmentation_files import NAME, Sample, make_sample


def triple(text: str) -> tuple[int, int, int]:
    x, y, z = (int(part) for part in text.split(","))
    return x, y, z


def measure(config: Path, store: str, workers: int) -> tuple[Summary, float, float, float]:
    """Ingest into a fresh store. Returns a tuple: summary; seconds of start-up; of work; of shutdown."""
    dataset = load_dataset(NAME, config).model_copy(update={"store": store})
    started = time.perf_counter()
    ingest = replace(prepare(dataset, create=True), recompute=True)
    summary = Summary()
    run = JobRun(chunk_job(ingest), LocalPool(workers), summary.add)
    with tqdm(
        total=len(ingest.box), unit="chunk", desc=f"{workers} workers", leave=False, disable=None
    ) as bar:
        progress = run.run(bar.update)
    ended = time.perf_counter()
    return summary, progress.first - started, progress.last - progress.first, ended - progress.last


def report(summary: Summary, workers: int, startup: float, work: float, end: float) -> None:
    in_steps = sum(summary.millis[step] for step in STEPS) / 1e3
    print(f"\n{workers} workers: {summary.done} chunks, {summary.nodes} nodes in {work:.2f} s")
    print(f"  {summary.done / work:8.2f} chunks/s   {summary.nodes / work:10.1f} nodes/s")
    for step in STEPS:
        seconds = summary.millis[step] / 1e3
        each = summary.millis[step] / max(summary.done, 1)
        print(f"  {step:8} {seconds:8.2f} s  {seconds / in_steps:6.1%}  {each:8.1f} ms a chunk")
    print(f"  overhead {work * workers / in_steps:8.3f}  (wall x workers / time in the four steps)")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"  memory   {peak:8.0f} MB, the largest worker so far")
    print(f"  start-up {startup:8.2f} s, end {end:.2f} s (not in the overhead)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--grid", type=triple, default=(4, 4, 4), help="chunks along each axis; default 4,4,4"
    )
    parser.add_argument(
        "--chunk-size", type=triple, default=(256, 256, 128), help="voxels of a chunk; default 256,256,128"
    )
    parser.add_argument("--workers", default="1,2", help="numbers of workers to try; default 1,2")
    parser.add_argument("--data", type=Path, help="folder of the sample, which is made if missing")
    parser.add_argument(
        "--store", help="store to write to, such as bigtable://PROJECT/INSTANCE; default: SQLite files"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or Path(temporary) / "sample"
        config = folder / "datasets.yml"
        if not config.exists():
            with tqdm(
                total=math.prod(args.grid), unit="chunk", desc="sample", leave=False, disable=None
            ) as bar:
                make_sample(folder, Sample(args.grid, args.chunk_size), bar.update)
        print(f"sample: {args.grid} chunks of {args.chunk_size} voxels, the last of each axis partial")
        for workers in map(int, args.workers.split(",")):
            store = args.store or f"sqlite://{Path(temporary).resolve()}/{workers}.db"
            summary, *seconds = measure(config, store, workers)
            report(summary, workers, *seconds)


if __name__ == "__main__":
    main()
