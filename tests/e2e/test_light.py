"""Tests of the light installation: the wheel without extras, in a new environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from l2features import Client
from l2features.core.ids import Ids
from l2features.core.rows import served_column
from l2features.store.base import node_segments, open_store
from l2features.store.segment_index import NOTE
from l2features.testing.emulators import Emulator
from l2features.testing.server import Server
from l2features.testing.stores import STORE_URL, open_table
from tests.support.elsewhere import environment, pip, site_packages
from tests.support.jobs import ROOT, all_rows
from tests.support.published import Published

MOST_BYTES, MOST_IMPORT_S = 400_000_000, 0.5
HEAVY = ["apache_beam", "cloudvolume", "edt", "flask", "google", "grpc", "numba", "scipy", "sklearn"]
SCRIPT = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL)
IMPORT = """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
from l2features import Client
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
READ = """
import sys
import pyarrow as pa
from l2features import Client

config, dataset, root, *ids = sys.argv[1:]
client = Client(config, dataset)
tables = {"features": client.features([*map(int, ids)]), "summary": client.neurons([int(root)])}
for name, table in tables.items():
    with pa.OSFile(name, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
"""
ABSENT = "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"


class Light(NamedTuple):
    python: Path
    wheel: Path
    bytes: int
    folder: Path

    def run(self, *command: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment; it must end with this status and without a traceback."""
        ran = subprocess.run(
            [str(self.python.parent / command[0]), *command[1:]],
            cwd=self.folder,
            env=environment(self.python, **variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ran.returncode == status, ran.stderr
        assert "Traceback" not in ran.stderr
        return ran


@pytest.fixture(scope="module")
def light(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Light:
    folder = tmp_path_factory.mktemp("light")
    place = folder / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    pip(f"--python={python}", "install", "--no-compile", str(published.wheel))
    files = [path for path in site_packages(place).rglob("*") if path.is_file()]
    # pip's bytecode, which tests do without, takes about as much as the source
    size = sum(path.stat().st_size * (1 + (path.suffix == ".py")) for path in files)
    pip(f"--python={python}", "install", "--no-compile", "pandas")
    (folder / "empty").mkdir()
    return Light(python, published.wheel, size, folder / "empty")


@pytest.fixture(scope="module")
def server(undisturbed: Path) -> Iterator[Server]:
    with Server(undisturbed) as server:
        yield server


class Segment(NamedTuple):
    """A segment, and the number and summed volume of its nodes."""

    root_id: int
    n_nodes: int
    size_nm3: int


@pytest.fixture(scope="module")
def segment(undisturbed: Path) -> Segment:
    """The segment with the most nodes."""
    with closing(open_table(undisturbed)) as store:
        rows, geometry = all_rows(store), store.geometry()
        assert geometry
        segments = node_segments(store, geometry.layout, rows.ids)
    sizes, _ = served_column(rows, geometry, "size_nm3")
    ids, counts = np.unique(segments, return_counts=True)
    most = ids[counts.argmax()]
    return Segment(int(most), int(counts.max()), int(sizes[segments == most].sum()))


def test_it_is_small_and_quickly_imported(light: Light) -> None:
    """Limit CPU time, which load affects less than wall time. The first run compiles and does not count."""
    times = [light.run("python", "-c", IMPORT).stdout.split() for _ in range(4)][1:]
    wall, cpu = (min(map(float, column)) for column in zip(*times, strict=True))
    print(f"light installation: {light.bytes / 1e6:.0f} MB, import {cpu:.2f} s of processor, {wall:.2f} s")
    assert light.run("python", "-c", ABSENT, *HEAVY).stdout.split() == []
    assert light.bytes < MOST_BYTES
    assert cpu < MOST_IMPORT_S


def test_a_script_prints_a_summary_from_a_server_and_from_the_table(
    light: Light, undisturbed: Path, server: Server, segment: Segment
) -> None:
    assert SCRIPT
    outputs = [
        light.run("python", "-c", SCRIPT[1], place, "sample", str(segment.root_id)).stdout
        for place in (server.url, str(undisturbed))
    ]
    assert outputs[0] == outputs[1]
    shown = dict(line.split()[:2] for line in outputs[0].splitlines() if len(line.split()) > 1)
    assert {name: int(shown[name]) for name in segment._fields} == segment._asdict()
    assert f"{segment.n_nodes - 1} " in outputs[0].splitlines()[-1]


def test_commands_that_need_no_extra(
    light: Light, undisturbed: Path, segment: Segment, tmp_path: Path
) -> None:
    options = ("--config", str(undisturbed))
    assert "12/12 chunks done" in light.run("l2features", "status", "sample", *options).stdout
    got = light.run("l2features", "get", "sample", "--chunk", "1,1,1", "--json", *options).stdout
    assert all(row["size_nm3"] > 0 for row in json.loads(got).values())
    neurons = light.run("l2features", "neuron", "sample", str(segment.root_id), "--no-graph", *options).stdout
    assert f"{segment.n_nodes}" in neurons
    file = str(tmp_path / "nodes.parquet")
    assert (
        " nodes of 12 chunks to "
        in light.run("l2features", "export", "sample", "--to", file, *options).stdout
    )
    assert light.run("l2features", "--help").stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("sample made", "compute"),
        ("chunk sample 1,1,1 --config {config}", "compute"),
        ("ingest sample --config {config}", "compute"),
        ("neuron sample {root} --config {config}", "skeletons"),
        ("sample made --graph bigtable://project/instance/table", "bigtable"),
        ("serve {config}", "api"),
        ("up stack", "jobs"),
    ],
)
def test_other_commands_name_the_extra(
    light: Light, undisturbed: Path, segment: Segment, command: str, extra: str
) -> None:
    arguments = command.format(config=undisturbed, root=segment.root_id).split()
    ran = light.run("l2features", *arguments, status=2)
    assert f"pip install 'l2features[{extra}]'" in ran.stderr
    assert list(light.folder.iterdir()) == []


def test_with_the_extra_bigtable_rows_are_those_of_the_compiled_decoder(
    light: Light, undisturbed: Path, emulator: Emulator, segment: Segment, tmp_path: Path
) -> None:
    pip(f"--python={light.python}", "install", "--no-compile", f"{light.wheel}[bigtable]")
    assert light.run("python", "-c", ABSENT, "google", "numba").stdout.split() == ["google"]
    config, ids = copied_to_bigtable(undisturbed, tmp_path)
    arguments = (str(config), "sample", str(segment.root_id), *map(str, ids.tolist()))
    light.run("python", "-c", READ, *arguments, BIGTABLE_EMULATOR_HOST=emulator.host)
    with Client(config, "sample") as client:
        expected = client.features(ids), client.neurons([segment.root_id])
    for name, table in zip(("features", "summary"), expected, strict=True):
        with pa.OSFile(str(light.folder / name)) as file:
            assert pa.ipc.open_stream(file).read_all().equals(table, check_metadata=True)
    assert expected[1]["n_nodes"].to_pylist() == [segment.n_nodes]


def copied_to_bigtable(config: Path, folder: Path) -> tuple[Path, Ids]:
    """Copy the table to the emulator; return its data sets file and all ids."""
    name = f"light_{os.getpid()}"
    with closing(open_table(config)) as source, closing(open_store(STORE_URL, name)) as copy:
        rows, meta = all_rows(source), source.meta()
        assert meta
        copy.create(meta)
        copy.write(rows.features)
        for record in source.chunk_records():
            copy.put_chunk(record, source.segments(record.chunk_id))
        copy.put_note(NOTE, source.note(NOTE) or "")
    entry = json.loads(config.read_text())["sample"]
    path = folder / "datasets.yml"
    path.write_text(json.dumps({"sample": {**entry, "store": STORE_URL, "l2cache_id": name}}))
    return path, rows.ids
