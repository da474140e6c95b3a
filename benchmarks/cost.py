"""Measure the cost of ingesting a chunk, and extrapolate hours, bytes and money for whole data sets.

Prints two Markdown tables. Sizes, machines and prices are options. Assumes that every voxel of a data set
costs as much as a measured voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from dataclasses import asdict, dataclass
from math import ceil, prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cost_inputs import Inputs, inputs_text, measure_em
from benchmarks.ingest import triple
from l2features.core.geometry import Triple
from l2features.store.bigtable.bigtable_store import WRITE_ROWS
from l2features.testing.em_volume import em_parser
from l2features.testing.emulators import HOW_TO_GET_IT, find_emulator

PRICES = {
    "vcpu_hour": (0.056, "US dollars per hour of a vCPU of a Dataflow batch worker"),
    "memory_gb_hour": (0.003557, "US dollars per hour of a GB of memory of a Dataflow batch worker"),
    "disk_gb_hour": (0.000054, "US dollars per hour of a GB of disk of a Dataflow batch worker"),
    "node_hour": (0.65, "US dollars per hour of a Bigtable node"),
    "gb_month": (0.17, "US dollars per month of a GB in Bigtable (SSD)"),
    "thousand_gets": (0.0004, "US dollars per 1,000 reads of objects in a bucket"),
}
PRICED = "US dollars, assumed on 2026-11-21 for us-central1: check yours"
HOURS_A_MONTH = 730
DIVISORS = ("repeats", "vcpus", "machines", "speed", "busy", "node_rows", "node_tb")
"""Options that must be above 0."""
EXPECTED = "Connecting to Bigtable emulator"
EXAMPLES = """
examples:
  python benchmarks/cost.py
  python benchmarks/cost.py --keep inputs.json --machines 400
  python benchmarks/cost.py --keep inputs.json --vcpu_hour 0.03 --dataset mine:120000:512,512,128
"""


@dataclass(frozen=True)
class Volume:
    """A data set: its number of chunks, and the size of a chunk in voxels."""

    name: str
    chunks: int
    size: Triple


VOLUMES = (
    Volume("FlyWire", 326_480, (256, 256, 512)),
    Volume("minnie65", 10_000_000, (256, 256, 512)),
    Volume("H01", 29_500_000, (256, 256, 512)),
)


class Estimate:
    """Time, size and cost of ingesting a data set on ``options.machines`` machines."""

    def __init__(self, inputs: Inputs, volume: Volume, options: argparse.Namespace) -> None:
        self.inputs, self.volume, self.options = inputs, volume, options
        self.times = volume.chunks * prod(volume.size) / prod(inputs.size)
        """Size of the data set, as a multiple of a measured chunk."""
        self.core_hours = self.times * inputs.core_s / 3600
        self.machine_hours = self.core_hours / (options.vcpus * options.speed * options.busy)
        self.hours = self.machine_hours / options.machines
        self.nodes = self.times * (options.nodes_per_chunk or inputs.nodes)
        self.rows = self.nodes + volume.chunks
        """Number of rows: one per node and one per chunk."""
        self.requests = volume.chunks * (ceil(self.nodes / volume.chunks / WRITE_ROWS) + 1)
        self.rows_per_s = self.rows / (self.hours * 3600)
        self.bigtable_nodes = max(1, ceil(self.rows_per_s / options.node_rows))
        self.stored_gb = self.nodes * inputs.row_bytes / 1e9
        self.holding_nodes = max(1, ceil(self.stored_gb / 1e3 / options.node_tb))

    @property
    def workers_cost(self) -> float:
        o = self.options
        machine = o.vcpus * o.vcpu_hour + o.memory_gb * o.memory_gb_hour + o.disk_gb * o.disk_gb_hour
        return float(self.machine_hours * machine)

    @property
    def bigtable_cost(self) -> float:
        return float(self.hours * self.bigtable_nodes * self.options.node_hour)

    @property
    def gets_cost(self) -> float:
        return float(self.times * self.inputs.files / 1000 * self.options.thousand_gets)

    @property
    def month_cost(self) -> float:
        """Monthly cost of the stored table, with the fewest Bigtable nodes that can hold it."""
        nodes = self.holding_nodes * HOURS_A_MONTH * self.options.node_hour
        return float(self.stored_gb * self.options.gb_month + nodes)

    @property
    def cost(self) -> float:
        return self.workers_cost + self.bigtable_cost + self.gets_cost


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _expect_emulators()
    if options.keep and options.keep.exists():
        inputs = Inputs(**json.loads(options.keep.read_text()))
    elif find_emulator() is None:
        print(HOW_TO_GET_IT, file=sys.stderr)
        return 2
    else:
        inputs = measure_em(options.shared, options.size, options.repeats)
    if options.keep:
        options.keep.write_text(json.dumps(asdict(inputs), indent=2))
    print("\n".join([*inputs_text(inputs), "", *table_text(inputs, options)]))
    return 0


def _expect_emulators() -> None:
    """Silence the warning about the Bigtable emulator, in child processes too."""
    warnings.filterwarnings("ignore", EXPECTED, RuntimeWarning)
    os.environ["PYTHONWARNINGS"] = f"ignore:{EXPECTED}:RuntimeWarning"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = em_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add(
        "--size", type=triple, default=(256, 256, 512), help="voxels of a measured chunk; default 256,256,512"
    )
    add("--repeats", type=int, default=2, help="measurements of each of the 4 chunks; default 2")
    add(
        "--keep",
        type=Path,
        metavar="FILE",
        help="read measurements from this file if it exists, else write it",
    )
    add(
        "--dataset",
        type=_volume,
        action="append",
        metavar="NAME:CHUNKS:X,Y,Z",
        help="data set to extrapolate to, instead of FlyWire, minnie65 and H01; repeatable",
    )
    add("--nodes_per_chunk", type=float, help="nodes in a chunk of --size voxels; default: as measured")
    add("--vcpus", type=int, default=4, help="vCPUs per machine; default 4 (n2-standard-4)")
    add("--memory_gb", type=float, default=16, help="GB of memory per machine; default 16")
    add("--disk_gb", type=float, default=50, help="GB of disk per machine; default 50")
    add("--machines", type=int, default=100, help="number of machines; default 100")
    add("--speed", type=float, default=1.0, help="speed of a vCPU relative to a core here; default 1")
    add("--busy", type=float, default=0.5, help="share of its time for which a vCPU computes; default 0.5")
    add(
        "--node_rows",
        type=float,
        default=10_000,
        help="rows that a Bigtable node can write per second; default 10,000",
    )
    add("--node_tb", type=float, default=5, help="TB that a Bigtable node can hold; default 5")
    for name, (price, what) in PRICES.items():
        add(f"--{name}", type=float, default=price, metavar="PRICE", help=f"{what}; default {price:g}")
    options = parser.parse_args(arguments)
    for name in DIVISORS:
        if not getattr(options, name) > 0:
            parser.error(f"--{name} {getattr(options, name)}: expected more than 0")
    if options.keep and not options.keep.parent.is_dir():
        parser.error(f"--keep {options.keep}: expected an existing folder {options.keep.parent}")
    return options


def _volume(text: str) -> Volume:
    try:
        name, chunks, size = text.split(":")
        return Volume(name, int(chunks), triple(size))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME:CHUNKS:X,Y,Z") from None


def table_text(inputs: Inputs, options: argparse.Namespace) -> list[str]:
    """Return the lines of the Markdown table of costs, with a column per data set."""
    volumes = options.dataset or VOLUMES
    columns = [_column(Estimate(inputs, volume, options), options) for volume in volumes]
    prices = ", ".join(f"{name} {getattr(options, name):g}" for name in PRICES)
    return [
        f"Prices ({PRICED}): {prices}.",
        f"A vCPU is {options.speed:g} × as fast as a core here, and computes {options.busy:.0%} of its time;",
        f"a Bigtable node takes {options.node_rows:,.0f} rows a second and holds {options.node_tb:g} TB.",
        "",
        f"| | {' | '.join(volume.name for volume in volumes)} |",
        "|---" * (len(volumes) + 1) + "|",
        *(f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]),
    ]


def _column(e: Estimate, options: argparse.Namespace) -> dict[str, str]:
    return {
        "chunks": f"{e.volume.chunks:,} of {'×'.join(map(str, e.volume.size))}",
        "core-hours": f"{e.core_hours:,.0f}",
        f"machine-hours, {options.vcpus} vCPUs": f"{e.machine_hours:,.0f}",
        f"hours with {options.machines} machines": f"{e.hours:,.1f}",
        "read": f"{e.times * e.inputs.file_bytes / 1e12:,.2f} TB",
        "files read": f"{e.times * e.inputs.files / 1e6:,.0f} M",
        "rows of the graph scanned": f"{e.times * e.inputs.supervoxels / 1e9:,.1f} G",
        "nodes": f"{e.nodes / 1e6:,.0f} M",
        "rows written, in requests": f"{e.rows / 1e6:,.0f} M, {e.requests / 1e6:,.1f} M",
        "rows written a second": f"{e.rows_per_s:,.0f}",
        "rows of the graph a second": f"{e.times * e.inputs.supervoxels / e.hours / 3600:,.0f}",
        "Bigtable nodes to write so fast": f"{e.bigtable_nodes}",
        "stored, before compression": f"{e.stored_gb:,.0f} GB",
        "stored, lightly packed": f"{e.nodes * e.inputs.packed_bytes / 1e9:,.0f} GB",
        "workers": f"{e.workers_cost:,.0f}",
        "Bigtable nodes while it runs": f"{e.bigtable_cost:,.0f}",
        "reads of files": f"{e.gets_cost:,.0f}",
        "**ingest**": f"**{e.cost:,.0f}**",
        "per million nodes": f"{e.cost / e.nodes * 1e6:,.2f}",
        "a month: storage, Bigtable nodes to hold it": f"{e.month_cost:,.0f}, {e.holding_nodes} of them",
    }


if __name__ == "__main__":
    sys.exit(main())
