"""Tests of saturated values: the warning when a table is created, and the ingest's counts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from beam_jobs.ingest import parse
from l2features.jobs.ingest_run import plan
from tests.support.features import COARSE, cubes
from tests.support.ingest_jobs import open_sample, run_ingest
from tests.support.jobs import dataset_file


def test_warned_when_the_table_is_made_and_counted_by_the_ingest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from cloudvolume import CloudVolume

    info = CloudVolume.create_new_info(1, "segmentation", "uint64", "raw", COARSE, (0, 0, 0), (32, 32, 32))
    volume = CloudVolume(f"precomputed://file://{tmp_path}/seg", info=info, progress=False)
    volume.commit_info()
    volume[:] = cubes()[..., None]
    config = dataset_file(tmp_path, tmp_path / "seg", chunk_size=[32, 32, 32])
    flags = ["--config", str(config), "--dataset", "sample"]
    with caplog.at_level(logging.WARNING, logger="l2features.ingest"):
        plan(parse([*flags, "--create"])[0])
        assert [line.split()[0] for line in caplog.messages] == ["area_nm2", "max_dt_nm"]
        plan(parse(flags)[0])
        assert len(caplog.messages) == 2
    done = run_ingest(config)
    assert "\nsaturated: area_nm2 in 1 nodes, max_dt_nm in 1 nodes\n" in done.stdout
    [record] = open_sample(config)[0].chunk_records()
    assert record.saturated == {"area_nm2": 1, "max_dt_nm": 1}
    again = run_ingest(config, "--recompute", "--runner=FnApiRunner")
    assert "saturated_area_nm2 1, saturated_max_dt_nm 1" in again.stdout
