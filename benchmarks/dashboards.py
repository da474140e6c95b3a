"""Compare the latency of reads with and without open dashboards, in alternating turns on one server."""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.asker import make_post
from benchmarks.load import JSON, Client, Post
from benchmarks.servers import DATASET, GEOMETRY, TABLE, Server, fill, make_features
from l2features.store.base import DONE, ChunkRecord, open_store
from l2features.testing.bars import Bar, begin, print_bars

PATH = f"/l2cache/api/v1/table/{DATASET}/dashboard"
STATUSES = (200, 304)
EVERY_S = 5.0
"""Interval at which a dashboard polls the server."""
MOST_RATIO = 1.1
EPILOG = """
Each dashboard polls every 5 s with the ETag of the last response, as the page does. One client reads 100
random ids per request. Turns without and with dashboards alternate. A ratio is the latency in a turn with
dashboards divided by that in the turn before; the median of the ratios is reported. Server, dashboards and
client share the machine.

examples:
  python benchmarks/dashboards.py
  python benchmarks/dashboards.py --dashboards 200 --turns 4
"""


class Dashboards:
    """A child process that polls the server as ``n`` dashboards do, while the event ``open`` is set."""

    def __init__(self, port: int, n: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.open, self._ended = context.Event(), context.Event()
        self.answers = context.Array("l", 2)
        """Numbers of responses with status 200, and with status 304."""
        arguments = (port, n, self.open, self._ended, self.answers)
        self._process = context.Process(target=show_dashboards, args=arguments)
        self._process.start()

    def close(self) -> None:
        """Stop the dashboards. Raises RuntimeError if a poll failed."""
        self._ended.set()
        self._process.join()
        if self._process.exitcode:
            raise RuntimeError(f"a poll failed: the dashboards' process exited with {self._process.exitcode}")


def show_dashboards(port: int, n: int, opened: Any, ended: Any, answers: Any) -> None:
    """Poll the server as ``n`` open dashboards do; pause while ``opened`` is not set.

    Returns when ``ended`` is set. ``answers`` counts the responses with status 200 and those with 304.
    """
    offsets = np.linspace(0, EVERY_S, n, endpoint=False).tolist()
    with ThreadPoolExecutor(n) as threads:
        list(threads.map(lambda offset: poll(port, offset, opened, ended, answers), offsets))


def poll(port: int, offset: float, opened: Any, ended: Any, answers: Any) -> None:
    """Poll as one open dashboard does, after ``offset`` seconds; arguments as for `show_dashboards`."""
    connection, tag = http.client.HTTPConnection("127.0.0.1", port, timeout=30), ""
    ended.wait(offset)
    while not ended.wait(EVERY_S):
        if not opened.is_set():
            continue
        connection.request("GET", PATH, headers={"Accept-Encoding": "gzip", "If-None-Match": tag})
        answer = connection.getresponse()
        answer.read()
        tag = answer.headers["ETag"]
        with answers.get_lock():
            answers[STATUSES.index(answer.status)] += 1


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = begin()
    with tempfile.TemporaryDirectory() as folder:
        server, ids = start(Path(folder), options.nodes)
        try:
            bars = measure(server, ids, options)
        finally:
            server.stop()
    return 0 if print_bars(console, bars) or options.no_check else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dashboards", type=int, default=50, help="open dashboards; default 50")
    parser.add_argument("--nodes", type=int, default=300_000, help="nodes of the table; default 300,000")
    parser.add_argument(
        "--turns", type=int, default=6, help="turns with, and turns without dashboards; default 6"
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of a turn; default 15")
    parser.add_argument("--no-check", action="store_true", help="exit with 0 even if a ratio is too high")
    return parser.parse_args(arguments)


def start(folder: Path, nodes: int) -> tuple[Server, np.ndarray]:
    """Start a server of a table in which all chunks are done; return the server, and all node ids."""
    url, features = f"sqlite://{folder}/l2cache.db", make_features(nodes)
    fill(url, features)
    now = datetime.now(UTC)
    chunk_ids, counts = np.unique(GEOMETRY.layout.chunk_ids(features["label"]), return_counts=True)
    with closing(open_store(url, TABLE)) as store:
        for chunk_id, n in zip(chunk_ids.tolist(), counts.tolist(), strict=True):
            store.put_chunk(ChunkRecord(chunk_id, DONE, now, nodes=n))
    entry = {"cv_path": "precomputed://file:///nowhere", "l2cache_id": TABLE, "store": url, "graph": "flat"}
    config = folder / "datasets.yml"
    config.write_text(json.dumps({DATASET: {**entry, "chunk_size": list(GEOMETRY.chunk_size)}}))
    environment = {"GRAPH_L2CACHE_CONFIG_PATH": str(config), "AUTH_DISABLED": "true", "L2CACHE_WORKERS": "1"}
    arguments = ["-c", "api/gunicorn.conf.py", "api.app:create_app()"]
    return Server("the API", arguments, environment, folder / "api.log"), features["label"]


def measure(server: Server, ids: np.ndarray, options: argparse.Namespace) -> list[Bar]:
    """Return the latencies of reads, and the ratios of latency with dashboards to latency without."""
    dashboards, client = Dashboards(server.port, options.dashboards), Client(server.port)
    random = np.random.default_rng(0)
    turns: list[list[float]] = []
    try:
        timed(client, posts_of(ids, random, 50))
        for turn in range(2 * options.turns):
            (dashboards.open.set if turn % 2 else dashboards.open.clear)()
            time.sleep(EVERY_S)  # until all poll, or none
            until, seconds = time.monotonic() + options.seconds, list[float]()
            while time.monotonic() < until:
                seconds += timed(client, posts_of(ids, random, 20))
            turns.append(seconds)
    finally:
        dashboards.close()
        client.close()
    return bars(turns[::2], turns[1::2], options.dashboards, dashboards.answers[:])


def posts_of(ids: np.ndarray, random: np.random.Generator, n: int) -> list[Post]:
    """Return ``n`` requests of 100 random ids each."""
    return [make_post(random.choice(ids, 100), "all", JSON) for _ in range(n)]


def timed(client: Client, posts: Sequence[Post]) -> list[float]:
    seconds = []
    for post in posts:
        begun = time.perf_counter()
        client.post(post)
        seconds.append(time.perf_counter() - begun)
    return seconds


def bars(
    without: Sequence[Sequence[float]], with_them: Sequence[Sequence[float]], n: int, answers: Sequence[int]
) -> list[Bar]:
    """Return the results. Seconds of reads, a list per turn: ``without`` dashboards, ``with_them``."""
    found = []
    for name, turns in (("no dashboard", without), (f"{n} dashboards", with_them)):
        seconds = np.concatenate(turns)
        for what, quantile in (("median", 0.5), ("p99", 0.99)):
            value = float(np.quantile(seconds, quantile))
            found.append(Bar(f"{what} of {len(seconds):,} reads, {name}", value * 1e3, None, unit="ms"))
    for what, figure in (("medians", statistics.median), ("means", statistics.fmean)):
        ratios = [figure(b) / figure(a) for a, b in zip(without, with_them, strict=True)]
        found.append(Bar(f"ratio of the {what}", statistics.median(ratios), MOST_RATIO, most=True))
    unchanged = 100 * answers[1] / max(1, sum(answers))
    return [*found, Bar(f"of {sum(answers):,} polls, unchanged", unchanged, None, unit="%")]


if __name__ == "__main__":
    sys.exit(main())
