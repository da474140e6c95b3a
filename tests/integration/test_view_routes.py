"""Tests of links to the viewer: their states, their positions, and errors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from flask.testing import FlaskClient

from api.largest_lists import COUNT, LargestLists
from l2features.core.errors import VersionTimeout
from l2features.pictures.viewers import PUBLIC_VIEWER
from l2features.testing.small_table import DATASET
from l2features.testing.version_files import visible_rows
from l2features.versions.catalog import Catalog
from l2features.versions.largest_roots import LargestRoots, largest_roots
from l2features.versions.lookup import VersionReader
from tests.support.api_app import TABLE, client_of
from tests.support.known_roots import FIRST_ROOT, GEOMETRY, random_roots
from tests.support.neuron_api import NeuronApi, neuron_api
from tests.support.version_chains import Chain, write_chain
from tests.support.versioned_tables import versioned_table

pytestmark = pytest.mark.usefixtures("without_tokens")

ROOTS = random_roots((30, 1, 90))
FIRST, SINGLE, LARGE = ROOTS
UNKNOWN = FIRST_ROOT + 999
FOLDER = "http://localhost/l2cache/api/v1/table/sample/precomputed"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeuronApi]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.view_routes.is_built", lambda: True)
        yield neuron_api(tmp_path_factory.mktemp("view"), patch, ROOTS, max_root_nodes=50)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return write_chain(tmp_path_factory.mktemp("chain") / "versions", renewals=2)


@pytest.fixture
def versions(chain: Chain, tmp_path: Path) -> FlaskClient:
    return client_of(versioned_table(tmp_path, chain.folder.url), max_row_groups=5)


def state_of(url: str) -> Any:
    """Split a link into the viewer's URL and the decoded state."""
    viewer, _, state = url.partition("#!")
    return viewer, json.loads(unquote(state))


def sources(layer: Any) -> list[str]:
    return [source["url"] for source in layer["source"]]


# ------------------------------------------------------------------ what a link draws
def test_a_root_with_its_nodes_and_skeleton(api: NeuronApi) -> None:
    answer = api.get(f"root/{FIRST}/view")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (302, "private, no-cache")
    viewer, state = state_of(answer.headers["Location"])
    assert viewer == "http://localhost/viewer/"
    segments, nodes = state["layers"]
    assert segments["segments"] == [str(FIRST)]
    places = [f"{FOLDER}/skeletons", f"{FOLDER}/segment_properties/{FIRST}"]
    assert sources(segments) == [f"precomputed://{place}" for place in places]
    assert sources(nodes) == [f"precomputed://{FOLDER}/nodes"]
    assert nodes["linkedSegmentationLayer"] == {"root": segments["name"]}
    assert nodes["filterBySegmentation"] == ["root"]
    assert nodes["ignoreNullSegmentFilter"] is False
    for part in ("prop_max_dt_nm()", "prop_size_um3()", "#uicontrol float thick_nm slider"):
        assert part in nodes["shader"]
    assert state["dimensions"] == {axis: [1e-9, "m"] for axis in "xyz"}
    bounds = np.array(api.get(f"root/{FIRST}").json[str(FIRST)]["rep_bounds_nm"])
    assert state["position"] == bounds.mean(axis=0).tolist()
    assert state["projectionScale"] >= (bounds[1] - bounds[0]).max()
    for place in (*places, f"{FOLDER}/nodes"):
        assert api.client.get(f"{place.removeprefix('http://localhost')}/info").status_code == 200


def test_programs_receive_the_link_as_json(api: NeuronApi) -> None:
    there = api.get(f"root/{FIRST}/view", Accept="text/html,*/*;q=0.8").headers["Location"]
    answer = api.get(f"root/{FIRST}/view", Accept="application/json")
    assert (answer.status_code, answer.json) == (200, {"url": there})
    assert "Accept" in answer.vary


def test_several_roots(api: NeuronApi) -> None:
    _, state = state_of(api.get(f"view?roots={SINGLE},{FIRST}").headers["Location"])
    assert state["layers"][0]["segments"] == [str(FIRST), str(SINGLE)]
    assert sources(state["layers"][0])[-1].endswith(f"/segment_properties/{FIRST},{SINGLE}")


def test_without_roots_the_nodes_of_chunks_are_drawn(api: NeuronApi) -> None:
    _, state = state_of(api.get("view").headers["Location"])
    segments, nodes = state["layers"]
    assert not segments.get("segments")
    assert sources(segments) == [f"precomputed://{FOLDER}/skeletons"]
    assert "filterBySegmentation" not in nodes
    middle = (
        np.multiply(GEOMETRY.voxel_offset, GEOMETRY.resolution)
        + np.multiply(np.multiply(GEOMETRY.grid, GEOMETRY.chunk_size), GEOMETRY.resolution) / 2
    )
    step = np.multiply(GEOMETRY.chunk_size, GEOMETRY.resolution)
    assert (abs(np.array(state["position"]) - middle) <= step).all()


def test_the_segmentation_is_drawn_if_browsers_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = neuron_api(tmp_path, monkeypatch, ROOTS)
    served = api.client.application.extensions["l2cache"].datasets["sample"]
    monkeypatch.setattr(served, "entry", served.entry.model_copy(update={"cv_path": "gs://bucket/seg"}))
    _, state = state_of(api.get(f"root/{FIRST}/view").headers["Location"])
    assert sources(state["layers"][0])[0] == "precomputed://gs://bucket/seg"
    assert state["layout"] == "xy-3d"


def test_with_authentication_the_viewer_asks_for_a_token(
    api: NeuronApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.view_routes.auth_disabled", lambda: False)
    _, state = state_of(api.get(f"root/{FIRST}/view").headers["Location"])
    assert sources(state["layers"][1]) == [f"precomputed://middleauth+{FOLDER}/nodes"]


@pytest.mark.parametrize(
    ("built", "viewer", "there"),
    [
        (False, None, PUBLIC_VIEWER),
        (True, "https://viewer.example.org/", "https://viewer.example.org/"),
    ],
)
def test_where_the_viewer_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: bool, viewer: str | None, there: str
) -> None:
    monkeypatch.setattr("api.view_routes.is_built", lambda: built)
    api = neuron_api(tmp_path, monkeypatch, ROOTS, viewer=viewer)
    assert state_of(api.get(f"root/{FIRST}/view").headers["Location"])[0] == there


# ------------------------------------------------------------------ versions
def largest(chain: Chain, number: int) -> list[dict[str, Any]]:
    rows = visible_rows(chain.folder, chain.manifests[number - 1], "roots")
    return sorted(rows, key=lambda row: (-row["size_nm3"], row["root_id"]))


@pytest.mark.parametrize("number", [1, 3])
def test_the_largest_roots_of_a_version(versions: FlaskClient, chain: Chain, number: int) -> None:
    answer: Any = versions.get(f"{TABLE}/precomputed/segment_properties/version-{number}/info")
    rows, inline = largest(chain, number), answer.json["inline"]
    assert len(rows) > 10
    assert inline["ids"] == [str(row["root_id"]) for row in rows]
    columns = {column["id"]: column["values"] for column in inline["properties"]}
    assert columns["volume_um3"] == [float(np.float32(row["size_nm3"] * 1e-9)) for row in rows]
    assert columns["n_nodes"] == [row["n_nodes"] for row in rows]
    assert "cable_length_um" not in columns
    again = versions.get(answer.request.path, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_a_list_has_only_the_largest_and_is_read_once(
    versions: FlaskClient, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.largest_lists.COUNT", 7)
    path = f"{TABLE}/precomputed/segment_properties/version-2/info"
    answer: Any = versions.get(path)
    assert answer.json["inline"]["ids"] == [str(row["root_id"]) for row in largest(chain, 2)[:7]]
    monkeypatch.setattr("api.largest_lists.largest_roots", None)
    assert versions.get(path).data == answer.data


def test_a_list_that_takes_long_is_read_to_its_end(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def slow(reader: VersionReader, count: int) -> LargestRoots:
        assert release.wait(30)
        return largest_roots(reader, count)

    monkeypatch.setattr("api.largest_lists.largest_roots", slow)
    lists, reader = LargestLists(), Catalog(chain.folder).reader(2)
    with pytest.raises(VersionTimeout, match="the largest roots are being read: try again later"):
        lists.largest(reader, time.monotonic())
    release.set()
    found, read_now = lists.largest(reader, time.monotonic() + 30)
    assert found.roots.tolist() == [row["root_id"] for row in largest(chain, 2)][:COUNT]
    assert read_now == 0


def test_a_slow_list_delays_none_of_another_data_set(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = (Catalog(chain.folder).reader(2) for _ in range(2))
    entered, release = threading.Event(), threading.Event()

    def read(reader: VersionReader, count: int) -> LargestRoots:
        if reader is slow:
            entered.set()
            assert release.wait(60)
        return largest_roots(reader, count)

    monkeypatch.setattr("api.largest_lists.largest_roots", read)
    lists = LargestLists()
    try:
        with pytest.raises(VersionTimeout):
            lists.largest(slow, time.monotonic())
        assert entered.wait(60)
        found, _ = lists.largest(fast, time.monotonic() + 30)
    finally:
        release.set()
    assert found.roots.tolist() == [row["root_id"] for row in largest(chain, 2)][:COUNT]


def test_a_slow_list_is_too_slow(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two time limits apply: the request's, and that of its wait for the list. Either may end first."""
    client = client_of(versioned_table(tmp_path, chain.folder.url), root_timeout_s=0.3)
    path, release = f"{TABLE}/precomputed/segment_properties/version-2/info", threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr("api.largest_lists.largest_roots", lambda *_: release.wait(60))
        answers: list[Any] = [client.get(path) for _ in range(3)]
    release.set()
    assert [(answer.status_code, answer.json["code"]) for answer in answers] == [(503, "too_slow")] * 3


def test_a_link_to_a_version(versions: FlaskClient, chain: Chain) -> None:
    answer = versions.get(f"{TABLE}/view?version=latest")
    _, state = state_of(answer.headers["Location"])
    row = largest(chain, 3)[0]
    segments, nodes = state["layers"]
    assert segments["segments"] == [str(row["root_id"])]
    assert sources(segments)[-1].endswith(f"/{DATASET}/precomputed/segment_properties/version-3")
    assert nodes["filterBySegmentation"] == ["root"]
    assert nodes["ignoreNullSegmentFilter"] is False
    middle = [(row[f"rep_bounds_nm_lower_{axis}"] + row[f"rep_bounds_nm_upper_{axis}"]) / 2 for axis in "xyz"]
    assert state["position"] == middle
    other = largest(chain, 3)[4]["root_id"]
    _, state = state_of(versions.get(f"{TABLE}/view?version=3&roots={other}").headers["Location"])
    assert state["layers"][0]["segments"] == [str(other)]


def test_what_a_version_has_not(versions: FlaskClient) -> None:
    for path, status, code in (
        ("view?version=9", 404, "unknown_version"),
        ("view?version=x", 422, "invalid_parameter"),
        ("view?version=3&roots=5", 404, "unknown_root"),
        ("precomputed/segment_properties/version-9/info", 404, "unknown_version"),
        ("precomputed/segment_properties/version-x/info", 422, "invalid_parameter"),
    ):
        answer: Any = versions.get(f"{TABLE}/{path}")
        assert (answer.status_code, answer.json["code"]) == (status, code), path


# ------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"root/{UNKNOWN}/view", 404, "unknown_root"),
        (f"view?roots={FIRST},{UNKNOWN}", 404, "unknown_root"),
        (f"root/{2 << 56 | 1}/view", 404, "not_a_root"),
        (f"root/{LARGE}/view", 413, "too_many_nodes"),
        ("root/x/view", 422, "invalid_parameter"),
        ("view?roots=5,x", 422, "invalid_parameter"),
        (f"view?roots={','.join(map(str, range(1, 102)))}", 413, "too_many_ids"),
        ("view?version=1", 404, "no_version"),
    ],
)
def test_what_cannot_be_drawn(api: NeuronApi, path: str, status: int, code: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json["code"]) == (status, code)


def test_a_client_that_accepts_neither(api: NeuronApi) -> None:
    answer = api.get(f"root/{FIRST}/view", Accept="image/png")
    assert (answer.status_code, answer.json["code"]) == (406, "not_acceptable")
