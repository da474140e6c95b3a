"""Tests of the HTML pages in Chromium: both themes, phone size, keyboard, and a stopped server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver.common.keys import Keys

from l2features.store.base import Meta, open_store
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET, GEOMETRY
from tests.support.browser import Browser, open_browser
from tests.support.busy_table import FAILED_CHUNK, REASON, SCRIPT, busy_table
from tests.support.jobs import ROOT

AXE = ROOT / "tests" / "data" / "axe" / "axe.min.js"
PAGES = {
    "landing": "/l2cache/",
    "dashboard": f"/l2cache/table/{DATASET}",
    "gone": "/l2cache/table/gone",
    "empty": "/l2cache/table/empty",
}
SIZES = {"desktop": (1024, 800), "phone": (390, 844)}
DRAWN = "document.querySelectorAll('.uplot canvas').length === 4 && state.sample && state.map"
KNOWN = "typeof state === 'undefined' || (state && (state.progress || state.problem))"
IMPATIENT = {"L2CACHE_GRACEFUL_TIMEOUT_S": "5"}
"""How long a stopping server waits for connections on which Chromium has sent nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of three tables: one during an ingest, an empty one, and a missing one."""
    folder = tmp_path_factory.mktemp("served")
    config = with_others(busy_table(folder))
    with Server(config, IMPATIENT) as server:
        yield server


def with_others(config: Path) -> Path:
    """Add a data set whose table is missing, and one whose table is empty."""
    entries: dict[str, Any] = json.loads(config.read_text())
    entry = entries[DATASET]
    entries |= {name: {**entry, "l2cache_id": f"l2cache_{name}"} for name in ("gone", "empty")}
    store = open_store(entry["store"], "l2cache_empty")
    store.create(Meta("graph", "precomputed://file:///nowhere", "2026-01-01 00:00:00", GEOMETRY))
    store.close()
    config.write_text(json.dumps(entries))
    return config


@pytest.fixture(scope="module")
def browser(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def open_page(browser: Browser, server: Server, page: str) -> None:
    browser.driver.get(f"{server.url}{PAGES[page]}")
    browser.wait_for(DRAWN if page == "dashboard" else KNOWN)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_pages_have_no_fault(browser: Browser, server: Server, page: str, size: str, dark: bool) -> None:
    browser.look(*SIZES[size], dark=dark)
    open_page(browser, server, page)
    width = browser.run("return document.documentElement.scrollWidth")
    assert width <= SIZES[size][0]
    back = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(17, 20, 24)") == dark
    browser.run(AXE.read_text())
    found = browser.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    faults = [(v["impact"], v["id"], v["nodes"][0]["html"]) for v in found["violations"]]
    assert not [fault for fault in faults if fault[0] in ("serious", "critical")]
    assert browser.console_errors() == []
    assert browser.requested_elsewhere() == []


def test_the_page_shows_the_state(browser: Browser, server: Server) -> None:
    browser.look(*SIZES["desktop"])
    open_page(browser, server, "dashboard")
    state = requests.get(f"{server.api}/table/{DATASET}/dashboard", timeout=20).json()
    figures = browser.run(
        "return Object.fromEntries([...document.querySelectorAll('dl > div')].map("
        "row => [row.children[0].textContent, row.children[1].textContent]))"
    )
    for section in ("progress", "dead", "audit", "versions"):
        for line in state["lines"][section]:
            assert figures[line["label"]] == line["value"]
    assert figures[f"Updater host-1-{SCRIPT}"] == "alive"
    assert browser.driver.title == f"{DATASET}: state"
    ages = browser.run("return [...document.querySelectorAll('[data-age]')].map(age => age.textContent)")
    assert all(age.endswith(" old") for age in ages)


def colours(browser: Browser, plane: str) -> set[tuple[int, ...]]:
    """Return the colours of a plane's map on the dashboard, taken at the centre of each cell."""
    found = browser.run(
        "const canvas = document.getElementById(`map-${arguments[0]}`), paint = canvas.getContext('2d');"
        "const {columns, rows} = state.map.planes[arguments[0]], all = [];"
        "for (let i = 0; i < columns * rows; i++) {"
        " const x = (i % columns + .5) * canvas.width / columns;"
        " const y = (Math.floor(i / columns) + .5) * canvas.height / rows;"
        " all.push([...paint.getImageData(x, y, 1, 1).data].slice(0, 3)); } return all",
        plane,
    )
    return {tuple(colour) for colour in found}


def test_the_map_is_drawn_and_answers_to_clicks_and_keys(browser: Browser, server: Server) -> None:
    browser.look(*SIZES["desktop"])
    open_page(browser, server, "dashboard")
    light = colours(browser, "xy")
    assert len(light) >= 3  # failed, partly done or empty, not yet
    canvas = browser.driver.find_element("id", "map-xy")
    canvas.send_keys(Keys.ARROW_RIGHT)
    for key, times in ((Keys.ARROW_RIGHT, FAILED_CHUNK.x), (Keys.ARROW_DOWN, FAILED_CHUNK.y)):
        for _ in range(times):
            canvas.send_keys(key)
    canvas.send_keys(Keys.ENTER)
    browser.wait_for("document.querySelector('#cell li')")
    assert browser.run("return document.querySelector('#cell li').textContent") == f"{FAILED_CHUNK}: {REASON}"
    assert "1 failed" in browser.run("return document.querySelector('#cell strong').textContent")
    browser.run("document.getElementById('cell').replaceChildren()")
    browser.driver.find_element("id", "map-yz").click()  # its middle
    browser.wait_for("document.querySelector('#cell strong')")
    label = browser.run("return document.getElementById('map-xy').getAttribute('aria-label')")
    assert label == "Chunks in xy, 3 x 2 cells: 4 done, 1 failed, 2 empty of 12"
    browser.look(*SIZES["desktop"], dark=True)
    browser.wait_for("document.querySelectorAll('.uplot canvas').length === 4")
    assert colours(browser, "xy") != light
    assert browser.driver.title == f"{DATASET}: state"
    assert browser.console_errors() == []


def test_a_page_whose_server_is_gone_says_so_and_recovers(browser: Browser, tmp_path: Path) -> None:
    config = busy_table(tmp_path)
    with Server(config, IMPATIENT) as server:
        open_page(browser, server, "dashboard")
        port = server.port
    browser.wait_for("document.getElementById('connection').textContent.startsWith('The server does not')")
    assert browser.run("return document.querySelector('[data-lines=progress] dd').textContent").startswith(
        "6 of"
    )
    with Server(config, IMPATIENT, port=port):
        browser.wait_for("document.getElementById('connection').hidden")
    browser.console_errors()  # of the failed requests


def test_the_api_page_starts_with_an_id_that_exists(browser: Browser, server: Server) -> None:
    browser.look(1024, 2000)
    browser.driver.get(f"{server.api}/docs/#/reads/attributes")
    browser.wait_for("document.querySelector('#operations-reads-attributes .execute')")
    boxes = browser.run(
        "return [...document.querySelectorAll('#operations-reads-attributes input[type=checkbox]')]"
        ".map(box => box.checked)"
    )
    assert sorted(boxes) == [False, False, True]
    browser.run("document.querySelector('#operations-reads-attributes .execute').click()")
    browser.wait_for(
        "document.querySelector('#operations-reads-attributes .live-responses-table .microlight')"
    )
    shown = browser.run(
        "return document.querySelector('#operations-reads-attributes .live-responses-table').textContent"
    )
    assert "size_nm3" in shown
    assert browser.console_errors() == []
    assert browser.requested_elsewhere() == []
