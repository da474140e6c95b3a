"""Check concurrent reads of a SQLite file: readers open, read, close while writers open, write, close.

    python -m benchmarks.sqlite_rounds --rounds 10000

Each scenario has two writers and two readers. In a round, a reader opens, reads and closes the file.
Writers continue until the readers have ended. Each write puts a larger number into all rows. So a reader that
finds a smaller number than in its earlier rounds had a stale read. The command prints the results of each
scenario, and exits with 1 if there was any problem.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from l2features.core.errors import L2FeaturesError, TableNotFound
from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout
from l2features.core.schema import FEATURES
from l2features.store.base import Meta, open_store

GEOMETRY = Geometry((16.0, 16.0, 40.0), (0, 0, 0), (64, 64, 32), (64, 64, 32), IdLayout({2: 10}))
META = Meta("rounds", "precomputed://file:///nowhere", "2026-11-21 00:27:44", GEOMETRY)
NODES = np.arange(1, 101, dtype=np.uint64) + np.uint64(GEOMETRY.layout.chunk_id(0, 0, 0))
WRITERS = READERS = 2
NOBODY = 65534
_PROCESSES = multiprocessing.get_context("fork")


def _write(url: str, number: int) -> None:
    rows = np.zeros(len(NODES), FEATURES)
    rows["label"], rows["size_nm3"], rows["area_nm2"] = NODES, 1, number
    with closing(open_store(url, "t")) as store:
        store.create(META)
        store.write(rows)


def _read(url: str) -> int:
    """Return the ``area_nm2`` of every row, 0 for an empty table. Raises AssertionError if rows differ."""
    with closing(open_store(url, "t")) as store:
        first, again = (store.read(NODES) for _ in range(2))
        numbers = np.unique(first.features["area_nm2"])
        assert len(numbers) == 1, f"a read is torn: it found the numbers {numbers}"
        assert len(np.unique(again.features["area_nm2"])) == 1, "a second read is torn"
        return int(numbers[0])


def _writer(url: str, replace: bool, ended: Any, clock: Any, problems: Any) -> None:
    while not ended.is_set():
        with clock.get_lock():
            clock.value += 1
            if replace:
                for suffix in ("", "-shm", "-wal"):
                    Path(url.removeprefix("sqlite://") + suffix).unlink(missing_ok=True)
            _attempt(lambda: _write(url, clock.value), "write", problems)
        time.sleep(0.001)


def _reader(url: str, replace: bool, rounds: int, problems: Any) -> None:
    newest = 0
    for _ in range(rounds):
        with _as_nobody("read-only" in url and not os.geteuid()):
            number = _attempt(lambda: _read(url), "read", problems)
        if number is not None:
            if number < newest and not (replace and number == 0):
                problems.put(f"read: the number {number} after {newest}")
            newest = max(number, newest)


@contextmanager
def _as_nobody(wanted: bool) -> Iterator[None]:
    before = os.geteuid()
    if wanted:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def _attempt(call: Callable[[], Any], what: str, problems: Any) -> Any:
    """Return the result of ``call``, or None after an error, which is put into ``problems`` with ``what``.

    A missing table is no problem.
    """
    try:
        with suppress(TableNotFound):
            return call()
    except (L2FeaturesError, AssertionError) as error:
        problems.put(f"{what}: {error}")
    return None


def run_rounds(folder: Path, rounds: int, replace: bool = False) -> tuple[Counter[str], int]:
    """Run readers and writers. Returns a tuple: the number of times of each problem; the number of writes.

    Args:
        folder: where the SQLite file is created. If the path contains ``read-only`` and this process runs as
            root, readers cannot write to the folder.
        rounds: number of rounds (a reader opens, reads and closes the file) of all readers together.
        replace: whether each write first deletes the file.
    """
    url = f"sqlite://{folder}/store.db"
    open_store(url, "t").close()  # import modules that user nobody cannot read
    clock, ended, problems = _PROCESSES.Value("q", 0), _PROCESSES.Event(), _PROCESSES.Queue()
    arguments = (url, replace, rounds // READERS, problems)
    readers = [_PROCESSES.Process(target=_reader, args=arguments) for _ in range(READERS)]
    writers = [
        _PROCESSES.Process(target=_writer, args=(url, replace, ended, clock, problems))
        for _ in range(WRITERS)
    ]
    for process in (*readers, *writers):
        process.start()
    found: Counter[str] = Counter()
    while any(process.is_alive() for process in (*readers, *writers)):
        if not any(process.is_alive() for process in readers):
            ended.set()
        with suppress(Exception):
            found[problems.get(timeout=0.05)] += 1
    for process in (*readers, *writers):
        if process.exitcode:
            found[f"a process ended with {process.exitcode}"] += 1
    while not problems.empty():
        found[problems.get()] += 1
    return found, clock.value


SCENARIOS = {
    "a folder that all can write to": ("shared", False),
    "a folder that readers cannot write to": ("read-only", False),
    "a file that is deleted and recreated": ("replaced", True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=10_000, help="rounds of all readers per scenario; default 10,000"
    )
    options = parser.parse_args()
    failed = False
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for what, (name, replace) in SCENARIOS.items():
            path = Path(folder) / name
            path.mkdir(mode=0o755)
            start = time.monotonic()
            problems, writes = run_rounds(path, options.rounds, replace)
            failed |= bool(problems)
            seconds = time.monotonic() - start
            counts = f"{options.rounds} reads, {writes} writes, {problems.total()} problems"
            print(f"{what}: {counts}, {seconds:.0f} s", flush=True)
            for problem, count in problems.most_common(10):
                print(f"  {count} x {problem}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
