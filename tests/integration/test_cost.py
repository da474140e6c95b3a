"""Tests of ingest cost estimates: exact counts, and the prices that follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cost import VOLUMES, Estimate, Volume, parse, table_text
from benchmarks.cost_inputs import GRID, Inputs, inputs_text, measure, own_emulator
from l2features.testing.em import INSTANCE, PROJECT, TABLE, make_crops, make_dataset
from l2features.testing.emulators import HOW_TO_GET_IT, find_emulator
from tests.support.jobs import need_program

SIZE = (128, 128, 64)
INPUTS = Inputs(
    machine="any",
    size=(100, 100, 100),
    chunks=4,
    cpu_s={"read": 1.0, "map": 2.0, "compute": 3.0, "write": 1.2},
    wall_s={"read": 2.0, "map": 2.0, "compute": 3.0, "write": 2.0},
    supervoxels=5_000,
    nodes=1_000,
    files=8,
    file_bytes=2e6,
    row_bytes=200,
    packed_bytes=50,
    sqlite_bytes=100,
    peak_mb=900,
    start_s=4,
)


def labels() -> np.ndarray:
    """Return labels of boxes, with background between some of them."""
    x, y, z = np.indices((256, 256, 64)) // 20
    return ((1 + x + 20 * y + 400 * z) * ((x + y) % 5 > 0)).astype(np.uint32)


@pytest.fixture
def rows_and_inputs(tmp_path: Path) -> tuple[Inputs, list[bytes], int]:
    """Return the estimate's measured inputs, each row's bytes, and the segmentation files' size in bytes."""
    need_program(find_emulator(), HOW_TO_GET_IT)
    from google.cloud.bigtable.data import BigtableDataClient, ReadRowsQuery

    with own_emulator():
        dataset = make_dataset(tmp_path, make_crops(labels(), SIZE, 4), GRID)
        inputs = measure(dataset, repeats=1)
        with BigtableDataClient(project=PROJECT) as client:
            rows = client.get_table(INSTANCE, TABLE).read_rows(ReadRowsQuery())
    content = [
        row.row_key
        + b"".join(cell.family.encode() + cell.qualifier + cell.value + bytes(8) for cell in row.cells)
        for row in rows
        if row.row_key.isdigit()
    ]
    files = list((tmp_path / "segmentation").glob("*_*_*/*"))
    return inputs, content, sum(path.stat().st_size for path in files)


def test_measured_inputs_match_the_table_and_files(rows_and_inputs: tuple[Inputs, list[bytes], int]) -> None:
    inputs, rows, stored = rows_and_inputs
    assert inputs.nodes * inputs.chunks == len(rows) > 300
    assert inputs.row_bytes * len(rows) == pytest.approx(sum(map(len, rows)))
    assert inputs.file_bytes * inputs.chunks == pytest.approx(stored)
    assert inputs.files == 1
    assert 80 < inputs.sqlite_bytes < inputs.row_bytes
    assert inputs.packed_bytes < inputs.row_bytes
    assert all(seconds > 0 for seconds in inputs.cpu_s.values())
    assert inputs.supervoxels > inputs.nodes
    assert 100 < inputs.peak_mb < 3_000
    assert any(f"{inputs.nodes:,.0f}" in line for line in inputs_text(inputs))


def test_an_estimate_by_hand() -> None:
    volume = Volume("mine", 3_600, (100, 100, 200))
    options = parse(["--vcpus", "8", "--machines", "2", "--busy", "0.5", "--vcpu_hour", "0.1"])
    options.memory_gb_hour = options.disk_gb_hour = 0
    estimate = Estimate(INPUTS, volume, options)
    assert estimate.core_hours == pytest.approx(2 * 7.2)
    assert estimate.machine_hours == pytest.approx(2 * 7.2 / 4)
    assert estimate.hours == pytest.approx(1.8)
    assert estimate.nodes == 2 * 3_600 * 1_000
    assert estimate.rows == estimate.nodes + 3_600
    assert estimate.requests == 3_600 * (4 + 1)
    assert estimate.stored_gb == pytest.approx(7.2e6 * 200 / 1e9)
    assert estimate.workers_cost == pytest.approx(3.6 * 8 * 0.1)
    assert estimate.gets_cost == pytest.approx(2 * 3_600 * 8 / 1_000 * 0.0004)
    assert estimate.bigtable_nodes == 1
    assert estimate.bigtable_cost == pytest.approx(1.8 * 0.65)
    assert estimate.month_cost == pytest.approx(7.2e6 * 200 / 1e9 * 0.17 + 730 * 0.65)
    parts = (estimate.workers_cost, estimate.bigtable_cost, estimate.gets_cost)
    assert estimate.cost == pytest.approx(sum(parts))


def test_more_machines_need_more_bigtable_nodes_and_cost_the_same_work() -> None:
    few = Estimate(INPUTS, VOLUMES[0], parse(["--machines", "100"]))
    many = Estimate(INPUTS, VOLUMES[0], parse(["--machines", "1000"]))
    assert many.hours == pytest.approx(few.hours / 10)
    assert many.workers_cost == pytest.approx(few.workers_cost)
    assert many.bigtable_nodes > few.bigtable_nodes


def test_a_column_for_each_data_set_and_prices_as_they_were_given() -> None:
    three = "\n".join(table_text(INPUTS, parse([])))
    assert "| | FlyWire | minnie65 | H01 |" in three
    assert "326,480 of 256×256×512" in three
    own = ["--dataset", "mine:10:64,64,64", "--node_hour", "1.25", "--nodes_per_chunk", "7"]
    one = "\n".join(table_text(replace(INPUTS, size=(64, 64, 64)), parse(own)))
    assert "| | mine |" in one
    assert "node_hour 1.25" in one
    with pytest.raises(SystemExit):
        parse(["--dataset", "mine:ten:1,2,3"])


@pytest.mark.parametrize("wrong", ["--machines 0", "--busy 0.0", "--keep /none/inputs.json"])
def test_what_is_wrong_is_said_before_it_measures(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(wrong.split())
    assert f"error: {wrong}: " in capsys.readouterr().err
