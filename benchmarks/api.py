"""Compare the speed of the HTTP API with that of a reference server (benchmarks/plain_server.py).

Both run under gunicorn with the same workers and threads, over the same table of synthetic nodes in the
Bigtable emulator. The API also runs over SQLite. Servers, emulator and clients share this machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.asker import ALL, COLD, WARM, Asker, Case, Result, make_post
from benchmarks.load import ARROW, JSON, run, unpacked
from benchmarks.servers import GEOMETRY, INSTANCE, PROJECT, TABLE, Server, fill, make_features, write_config
from l2features.core.ids import Ids
from l2features.testing.emulators import Emulator

EPILOG = """
Columns:
  median, p99   ms from sending a request to the end of its body, sent as by caveclient: JSON, gzip accepted,
                one kept-alive connection
  parse         ms to unpack and parse one response
  cold          ids not requested since the server started
  warm          ids requested before
  found         cache hit rate of the API's server
  memory        MB, peak of all server processes: proportional set size before, plus growth
Each client is a thread of this process with one connection. The reference server ("plain") has no cache, so
cold and warm ids take the same time. Several clients together request 20,000 ids at most from it at a time,
and from the API ("ours") only as many cold ids as the table has.

examples:
  python benchmarks/api.py
  python benchmarks/api.py --quick --json api.json
  python benchmarks/api.py --sizes 1,1000 --clients 1 --no-check
"""
ONE = "rep_coord_nm"
NEURON = 5_830
"""Number of L2 nodes of the neuron in pcg_skel's test data."""
MANY = 10_000
REQUESTS = {1: (100, 25), 1_000: (20, 5), 10_000: (5, 1), 100_000: (1, 1)}
"""By number of ids per request: requests of a single client, and requests of each of several clients."""
COLD_REQUESTS, WARM_REQUESTS = 3, 7
"""In each repeat of `measure_ratios`: cold requests to the API, and warm requests of each kind."""
WIDTH = 130
PLAIN, EMULATOR, SQLITE = "plain", "emulator", "SQLite"
"""Names of the servers: the reference, the API over the Bigtable emulator, and the API over SQLite."""


@dataclass
class Ratio:
    """How many times faster one request is than another.

    Attributes:
        slow_ms, fast_ms: milliseconds of the slow and the fast request; the median of the repeats' medians.
        times: slow / fast. It is computed in each repeat, as a machine's speed changes between repeats; this
            is the median.
        least: the required minimum; None for no minimum.
    """

    name: str
    slow_ms: float
    fast_ms: float
    times: float
    least: float | None

    @property
    def passed(self) -> bool:
        return self.least is None or self.times >= self.least


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    features = make_features(options.nodes)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        askers = start(Path(folder), features, options, running)
        check_equal(askers, features["label"])
        ratios = measure_ratios(askers, options.repeats)
        print_ratios(console, ratios, options)
        results = []
        with console.status("") as status:
            for result in measure_all(askers, options):
                results.append(result)
                status.update(
                    f"{result.server}: {result.ids:,} ids, {result.state}, {result.clients} clients"
                )
        print_results(console, results)
    if options.json:
        content = {"ratios": [asdict(r) for r in ratios]}
        options.json.write_text(json.dumps({**content, "results": list(map(asdict, results))}, indent=1))
    missed = [ratio.name for ratio in ratios if not ratio.passed]
    return 1 if missed and not options.no_check else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=170_000, help="rows of the table; default 170,000")
    parser.add_argument(
        "--sizes",
        type=_numbers,
        default=tuple(REQUESTS),
        help="ids per request, separated by commas; default 1,1000,10000,100000",
    )
    parser.add_argument(
        "--clients", type=_numbers, default=(1, 16), help="numbers of concurrent clients; default 1,16"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes per server; default 2")
    parser.add_argument("--threads", type=int, default=32, help="threads per process; default 32")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each ratio; default 5")
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 ids only, three repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    parser.add_argument("--no-check", action="store_true", help="exit with 0 even if a ratio is too low")
    options = parser.parse_args(arguments)
    if options.quick:
        options.nodes, options.sizes, options.repeats = 100_000, (1_000, 10_000), 3
    if unknown := set(options.sizes) - set(REQUESTS):
        parser.error(f"--sizes {min(unknown)}: expected some of {', '.join(map(str, REQUESTS))}")
    return options


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def start(folder: Path, features: np.ndarray, options: argparse.Namespace, running: ExitStack) -> list[Asker]:
    """Create tables and servers; return an `Asker` for each server, the reference's first."""
    emulator = Emulator()
    running.callback(emulator.stop)
    os.environ[emulator.variable] = emulator.host
    stores = {EMULATOR: f"bigtable://{PROJECT}/{INSTANCE}", SQLITE: f"sqlite://{folder}/benchmark.db"}
    geometry = folder / "geometry.json"
    geometry.write_text(GEOMETRY.to_json())
    size = [f"--workers={options.workers}", f"--threads={options.threads}"]
    plain_app = f"benchmarks.plain_server:create_app('{PROJECT}', '{INSTANCE}', '{TABLE}', '{geometry}')"
    arguments = {PLAIN: ["--worker-class=gthread", "--keep-alive=75", *size, plain_app]}
    environments = {PLAIN: emulator.environment()}
    for name, url in stores.items():
        fill(url, features)
        config = write_config(folder, name, url)
        arguments[name] = ["-c", "api/gunicorn.conf.py", "api.app:create_app()"]
        environments[name] = emulator.environment(
            GRAPH_L2CACHE_CONFIG_PATH=str(config),
            AUTH_DISABLED="true",
            L2CACHE_WORKERS=str(options.workers),
            L2CACHE_THREADS=str(options.threads),
        )
    askers = []
    for name, given in arguments.items():
        server = Server(name, given, environments[name], folder / f"{name}.log")
        running.callback(server.stop)
        askers.append(Asker(server, features["label"], max(options.clients), caches=name != PLAIN))
    return askers


def check_equal(askers: Sequence[Asker], ids: Ids) -> None:
    """Raise AssertionError if the servers return different features."""
    for attributes in (ONE, ALL):
        post = make_post(ids[:1_000], attributes, JSON)
        plain, *ours = [unpacked(asker.clients[0].post(post)) for asker in askers]
        for answer in ours:
            assert answer == plain, f"answers differ for {attributes}"


# ------------------------------------------------------------------ ratios
def measure_ratios(askers: Sequence[Asker], repeats: int) -> list[Ratio]:
    """Return the ratios. Each repeat measures the servers in turn, so that noise affects all alike."""
    ms: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for asker in askers:
            asker.need(COLD_REQUESTS * MANY)
            cold = [asker.fresh(MANY) for _ in range(COLD_REQUESTS if asker.caches else 1)]
            ids = cold[-1]
            many, neuron = make_post(ids, ALL, JSON), make_post(ids[:NEURON], ONE, JSON)
            posts = {COLD: [make_post(these, ALL, JSON) for these in cold], "neuron": [neuron]}
            if asker.caches:
                warm = {WARM: many, ARROW: make_post(ids, ALL, ARROW), "neuron": neuron}
                warm["identity"] = make_post(ids, ALL, JSON, "identity")
                posts |= {what: [post] * WARM_REQUESTS for what, post in warm.items()}
            for what, these in posts.items():
                seconds = run(asker.clients[:1], [these]).seconds
                ms.setdefault((asker.name, what), []).append(statistics.median(seconds) * 1e3)
    return list(_ratios(ms))


def _ratios(ms: dict[tuple[str, str], list[float]]) -> Iterator[Ratio]:
    """Yield the ratios; ``ms[server, kind of request]`` lists the median of each repeat."""

    def ratio(name: str, slow: tuple[str, str], fast: tuple[str, str], least: float | None) -> Ratio:
        times = statistics.median(a / b for a, b in zip(ms[slow], ms[fast], strict=True))
        return Ratio(name, statistics.median(ms[slow]), statistics.median(ms[fast]), times, least)

    for server, least in ((EMULATOR, 12.0), (SQLITE, 60.0)):
        cold, warm, arrow = ((server, what) for what in (COLD, WARM, ARROW))
        many, plain = "10,000 ids, all", (PLAIN, COLD)
        yield ratio(f"{many}, JSON, cold, {server}: plain / ours", plain, cold, least)
        yield ratio(f"{many}, JSON, warm, {server}: plain / ours", plain, warm, 25.0)
        yield ratio(f"{many}, warm, {server}: JSON / Arrow", warm, arrow, 3.0)
        yield ratio(f"{many}, warm, {server}: JSON without gzip / Arrow", (server, "identity"), arrow, None)
        neuron = ((PLAIN, "neuron"), (server, "neuron"))
        yield ratio(f"5,830 ids, {ONE}, JSON, warm, {server}: plain / ours", *neuron, 10.0)


def print_ratios(console: Console, ratios: Sequence[Ratio], options: argparse.Namespace) -> None:
    seen = f"{options.repeats} repeats, servers in turn, one client, {options.workers} workers"
    table = Table(title=f"Ratios, medians of the repeats ({seen})", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for head in ("ms", "ms", "times", "at least", ""):
        table.add_column(head, justify="right", no_wrap=True)
    for r in ratios:
        verdict = "" if r.least is None else "[green]PASS" if r.passed else "[red]FAIL"
        least = "" if r.least is None else f"{r.least:g}"
        table.add_row(r.name, f"{r.slow_ms:.1f}", f"{r.fast_ms:.1f}", f"{r.times:.1f}", least, verdict)
    console.print(table)


# ------------------------------------------------------------------ every kind of request
def measure_all(askers: Sequence[Asker], options: argparse.Namespace) -> Iterator[Result]:
    for asker in askers:
        for case in cases(asker, options, COLD):
            yield asker.measure(case, repeats_of(case, asker))
        if asker.caches:
            asker.fill_caches(max(options.sizes))
            for case in cases(asker, options, WARM):
                yield asker.measure(case, repeats_of(case, asker))


def cases(asker: Asker, options: argparse.Namespace, state: str) -> Iterator[Case]:
    """Yield the kinds of requests to measure; ``state`` is cold (ids not requested before) or warm.

    Skips cold requests from several clients if together they name too many ids.
    """
    accepts = (JSON, ARROW) if asker.caches else (JSON,)
    for clients, ids in itertools.product(options.clients, options.sizes):
        most = asker.most_cold if asker.caches else 2 * MANY
        if clients == 1 or state == WARM or clients * ids <= most:
            for attributes, accept in itertools.product((ONE, ALL), accepts):
                yield Case(ids, attributes, accept, state, clients)


def repeats_of(case: Case, asker: Asker) -> int:
    """Return the number of requests per client: fewer if they are slow, or if new (cold) ids are few."""
    repeats = REQUESTS[case.ids][0 if case.clients == 1 else 1]
    if not asker.caches and case.clients * case.ids >= MANY:
        return 1
    if case.state == WARM:
        return repeats
    return max(1, min(repeats, asker.most_cold // (4 * case.ids * case.clients)))


def print_results(console: Console, results: Sequence[Result]) -> None:
    for server in dict.fromkeys(r.server for r in results):
        table = Table(title=f"{server} (ms, MB)", box=SIMPLE_HEAD)
        for head in ("ids", "attributes", "format", "state"):
            table.add_column(head, justify="right" if head == "ids" else "left", no_wrap=True)
        for head in ("clients", "n", "median", "p99", "ids/s", "parse", "kB", "memory", "found"):
            table.add_column(head, justify="right", no_wrap=True)
        for r in results:
            if r.server == server:
                figures = (
                    f"{r.median_ms:.1f}",
                    f"{r.p99_ms:.1f}",
                    f"{r.ids_per_s:,.0f}",
                    f"{r.parse_ms:.1f}",
                )
                found = "" if r.found is None else f"{r.found:.2%}"
                what = (f"{r.ids:,}", r.attributes, r.format, r.state, str(r.clients), str(r.requests))
                table.add_row(*what, *figures, f"{r.kbytes:,.1f}", f"{r.memory_mb:,.0f}", found)
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
