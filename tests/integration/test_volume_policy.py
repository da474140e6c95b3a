"""Tests of missing, forbidden and damaged files: each cell of the table in docs/volumes.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from l2features.core.chunks import FileCounts
from l2features.core.errors import VolumeError
from l2features.core.geometry import Chunk
from l2features.testing.layers import (
    GEOMETRY,
    Served,
    cells_of_labels,
    files_of,
    make_layer,
    read_whole,
    serving,
)
from l2features.volume import Volume
from tests.support.jobs import ROOT

HEADER = "| file | file:// | http(s), gs, s3 |"
SOURCES = ("file",), ("http(s)", "gs", "s3")
"""The sources of each column of the table."""
BY_KEY = "`empty_files`"
REPORTED_FORBIDDEN = "missing, but the answer is 403"


def cells() -> Iterator[tuple[str, str, str, str]]:
    """Yield the file kind, layout, source and treatment of each case in the table of docs/volumes.md."""
    text = (ROOT / "docs" / "volumes.md").read_text().partition(HEADER)[2].partition("\n\n")[0]
    for row in text.splitlines()[2:]:
        kind, *treatments = (part.strip() for part in row.strip("|").split("|"))
        for sources, treatment in zip(SOURCES, treatments, strict=True):
            if treatment != "–":
                yield from ((kind, layout, s, treatment) for s in sources for layout in ("plain", "sharded"))


CELLS = list(cells())


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Return the files of two layers with the same labels, by layout: plain and sharded."""
    folder, labels = tmp_path_factory.mktemp("layers"), cells_of_labels()
    return {
        layout: files_of(make_layer(folder / layout, labels, layout == "sharded"))
        for layout in ("plain", "sharded")
    }


def victim_of(files: dict[str, bytes]) -> str:
    """Return the name of the file to damage: one of four blocks, or one of two shards of two blocks each."""
    return sorted(name for name in files if name.startswith("16_16_40/"))[-1]


def damage(kind: str, served: Served, victim: str) -> None:
    content = served.files[victim]
    if kind in ("missing", REPORTED_FORBIDDEN):
        del served.files[victim]
    if kind == REPORTED_FORBIDDEN:
        served.absent = 403
    elif kind == "empty":
        served.files[victim] = b""
    elif kind == "truncated":
        served.files[victim] = content[:-100]
    elif kind == "undecodable":
        served.files[victim] = b"\xff" * 97
    elif kind in ("forbidden", "other HTTP status"):
        served.statuses[victim] = 403 if kind == "forbidden" else 410


def read(path: str, empty_files: str = "fail") -> tuple[np.ndarray, FileCounts]:
    labels, files = read_whole(Volume(path, empty_files=empty_files), Chunk(0, 0, 0), GEOMETRY)
    return labels, files


def check_background(kind: str, layout: str, labels: np.ndarray, files: FileCounts) -> None:
    lost = 1 if layout == "plain" else 2
    missing, empty = (0, lost) if kind == "empty" else (lost, 0)
    forbidden = lost if kind == REPORTED_FORBIDDEN else 0
    assert files == FileCounts(4, 4 - lost, missing, forbidden, empty)
    assert (labels == 0).mean() == lost / 4
    whole = cells_of_labels()
    assert (labels[labels > 0] == whole[labels > 0]).all()


def check(kind: str, layout: str, treatment: str, path: str) -> None:
    if treatment == "background":
        check_background(kind, layout, *read(path))
        return
    with pytest.raises(VolumeError, match=r"^chunk 0,0,0: cannot read .*file 16_16_40/\S+") as error:
        read(path)
    assert "\n" not in str(error.value)
    if treatment == BY_KEY:
        assert "'empty_files: background'" in str(error.value)
        check_background(kind, layout, *read(path, "background"))


@pytest.mark.parametrize(("kind", "layout", "source", "treatment"), [c for c in CELLS if c[2] != "file"])
def test_files_on_servers(
    layers: dict[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    layout: str,
    source: str,
    treatment: str,
) -> None:
    served = Served(dict(layers[layout]))
    damage(kind, served, victim_of(served.files))
    with serving(served) as paths:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", paths["host"])
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        check(kind, layout, treatment, paths[source])


@pytest.mark.parametrize(("kind", "layout", "source", "treatment"), [c for c in CELLS if c[2] == "file"])
def test_files_on_this_machine(
    layers: dict[str, dict[str, bytes]], tmp_path: Path, kind: str, layout: str, source: str, treatment: str
) -> None:
    served = Served(dict(layers[layout]))
    victim = victim_of(served.files)
    damage(kind, served, victim)
    for name, content in served.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    if kind != "forbidden":
        check(kind, layout, treatment, f"{source}://{tmp_path}")
        return
    volume = Volume(f"{source}://{tmp_path}")
    (tmp_path / victim).chmod(0)
    me = os.geteuid()
    if me == 0:  # the superuser may read everything
        tmp_path.chmod(0o700)
        os.seteuid(65534)
    try:
        with pytest.raises(VolumeError, match="Permission denied"):
            read_whole(volume, Chunk(0, 0, 0), GEOMETRY)
    finally:
        os.seteuid(me)


@pytest.mark.parametrize(
    ("status", "said"), [(401, "HTTP 401"), (410, "HTTP 410"), (429, "HTTP 429"), (500, "HTTP 500")]
)
def test_an_http_status_is_reported(layers: dict[str, dict[str, bytes]], status: int, said: str) -> None:
    served = Served(dict(layers["plain"]))
    served.statuses[victim_of(served.files)] = status
    with serving(served) as paths, pytest.raises(VolumeError, match=said):
        read(paths["http(s)"])


def test_a_web_page_in_place_of_a_file(layers: dict[str, dict[str, bytes]]) -> None:
    served = Served(dict(layers["plain"]))
    served.files[victim_of(served.files)] = b"<html>please log in</html>"
    with serving(served) as paths, pytest.raises(VolumeError, match="a web page instead of the file"):
        read(paths["http(s)"])


def test_a_forbidden_name_is_asked_for_once(layers: dict[str, dict[str, bytes]]) -> None:
    served = Served({name: content for name, content in layers["plain"].items() if name == "info"})
    served.absent = 403
    with serving(served) as paths:
        volume = Volume(paths["http(s)"])
        served.asked.clear()
        for _ in range(2):
            assert read_whole(volume, Chunk(0, 0, 0), GEOMETRY).files == FileCounts(4, 0, 4, 4)
    assert len([name for name in served.asked if "-" not in name]) == 1
    assert len(served.asked) == 9


def test_a_forbidden_file_is_named_where_the_server_answers_otherwise_to_what_is_missing(
    layers: dict[str, dict[str, bytes]],
) -> None:
    served = Served(dict(layers["plain"]))
    victim = victim_of(served.files)
    served.statuses[victim], served.absent = 403, 410
    with serving(served) as paths, pytest.raises(VolumeError, match=f"file {victim}: HTTP 403 Forbidden"):
        read(paths["http(s)"])
