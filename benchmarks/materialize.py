"""Compare a caveclient loop over all roots with the job that makes a version, on the same emulator.

A version is all nodes of one time, with their roots and features, in Parquet files. "Today's loop": for each
root, caveclient asks a graph server for the root's L2 ids, and a reference server of features
(benchmarks/plain_server.py) for the rows of these ids. It runs on a sample of the roots; its time is
extrapolated to all roots. "Ours": `python -m beam_jobs.materialize`, first a fresh version, then a renewal
(``--base``) after 1 % of the roots were split. The graph is in the Bigtable emulator; features are there too
or, with ``--store sqlite``, in a file. Reads are the bytes that the job receives from the emulator, counted
in separate runs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import requests
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.job_runs import Run, run_job
from benchmarks.neurons import DATASET, GRAPH, todays_client
from benchmarks.servers import INSTANCE, PROJECT, TABLE, Server
from benchmarks.synthetic_neurons import (
    FULL,
    GEOMETRY,
    TIME_MS,
    Neuron,
    features_of,
    make_neurons,
    write_info,
)
from benchmarks.synthetic_splits import split_neurons
from l2features.config.datasets import environment
from l2features.core.ids import Ids, as_ids
from l2features.core.times import iso_text
from l2features.local.emulator_programs import BIGTABLE
from l2features.store.base import Meta, open_store
from l2features.testing.bars import Bar, begin, print_bars
from l2features.testing.emulators import Emulator
from l2features.versions.folders import Folder
from l2features.versions.lookup import VersionReader
from l2features.versions.manifest import read_manifest
from l2features.versions.parquet_files import ParquetFiles

EPILOG = """
examples:
  python benchmarks/materialize.py
  python benchmarks/materialize.py --store sqlite
  python benchmarks/materialize.py --roots 2000 --giant 0 --no-check
"""
STORE = f"bigtable://{PROJECT}/{INSTANCE}"
NODES_PER_ROOT = 50
SUMMARIES = 100
"""Approximate number of roots whose summaries are requested."""
ONE_CHUNK = "--chunks=" + ",".join(f"{start}:{start + 1}" for start in FULL[0])
MADE = datetime.fromtimestamp(TIME_MS / 1000, UTC)
EDITED = MADE + timedelta(days=1)
BEFORE, AFTER = MADE + timedelta(hours=12), MADE + timedelta(days=30)
"""Timestamps of the two versions: before and after the edits."""


@dataclass
class Bench:
    """The address of the running emulator, the folder for the benchmark's files, and the options."""

    folder: Path
    host: str
    options: argparse.Namespace

    def materialize(self, output: str, time_: datetime, *more: str, host: str = "") -> Run:
        """Run the job as users do: make a version in the folder ``output``, valid at ``time_``.

        Raises RuntimeError if the job fails.
        """
        arguments = [f"--dataset={DATASET}", f"--config={self.config}", f"--output={self.folder / output}"]
        arguments += [f"--timestamp={iso_text(time_, 'milliseconds')}", *more]
        arguments += [f"--workers={self.options.workers}"]
        variables = environment(**{BIGTABLE.variable: host or self.host})
        return run_job("beam_jobs.materialize", arguments, self.folder / "job.log", variables)

    def reads(self, output: str, time_: datetime, *more: str) -> float:
        """Run `materialize` through a proxy; return the MB that the job reads from the emulator."""
        with counting_proxy(self.host) as (host, counted):
            self.materialize(output, time_, *more, host=host)
        return counted() / 1e6

    def write(self, features: np.ndarray) -> None:
        """Write features to the tables that the caveclient loop and the job read."""
        for url in {STORE, self.store}:
            with closing(open_store(url, TABLE)) as store:
                store.write(features)

    @property
    def store(self) -> str:
        """URL of the store of the table that the job reads."""
        return STORE if self.options.store == "bigtable" else f"sqlite://{self.folder}/features.db"

    @property
    def config(self) -> Path:
        return self.folder / "datasets.yml"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console, bars = begin(), list[Bar]()
    with started([NODES_PER_ROOT] * options.roots, options, console) as (bench, neurons, running):
        bars += measure(bench, neurons, running, console)
    if options.giant:  # the emulator holds about 10 kB a node: one graph at a time
        with started([options.giant], options, console) as (bench, _, _):
            bars += measure_giant(bench, console)
    return 0 if print_bars(console, bars) or options.no_check else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--roots", type=int, default=20_000, help="number of roots of 50 nodes; default 20,000"
    )
    parser.add_argument(
        "--giant", type=int, default=1_000_000, help="nodes of one large root, 0 for none; default 1,000,000"
    )
    parser.add_argument("--sample", type=int, default=200, help="roots measured by today's loop; default 200")
    parser.add_argument(
        "--store",
        choices=["bigtable", "sqlite"],
        default="bigtable",
        help="store from which the job reads features; default bigtable",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes of the job; default: number of cores"
    )
    parser.add_argument("--folder", type=Path, help="where to write the versions; default: temporary folder")
    parser.add_argument(
        "--no-check", action="store_true", help="exit with 0 even if a result misses its limit"
    )
    return parser.parse_args(arguments)


@contextmanager
def started(
    sizes: Sequence[int], options: argparse.Namespace, console: Console
) -> Iterator[tuple[Bench, list[Neuron], ExitStack]]:
    """Run an emulator with a graph of neurons of these sizes (numbers of nodes), and their features.

    Yields the bench, the neurons, and a stack of the running servers, which are stopped at the end.
    """
    with tempfile.TemporaryDirectory(dir=options.folder) as name, ExitStack() as running:
        emulator, folder = Emulator(), Path(name)
        running.callback(emulator.stop)
        os.environ[BIGTABLE.variable] = emulator.host
        layer = f"precomputed://file://{folder}/ws"
        write_info(layer)
        neurons = make_neurons(f"{STORE}/{GRAPH}", layer, sizes, full=True)
        bench = Bench(folder, emulator.host, options)
        for url in {STORE, bench.store}:
            with closing(open_store(url, TABLE)) as store:
                store.create(Meta(GRAPH, layer, "2026-01-01 00:00:00", GEOMETRY))
        bench.write(features_of(neurons))
        entry = {"cv_path": layer, "l2cache_id": TABLE, "store": bench.store, "graph": f"{STORE}/{GRAPH}"}
        console.print(f"{sum(sizes):,} nodes of {len(sizes):,} roots written")
        bench.config.write_text(json.dumps({DATASET: entry}))
        yield bench, neurons, running


def measure(bench: Bench, neurons: list[Neuron], running: ExitStack, console: Console) -> list[Bar]:
    """Return the measured values, each with its required minimum or maximum."""
    nodes = sum(len(neuron.l2_ids) for neuron in neurons)
    today = todays_seconds(bench, neurons, running)
    fresh = bench.materialize("versions", BEFORE)
    fresh.read_mb = bench.reads("counted", BEFORE)
    described(console, "fresh", fresh, nodes)
    empty = bench.materialize("part", BEFORE, ONE_CHUNK)
    edit(bench, neurons[: len(neurons) // 100])
    renewal = bench.materialize("versions", AFTER, "--base=1")
    renewal.read_mb = bench.reads("counted", AFTER, "--base=1")
    described(console, "renewal after 1 % of the roots were split", renewal, nodes)
    seconds, groups = summary_of_a_root(bench, neurons[len(neurons) // 2 :], running)
    work = max(0.01, renewal.seconds - empty.seconds), fresh.seconds - empty.seconds
    console.print(f"start-up, by a version of one chunk: {empty.seconds:.1f} s")
    return [
        Bar("fresh: today's loop ÷ ours", today * nodes / fresh.seconds, 20),
        Bar("renewal's reads ÷ fresh", 100 * renewal.read_mb / fresh.read_mb, 5, most=True, unit="%"),
        Bar("renewal's time ÷ fresh, without start-up", 100 * work[0] / work[1], 10, most=True, unit="%"),
        Bar("summary of a root from the renewed version, warm", 1000 * seconds, 30, most=True, unit="ms"),
        Bar("summary of a root: row groups read", groups, 3, most=True, unit=""),
        Bar("fresh: memory of the largest process", fresh.memory_mb, None, unit="MB"),
    ]


def summary_of_a_root(bench: Bench, neurons: Sequence[Neuron], running: ExitStack) -> tuple[float, int]:
    """Measure requests to the API for summaries of single roots in version 2, the renewal.

    Returns a tuple: the median seconds of the second request for a root; the largest number of row groups
    that the lookup of a root reads.
    """
    roots = [neuron.root for neuron in neurons[:: max(1, len(neurons) // SUMMARIES)]]
    variables = {BIGTABLE.variable: bench.host, "GRAPH_L2CACHE_CONFIG_PATH": str(bench.config)}
    arguments = ["-c", "api/gunicorn.conf.py", "--workers=1", "api.app:create_app()"]
    server = Server("api", arguments, {**variables, "AUTH_DISABLED": "true"}, bench.folder / "api.log")
    running.callback(server.stop)
    url = f"http://127.0.0.1:{server.port}/l2cache/api/v1/table/{DATASET}/roots/summary?version=2"
    seconds = []
    with requests.Session() as session:
        for root in roots + roots:
            start = time.perf_counter()
            answer = session.post(url, json={"root_ids": [root]}, timeout=60)
            seconds.append(time.perf_counter() - start)
            assert answer.json()[str(root)]["n_nodes"] == NODES_PER_ROOT, answer.text
    folder = Folder(str(bench.folder / "versions"))
    reader = VersionReader(ParquetFiles(folder), read_manifest(folder, 2))
    groups = [reader.roots(as_ids([root])).row_groups for root in roots]
    return float(np.median(seconds[len(roots) :])), max(groups)


def measure_giant(bench: Bench, console: Console) -> list[Bar]:
    """Make a version of one large root; return the memory that this takes."""
    run = bench.materialize("versions", BEFORE)
    described(console, "fresh, one large root", run, bench.options.giant)
    return [Bar("one large root: memory of the largest process", run.memory_mb, None, unit="MB")]


def described(console: Console, name: str, run: Run, nodes: int) -> None:
    """Print time, core-seconds and reads of a run."""
    read = f", {run.read_mb:,.1f} MB read" if run.read_mb else ""
    console.print(
        f"{name}: {run.seconds:.1f} s, {run.core_seconds:.1f} core-seconds, "
        f"{nodes / run.core_seconds:,.0f} nodes a core-second{read}"
    )


def todays_seconds(bench: Bench, neurons: Sequence[Neuron], running: ExitStack) -> float:
    """Return the seconds per node of a caveclient loop over roots, measured on a sample of the neurons."""
    geometry = bench.folder / "geometry.json"
    geometry.write_text(GEOMETRY.to_json())
    threads = ["--worker-class=gthread", "--keep-alive=75", "--workers=1", "--threads=8"]
    plain = f"benchmarks.plain_server:create_app('{PROJECT}', '{INSTANCE}', '{TABLE}', '{geometry}')"
    variables = {
        BIGTABLE.variable: bench.host,
        "GRAPH_L2CACHE_CONFIG_PATH": str(bench.config),
        "AUTH_DISABLED": "true",
    }
    with ExitStack() as servers:
        started = []
        for name, given in (("features", plain), ("graph", "api.cave:create_app()")):
            server = Server(name, [*threads, given], variables, bench.folder / f"{name}.log")
            servers.callback(server.stop)
            started.append(server)
        client: Any = todays_client(started[1], started[0])
        step = max(1, len(neurons) // bench.options.sample)
        sample = neurons[::step][: bench.options.sample]
        rows(client, sample[0])
        start = time.perf_counter()
        counts = [rows(client, neuron) for neuron in sample]
        seconds = time.perf_counter() - start
    assert counts == [len(neuron.l2_ids) for neuron in sample]
    return seconds / sum(counts)


def rows(client: Any, neuron: Neuron) -> int:
    """Read the rows of a neuron's nodes by caveclient; return their number."""
    ids = client.chunkedgraph.get_leaves(neuron.root, stop_layer=2)
    return len(client.l2cache.get_l2data(ids.tolist()))


def edit(bench: Bench, neurons: Sequence[Neuron]) -> Ids:
    """Split these neurons, and write the features of the new nodes; return the new L2 ids."""
    made = split_neurons(f"{STORE}/{GRAPH}", neurons, int(EDITED.timestamp() * 1000))
    features = features_of(neurons)[: len(made)]
    features["label"] = np.sort(made)
    bench.write(features)
    return made


@contextmanager
def counting_proxy(host: str) -> Iterator[tuple[str, Any]]:
    """Run a proxy for the server at ``host``.

    Yields the proxy's address, and a function that returns the number of bytes that the server has sent.
    """
    target = host.rsplit(":", 1)
    server = socket.create_server(("127.0.0.1", 0))
    counts: list[int] = []

    def copy(source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with source, sink:
            while piece := _received(source):
                if counted:
                    counts.append(len(piece))
                try:
                    sink.sendall(piece)
                except OSError:
                    return

    def accept() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            upstream = socket.create_connection((target[0], int(target[1])))
            for pair in ((client, upstream, False), (upstream, client, True)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with server:
        yield f"127.0.0.1:{server.getsockname()[1]}", lambda: sum(counts)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main())
