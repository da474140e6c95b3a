"""Tests of the client over HTTP: tokens, retries, batches and errors."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from l2features import Client
from l2features.client import ServiceError, ServiceUnavailable, http_source
from l2features.client.tokens import find_token, token_files
from l2features.core.errors import ConfigError, L2FeaturesError
from l2features.core.ids import Ids
from l2features.neurons.root_summaries import RootError, RootStatus
from l2features.query.box_lookup import VoxelBox
from tests.support.stub_service import Answer, Asked, Stub, features, serving

TOKEN = "0123456789abcdef"
NODE = 144115188075855872
LIMITS = {"max_ids": 3, "max_body_bytes": 1000, "max_wait_s": 5, "max_roots": 2, "max_chunks": 1}
ABOUT: dict[str, Any] = {
    "limits": LIMITS,
    "provenance": {"dataset": "d", "cv_path": "gs://b/c", "timestamp": "2026-11-21 00:27:44"},
    "resolution": [16, 16, 40],
    "voxel_offset": [0, 0, 0],
    "voxel_size": [30, 20, 10],
    "chunk_size": [10, 10, 10],
}


def answered(asked: Asked) -> Answer:
    """Answer as a server on which all nodes are ready."""
    if asked.path.endswith("/table/d"):
        return Answer(ABOUT)
    if asked.path.endswith("/attributes"):
        return Answer(features(asked.ids))
    return Answer({"code": "not_found", "message": f"{asked.path} does not exist"}, 404)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set a home directory without token files, and retry without a pause."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(http_source, "BACKOFF_S", 0.0)
    monkeypatch.setattr(http_source, "RETRIES", 2)
    (tmp_path / ".cloudvolume" / "secrets").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(answered) as stub:
        yield stub


def keep_token(url: str, place: int, content: str) -> None:
    """Write ``content`` to the token file ``token_files(url)[place]``."""
    token_files(url)[place].write_text(content)


def sizes(table: Any) -> list[int | None]:
    values: list[int | None] = table["size_nm3"].to_pylist()
    return values


# ------------------------------------------------------------------ tokens
def test_the_first_file_with_a_token_counts() -> None:
    url = "https://host.example.org:8080/l2cache"
    assert token_files(url)[0].name == "host.example.org:8080-cave-secret.json"
    assert find_token(url) is None
    for place, token in ((2, "oldest"), (1, "shared"), (0, "own")):
        keep_token(url, place, json.dumps({"token": token}))
        assert find_token(url) == token
    keep_token(url, 0, "{}")
    assert find_token(url) == "shared"


@pytest.mark.parametrize("url", ["http://host.example.org", "http://10.0.0.1:4100"])
def test_a_token_file_is_not_for_servers_without_tls(url: str) -> None:
    keep_token(url, 1, json.dumps({"token": TOKEN}))
    assert find_token(url) is None
    assert find_token("http://localhost:4100") == TOKEN


@pytest.mark.parametrize("content", [f'{{"token": "{TOKEN}"', f'["{TOKEN}"]', f'{{"token": "{TOKEN}\\n"}}'])
def test_a_malformed_token_file_is_named_without_the_token(content: str) -> None:
    url = "https://host"
    keep_token(url, 1, content)
    with pytest.raises(ConfigError, match=re.escape(str(token_files(url)[1]))) as error:
        find_token(url)
    assert TOKEN not in repr(error.value)
    assert error.value.__cause__ is None


def test_a_token_is_sent_and_never_shown(stub: Stub, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (home / ".netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    client = Client(stub.url, "d", token=TOKEN)
    client.features([NODE])
    assert {asked.headers["Authorization"] for asked in stub.asked} == {f"Bearer {TOKEN}"}
    shown = [repr(client), repr(client.neuron(1)), repr(vars(client._source))]
    stub.answer = lambda _: Answer({"message": "forbidden"}, 403)
    with pytest.raises(ServiceError, match="forbidden") as error:
        client.features([NODE])
    assert TOKEN not in "".join([*shown, repr(error.value), caplog.text])


def test_a_token_is_not_sent_to_another_host(stub: Stub) -> None:
    port = stub.url.rpartition(":")[2]
    elsewhere = f"http://localhost:{port}/l2cache/api/v1/table/d"

    def redirected(asked: Asked) -> Answer:
        here = asked.headers["Host"].startswith("127.0.0.1")
        return Answer("", 302, {"Location": elsewhere}) if here else Answer(ABOUT)

    stub.answer = redirected
    with pytest.raises(ServiceError):
        Client(stub.url, "d", token=TOKEN).features([NODE])
    first, second, *_ = stub.asked
    assert "Authorization" in first.headers
    assert second.headers["Host"].startswith("localhost")
    assert "Authorization" not in second.headers


def test_without_a_token_the_files_are_named(stub: Stub) -> None:
    stub.answer = lambda _: Answer({"error": "missing_token", "message": "no token"}, 401)
    with pytest.raises(ServiceError, match=re.escape(str(token_files(stub.url)[0]))) as error:
        Client(stub.url, "d").features([NODE])
    assert (error.value.status, error.value.code) == (401, "missing_token")


def test_a_token_is_for_a_server() -> None:
    with pytest.raises(ConfigError, match=r"datasets\.yml"):
        Client("datasets.yml", "d", token=TOKEN)


def test_a_url_without_a_scheme_is_named() -> None:
    with pytest.raises(ConfigError, match=r"a server's URL such as http://localhost:4100/l2$"):
        Client("localhost:4100/l2", "d")


# ------------------------------------------------------------------ requests
def test_requests_keep_the_limits_and_the_order(stub: Stub) -> None:
    ids = [NODE + i for i in (5, 1, 5, 2, 9, 9, 0)]
    table = Client(stub.url, "d").features(ids, ["size_nm3"])
    assert table["id"].to_pylist() == ids
    assert sizes(table) == [i % 1000 for i in ids]
    posted = [asked for asked in stub.asked if asked.method == "POST"]
    assert [len(asked.ids) for asked in posted] == [3, 3, 1]
    assert {asked.parameters["attribute_names"] for asked in posted} == {"size_nm3"}
    assert {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()} == ABOUT[
        "provenance"
    ]
    assert [asked.path for asked in stub.asked].count("/l2cache/api/v1/table/d") == 1


def test_no_ids_are_a_table_without_rows(stub: Stub) -> None:
    table = Client(stub.url, "d").features([])
    assert (table.num_rows, table.column_names) == (0, ["id", "size_nm3", "status"])


@pytest.mark.parametrize(
    "ids",
    [
        np.array([NODE, NODE + 1], dtype=np.int64),
        pa.array([NODE, NODE + 1], pa.uint64()),
        pa.table({"id": [NODE, NODE + 1]})["id"],
        (NODE, np.uint64(NODE + 1)),
    ],
)
def test_ids_are_sequences_arrays_or_columns(stub: Stub, ids: Any) -> None:
    assert Client(stub.url, "d").features(ids)["id"].to_pylist() == [NODE, NODE + 1]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_ids_of_an_array_are_flat(stub: Stub, dtype: type) -> None:
    ids: Any = NODE + np.arange(4).reshape(2, 2).astype(dtype)
    assert Client(stub.url, "d").features(ids)["id"].to_pylist() == ids.ravel().tolist()
    asked = [asked.ids.tolist() for asked in stub.asked if asked.path.endswith("/attributes")]
    assert asked == [ids.ravel()[:3].tolist(), ids.ravel()[3:].tolist()]


@pytest.mark.parametrize("ids", [[1.0], np.array([1.5]), [-1], ["1"], [2**64], [True], None])
def test_what_is_no_id_is_refused(stub: Stub, ids: Any) -> None:
    with pytest.raises(ConfigError):
        Client(stub.url, "d").features(ids)
    assert stub.asked == []


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            lambda client: client.features([NODE], "size_nm3"),
            "attributes 'size_nm3': expected a list of names",
        ),
        (lambda client: client.neuron(1).nodes("pca"), "attributes 'pca': expected a list of names"),
        (lambda client: client.chunk("0", 0, 0), "chunk '0', 0, 0: expected three integers"),
        (lambda client: client.chunk(0, 0, 1.5), "chunk 0, 0, 1.5: expected three integers"),
        (lambda client: client.neuron(1).skeleton(root_point="abc"), "root_point 'abc': expected x, y and z"),
        (lambda client: client.neuron(1).skeleton(root_point=5), "root_point 5: expected x, y and z"),
    ],
)
def test_mistakes_are_named_before_a_request(
    stub: Stub, mistake: Callable[[Client], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        mistake(Client(stub.url, "d"))
    assert stub.asked == []


def test_waiting_asks_only_for_missing_nodes(stub: Stub) -> None:
    ids = [NODE + i for i in (4, 2, 4, 7)]
    rounds: list[tuple[list[int], str | None]] = []

    def later(asked: Asked) -> Answer:
        if asked.method == "GET":
            return answered(asked)
        rounds.append(((asked.ids - np.uint64(NODE)).tolist(), asked.parameters.get("wait")))
        missing = np.array([NODE + 4, NODE + 7] if len(rounds) < 4 else [], dtype=np.uint64)
        return Answer(features(asked.ids, missing))

    stub.answer = later
    table = Client(stub.url, "d").wait(ids, 60)
    assert table["id"].to_pylist() == ids
    assert sizes(table) == [i % 1000 for i in ids]
    assert rounds == [([4, 2, 4], None), ([7], None), ([4, 7], "5"), ([4, 7], "5")]


def test_waiting_ends_when_the_time_is_up(stub: Stub) -> None:
    def never(asked: Asked) -> Answer:
        return answered(asked) if asked.method == "GET" else Answer(features(asked.ids, asked.ids))

    stub.answer = never
    table = Client(stub.url, "d").wait([NODE], 0.05)
    assert table["status"].to_pylist() == ["missing"]


def test_a_box_is_read_in_parts_that_the_server_admits(stub: Stub) -> None:
    boxes: list[str] = []

    def regions(asked: Asked) -> Answer:
        if asked.path.endswith("/table/d"):
            return Answer(ABOUT)
        box = asked.parameters["bounds"]
        boxes.append(box)
        first = np.array([NODE + 100 - VoxelBox.parse(box).start[0]], dtype=np.uint64)
        return Answer(features(first))

    stub.answer = regions
    table = Client(stub.url, "d").nodes_in([[-5, 25], [2, 8], [0, 10]])
    assert boxes == ["-5-10_2-8_0-10", "10-20_2-8_0-10", "20-25_2-8_0-10"]
    assert table["id"].to_pylist() == [NODE + 80, NODE + 90, NODE + 105]
    assert json.loads(table.schema.metadata[b"dataset"]) == "d"


# ------------------------------------------------------------------ errors
def test_transient_errors_are_retried_when_the_server_says(stub: Stub) -> None:
    failures = iter([503, 429])

    def sometimes(asked: Asked) -> Answer:
        if asked.method == "POST" and (status := next(failures, None)):
            return Answer({"message": "later"}, status, {"Retry-After": "0"})
        return answered(asked)

    stub.answer = sometimes
    assert Client(stub.url, "d").features([NODE]).num_rows == 1
    assert [asked.method for asked in stub.asked] == ["GET", "POST", "POST", "POST"]


def test_the_last_transient_error_has_the_servers_message(stub: Stub) -> None:
    body = {"code": "store_unavailable", "message": "the store cannot answer", "request_id": "7f"}
    stub.answer = lambda _: Answer(body, 503)
    with pytest.raises(ServiceUnavailable, match="the store cannot answer") as error:
        Client(stub.url, "d").features([NODE])
    assert (error.value.status, error.value.code, error.value.request_id) == (503, "store_unavailable", "7f")
    assert len(stub.asked) == 3


def test_other_errors_are_not_retried(stub: Stub) -> None:
    with pytest.raises(ServiceError, match="/table/e does not exist"):
        Client(stub.url, "e").features([NODE])
    assert len(stub.asked) == 1


def test_a_server_that_is_down() -> None:
    with serving(answered) as stub:
        url = stub.url
    with pytest.raises(ServiceUnavailable, match=f"{re.escape(url)}.*Connection refused"):
        Client(url, "d").features([NODE])


@pytest.mark.parametrize("content", ["<html>Welcome</html>", {"ids": []}])
def test_a_server_of_something_else(stub: Stub, content: Any) -> None:
    stub.answer = lambda asked: answered(asked) if asked.method == "GET" else Answer(content)
    with pytest.raises(ServiceError, match="expected an Arrow stream, got"):
        Client(stub.url, "d").features([NODE])


@pytest.mark.parametrize(
    ("code", "status"), [("unknown_root", RootStatus.UNKNOWN), ("too_many_nodes", RootStatus.TOO_LARGE)]
)
def test_a_root_without_nodes_is_an_error_that_names_it(stub: Stub, code: str, status: RootStatus) -> None:
    stub.answer = lambda _: Answer({"code": code, "message": "root 77: it is odd"}, 404)
    for read in (Client(stub.url, "d").neuron(77).nodes, Client(stub.url, "d").neuron(77).skeleton):
        with pytest.raises(RootError, match=r"^root 77: it is odd$") as error:
            read()
        assert (error.value.root, error.value.status, error.value.size) == (77, status, 0)


def test_the_name_of_a_data_set_is_one_part_of_the_path(stub: Stub) -> None:
    with pytest.raises(ConfigError, match="the name of the data set is empty"):
        Client(stub.url, "")
    with pytest.raises(ServiceError, match="does not exist"):
        Client(stub.url, "d?a=1").features([NODE])
    assert [asked.path.rpartition("/")[2] for asked in stub.asked] == ["d%3Fa%3D1"]


def test_a_root_that_is_too_large_says_how_large(stub: Stub) -> None:
    body = {"code": "too_many_nodes", "message": "root 77: 1200 L2 nodes or more", "value": "1200"}
    stub.answer = lambda _: Answer(body, 413)
    with pytest.raises(RootError) as error:
        Client(stub.url, "d").neuron(77).nodes()
    assert error.value.size == 1200


def test_a_skeleton_file_that_cannot_be_written_is_refused(stub: Stub, tmp_path: Path) -> None:
    neuron = Client(stub.url, "d").neuron(77)
    with pytest.raises(ConfigError, match=r"no/one\.swc: folder does not exist$"):
        neuron.save_skeleton(tmp_path / "no" / "one.swc")
    assert not stub.asked
    stub.answer = lambda _: Answer("1 0 0 0 0 0 -1")
    (tmp_path / "taken.swc").mkdir()
    with pytest.raises(L2FeaturesError, match=r"cannot write .*taken"):
        neuron.save_skeleton(tmp_path / "taken.swc")


def summaries(ids: Ids) -> pa.Table:
    """Return summaries of roots; those with even ids are unknown."""
    known = ids % np.uint64(2) == 1
    status = pa.DictionaryArray.from_arrays((~known).astype(np.int8), ["ready", "unknown"])
    reason = pa.array(["" if has else "unknown to the graph" for has in known.tolist()], pa.string())
    counts = pa.array(ids, mask=~known)
    return pa.table({"root_id": ids, "n_nodes": counts, "status": status, "reason": reason})


def test_summaries_of_many_roots_and_of_one(stub: Stub) -> None:
    def roots(asked: Asked) -> Answer:
        return answered(asked) if asked.method == "GET" else Answer(summaries(asked.ids))

    stub.answer = roots
    client = Client(stub.url, "d")
    table = client.neurons([5, 4, 3], graph=True)
    assert table["n_nodes"].to_pylist() == [5, None, 3]
    assert [asked.parameters["graph"] for asked in stub.asked if asked.method == "POST"] == ["true"] * 2
    assert client.neuron(5).summary["n_nodes"].to_pylist() == [5]
    with pytest.raises(RootError, match=r"^root 4: unknown to the graph$"):
        _ = client.neuron(4).summary
