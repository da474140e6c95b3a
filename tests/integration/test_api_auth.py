"""Tests of authentication: the recorded cases, and an authentication service that fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from l2features.testing.auth_server import (
    DATASET,
    DRIP,
    NO_HANDSHAKE,
    NOBODY,
    PAGE,
    SILENT,
    VIEWER,
    WITHOUT_TERMS,
    AuthServer,
    user,
)
from l2features.testing.emulators import Emulator
from l2features.testing.server import Server
from l2features.testing.stores import STORE_URL
from tests.support.auth_cases import Case, parse_cases
from tests.support.intake import wait_for
from tests.support.jobs import Recordings

RECORDED_SERVER, RECORDED_AUTH = "127.0.0.1:9002", "localhost:9003"
API = "/l2cache/api/v1"
READ = f"{API}/table/fixture_v2/attributes?attribute_names=size_nm3"
IDS = {"l2_ids": [144115188075855873]}
SIZES = {"144115188075855873": {"size_nm3": 367534080}}
DEADLINE_S, LATEST_S = 2.0, 20.0
"""The server's deadline, and the limit on a loaded machine. A server without deadline never answers."""
DOWN = "down"

AS_RECORDED = [
    *("valid_token", "valid_token_again_cached", "no_token_curl_nonprogrammatic", "no_token_xrw"),
    *("no_token_origin", "invalid_token", "bad_header", "no_permission", "missing_tos", "unknown_table"),
    *("cookie_only", "cookie_invalid", "query_token_no_header", "query_token_programmatic", "options"),
    *("index_no_token", "index_valid", "index_nopermission_ok", "root_no_token"),
]
DEVIATIONS = {
    "metadata_no_token": "the contract says that all routes but health and the root pages need a token",
    "mapping_no_token": "the same, and the data sets file names tables and buckets",
}
"""Recorded cases that we answer differently, and why: unlike PCGL2Cache, we require a token."""


class Client(Server):
    def send(self, method: str, path: str, headers: dict[str, str], body: str | None) -> requests.Response:
        url = self.url + path
        return requests.request(method, url, headers=headers, data=body, allow_redirects=False, timeout=60)

    def ask(self, path: str = READ, token: str | None = None) -> requests.Response:
        headers = {"X-Requested-With": "x"} if token is None else {"Authorization": f"Bearer {token}"}
        post = "/attributes" in path
        return self.send("POST" if post else "GET", path, headers, json.dumps(IDS) if post else None)


@pytest.fixture(scope="module")
def auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthServer]:
    auth = AuthServer(tmp_path_factory.mktemp("auth"))
    yield auth
    auth.stop()


@pytest.fixture(scope="module")
def start(
    auth: AuthServer, recordings: Recordings, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Client]]:
    """Return a function that starts a server with the fake authentication service."""
    servers = []
    entry = {"cv_path": recordings.cv_path("fixture_v2"), "l2cache_id": "l2cache_fixture", "store": STORE_URL}

    def started(**variables: str) -> Client:
        folder = tmp_path_factory.mktemp("server")
        config = folder / "datasets.yml"
        config.write_text(json.dumps({"fixture_v2": entry}))
        environment = {"AUTH_DISABLED": "false", **auth.environment, **variables}
        servers.append(Client(config, emulator.environment(**environment)))
        return servers[-1]

    yield started
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def server(start: Callable[..., Client]) -> Client:
    return start(L2CACHE_AUTH_TIMEOUT_S=str(DEADLINE_S), L2CACHE_RETRY_AFTER_S="1")


@pytest.fixture(scope="module")
def patient(start: Callable[..., Client]) -> Client:
    return start(L2CACHE_AUTH_TIMEOUT_S=str(LATEST_S))


@pytest.fixture
def repaired(server: Client, auth: AuthServer) -> Iterator[AuthServer]:
    """Yield the service to a test that breaks it; restart it afterwards."""
    yield auth
    auth.stop()
    auth.start()
    assert recovers(server, known_user(auth, f"after-{len(auth.users)}"))


@pytest.fixture(scope="module")
def cases(shared: Callable[[str], Path]) -> dict[str, Case]:
    return parse_cases(shared("cave/auth.txt").read_text())


Replayed = dict[str, tuple[Case, requests.Response, list[str]]]


@pytest.fixture(scope="module")
def replayed(cases: dict[str, Case], patient: Client, auth: AuthServer) -> Replayed:
    """Replay all cases in order; return each with our answer and our calls to the service."""

    def here(text: str) -> str:
        for there, mine in (
            (RECORDED_SERVER, patient.url.removeprefix("http://")),
            (RECORDED_AUTH, f"localhost:{auth.port}"),
        ):
            text = text.replace(there, mine).replace(quote(there), quote(mine))
        return text

    answers = {}
    auth.taken_calls()
    for name, case in cases.items():
        headers = {name: here(value) for name, value in case.answer_headers.items()}
        answer = patient.send(case.method, case.path, case.headers, case.body)
        expected = case._replace(answer_headers=headers, answer=here(case.answer))
        answers[name] = expected, answer, auth.taken_calls()
    return answers


def test_all_cases_are_replayed(cases: dict[str, Case]) -> None:
    assert len(cases) == 21
    assert sorted([*AS_RECORDED, *DEVIATIONS]) == sorted(cases)
    assert sum(len(case.calls) for case in cases.values()) == 10


@pytest.mark.parametrize("name", AS_RECORDED)
def test_recorded_case(name: str, replayed: Replayed) -> None:
    expected, answer, calls = replayed[name]
    assert answer.status_code == expected.status
    for header in ("WWW-Authenticate", "Location", "Set-Cookie", "Content-Type"):
        assert answer.headers.get(header) == expected.answer_headers.get(header), header
    allowed = [answer.headers.get("Allow", ""), expected.answer_headers.get("Allow", "")]
    assert set(allowed[0].split(", ")) == set(allowed[1].split(", "))
    if expected.answer_headers["Content-Type"] == "application/json":
        assert answer.json() == json.loads(expected.answer)
    else:
        assert answer.text.strip() == expected.answer
    assert calls == expected.calls


@pytest.mark.parametrize("name", DEVIATIONS)
def test_recorded_case_that_needs_a_token_now(name: str, replayed: Replayed, auth: AuthServer) -> None:
    expected, answer, calls = replayed[name]
    assert (expected.status, answer.status_code) == (200, 302)
    authorize = f"https://localhost:{auth.port}/sticky_auth/api/v1/authorize"
    assert answer.headers["Location"] == f"{authorize}?redirect={quote(answer.url)}"
    assert calls == []


def known_user(auth: AuthServer, token: str) -> str:
    auth.users[token] = user(100 + len(auth.users), f"User {token}", True)
    return token


def recovers(server: Client, token: str) -> bool:
    """Return whether the server answers again without a restart."""
    until = time.monotonic() + LATEST_S
    while server.ask(token=token).status_code == 503 and time.monotonic() < until:
        time.sleep(0.2)
    return server.ask(token=token).json() == SIZES


def break_(auth: AuthServer, how: str | int) -> None:
    auth.stop()
    if how != DOWN:
        auth.start(how)


@pytest.mark.parametrize("how", [DOWN, SILENT, NO_HANDSHAKE, DRIP, PAGE, 500, 503])
def test_a_service_that_fails_is_a_503_in_time_and_forgotten_when_it_is_back(
    how: str | int, server: Client, repaired: AuthServer
) -> None:
    old, new, newer = (
        known_user(repaired, f"{word}-{how}".replace(" ", "-")) for word in ("old", "new", "newer")
    )
    assert server.ask(token=old).json() == SIZES
    break_(repaired, how)
    before = time.monotonic()
    answer = server.ask(token=new)
    assert time.monotonic() - before < LATEST_S
    assert answer.status_code == 503
    assert answer.json()["code"] == "auth_unavailable"
    assert "localhost" not in answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert server.ask(token=old).json() == SIZES
    repaired.stop()
    repaired.start()
    assert recovers(server, newer)
    assert recovers(server, new)


@pytest.mark.parametrize("how", [DOWN, SILENT, 500])
def test_a_failing_service_does_not_make_a_table_invalid(
    how: str | int, server: Client, repaired: AuthServer
) -> None:
    token, path = known_user(repaired, f"reader-{how}"), READ.replace("fixture_v2", f"other-{how}")
    assert server.ask(token=token).json() == SIZES
    break_(repaired, how)
    assert server.ask(path, token).json()["code"] == "auth_unavailable"


def test_many_requests_while_the_service_hangs(server: Client, repaired: AuthServer) -> None:
    old = known_user(repaired, "old-of-many")
    assert server.ask(token=old).json() == SIZES
    break_(repaired, SILENT)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: server.ask(token=f"unknown-{n % 10}"), range(60)))
        assert {answer.status_code for answer in answers} == {503}
        assert [answer.json() for answer in pool.map(lambda _: server.ask(token=old), range(20))] == [
            SIZES
        ] * 20


def test_threads_and_tokens(patient: Client, auth: AuthServer) -> None:
    expected = {known_user(auth, "one-of-four"): 200, NOBODY: 403, WITHOUT_TERMS: 403, "four-of-four": 401}
    tokens = [*expected] * 80
    auth.taken_calls()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda token: patient.ask(token=token), tokens))
    assert [answer.status_code for answer in answers] == [expected[token] for token in tokens]
    assert {answer.json()["error"] for answer in answers if answer.status_code == 403} == {
        "missing_permission",
        "missing_tos",
    }
    calls = auth.taken_calls()
    assert [call for call in calls if "of-four" in call and "user/cache" in call and "200" in call] == [
        "GET /auth/api/v1/user/cache auth= Bearer one-of-four -> 200"
    ]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer ", 400),
        ("Bearer", 400),
        ("bearer abc", 400),
        ("Bearer  abc", 401),
        ("Bearer a\tb", 401),
        ("Bearer \xe9\xff", 401),
        ("Bearer é".encode().decode("latin-1"), 401),
        ("Basic YTpi", 400),
    ],
)
def test_headers_that_hold_no_token(header: str, status: int, server: Client, auth: AuthServer) -> None:
    auth.taken_calls()
    answer = server.send("GET", f"{API}/table_mapping", {"Authorization": header}, None)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert auth.taken_calls() == []


def test_who_may_view_what_is_asked_once(server: Client, auth: AuthServer) -> None:
    headers = {"Authorization": f"Bearer {VIEWER}"}
    assert server.send("GET", f"{API}/openapi.json", headers, None).status_code == 200
    auth.taken_calls()
    assert server.send("GET", f"{API}/openapi.json", headers, None).status_code == 200
    assert auth.taken_calls() == []


@pytest.mark.parametrize("value", ["%C3%A9", "a%0d%0aSet-Cookie:x=y", "%00", "%20", "%ff"])
@pytest.mark.parametrize("headers", [{"X-Requested-With": "x"}, {}])
def test_query_parameters_that_hold_no_token(value: str, headers: dict[str, str], server: Client) -> None:
    answer = server.send("GET", f"{API}/table_mapping?middle_auth_token={value}", headers, None)
    assert answer.status_code == (401 if headers else 302)
    assert "x" not in answer.cookies


@pytest.mark.parametrize(
    "name", ["..", "fixture_v2%3F", "x%252Fdataset%3F", "fixture_v2%23", "a%0ab", "é", "x" * 200]
)
def test_the_name_of_a_table_is_not_part_of_a_path(name: str, server: Client, auth: AuthServer) -> None:
    assert server.ask(token=VIEWER).json() == SIZES
    auth.taken_calls()
    answer = server.ask(READ.replace("fixture_v2", name), VIEWER)
    assert answer.status_code in (400, 404)
    assert auth.taken_calls() == []


def test_a_table_of_another_data_set_is_refused(server: Client, auth: AuthServer) -> None:
    auth.tables["foreign"] = "another_dataset"
    answer = server.ask(READ.replace("fixture_v2", "foreign"), VIEWER)
    assert answer.status_code == 403
    assert answer.json()["data"] == {"required_permission": "view", "auth_dataset": "another_dataset"}
    assert server.ask(f"{API}/table/foreign", VIEWER).status_code == 403
    auth.tables["elsewhere"] = DATASET
    assert server.ask(f"{API}/table/elsewhere", VIEWER).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *("precomputed/", "precomputed/nodes/", "precomputed/nodes/info", "precomputed/axes/by_id/5"),
        *("precomputed/nodes/rel_root/5", "precomputed/nodes/chunks/0_0_0", "precomputed/skeletons/5"),
        *("precomputed/segment_properties/version-1/info", "root/5/view", "view?version=1"),
    ],
)
def test_pictures_are_refused_as_features_are(path: str, server: Client) -> None:
    picture = f"{API}/table/fixture_v2/{path}"
    for token in (None, NOBODY, WITHOUT_TERMS, "unknown-one"):
        features, answer = server.ask(token=token), server.ask(picture, token)
        assert answer.status_code == features.status_code in (401, 403)
        assert answer.json() == features.json()
    assert server.ask(picture, VIEWER).status_code in (200, 404, 503)


def test_viewers_ask_where_to_get_a_token(server: Client, auth: AuthServer) -> None:
    answer = server.send("GET", "/auth_info", {"Origin": "https://viewer.example.org"}, None)
    assert answer.json() == {"login_url": f"https://localhost:{auth.port}/sticky_auth"}


def test_no_token_is_logged(server: Client, patient: Client) -> None:
    server.ask(f"{API}/table_mapping?middle_auth_token={VIEWER}", VIEWER)
    server.ask(f"{API}/table_mapping?last&middle%5Fauth_token={VIEWER}", "secret-word")
    wait_for(lambda: '"last&' in server.log)
    log = server.log + patient.log
    assert "authentication service" in log
    for token in (VIEWER, "secret-word", "old-of-many", "one-of-four", "new-500"):
        assert token not in log


def test_without_authentication_everything_is_open_and_the_log_says_so(start: Callable[..., Client]) -> None:
    server = start(AUTH_DISABLED="true")
    assert server.ask().json() == SIZES
    assert server.ask(f"{API}/table_mapping").status_code == 200
    assert "authentication is disabled" in server.log
