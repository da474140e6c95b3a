"""Compare a neuron's layers for Neuroglancer with the neuron's features in Arrow, by time to the first byte.

The root's L2 ids, rows and skeleton are in the store (the Bigtable emulator). Each repeat starts a fresh
server with empty caches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.neurons import REAL, TIMEOUT_S, Stack, start
from benchmarks.synthetic_neurons import Neuron
from l2features.testing.bars import Bar, begin, print_bars

EPILOG = """
cold: first request to a fresh server. warm: the same request again. kept: the skeleton, read from the store
by a fresh server. cached: the skeleton, in the server's memory.

examples:
  python benchmarks/viewer.py
  python benchmarks/viewer.py --repeats 3
"""
ARROW = "application/vnd.apache.arrow.stream"
MOST_RATIO, MOST_KEPT_MS = 1.3, 15


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    console = begin()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        stack = start(Path(folder), [options.nodes, 50], running)
        passed = print_bars(console, measure(stack, options.repeats))
    return 0 if passed or options.no_check else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=REAL, help="nodes of the root; default 5,830")
    parser.add_argument("--repeats", type=int, default=7, help="repeats of each figure; default 7")
    parser.add_argument(
        "--no-check", action="store_true", help="exit with 0 even if a result misses its limit"
    )
    return parser.parse_args(arguments)


def measure(stack: Stack, repeats: int) -> list[Bar]:
    """Return median times of Arrow and skeleton, and of layers ``nodes``, ``axes`` divided by Arrow's."""
    neuron = stack.neurons[0]
    nodes, skeleton = "precomputed/nodes/rel_root", "precomputed/skeletons"
    seconds(stack, f"{skeleton}/{neuron.root}")  # the store has it, and the ids of the root, from now on
    paths = {
        "arrow": f"root/{neuron.root}/nodes",
        "nodes": f"{nodes}/{neuron.root}",
        "axes": f"{nodes.replace('nodes', 'axes')}/{neuron.root}",
        "skeleton": f"{skeleton}/{neuron.root}",
    }
    cold, warm = ({name: list[float]() for name in paths} for _ in range(2))
    for name, path in [*paths.items()] * repeats:
        stack.restart()
        cold[name].append(seconds(stack, path))
        warm[name] += [seconds(stack, path) for _ in range(3)]
    return bars(neuron, *({name: statistics.median(each) for name, each in t.items()} for t in (cold, warm)))


def bars(neuron: Neuron, cold: dict[str, float], warm: dict[str, float]) -> list[Bar]:
    """Return the times of Arrow and the skeleton, and the ratios of other layers' times to Arrow's.

    ``cold`` and ``warm`` are seconds by layer. Layer ``axes`` and Arrow have no required maximum.
    """
    size = f"{len(neuron.l2_ids):,} nodes"
    found = [Bar(f"{size}: Arrow, cold", cold["arrow"] * 1e3, None, unit="ms")]
    for state, times in (("cold", cold), ("warm", warm)):
        for layer in ("nodes", "axes"):
            ratio = times[layer] / times["arrow"]
            limit = MOST_RATIO if layer == "nodes" else None
            found.append(Bar(f"{size}: layer {layer} / Arrow, {state}", ratio, limit, most=True))
    for state, times in (("kept", cold), ("cached", warm)):
        kept_ms = times["skeleton"] * 1e3
        found.append(Bar(f"{size}: skeleton, {state}", kept_ms, MOST_KEPT_MS, most=True, unit="ms"))
    return found


def seconds(stack: Stack, path: str) -> float:
    """Return the seconds until the first byte of a response's body, on a new connection."""
    headers = {"Accept": ARROW if path.startswith("root/") else "*/*", "Accept-Encoding": "gzip"}
    begun = time.perf_counter()
    with requests.get(f"{stack.api}/{path}", headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        answer.raise_for_status()
        next(answer.iter_content(1))
        return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
