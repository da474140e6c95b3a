"""Publish edits while services fail, and check at the end that nothing was lost.

Two synthetic data sets share a segmentation: one reads its graph from a table, the other from a server. They
are ingested as of a time before all edits. Then the edits' messages are published in random order, some
twice, with poison among them, while the updater is killed, Bigtable is paused, and the graph server fails.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from beam_jobs.update import STREAM_ATTEMPTS
from l2features.core.geometry import Triple
from l2features.pubsub.subscription import LEASE_S
from l2features.testing.emulators import HOW_TO_GET_IT, HOW_TO_GET_PUBSUB, find_emulator, find_pubsub_emulator
from l2features.testing.synthetic import Spec
from tests.e2e.chaos.checks import SHOWN, Check, check_audit, check_letters, check_rows, check_truth
from tests.e2e.chaos.flow import Publisher, Storm, Tally
from tests.e2e.chaos.messages import Parcel, make_parcels
from tests.e2e.chaos.updater import KINDS, RestartedUpdater
from tests.e2e.chaos.world import HTTP, TABLE, World

EPILOG = """
It passes where every node that was ever made has its row, equal in every byte to the truth, which is
computed from masks of the segmentation; where the audit says complete; where all poison lies among the dead
letters with its reason, and nothing else; where the subscriptions are empty; and where the updater ended when
it was told to, and never by itself.

examples:
  python -m tests.e2e.chaos
  python -m tests.e2e.chaos --messages 200 --kills 4 --pauses 1 --outages 1 --grid 5,5,4
"""
QUIET_S = LEASE_S + 15.0
"""Minimum time from the last disturbance to the end: leases of killed processes expire within it."""
WIDTH, LINE_S = 140, 30.0


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="chaos_"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"error: folder {folder}: expected an empty one", file=sys.stderr)
        return 2
    begun = time.monotonic()
    print(f"seed {options.seed}; files in {folder}", flush=True)
    checks = run(options, folder)
    passed = all(check.passed for check in checks)
    print_checks(checks)
    print(f"{'PASS' if passed else 'FAIL'} in {time.monotonic() - begun:.0f} s")
    if passed and not options.keep:
        shutil.rmtree(folder)
    return 0 if passed else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=2_000, help="edits, beside poison; default 2,000")
    parser.add_argument("--kills", type=int, default=24, help="of the updater, with -9; default 24")
    parser.add_argument("--kill", default=",".join(KINDS), help="what is killed; default %(default)s")
    parser.add_argument("--pauses", type=int, default=5, help="of Bigtable, with SIGSTOP; default 5")
    parser.add_argument("--outages", type=int, default=2, help="of the graph's server: 500; default 2")
    parser.add_argument(
        "--quiet",
        type=float,
        default=QUIET_S,
        metavar="S",
        help="seconds before the end; default %(default)g",
    )
    parser.add_argument(
        "--attempts", type=int, default=STREAM_ATTEMPTS, help="of the updater; default %(default)s"
    )
    parser.add_argument("--grid", type=_triple, default=Spec().grid, help="chunks; default 8,8,6")
    parser.add_argument("--only", choices=(TABLE, HTTP), help="one of the two data sets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="an empty folder, for all files")
    options = parser.parse_args(arguments)
    if set(options.kill.split(",")) - set(KINDS):
        parser.error(f"--kill {options.kill}: expected some of {','.join(KINDS)}")
    for found, how in ((find_emulator(), HOW_TO_GET_IT), (find_pubsub_emulator(), HOW_TO_GET_PUBSUB)):
        if not found:
            parser.error(how)
    if options.only == TABLE:
        options.outages = 0  # no data set uses the graph's server
    return options


def run(options: argparse.Namespace, folder: Path) -> list[Check]:
    random = np.random.default_rng(options.seed)
    letters, witness = folder / "dead_letters", folder / "witness"
    names = [options.only] if options.only else [TABLE, HTTP]
    with World(folder, Spec(grid=options.grid, seed=options.seed), options.messages, names) as world:
        print(f"ingest of {world.geometry.n_chunks} chunks into {', '.join(names)}", flush=True)
        with ThreadPoolExecutor() as threads:
            list(threads.map(world.ingest, world.targets))
        parcels = make_parcels(list(world.targets.values()), random, witness)
        flags = ["--config", str(world.config), "--subscriptions", ",".join(world.subscriptions)]
        flags += ["--dead_letters", str(letters), "--workers", "2"]
        flags += ["--attempts", str(options.attempts)]
        publisher, tally = Publisher(world, parcels, random), Tally(world, parcels, letters)
        with RestartedUpdater(flags, folder / "updater.log", options.kill.split(",")) as updater:
            with tally, publisher, progress_bar(tally.total) as progress:
                storm = Storm(world, updater, publisher, tally, progress, options.attempts)
                storm.rage(options.kills, options.pauses, options.outages, random)
                storm.finish(options.quiet)
            checks = [*check_storm(options, world, storm), *check_updater(updater)]
        print("checks", flush=True)
        checks += [check_truth(world, random), *check_letters(letters, parcels)]
        checks.append(Check("witness of code that ran", [str(witness)] if witness.exists() else []))
        for name in world.targets:
            checks += check_rows(world, name)
        with ThreadPoolExecutor() as threads:
            checks += threads.map(lambda name: check_audit(world, name), world.targets)
        print_figures(world, parcels, updater, storm)
    return checks


def progress_bar(total: int) -> Any:
    """Return a progress bar that is redrawn even without progress, and less often without a terminal."""
    return tqdm(total=total, unit="id", miniters=0, mininterval=0.2 if sys.stderr.isatty() else LINE_S)


def check_storm(options: argparse.Namespace, world: World, storm: Storm) -> list[Check]:
    """Check that enough disturbances happened, publishing had no errors, and no messages are left."""
    done = {
        "kills": (sum(storm.updater.kills.values()), options.kills),
        "pauses": (len(storm.figures.pauses), options.pauses),
        "outages": (len(storm.figures.outages), options.outages),
        "answers of 500": (world.server.failures, options.outages),
    }
    few = [f"{count} {what}, expected {least}" for what, (count, least) in done.items() if count < least]
    none = f"none in {storm.longest_pause_s:g} s, asked {storm.figures.rounds} times"
    return [
        Check("publishing: errors", storm.publisher.errors),
        Check("disturbances: too few", few),
        Check("messages left in the subscriptions", storm.figures.left, none),
    ]


def check_updater(updater: RestartedUpdater) -> list[Check]:
    """Check that the updater never exited by itself, and stops with status 0 and no orphans."""
    ends = [f"status {status}" for status in updater.ends]
    stops = [f"status {status}" for status in updater.stops if status != 0]
    orphans = [f"process {pid}" for pid in updater.orphans()]
    return [
        Check("updater: ended by itself", ends, f"{updater.starts} starts"),
        Check("updater: SIGTERM", stops, "status 0"),
        Check("updater: processes left behind", orphans),
    ]


def print_figures(world: World, parcels: list[Parcel], updater: RestartedUpdater, storm: Storm) -> None:
    figures = storm.figures
    bad = [parcel for parcel in parcels if parcel.reason]
    made = [(n, i) for n, target in world.targets.items() for edit in target.edits for i in edit.new_l2_ids]
    superseded = sum(node not in world.graphs[name].roots for name, node in made)
    edits = sum(len(target.edits) for target in world.targets.values())
    mixed = sum(parcel.good is not None for parcel in bad)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(updater.kills.items()))
    show(
        Table(show_header=False, box=None),
        [
            ("published", f"{len(parcels):,} messages, {len(parcels) - len(set(map(id, parcels))):,} twice"),
            ("edits", f"{edits:,}; the rows of {storm.publisher.late} were late"),
            ("poison", f"{len(bad) - mixed} messages, and {mixed} edits that name bad ids as well"),
            ("ids", f"{len(made):,}, {superseded:,} of them superseded by later edits"),
            ("kill -9", f"{sum(updater.kills.values())}: {kinds}; {updater.starts} starts"),
            ("Bigtable stopped", _seconds(figures.pauses)),
            ("graph's server failed", f"{_seconds(figures.outages)}, {world.server.failures} answers of 500"),
            ("duration", f"{figures.storm_s:.0f} s, and {figures.finish_s:.0f} s until all was there"),
            ("largest process", f"{updater.peak_mb:.0f} MB"),
        ],
    )


def print_checks(checks: list[Check]) -> None:
    rows = []
    for check in checks:
        colour = "green" if check.passed else "bold red"
        said = escape("; ".join(check.wrong[:SHOWN]) or check.answer)
        rows.append((check.question, f"[{colour}]{len(check.wrong)}", said))
    show(Table("check", "wrong", "", box=SIMPLE_HEAD), rows)


def show(table: Table, rows: Iterable[Sequence[str]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _seconds(times: list[float]) -> str:
    return f"{len(times)} × {sum(times) / max(1, len(times)):.0f} s"


def _triple(text: str) -> Triple:
    x, y, z = map(int, text.split(","))
    return x, y, z


if __name__ == "__main__":
    sys.exit(main())
