"""Tests of the examples in docs/versions.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pandas  # type: ignore[import-untyped]
import polars
import pytest

from l2features.testing.version_files import visible_rows
from tests.support.jobs import ROOT
from tests.support.version_chains import Chain, write_chain

PAGE = (ROOT / "docs" / "versions.md").read_text()


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return write_chain(tmp_path_factory.mktemp("versions"), renewals=1, nodes=900)


def as_pandas(value: Any) -> Any:
    for name in ("to_df", "to_pandas", "df"):
        if hasattr(value, name):
            return getattr(value, name)()
    return value


@pytest.mark.parametrize("name", ["duckdb", "polars", "pandas"])
def test_three_lines_answer_three_questions(chain: Chain, name: str) -> None:
    lines = example(name)
    assert len(lines.splitlines()) == 3
    roots, nodes = (visible_rows(chain.folder, chain.manifests[0], at) for at in ("roots", "by_root"))
    cells = [row["root_id"] for row in roots[::2]]
    found: dict[str, Any] = {"cells": cells}
    for files, layout in (("roots", "roots"), ("nodes", "by_root")):
        pattern = "" if name == "pandas" else "/*.parquet"
        found[files] = f"{chain.folder.url}/000001/{layout}{pattern}"
    exec(lines, {"duckdb": duckdb, "polars": polars, "pandas": pandas}, found)
    largest = as_pandas(found["largest"])
    by_size = sorted(roots, key=lambda row: -row["size_nm3"])[:10]
    assert largest["root_id"].tolist() == [row["root_id"] for row in by_size]
    assert largest["size_nm3"].tolist() == [row["size_nm3"] for row in by_size]
    (volume,) = as_pandas(found["volume"]).to_numpy().ravel().tolist()
    assert volume == sum(row["size_nm3"] for row in roots)
    features = as_pandas(found["features"]).sort_values(["root_id", "l2_id"])
    wanted = [row for row in nodes if row["root_id"] in set(cells)]
    assert features["l2_id"].tolist() == [row["l2_id"] for row in wanted]
    assert features["max_dt_nm"].dropna().tolist() == [
        row["max_dt_nm"] for row in wanted if row["max_dt_nm"] is not None
    ]


def test_the_anti_join_of_a_renewed_version(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(chain.folder.url))
    found = duckdb.sql(f"SELECT * FROM ({example('renewed')}) ORDER BY root_id, l2_id").to_arrow_table()
    expected = visible_rows(chain.folder, chain.manifests[1], "by_root")
    assert found.to_pylist() == expected
    assert expected != visible_rows(chain.folder, chain.manifests[0], "by_root")
