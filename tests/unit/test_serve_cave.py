"""Tests of `l2features serve --cave`, which requires a graph in Bigtable and disabled authentication."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from l2features.cli.commands import main
from l2features.config.datasets import Dataset
from l2features.local.cave.cave_apps import Graphs
from l2features.local.cave.pcg import NotFound


def test_not_with_authentication(tmp_path: Path) -> None:
    config = tmp_path / "datasets.yml"
    config.write_text("x: {cv_path: 'precomputed://file:///none', l2cache_id: none}\n")
    done = CliRunner().invoke(main, ["serve", str(config), "--auth", "--cave"])
    assert (done.exit_code, "--cave cannot check tokens: expected no --auth" in done.output) == (2, True)


def test_not_without_a_graph_in_bigtable(tmp_path: Path) -> None:
    config = tmp_path / "datasets.yml"
    config.write_text("x: {cv_path: 'precomputed://file:///none', l2cache_id: none}\n")
    done = CliRunner().invoke(main, ["serve", str(config), "--cave"])
    assert (done.exit_code, "has a graph in Bigtable" in done.output) == (2, True)


def test_graphs_without_a_table_are_not_served() -> None:
    store = {"l2cache_id": "t", "store": "sqlite:///t.db", "cv_path": "precomputed://file:///none"}
    flat = Dataset.model_validate({"name": "flat_one", "graph": "flat", **store})
    table = Dataset.model_validate({"name": "tabled", "graph": "bigtable://p/i/t", **store})
    graphs = Graphs([flat, table])
    assert list(graphs.urls) == ["tabled"]
    with pytest.raises(NotFound, match=r"table 'flat_one' is not served; served tables: tabled"):
        graphs["flat_one"]
