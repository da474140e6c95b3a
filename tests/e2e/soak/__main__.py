"""Measure an updater's idle CPU use, its handling of hostile messages, and its growth."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from l2features.testing.bars import Bar, begin, print_bars
from l2features.testing.em_volume import em_parser
from l2features.testing.updating import UpdaterProcess, em_updater, quantiles, warm_up
from tests.e2e.soak.footprint import Footprint, begin_peaks, cpu_seconds, growths, peaks_mb
from tests.e2e.soak.hostile import large, pickles, strange, unknown_node, wrong_ids
from tests.e2e.soak.strain import Strain

SETTLE_S, LEAST_MINUTES = 15.0, 0.5
MOST_IDLE, MOST_SLOWER = 5.0, 2.0
MOST_HOSTILE_MB, MOST_GROWTH_MB = 500.0, 8.0
MOST_GROWTH = 0.05
LARGE_MB = (50.0, 25.0, 12.0, 9.5)
ALONE = 10
UNKNOWN_S = 600.0
EPILOG = """
What is measured, of all processes of an updater of two workers, which has worked before:
  idle     time of the processor in a minute without messages, as a part of one core
  hostile  bombs, calls of os.system, random bytes, wrong ids, ...: each is published, and a good edit right
           behind it. Each must be a dead letter with the right reason, or be dropped where it is empty; the
           rows of the good edits must be there in the usual time, which is that of edits without anything
           before them. Of the large payloads it is the largest that the emulator takes; one of 50 MB is
           replayed from a file into the same dead letters.
  soak     an edit a second, a burst of 60 every minute, something hostile every 5 s, an edit that came before
           every 3 s: the median of memory (PSS) and the least number of threads and open files in the last
           quarter of the time, beside those in the second. Memory may grow by 5 % and 8 MB, the others not
           at all; all rows must be there at the end, and all dead letters and no other.

examples:
  python -m tests.e2e.soak
  python -m tests.e2e.soak --minutes 2 --idle 20
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = begin()
    with em_updater(options.shared) as (dataset, feed, store, updater):
        warm_up(dataset, dataset.chunks, feed, store, updater)
        strain = Strain(dataset, feed, store, updater)
        bars = measure_idle(console, updater, options.idle)
        bars += measure_hostile(console, strain)
        bars += measure_soak(console, strain, options.minutes)
        bars.append(Bar("exit status after SIGTERM", float(updater.stop() or 0), 0, most=True, unit=""))
        if options.log:
            options.log.write_text(updater.log.read_text())
    return 0 if print_bars(console, bars) else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = em_parser(__doc__, EPILOG)
    parser.add_argument("--minutes", type=float, default=10, help="of the soak; default 10")
    parser.add_argument("--idle", type=float, default=60, help="seconds of being idle; default 60")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep what the updater prints here")
    options = parser.parse_args(arguments)
    if options.minutes < LEAST_MINUTES:
        parser.error(
            f"--minutes {options.minutes:g}: expected {LEAST_MINUTES:g} or more, to compare its quarters"
        )
    return options


def measure_idle(console: Console, updater: UpdaterProcess, seconds: float) -> list[Bar]:
    time.sleep(SETTLE_S)
    processes = updater.processes
    before, began = cpu_seconds(processes), time.monotonic()
    time.sleep(seconds)
    percent = 100 * (cpu_seconds(processes) - before) / (time.monotonic() - began)
    console.print(f"idle for {seconds:g} s: {len(processes)} processes, {percent:.2f} % of a core")
    return [Bar("idle: time of the processor", percent, MOST_IDLE, most=True, unit="% of a core")]


def measure_hostile(console: Console, strain: Strain) -> list[Bar]:
    """Time edits alone and behind hostile messages; check dead letters and memory."""
    random, marker = strain.random, strain.marker
    memory, pids = begin_peaks(strain.updater.processes), strain.pids()
    alone = [strain.one_edit() for _ in range(ALONE)]
    behind: dict[str, float] = {}
    hostile = [*pickles(random, marker), *wrong_ids(strain.dataset, random), *strange(random)]
    for message in hostile:
        behind[message.name] = strain.one_edit([message])
    strain.publish_largest([large(megabytes, random) for megabytes in LARGE_MB])
    behind[strain.largest_name] = strain.one_edit()
    recorded = large(LARGE_MB[0], random)
    replayed_mb = strain.replay(recorded)
    all_together = strain.one_edit([*pickles(random, marker), *wrong_ids(strain.dataset, random)])
    strain.publish_hostile(unknown_node(strain.dataset, random))
    wrong = strain.check_letters(UNKNOWN_S)
    grown_mb = peaks_mb(memory)
    usual, slower = quantiles(alone), quantiles(list(behind.values()))
    slowest = max(behind, key=lambda name: behind[name])
    times = f"median {slower['median']:.2f} s, max {slower['max']:.2f} s ({slowest})"
    console.print(f"hostile: {len(strain.expected)} messages, the largest {strain.largest_name}")
    console.print(f"  replayed: {recorded.name}; that process took {replayed_mb:.0f} MB at most")
    console.print(f"  good edits alone: median {usual['median']:.2f} s, max {usual['max']:.2f} s")
    console.print(f"  good edits behind: {times}")
    console.print(f"  a good edit behind most of them at once: {all_together:.2f} s")
    tell(console, wrong)
    ratio = slower["median"] / usual["median"]
    return [
        Bar("hostile: wrong, missing or superfluous dead letters", len(wrong), 0, most=True, unit=""),
        Bar("hostile: payloads that ran something", float(marker.exists()), 0, most=True, unit=""),
        Bar("hostile: processes that ended", len(pids - strain.pids()), 0, most=True, unit=""),
        Bar("hostile: time of the edits behind / alone, medians", ratio, MOST_SLOWER, most=True),
        Bar(
            "hostile: memory of all processes, peak - before", grown_mb, MOST_HOSTILE_MB, most=True, unit="MB"
        ),
    ]


def measure_soak(console: Console, strain: Strain, minutes: float) -> list[Bar]:
    pids = strain.pids()
    samples = strain.soak(minutes * 60)
    lost = strain.wait_for_all()
    wrong = strain.check_letters(UNKNOWN_S)
    console.print(
        f"soak of {minutes:g} minutes: {strain.edits} edits, {len(strain.expected)} hostile messages, "
        f"{strain.repeats} repeats; {len(samples)} samples"
    )
    show(console, samples)
    tell(console, wrong)
    bars = [
        Bar("soak: rows that are not there", lost, 0, most=True, unit=""),
        Bar("soak: wrong, missing or superfluous dead letters", len(wrong), 0, most=True, unit=""),
        Bar("soak: processes that ended", len(pids - strain.pids()), 0, most=True, unit=""),
    ]
    for grown in growths(samples):
        memory = "memory" in grown.name
        most = grown.before * MOST_GROWTH + MOST_GROWTH_MB if memory else 0.0
        name = f"soak: growth of {grown.name}, from {grown.before:.0f}"
        bars.append(Bar(name, grown.by, most, most=True, unit="MB" if memory else ""))
    return bars


def tell(console: Console, wrong: list[str]) -> None:
    """Print the problems of dead letters."""
    for what in wrong:
        console.print(f"  [red]{what}")


def show(console: Console, samples: list[Footprint]) -> None:
    """Print about ten of the samples."""
    console.print("  minute  processes  PSS, MB  threads  files")
    for sample in samples[:: max(1, len(samples) // 10)]:
        console.print(
            f"  {sample.seconds / 60:6.1f}  {sample.processes:9}  {sample.pss_mb:7.1f}  "
            f"{sample.threads:7}  {sample.files:5}"
        )


if __name__ == "__main__":
    sys.exit(main())
