"""Tests of ``l2features view``: links to a server and to exported layers, and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import click
import pytest
from click.testing import Result

from l2features.pictures.viewers import PUBLIC_VIEWER
from tests.support.command import run
from tests.support.stub_service import Answer, Asked, Stub, serving

LINK = "http://127.0.0.1:4100/viewer/#!%7B%7D"
LAYERS: dict[str, Any] = {
    "/export/nodes/info": {"lower_bound": [0, 0, 0], "upper_bound": [8000, 4000, 2000]},
    "/export/segment_properties/info": {"@type": "neuroglancer_segment_properties"},
    "/empty/skeletons/info": {},
    "/odd/nodes/info": {"@type": "neuroglancer_multiscale_volume"},
    "/page/nodes/info": "<html>Welcome</html>",
}


def answered(asked: Asked) -> Answer:
    if asked.path == "/l2cache/api/v1/table/sample/view":
        return Answer({"url": LINK})
    if asked.path in LAYERS:
        return Answer(LAYERS[asked.path])
    return Answer({"code": "unknown_dataset", "message": f"nothing is at {asked.path}"}, 404)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    def open_nothing(url: str) -> int:
        raise AssertionError(url)

    monkeypatch.setattr(click, "launch", open_nothing)
    with serving(answered) as stub:
        yield stub


def error_of(result: Result, status: int) -> str:
    """Return the only line of a failed command's error output."""
    assert (result.exit_code, result.stdout) == (status, "")
    (line,) = result.stderr.splitlines()
    return line


# ------------------------------------------------------------------ a server
def test_the_link_of_a_server(stub: Stub) -> None:
    result = run(
        "view", "sample", "--server", stub.url, "--root", 7, "--root", 5, "--root", 7, "--version", 3
    )
    assert (result.exit_code, result.output) == (0, f"{LINK}\n")
    assert [asked.parameters for asked in stub.asked] == [{"roots": "5,7", "version": "3"}]


def test_another_viewer(stub: Stub) -> None:
    result = run("view", "sample", "--server", stub.url, "--viewer", "https://viewer.example.org/")
    assert result.output == "https://viewer.example.org/#!%7B%7D\n"
    assert stub.asked[0].parameters == {}


@pytest.mark.parametrize(("flags", "opened"), [([], [LINK]), (["--no-open"], [])])
def test_at_a_terminal_it_is_opened(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, flags: list[str], opened: list[str]
) -> None:
    urls = list[str]()

    def launch(url: str) -> int:
        urls.append(url)
        return 0

    monkeypatch.setattr(click, "launch", launch)
    monkeypatch.setattr("l2features.cli.view_command.is_terminal", lambda: True)
    assert run("view", "sample", "--server", stub.url, *flags).output == f"{LINK}\n"
    assert urls == opened


def test_without_a_browser_the_link_is_printed_all_the_same(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click, "launch", lambda _: 3)
    monkeypatch.setattr("l2features.cli.view_command.is_terminal", lambda: True)
    result = run("view", "sample", "--server", stub.url)
    assert (result.exit_code, result.stdout) == (2, f"{LINK}\n")
    assert result.stderr == "error: no browser could be started: open the link yourself\n"


# ------------------------------------------------------------------ exported layers
def test_a_link_to_exported_layers(stub: Stub) -> None:
    result = run("view", "sample", "--layers", f"{stub.url}/export/", "--root", 5)
    viewer, _, state = result.output.strip().partition("#!")
    assert (result.exit_code, viewer) == (0, PUBLIC_VIEWER)
    drawn = json.loads(unquote(state))
    segments, nodes = drawn["layers"]
    assert segments["segments"] == ["5"]
    assert [one["url"] for one in segments["source"]] == [
        f"precomputed://{stub.url}/export/segment_properties"
    ]
    assert [one["url"] for one in nodes["source"]] == [f"precomputed://{stub.url}/export/nodes"]
    assert (drawn["position"], drawn["projectionScale"]) == ([4000, 2000, 1000], 9600)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("empty", "empty/nodes/info is missing or forbidden: expected the folder of an export"),
        ("odd", "odd/nodes/info: expected a layer of annotations"),
        ("page", "page/nodes/info: expected JSON"),
    ],
)
def test_a_folder_without_layers(stub: Stub, folder: str, message: str) -> None:
    error = error_of(run("view", "sample", "--layers", f"{stub.url}/{folder}"), 2)
    assert error == f"error: {stub.url}/{message}"


# ------------------------------------------------------------------ mistakes
def test_no_server() -> None:
    with serving(answered) as gone:
        url = gone.url
    error = error_of(run("view", "sample", "--server", url), 1)
    assert error.startswith(f"error: {url}/l2cache/api/v1: cannot connect: Connection refused")
    assert error.endswith("start a server with `l2features serve`, or name one by --server")


def test_what_a_server_refuses(stub: Stub) -> None:
    error = error_of(run("view", "other", "--server", stub.url), 1)
    assert error == "error: nothing is at /l2cache/api/v1/table/other/view"


def test_a_server_of_something_else(stub: Stub) -> None:
    stub.answer = lambda _: Answer({"ids": []})
    assert "expected a link, got application/json" in error_of(run("view", "sample", "--server", stub.url), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--root", "x"), "'x' is not a root id"),
        (("--root", "1.5e17"), "expected an integer, since floats round ids"),
        (("--layers", "/data/export"), "layers '/data/export': expected http://…, https://… or gs://…"),
        (
            ("--layers", "http://127.0.0.1:9/e"),
            "nodes/info cannot be read: cannot connect: Connection refused",
        ),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    assert message in error_of(run("view", "sample", *arguments), 2)


def test_layers_have_their_version() -> None:
    result = run("view", "sample", "--layers", "https://host/export", "--version", 3)
    assert (result.exit_code, "expected neither --server nor --version" in result.output) == (2, True)
