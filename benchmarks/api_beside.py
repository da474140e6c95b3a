"""Compare the speed of the HTTP API in this checkout with that in another checkout.

Both serve the same tables, and the requests alternate between them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.asker import ALL, COLD, WARM, Asker, make_post
from benchmarks.load import ARROW, JSON, Post, Timing
from benchmarks.servers import INSTANCE, PROJECT, ROOT, Server, fill, make_features, write_config
from l2features.testing.emulators import Emulator

EPILOG = """
Prints medians in ms from sending a request to the end of the response's body, with one client and one worker.
The requests alternate, so that a change of the machine's speed affects both servers alike.

example:
  git worktree add ../before HEAD~1 && python benchmarks/api_beside.py ../before
"""
ONE = "rep_coord_nm"
NODES = 100_000


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)
    table = Table(title=f"ms beside {options.checkout}, {options.repeats} requests", box=SIMPLE_HEAD)
    for head in ("store", "ids", "attributes", "format", "state", "beside", "here", "ratio"):
        table.add_column(head, justify="right" if head in ("ids", "beside", "here", "ratio") else "left")
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        for store, pair in start(Path(folder), options.checkout, running).items():
            kinds = itertools.product(options.sizes, (COLD, WARM), (ONE, ALL), (JSON, ARROW))
            for ids, state, attributes, accept in kinds:
                before, here = measure(pair, ids, state, attributes, accept, options.repeats)
                ratios.append(here / before)
                what = (store, f"{ids:,}", attributes, "Arrow" if accept == ARROW else "JSON", state)
                table.add_row(*what, f"{before:.1f}", f"{here:.1f}", f"{ratios[-1]:.2f}")
    console.print(table)
    slower = sum(ratio > options.most for ratio in ratios)
    console.print(
        f"{slower} of {len(ratios)} medians are more than {options.most:g} times that of the other checkout"
    )
    return 1 if slower else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of the other checkout")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=(1, 1_000, 10_000),
        help="ids per request; default 1 1000 10000",
    )
    parser.add_argument("--repeats", type=int, default=40, help="requests of each kind; default 40")
    parser.add_argument(
        "--most", type=float, default=1.1, help="exit with 1 if a ratio here / beside is larger; default 1.1"
    )
    options = parser.parse_args(arguments)
    if not (options.checkout / "api" / "gunicorn.conf.py").is_file():
        parser.error(f"{options.checkout}: expected a checkout with api/gunicorn.conf.py")
    return options


def start(folder: Path, checkout: Path, running: ExitStack) -> dict[str, list[Asker]]:
    """Create a table in the Bigtable emulator and one in SQLite; serve each from both checkouts.

    Returns, by store, a client of the other checkout's server and one of this checkout's, in this order.
    """
    emulator = Emulator()
    running.callback(emulator.stop)
    os.environ[emulator.variable] = emulator.host
    stores = {"emulator": f"bigtable://{PROJECT}/{INSTANCE}", "SQLite": f"sqlite://{folder}/benchmark.db"}
    features, askers = make_features(NODES), dict[str, list[Asker]]()
    for store, url in stores.items():
        fill(url, features)
        config = write_config(folder, store, url)
        for root in (checkout.resolve(), ROOT):
            environment = emulator.environment(
                GRAPH_L2CACHE_CONFIG_PATH=str(config), AUTH_DISABLED="true", L2CACHE_WORKERS="1"
            )
            gunicorn = ["-c", "api/gunicorn.conf.py", "api.app:create_app()"]
            server = Server(f"{store} {root}", gunicorn, environment, folder / "log", root)
            running.callback(server.stop)
            askers.setdefault(store, []).append(Asker(server, features["label"], 1))
    return askers


def measure(
    pair: Sequence[Asker], ids: int, state: str, attributes: str, accept: str, repeats: int
) -> list[float]:
    """Return each server's median response time in ms. The server that is asked first alternates."""
    timings = [Timing() for _ in pair]
    warm = make_post(pair[0].ids[:ids], attributes, accept)
    if state == WARM:
        for asker in pair:
            asker.clients[0].post(warm)
    for turn in range(repeats):
        posts = [warm if state == WARM else _cold(asker, ids, attributes, accept) for asker in pair]
        for place in (0, 1) if turn % 2 else (1, 0):
            pair[place].clients[0].timed([posts[place]], timings[place])
    return [1e3 * statistics.median(timing.seconds) for timing in timings]


def _cold(asker: Asker, ids: int, attributes: str, accept: str) -> Post:
    """Return a request for ids that the server has not read yet; both servers get the same ids."""
    return make_post(asker.fresh(ids), attributes, accept)


if __name__ == "__main__":
    sys.exit(main())
