"""Tests of the routes of Neuroglancer layers: bytes, caching by browsers, and errors."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.config import Settings
from api.picture_routes import queued
from l2features.core.errors import GraphUnavailable
from l2features.core.ids import as_ids
from l2features.core.rows import Rows
from l2features.store.rewrites import end_rewrites
from tests.support.known_roots import FIRST_ROOT, GEOMETRY, random_roots
from tests.support.neuron_api import NeuronApi, neuron_api
from tests.support.precomputed_reader import Decoder, decode_skeleton

ROOTS = random_roots((30, 1, 90))
FIRST, SINGLE, LARGE = ROOTS
PLACE, ORIGIN = "precomputed", "https://viewer.example.org"
KEPT_A_DAY, KEPT_A_MINUTE, ASKED_AGAIN = "private, max-age=86400", "private, max-age=60", "private, no-cache"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NeuronApi:
    return neuron_api(tmp_path, monkeypatch, ROOTS, max_root_nodes=50, max_roots=3)


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeuronApi]:
    """Yield a server shared by the tests that change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("pictures")
        yield neuron_api(folder, patch, ROOTS, max_root_nodes=50, max_roots=3)


def decoder(api: NeuronApi, layer: str = "nodes") -> Decoder:
    return Decoder(api.get(f"{PLACE}/{layer}/info").json)


def ready(api: NeuronApi, root: int) -> list[int]:
    rows: Rows = api.store.read(ROOTS[root])
    return rows.ids[rows.found & ~rows.not_computed].tolist()


def chunk_of(node: int) -> str:
    return "_".join(map(str, GEOMETRY.layout.chunk_coordinates(as_ids([node]))[0].tolist()))


# ------------------------------------------------------------------ what is read
@pytest.mark.parametrize("layer", ["nodes", "axes"])
def test_a_root_has_its_nodes_with_features(api: NeuronApi, layer: str) -> None:
    found = decoder(api, layer).listed(api.get(f"{PLACE}/{layer}/rel_root/{FIRST}").data)
    if layer == "nodes":
        assert sorted(found) == ready(api, FIRST)
        assert len(found) < len(ROOTS[FIRST])
    else:
        assert 0 < len(found) < len(ready(api, FIRST))
    for node, drawn in found.items():
        one = decoder(api, layer).by_id(api.get(f"{PLACE}/{layer}/by_id/{node}").data)
        assert one._replace(related={}) == drawn
        assert one.related == {"root": [api.graph.roots_of(GEOMETRY, as_ids([node]), None)[0]]}  # type: ignore[arg-type]


def test_every_valid_node_is_in_one_cell(api: NeuronApi) -> None:
    retired = {SINGLE: api.graph.roots.pop(SINGLE), LARGE: api.graph.roots.pop(LARGE)}
    assert len(retired[LARGE])
    found: list[int] = []
    for cell in sorted({chunk_of(node) for ids in ROOTS.values() for node in ids.tolist()}):
        listed = decoder(api).listed(api.get(f"{PLACE}/nodes/chunks/{cell}").data)
        assert {chunk_of(node) for node in listed} <= {cell}
        found += listed
    assert sorted(found) == ready(api, FIRST)


def test_an_empty_cell_is_an_empty_list(shared_api: NeuronApi) -> None:
    used = {chunk_of(node) for ids in ROOTS.values() for node in ids.tolist()}
    empty = next(f"{x}_0_0" for x in range(10) if f"{x}_0_0" not in used)
    shared_api.graph.calls.clear()
    answer = shared_api.get(f"{PLACE}/nodes/chunks/{empty}")
    assert (answer.status_code, answer.data) == (200, bytes(8))
    assert "nodes" not in shared_api.graph.calls


def test_an_overview_is_an_empty_list(shared_api: NeuronApi) -> None:
    answer = shared_api.get(f"{PLACE}/axes/overview/0_0_0")
    assert (answer.status_code, answer.data) == (200, bytes(8))
    assert answer.headers["Cache-Control"] == "private, max-age=86400"


def test_a_node_without_a_root_now_is_related_to_none(api: NeuronApi) -> None:
    node = ready(api, FIRST)[1]
    api.graph.roots.clear()
    assert decoder(api).by_id(api.get(f"{PLACE}/nodes/by_id/{node}").data).related == {"root": []}


def test_skeletons(shared_api: NeuronApi) -> None:
    info = shared_api.get(f"{PLACE}/skeletons/info").json
    for root in (FIRST, SINGLE):
        answer = shared_api.get(f"{PLACE}/skeletons/{root}")
        assert answer.mimetype == "application/octet-stream"
        drawn, skeleton = decode_skeleton(info, answer.data), shared_api.get(f"root/{root}/skeleton").json
        assert np.allclose(drawn.vertices, skeleton["vertices"])
        assert [list(edge) for edge in drawn.edges] == skeleton["edges"]


def test_segments_are_listed_with_their_measures(api: NeuronApi) -> None:
    lost = as_ids(ready(api, FIRST)[1:3])
    for node in lost.tolist():
        api.store.delete(node, node)
    unknown = FIRST_ROOT + 999
    answer = api.get(f"{PLACE}/segment_properties/info?roots={SINGLE},{FIRST},{unknown},{FIRST}").json
    inline = answer["inline"]
    assert inline["ids"] == [str(FIRST), str(SINGLE)]
    columns = {column["id"]: column["values"] for column in inline["properties"]}
    summary = api.get(f"root/{FIRST}?graph=true").json[str(FIRST)]
    assert columns["volume_um3"][0] == np.float32(summary["size_nm3"] * 1e-9)
    assert columns["cable_length_um"][0] == np.float32(summary["cable_length_nm"] * 1e-3)
    assert columns["n_missing"] == [2, 0]
    assert columns["n_nodes"][0] - 2 - columns["n_empty"][0] == len(ready(api, FIRST))
    path = f"{PLACE}/segment_properties/{SINGLE},{FIRST},{unknown},{FIRST}/info"
    assert api.get(path).json == answer
    assert api.get(f"{PLACE}/segment_properties/info").json["inline"]["ids"] == []


def test_folders_are_listed_as_links(shared_api: NeuronApi) -> None:
    page = shared_api.get(f"{PLACE}/")
    assert page.mimetype == "text/html"
    for folder in ("nodes", "axes", "skeletons", "segment_properties"):
        assert f'<a href="{folder}/">' in page.text
        assert '<a href="info">' in shared_api.get(f"{PLACE}/{folder}/").text
        assert shared_api.get(f"{PLACE}/{folder}/info").json["@type"].startswith("neuroglancer_")


# ------------------------------------------------------------------ what browsers keep
def test_complete_roots_are_kept_until_rows_are_replaced(shared_api: NeuronApi) -> None:
    for path in (f"nodes/rel_root/{FIRST}", f"axes/rel_root/{FIRST}", f"skeletons/{FIRST}"):
        answer = shared_api.get(f"{PLACE}/{path}")
        assert answer.headers["Cache-Control"] == KEPT_A_DAY
        tag = answer.headers["ETag"]
        again = shared_api.get(f"{PLACE}/{path}", **{"If-None-Match": tag})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
        assert shared_api.get(f"{PLACE}/{path}", **{"If-None-Match": 'W/"other"'}).status_code == 200


def test_an_incomplete_root_is_asked_for_again_and_its_nodes_are_published(api: NeuronApi) -> None:
    node = ready(api, FIRST)[0]
    paths = (f"nodes/rel_root/{FIRST}", f"skeletons/{FIRST}")
    complete = {path: api.get(f"{PLACE}/{path}").headers["ETag"] for path in paths}
    api.store.delete(node, node)
    end_rewrites(api.store)
    for path, tag in complete.items():
        answer = api.get(f"{PLACE}/{path}", **{"If-None-Match": tag})
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == ASKED_AGAIN
    assert set(api.published) == {node}
    assert node not in decoder(api).listed(api.get(f"{PLACE}/nodes/rel_root/{FIRST}").data)


def test_what_follows_the_graph_is_kept_for_a_minute(shared_api: NeuronApi) -> None:
    node = ready(shared_api, FIRST)[0]
    for path in (f"nodes/by_id/{node}", f"nodes/chunks/{chunk_of(node)}"):
        assert shared_api.get(f"{PLACE}/{path}").headers["Cache-Control"] == KEPT_A_MINUTE
    for path in ("nodes/info", "skeletons/info", f"segment_properties/info?roots={FIRST}"):
        assert shared_api.get(f"{PLACE}/{path}").headers["Cache-Control"] == ASKED_AGAIN


def test_pictures_are_gzipped_where_that_is_accepted(shared_api: NeuronApi) -> None:
    path = f"{PLACE}/nodes/rel_root/{FIRST}"
    plain, zipped = shared_api.get(path), shared_api.get(path, **{"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.data) == plain.data
    assert {answer.headers["Vary"] for answer in (plain, zipped)} == {"Accept-Encoding"}


def test_browsers_of_any_origin_may_send_a_token(shared_api: NeuronApi) -> None:
    path = f"{PLACE}/nodes/rel_root/{FIRST}"
    assert shared_api.get(path, Origin=ORIGIN).headers["Access-Control-Allow-Origin"] == ORIGIN
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    asked["Access-Control-Request-Headers"] = "authorization"
    preflight = shared_api.client.options(f"/l2cache/api/v1/table/sample/{path}", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization"
    assert "Access-Control-Allow-Credentials" not in preflight.headers  # a cookie is not for other origins


def test_where_to_get_a_token(api: NeuronApi, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = api.client.get("/auth_info")
    assert (answer.status_code, answer.json["code"]) == (404, "no_authentication")  # type: ignore[index]
    monkeypatch.setattr("middle_auth_client.decorators.AUTH_DISABLED", False)
    monkeypatch.setattr("middle_auth_client.decorators.STICKY_AUTH_URL", "auth.example.org/sticky_auth")
    answer = api.client.get("/auth_info", headers={"Origin": ORIGIN})
    assert answer.json == {"login_url": "https://auth.example.org/sticky_auth"}
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


# ------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"nodes/rel_root/{FIRST_ROOT + 999}", 404, "unknown_root"),
        (f"skeletons/{FIRST_ROOT + 999}", 404, "unknown_root"),
        (f"nodes/rel_root/{2 << 56 | 1}", 404, "not_a_root"),
        ("nodes/rel_root/0", 404, "not_a_root"),
        (f"axes/rel_root/{LARGE}", 413, "too_many_nodes"),
        (f"skeletons/{LARGE}", 413, "too_many_nodes"),
        ("nodes/by_id/5", 404, "nothing_to_draw"),
        (f"nodes/by_id/{2**64 - 1}", 404, "nothing_to_draw"),
        (f"nodes/by_id/{2**64}", 422, "invalid_parameter"),
        ("nodes/by_id/-1", 422, "invalid_parameter"),
        ("nodes/by_id/1e3", 422, "invalid_parameter"),
        ("nodes/by_id/%D9%A1", 422, "invalid_parameter"),
        ("nodes/by_id/5/6", 404, "not_found"),
        ("nodes/by_id/..%2finfo", 404, "not_found"),
        ("nodes/chunks/10_0_0", 404, "unknown_chunk"),
        ("nodes/overview/1_0_0", 404, "not_found"),
        ("skeletons/overview/0_0_0", 404, "unknown_layer"),
        ("nodes/chunks/999999999_0_0", 404, "unknown_chunk"),
        ("nodes/chunks/-1_0_0", 422, "invalid_parameter"),
        ("nodes/chunks/0_0", 422, "invalid_parameter"),
        ("skeletons/by_id/5", 404, "unknown_layer"),
        ("other/info", 404, "unknown_layer"),
        ("<script>/", 404, "unknown_layer"),
        ("segment_properties/info?roots=5,x", 422, "invalid_parameter"),
        ("segment_properties/info?roots=5,", 422, "invalid_parameter"),
        ("segment_properties/info?roots=1,2,3,4", 413, "too_many_ids"),
        ("segment_properties/1,2,3,4/info", 413, "too_many_ids"),
        ("segment_properties/5,x/info", 422, "invalid_parameter"),
        ("segment_properties/5,6", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_refused(shared_api: NeuronApi, path: str, status: int, code: str) -> None:
    answer = shared_api.get(f"{PLACE}/{path}")
    assert (answer.status_code, answer.json["code"]) == (status, code)


def test_an_unknown_data_set(shared_api: NeuronApi) -> None:
    for path in (
        "",
        "nodes/",
        "nodes/info",
        "nodes/by_id/5",
        f"nodes/rel_root/{FIRST}",
        "nodes/chunks/0_0_0",
    ):
        answer: Any = shared_api.client.get(f"/l2cache/api/v1/table/%3Cb%3E/precomputed/{path}")
        assert (answer.status_code, answer.json["code"]) == (404, "unknown_dataset")


def test_a_graph_or_a_store_that_is_down(api: NeuronApi, monkeypatch: pytest.MonkeyPatch) -> None:
    node = ready(api, FIRST)[0]
    paths = [f"nodes/by_id/{node}", f"nodes/rel_root/{FIRST}", f"nodes/chunks/{chunk_of(node)}"]
    api.graph.failure = GraphUnavailable("down")
    for path in paths:
        answer = api.get(f"{PLACE}/{path}")
        assert (answer.status_code, answer.json["code"]) == (503, "graph_unavailable")
        assert answer.headers["Cache-Control"] == ASKED_AGAIN
    assert api.get(f"{PLACE}/nodes/info").status_code == 200


@pytest.mark.parametrize(
    ("threads", "running", "waiting"), [(64, 6, 3), (32, 6, 1), (16, 6, 0), (4, 6, 0), (64, 16, 1)]
)
def test_pictures_leave_half_of_the_threads_free(threads: int, running: int, waiting: int) -> None:
    settings = Settings(GRAPH_L2CACHE_CONFIG_PATH="datasets.yml", threads=threads, max_root_requests=running)
    assert queued(settings) == waiting


def test_the_default_threads_suffice_for_reads_and_pictures() -> None:
    settings = Settings(GRAPH_L2CACHE_CONFIG_PATH="datasets.yml")
    pictures = settings.max_root_requests * (1 + queued(settings))
    assert settings.max_requests + pictures < settings.threads


def test_requests_for_pictures_wait_in_a_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = neuron_api(tmp_path, monkeypatch, ROOTS, max_root_requests=1)
    root_nodes, release = api.graph.root_nodes, threading.Event()

    def slow(*asked: Any) -> Any:
        assert release.wait(30)
        return root_nodes(*asked)

    def read() -> int:
        client = api.client.application.test_client()
        return client.get(f"/l2cache/api/v1/table/sample/{PLACE}/nodes/rel_root/{FIRST}").status_code

    monkeypatch.setattr(api.graph, "root_nodes", slow)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(read) for _ in range(5)]
        assert next(as_completed(answers, timeout=10)).result() == 429
        release.set()
        assert sorted(answer.result() for answer in answers) == [200, 200, 200, 200, 429]
