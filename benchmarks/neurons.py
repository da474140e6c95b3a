"""Compare summaries and skeletons of neurons with what scientists do today, on the same emulator.

"Today": caveclient asks a graph server for a root's L2 ids, asks a reference server of features
(benchmarks/plain_server.py) for the rows of these ids, and adds up the rows. pcg_skel asks the same servers
and makes a skeleton. "Ours": one request to the API. Graph server, feature servers, emulator and clients
share this machine. The graph server is this project's, which is faster than PyChunkedGraph's. In results
"with kvdbclient's walk", the client instead reads the L2 ids layer by layer through kvdbclient, as
PyChunkedGraph does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import requests
from caveclient.auth import AuthClient
from caveclient.chunkedgraph import ChunkedGraphClient
from caveclient.l2cache import L2CacheClient
from pcg_skel import pcg_skeleton

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.plain_server import leaves
from benchmarks.servers import INSTANCE, PROJECT, TABLE, Server
from benchmarks.synthetic_neurons import GEOMETRY, Neuron, features_of, make_neurons, write_info
from l2features.core.ids import as_ids
from l2features.local.emulator_programs import BIGTABLE
from l2features.store.base import Meta, open_store
from l2features.testing.bars import Bar, begin, print_bars
from l2features.testing.emulators import Emulator

EPILOG = """
A ratio is today's time divided by ours. cold: no result of the root is stored or cached, as after a fresh
start. kept: the root's summary is stored in the table.

examples:
  python benchmarks/neurons.py
  python benchmarks/neurons.py --quick
"""
DATASET = GRAPH = "neurons"
STORE = f"bigtable://{PROJECT}/{INSTANCE}"
SUMMED = ["size_nm3", "area_nm2", "max_dt_nm", "mean_dt_nm", "rep_coord_nm"]
"""Attributes from which a summary without ``graph=true`` is computed."""
REAL, LARGE = 5_830, 100_000
"""Number of nodes of the neuron in pcg_skel's test data, and of a large neuron."""
TIMEOUT_S = 600.0


@dataclass
class Stack:
    """Running servers, and the neurons that they serve; ``ours``, the API, stores results in the table."""

    neurons: list[Neuron]
    today: Any
    """A caveclient of the graph server and of the reference server of features."""
    ours: Server

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ours.port}/l2cache/api/v1/table/{DATASET}"

    def forget(self) -> None:
        """Delete all stored results of roots, and empty the API's caches."""
        with closing(open_store(STORE, TABLE)) as store:
            store.delete_root_cells(as_ids([neuron.root for neuron in self.neurons]))
        self.restart()

    def restart(self) -> None:
        """Restart the API to empty its caches; send one request, so that it opens store and graph."""
        self.ours.stop()
        self.ours.start()
        self.summaries([self.neurons[-1]], graph=True)

    def summaries(self, neurons: Sequence[Neuron], graph: bool = False) -> dict[str, Any]:
        """Return the API's summaries of neurons. Raises AssertionError unless all are ready."""
        body = {"root_ids": [neuron.root for neuron in neurons]}
        answer = requests.post(
            f"{self.api}/roots/summary", json=body, params={"graph": str(graph).lower()}, timeout=TIMEOUT_S
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        assert {summary["status"] for summary in found.values()} == {"ready"}, answer.text[:300]
        return found

    def sums(self, neuron: Neuron, walk: bool = False) -> dict[str, float]:
        """Return a neuron's summary, computed by the client. ``walk``: read L2 ids through kvdbclient."""
        if walk:
            ids = leaves(PROJECT, INSTANCE, GRAPH, GEOMETRY, neuron.root)
        else:
            ids = self.today.chunkedgraph.get_leaves(neuron.root, stop_layer=2).tolist()
        rows = self.today.l2cache.get_l2data(ids, attributes=SUMMED)
        return {
            "n_nodes": len(rows),
            "size_nm3": sum(row["size_nm3"] for row in rows.values()),
            "area_nm2": sum(row["area_nm2"] for row in rows.values()),
            "max_dt_nm": max(row["max_dt_nm"] for row in rows.values()),
        }

    def skeleton(self, neuron: Neuron) -> int:
        """Return the number of vertices of the API's skeleton of a neuron."""
        answer = requests.get(
            f"{self.api}/root/{neuron.root}/skeleton", params={"format": "json"}, timeout=TIMEOUT_S
        )
        answer.raise_for_status()
        return len(answer.json()["vertices"])

    def skeleton_today(self, neuron: Neuron) -> int:
        """Return the number of vertices of pcg_skel's skeleton of a neuron."""
        return len(pcg_skeleton(neuron.root, self.today).vertices)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = begin()
    small = [int(n) for n in np.random.default_rng(1).integers(20, 201, options.small)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        stack = start(Path(folder), [REAL, options.large, *small, 50], running)
        check_equal(stack)
        passed = print_bars(console, measure(stack, options.repeats))
    return 0 if passed or options.no_check else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", type=int, default=LARGE, help="nodes of the large root; default 100,000")
    parser.add_argument("--small", type=int, default=1_000, help="number of small roots; default 1,000")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each figure; default 3")
    parser.add_argument("--quick", action="store_true", help="20,000 nodes, 100 small roots, one repeat")
    parser.add_argument(
        "--no-check", action="store_true", help="exit with 0 even if a result misses its limit"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.large, options.small, options.repeats = 20_000, 100, 1
    return options


def start(folder: Path, sizes: Sequence[int], running: ExitStack) -> Stack:
    """Start the emulator and the servers; write neurons of these sizes (numbers of nodes) with features."""
    emulator = Emulator()
    running.callback(emulator.stop)
    os.environ[BIGTABLE.variable] = emulator.host
    layer = f"precomputed://file://{folder}/ws"
    write_info(layer)
    neurons = make_neurons(f"{STORE}/{GRAPH}", layer, sizes)
    with closing(open_store(STORE, TABLE)) as store:
        store.create(Meta(GRAPH, layer, "2026-01-01 00:00:00", GEOMETRY))
        store.write(features_of(neurons))
    geometry, config = folder / "geometry.json", folder / "datasets.yml"
    geometry.write_text(GEOMETRY.to_json())
    entry = {"cv_path": layer, "l2cache_id": TABLE, "store": STORE, "graph": f"{STORE}/{GRAPH}"}
    config.write_text(json.dumps({DATASET: entry}))
    threads = ["--worker-class=gthread", "--keep-alive=75", "--workers=1", "--threads=8"]
    plain = f"benchmarks.plain_server:create_app('{PROJECT}', '{INSTANCE}', '{TABLE}', '{geometry}')"
    variables = emulator.environment(
        GRAPH_L2CACHE_CONFIG_PATH=str(config),
        AUTH_DISABLED="true",
        L2CACHE_WORKERS="1",
        L2CACHE_KEEP_ROOTS="true",
    )
    servers = {}
    for name, given in (
        ("features", [*threads, plain]),
        ("graph", [*threads, "api.cave:create_app()"]),
        ("ours", ["-c", "api/gunicorn.conf.py", "api.app:create_app()"]),
    ):
        servers[name] = Server(name, given, variables, folder / f"{name}.log")
        running.callback(servers[name].stop)
    return Stack(neurons, todays_client(servers["graph"], servers["features"]), servers["ours"])


class _Features(L2CacheClient):
    """caveclient's L2CacheClient, without the request that asks whether the data set has features."""

    def has_cache(self, datastack_name: str | None = None) -> bool:
        return True


def todays_client(graph: Server, features: Server) -> Any:
    """Return an object with those parts of a CAVEclient that pcg_skel uses, for these two servers."""
    urls = [f"http://127.0.0.1:{server.port}" for server in (graph, features)]
    auth = AuthClient(server_address=urls[0], token="none")
    return SimpleNamespace(
        datastack_name=DATASET,
        chunkedgraph=ChunkedGraphClient(server_address=urls[0], table_name=GRAPH, auth_client=auth),
        l2cache=_Features(urls[1], DATASET, auth),
    )


def check_equal(stack: Stack) -> None:
    """Raise AssertionError if the API's summaries differ from the client's sums."""
    for neuron in (stack.neurons[0], stack.neurons[-1]):
        ours, today = stack.summaries([neuron])[str(neuron.root)], stack.sums(neuron)
        for name, value in today.items():
            assert np.isclose(ours[name], value, rtol=1e-6), (
                f"root {neuron.root}: {name}: {ours[name]}, {value}"
            )


def measure(stack: Stack, repeats: int) -> list[Bar]:
    """Return the ratios of median times, today's to the API's, and the API's memory for the large root."""
    real, large, *small = stack.neurons[:-1]
    bars = []
    for neuron in (real, large):
        name = f"{len(neuron.l2_ids):,} nodes"
        today, walked = (median(partial(stack.sums, neuron, walk), repeats) for walk in (False, True))
        sums = cold(stack, [neuron], repeats)
        bars += [
            Bar(f"{name}: sums, cold", today / sums, 8),
            Bar(f"{name}: sums, cold, with kvdbclient's walk", walked / sums, None),
            Bar(f"{name}: with graph, cold", today / cold(stack, [neuron], repeats, graph=True), 4),
            Bar(f"{name}: sums, kept", today / kept(stack, [neuron], repeats), 100),
        ]
    loop = median(lambda: [stack.sums(neuron) for neuron in small], 1)
    name = f"{len(small):,} small roots"
    bars += [
        Bar(f"{name}: cold", loop / cold(stack, small, repeats), 4),
        Bar(f"{name}: kept", loop / kept(stack, small, repeats), 30),
    ]
    today = median(lambda: stack.skeleton_today(real), repeats)
    ours = median(lambda: stack.skeleton(real), repeats, before=stack.forget)
    bars.append(Bar(f"{len(real.l2_ids):,} nodes: skeleton", today / ours, 5))
    return [
        *bars,
        Bar(
            "memory of a worker for the large root, above idle",
            memory_mb(stack, large),
            300,
            most=True,
            unit="MB",
        ),
    ]


def cold(stack: Stack, neurons: Sequence[Neuron], repeats: int, graph: bool = False) -> float:
    return median(lambda: stack.summaries(neurons, graph), repeats, before=stack.forget)


def kept(stack: Stack, neurons: Sequence[Neuron], repeats: int) -> float:
    """Return the median seconds in which a restarted API returns summaries that the table stores."""
    stack.summaries(neurons)
    return median(lambda: stack.summaries(neurons), repeats, before=stack.restart)


def median(run: Callable[[], object], repeats: int, before: Callable[[], None] = lambda: None) -> float:
    """Return the median seconds of ``repeats`` calls of ``run``, each after a call of ``before``."""
    seconds = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def memory_mb(stack: Stack, neuron: Neuron) -> float:
    """Return the MB above idle that the API's memory reaches while it makes a summary and a skeleton."""
    stack.forget()
    stack.ours.begin_memory()
    idle = stack.ours.peak_mb()
    stack.summaries([neuron], graph=True)
    stack.skeleton(neuron)
    return stack.ours.peak_mb() - idle


if __name__ == "__main__":
    sys.exit(main())
