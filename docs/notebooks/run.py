"""Run the notebooks on samples, and compare what they print with what is committed.

Exits with 1 if a cell fails, warns, or prints something else. The samples are made in a temporary folder:
``big``, a flat one, and ``l2features-stack`` with a graph, three edits and two versions.

example:
  python docs/notebooks/run.py              # check all
  python docs/notebooks/run.py --write      # write their outputs, with plots
"""

from __future__ import annotations

import argparse
import difflib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
BIG = ("--grid", "12,6,6", "--chunk-size", "48,48,24")
STACK = "l2features-stack"
EDITS = ("merge", "merge", "split")
EMULATOR = "Connecting to Bigtable emulator"
PATIENCE_S = 600
"""What a cell, or the start of a kernel, may take on a loaded machine."""
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    paths = sorted(options.notebooks or FOLDER.glob("*.ipynb"))
    from l2features.testing.emulators import Emulator

    warnings.filterwarnings("ignore", EMULATOR, RuntimeWarning)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # also l2features, for shells
    os.environ |= {
        "PATH": programs,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": f"ignore:{EMULATOR}:RuntimeWarning",
    }
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        emulator = Emulator()
        stack.callback(emulator.stop)
        os.environ[emulator.variable] = emulator.host
        make_big(Path(name))
        make_stack(Path(name))
        return max(check(path, Path(name), options.write) for path in paths)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks; default: all in this folder")
    parser.add_argument("--write", action="store_true", help="write the outputs into the notebooks")
    return parser.parse_args(arguments)


# ------------------------------------------------------------------ samples
def make_big(folder: Path) -> None:
    """Make a flat sample of 3,674 nodes."""
    run(folder, "l2features.cli", "sample", "big", *BIG)
    job(folder, "ingest", "big", "--create")


def make_stack(folder: Path) -> None:
    """Make a sample with a graph, and a version before and after edits."""
    from l2features.local.sample.graph_table import TIMESTAMP
    from l2features.local.services import GRAPH

    run(folder, "l2features.cli", "sample", STACK, "--graph", GRAPH)
    job(folder, "ingest", STACK, "--create", "--timestamp", TIMESTAMP)
    versions = ("--output", str(folder / "versions"), "--settle_seconds", "0")
    job(folder, "materialize", STACK, "--timestamp", TIMESTAMP, *versions)
    edit(folder)
    job(folder, "audit", STACK, "--repair")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    job(folder, "materialize", STACK, "--timestamp", now, *versions, "--base", "1")


def edit(folder: Path) -> None:
    """Edit the graph, as `l2features sample-edit` does, but without Pub/Sub."""
    from l2features.config.datasets import load_dataset
    from l2features.local.sample.edit import SampleEditor

    with closing(SampleEditor(load_dataset("sample", str(folder / STACK / "datasets.yml")))) as editor:
        for kind in EDITS:
            editor.edit(kind)


def job(folder: Path, name: str, dataset: str, *arguments: str) -> None:
    config = f"{dataset}/datasets.yml"
    run(folder, f"beam_jobs.{name}", "--config", config, "--dataset", "sample", "--workers", "1", *arguments)


def run(folder: Path, module: str, *arguments: str) -> None:
    """Run a module as a command. Raises SystemExit with its messages if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")


# ------------------------------------------------------------------ notebooks
def check(path: Path, folder: Path, write: bool) -> int:
    """Run a notebook; return 1 if its output differs from the committed one, else 0."""
    committed = nbformat.read(path, as_version=4)
    ran = nbformat.from_dict({**committed, "metadata": METADATA})
    for cell in ran.cells:
        cell.metadata = {}
    place = {"metadata": {"path": folder}}
    NotebookClient(
        ran, resources=place, record_timing=False, timeout=PATIENCE_S, startup_timeout=PATIENCE_S
    ).execute()
    ran.metadata = METADATA
    if warned := [text for _, kind, text in outputs(ran) if kind == "stderr"]:
        print(f"{path.name}: printed to stderr: {warned[0]}")
        return 1
    if write:
        nbformat.write(ran, path)
        print(f"{path.name}: written, {path.stat().st_size / 1000:.0f} kB")
        return 0
    before, after = (printed(notebook) for notebook in (committed, ran))
    difference = list(difflib.unified_diff(before, after, "committed", "now", lineterm="", n=1))
    print("\n".join([f"{path.name}: {'differs' if difference else 'the same'}", *difference]))
    return int(bool(difference))


def outputs(notebook: Any) -> Iterator[tuple[int, str, str]]:
    """Yield the outputs of a notebook: number of the cell, kind and text."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            kind = output.get("name") or ("plot" if "image/png" in data else output.output_type)
            yield number, kind, "" if kind == "plot" else output.get("text") or data.get("text/plain", "")


def printed(notebook: Any) -> list[str]:
    return [
        f"cell {number}: {line}"
        for number, kind, text in outputs(notebook)
        for line in [f"({kind})", *text.splitlines()]
    ]


if __name__ == "__main__":
    sys.exit(main())
