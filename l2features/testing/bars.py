"""Output of benchmarks: the machine, and a table of measured figures and their limits (bars)."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass
class Bar:
    """A measured figure and its limit ``bar``: a maximum if ``most``, else a minimum. None means no limit."""

    name: str
    value: float
    bar: float | None
    most: bool = False
    unit: str = "x"

    @property
    def passed(self) -> bool:
        if self.bar is None:
            return True
        return self.value <= self.bar if self.most else self.value >= self.bar


def begin() -> Console:
    """Print a line about the machine, turn off the warnings about emulators, and return the console."""
    warnings.filterwarnings("ignore", "Connecting to Bigtable emulator", RuntimeWarning)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    return console


def print_bars(console: Console, bars: Sequence[Bar]) -> bool:
    """Print the figures; return whether all bars are met."""
    table = Table(box=SIMPLE_HEAD)
    for head in ("", "measured", "bar", ""):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for bar in bars:
        verdict = "" if bar.bar is None else "[green]PASS" if bar.passed else "[red]FAIL"
        limit = "" if bar.bar is None else f"{'at most' if bar.most else 'at least'} {bar.bar:g} {bar.unit}"
        table.add_row(bar.name, f"{bar.value:.3g} {bar.unit}", limit, verdict)
    console.print(table)
    return all(bar.passed for bar in bars)
