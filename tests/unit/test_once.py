"""Tests of `once`: only one pytest worker fills a shared folder; after a failure, the next starts anew."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.once import once

Share = Callable[[Callable[[Path], object]], Path]


@pytest.fixture
def share(tmp_path_factory: pytest.TempPathFactory) -> Share:
    name = uuid4().hex
    return lambda make: once(tmp_path_factory, name, make)


def test_one_of_many_makes_it(share: Share) -> None:
    made = list[Path]()
    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(share, [made.append] * 8))
    assert made == [folder]


def test_the_next_one_starts_anew_after_a_failure(share: Share) -> None:
    def fail(folder: Path) -> None:
        (folder / "clone").mkdir()
        raise RuntimeError("half made")

    with pytest.raises(RuntimeError, match="half made"):
        share(fail)
    folder = share(lambda folder: (folder / "clone").mkdir())
    assert [path.name for path in folder.iterdir() if path.name != ".made"] == ["clone"]
