"""Tests of the SQLite store by the conformance suite, and of store URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2features.core.errors import ConfigError
from l2features.store.base import open_store
from l2features.testing.store_suite import StoreSuite


class TestSqliteStore(StoreSuite):
    @pytest.fixture
    def store_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr("l2features.store.sqlite.sqlite_store.SCAN_ROWS", 4)
        monkeypatch.setattr("l2features.store.sqlite.chunk_sums.ROWS", 4)
        return f"sqlite://{tmp_path}/store.db"


@pytest.mark.parametrize(
    ("url", "name", "message"),
    [
        ("mysql://x/y", "t", "expected bigtable://project/instance or sqlite:///path/file.db"),
        ("", "t", "expected bigtable://"),
        ("bigtable://p", "t", "expected bigtable://project/instance"),
        ("bigtable://p/i/t", "t", "expected bigtable://project/instance"),
        ("sqlite://relative.db", "t", "expected sqlite:///path/file.db"),
        ("sqlite:///folder/", "t", "expected sqlite:///path/file.db"),
        ("sqlite:///a.db", "", "table name '': expected 1 to 50"),
        ("sqlite:///a.db", 'x"; DROP TABLE', "expected 1 to 50"),
        ("sqlite:///a.db", "x" * 51, "expected 1 to 50"),
    ],
)
def test_malformed_urls_and_names(url: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(url, name)
