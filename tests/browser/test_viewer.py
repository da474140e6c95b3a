"""Tests of the viewer in Chromium: a root's nodes and skeleton, before and after an edit."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import pytest
import requests

from api.viewer_routes import is_built
from l2features.client.client import Client
from l2features.core.schema import SIZE
from tests.support.browser import LOOPBACK, Browser, open_browser
from tests.support.jobs import need_program
from tests.support.local_stack import NO_SUCH_PROXY, Up, up

__all__ = ["up"]
THICK_NM = 300.0
"""Thickness at the upper end of the colour map in the link's shader."""
SKELETON = "#ff00ff"
PLAIN = {"showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False}
"""Options that the test adds to the state, so that only nodes and skeletons are coloured."""
SOON_S, LEAST = 60.0, 5
BUILD = "the viewer is not built: npm ci --prefix viewer --ignore-scripts && npm run build --prefix viewer"


class Stack(NamedTuple):
    url: str
    environment: dict[str, str]

    def command(self, *arguments: object) -> str:
        argv = [sys.executable, "-m", "l2features.cli", *map(str, arguments)]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def colours(self, root: int) -> dict[int, np.ndarray]:
        """Return each node's expected colour, uint8 (3,), from its thickness."""
        table = Client(self.url, "sample").neuron(root).nodes(["max_dt_nm"])
        values = table["max_dt_nm"].to_numpy()
        return dict(zip(table["id"].to_pylist(), jet(values / THICK_NM), strict=True))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    need_program("built" if is_built() else None, BUILD)
    folder = tmp_path / "browser"
    folder.mkdir()
    with open_browser(folder) as running:
        yield running


def stack_of(up: Up) -> Stack:
    up.read_until("/metrics")
    lines = re.findall(r"^  export (\S.*)$", up.said, re.MULTILINE)
    exports = dict(shlex.split(line)[0].split("=", 1) for line in lines)
    match = re.search(r"^  (http\S+)/ready$", up.said, re.MULTILINE)
    assert match
    return Stack(match[1], {**os.environ, **NO_SUCH_PROXY, **exports})


def jet(values: np.ndarray) -> np.ndarray:
    """Return the viewer's colours for values from 0 to 1, uint8 (n, 3)."""
    x = np.clip(values.astype(float), 0, 1)
    red = np.where(x < 0.89, (x - 0.35) / 0.31, 1 - (x - 0.89) / 0.11 * 0.5)
    green = np.where(x < 0.64, (x - 0.125) * 4, 1 - (x - 0.64) / 0.27)
    blue = np.where(x < 0.34, 0.5 + x * 0.5 / 0.11, 1 - (x - 0.34) / 0.31)
    return np.rint(255 * np.clip(np.stack([red, green, blue], axis=1), 0, 1)).astype(np.uint8)


def largest_root(stack: Stack) -> int:
    ids = [(1 << 56) + number for number in range(1, 30)]
    url = f"{stack.url}/segmentation/api/v1/table/sample/roots?int64_as_str=true"
    roots = {int(root) for root in requests.post(url, json={"node_ids": ids}, timeout=60).json()["root_ids"]}
    found = Client(stack.url, "sample").neurons(sorted(roots - {0}))
    return int(max(found.to_pylist(), key=lambda row: row["n_nodes"])["root_id"])


# ------------------------------------------------------------------ what is seen
def state_of(link: str) -> dict[str, Any]:
    """Return a link's state with magenta skeletons, and without axis lines, scale bar and bounding boxes."""
    state: dict[str, Any] = json.loads(unquote(link.partition("#!")[2]))
    root = state["layers"][0]["segments"][0]
    state["layers"][0]["segmentColors"] = {root: SKELETON}
    return {**state, **PLAIN}


def show(browser: Browser, state: dict[str, Any]) -> None:
    """Change the state of the viewer without reloading the page."""
    browser.run(f"location.hash = {json.dumps('#!' + quote(json.dumps(state)))}")


def drawn(browser: Browser) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the 3-D view's pixels, int (height, width, 3), and its top left corner."""
    box = browser.run(
        "const b = document.querySelector('.neuroglancer-rendered-data-panel').getBoundingClientRect();"
        "return [b.left, b.top, b.right, b.bottom].map(Math.round)"
    )
    left, top, right, bottom = box
    return browser.pixels()[top:bottom, left:right].astype(int), (left, top)


def places_of(view: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return (y, x) of the pixels that have a colour, (n, 2)."""
    return np.argwhere(abs(view - colour).max(axis=2) <= 4)


def seen(view: np.ndarray, colours: dict[int, np.ndarray]) -> set[int]:
    return {node for node, colour in colours.items() if len(places_of(view, colour)) >= LEAST}


def skeleton_pixels(view: np.ndarray) -> int:
    """Count the magenta pixels."""
    red, green, blue = view.transpose(2, 0, 1)
    return int(((red > 100) & (abs(red - blue) <= 10) & (green < red / 4)).sum())


def wait_for_root(browser: Browser, colours: dict[int, np.ndarray]) -> np.ndarray:
    """Return the view as soon as all nodes and the skeleton are drawn."""
    until = time.monotonic() + SOON_S
    while True:
        view, _ = drawn(browser)
        if seen(view, colours) == set(colours) and skeleton_pixels(view) >= 50:
            return view
        assert time.monotonic() < until, (len(seen(view, colours)), len(colours), skeleton_pixels(view))
        time.sleep(0.3)


def check_hovering(browser: Browser, stack: Stack, view: np.ndarray, colours: dict[int, np.ndarray]) -> None:
    """Check that hovering over a node shows its properties, or those of a node of similar colour."""
    colour = max(colours.values(), key=lambda one: len(places_of(view, one)))
    alike = [node for node, own in colours.items() if abs(own.astype(int) - colour).max() <= 8]
    places = places_of(view, colour)
    y, x = places[len(places) // 2]
    left, top = drawn(browser)[1]
    until = time.monotonic() + SOON_S
    while not (shown_ids := [node for node in alike if str(node) in browser.text]):
        assert time.monotonic() < until, browser.text
        browser.move_to(left + int(x), top + int(y))
        time.sleep(0.3)
    rows = Client(stack.url, "sample").features(shown_ids).to_pylist()
    assert all(name in browser.text for name in ("size_um3", "max_dt_nm", "n_faces_touched"))
    shown = [float(text) for text in re.findall(r"[0-9]+\.?[0-9]*(?:e-?[0-9]+)?", browser.text)]
    assert min(abs(value - rows[0]["max_dt_nm"]) for value in shown) < 0.01
    assert min(abs(value - rows[0][SIZE] * 1e-9) for value in shown) < 0.001


def test_a_root_and_its_edit(up: Up, browser: Browser) -> None:
    stack = stack_of(up)
    root = largest_root(stack)
    link = stack.command("view", "sample", "--root", root, "--server", stack.url).strip()
    assert link.startswith(f"{stack.url}/viewer/#!")
    route = f"{stack.url}/l2cache/api/v1/table/sample/root/{root}/view"
    assert requests.get(route, timeout=60, allow_redirects=False).headers["Location"] == link

    colours, state = stack.colours(root), state_of(link)
    assert len(colours) > 5
    nothing = json.loads(json.dumps(state))
    nothing["layers"][0]["segments"] = []
    browser.open(f"{stack.url}/viewer/#!{quote(json.dumps(nothing))}")
    time.sleep(2)
    view, _ = drawn(browser)
    assert (seen(view, colours), skeleton_pixels(view)) == (set(), 0)
    show(browser, state)
    view = wait_for_root(browser, colours)
    check_hovering(browser, stack, view, colours)

    edit = json.loads(stack.command("sample-edit", "sample", "--split", "--json"))
    began, new = time.monotonic(), max(edit["new_root_ids"])
    link = stack.command("view", "sample", "--root", new, "--server", stack.url).strip()
    until = time.monotonic() + SOON_S
    while Client(stack.url, "sample").neuron(new).summary["n_missing"].to_pylist() != [0]:
        assert time.monotonic() < until
        time.sleep(0.2)
    show(browser, state_of(link))
    wait_for_root(browser, stack.colours(new))
    assert time.monotonic() - began < SOON_S

    assert browser.console_errors() == []
    browser.driver.quit()
    hosts = {urlsplit(url).hostname for url in browser.requests() if url.startswith(("http", "ws"))}
    assert hosts == {LOOPBACK}
