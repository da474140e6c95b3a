"""Measure the time from an edit's publication until the HTTP API serves its nodes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.load import Client, Post, unpacked
from benchmarks.servers import Server
from l2features.local.updater_run import BATCH_WAIT_S
from l2features.testing.bars import Bar, begin, print_bars
from l2features.testing.em import NAME, EditMessage, Editor, EmDataset, write_children
from l2features.testing.em_volume import em_parser
from l2features.testing.updating import TimedFeed, UpdaterProcess, em_updater, quantiles, warm_up
from l2features.updates.freshness import read_updates

MOST_MEDIAN_S = 2.0
POLL_S = 0.02
NOTE_S = 8.0
"""Seconds to wait after the last edit, so that the updater has stored its lag in the table."""
PAUSE_S = (0.5, 1.5)
"""Shortest and longest pause in seconds between edits, so that the updater is idle at each edit."""
LONGEST_S = 60.0
EPILOG = """
Measures 100 successive edits, each of one or two new nodes in one of four chunks of 256 x 256 x 128 EM
voxels. An edit is published to the Pub/Sub emulator for an idle, warmed-up updater; then the API is polled
every 20 ms (POST attributes, update_cache=false) until it returns all nodes. As in PyChunkedGraph, the
graph's rows are written before publication. Emulators, updater, API and this client share the machine.

examples:
  python benchmarks/latency.py
  python benchmarks/latency.py --edits 20 --workers 1
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = begin()
    with ExitStack() as running:
        dataset, feed, store, updater = running.enter_context(em_updater(options.shared, options.workers))
        edits = make_edits(dataset, options.edits)
        api = start_api(dataset.config, updater.log.with_name("api.log"))
        running.callback(api.stop)
        warm_up(dataset, dataset.chunks, feed, store, updater)
        seconds = measure(edits, feed, Client(api.port), updater)
        time.sleep(NOTE_S)
        updates = read_updates(store)
    found = quantiles(seconds)
    console.print(f"{len(seconds)} edits, from publish to readable through the API:")
    console.print("  " + ", ".join(f"{what} {s:.2f} s" for what, s in found.items()))
    if updates and (lag := updates.updaters[0].lag):
        console.print(f"  until the message was done, as the updater reports: median {lag.median_s:.2f} s")
    console.print(f"  of this the first message waits {BATCH_WAIT_S:g} s for others")
    bars = [Bar("from publish to readable, median", found["median"], MOST_MEDIAN_S, most=True, unit="s")]
    return 0 if print_bars(console, bars) else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = em_parser(__doc__, EPILOG)
    parser.add_argument("--edits", type=int, default=100, help="number of edits; default 100")
    parser.add_argument("--workers", type=int, default=2, help="updater processes; default 2")
    return parser.parse_args(arguments)


def make_edits(dataset: EmDataset, n: int) -> list[EditMessage]:
    """Return ``n`` alternating splits and merges, each within one chunk; write their nodes to the graph."""
    editor, random = Editor(dataset), np.random.default_rng(2)
    chosen = random.integers(0, len(dataset.chunks), n).tolist()
    kinds = (editor.split, editor.merge)
    edits = [dataset.edit(kinds[i % 2](dataset.chunks[at])) for i, at in enumerate(chosen)]
    write_children(dataset.children)
    return edits


def start_api(config: Path, log: Path) -> Server:
    environment = {"GRAPH_L2CACHE_CONFIG_PATH": str(config), "AUTH_DISABLED": "true", "L2CACHE_WORKERS": "1"}
    return Server("the API", ["-c", "api/gunicorn.conf.py", "api.app:create_app()"], environment, log)


def measure(
    edits: list[EditMessage], feed: TimedFeed, client: Client, updater: UpdaterProcess
) -> list[float]:
    """Return, for each edit, the seconds from publication until the API serves all of the edit's nodes."""
    random, seconds = np.random.default_rng(4), []
    for edit in tqdm(edits, unit="edit", leave=False, disable=None):
        time.sleep(random.uniform(*PAUSE_S))
        began = feed.publish_one(edit.data, edit.attributes)
        seconds.append(wait_until_served(client, edit.ids, updater) - began)
    return seconds


def wait_until_served(client: Client, ids: list[int], updater: UpdaterProcess) -> float:
    """Poll the API until it serves the nodes ``ids``; return the time as `time.perf_counter`.

    Raises RuntimeError after a minute.
    """
    path = f"/l2cache/api/v1/table/{NAME}/attributes?update_cache=false"
    post, until = Post(path, json.dumps({"l2_ids": ids}).encode()), time.monotonic() + LONGEST_S
    while True:
        answer = unpacked(client.post(post))
        if all("rep_coord_nm" in features for features in answer.values()):
            return time.perf_counter()
        updater.check()
        if time.monotonic() > until:
            log = updater.log.read_text()[-3000:]
            raise RuntimeError(
                f"the API does not serve nodes {ids} after {LONGEST_S:g} s; updater's log:\n{log}"
            )
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
