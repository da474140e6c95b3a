"""A headless Chromium for the browser tests and the screenshots."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.jobs import need_program

WINDOW = (1200, 900)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--no-first-run", f"--window-size={WINDOW[0]},{WINDOW[1]}"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    *("--disable-dev-shm-usage", "--disable-default-apps", "--hide-scrollbars", "--proxy-server=direct://"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
LOOPBACK = "127.0.0.1"
WAIT_S = 60.0


class Browser:
    """A page in Chromium; ``driver`` is the Selenium driver."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "net-log.json"
        options = ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={self.log}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Chrome(options, Service(shutil.which("chromedriver"), env=dict(os.environ)))
        self.driver.set_page_load_timeout(120)

    def open(self, url: str) -> None:
        """Load a page from scratch, even if its URL differs only after the #."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the page in pixels, and its preferred color scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})

    def wait_for(self, script: str, seconds: float = WAIT_S) -> Any:
        """Return the value of a JavaScript expression once it is true."""
        waiting = WebDriverWait(self.driver, seconds, poll_frequency=0.2)
        return waiting.until(lambda driver: driver.execute_script(f"return {script}"), message=script)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def pixels(self) -> np.ndarray:
        """Return the page's pixels, uint8 (height, width, 3)."""
        with Image.open(io.BytesIO(self.driver.get_screenshot_as_png())) as image:
            return np.asarray(image.convert("RGB"))

    def screenshot(self, path: Path, *, height: int | None = None) -> None:
        """Save the page as PNG, or only its top ``height`` pixels."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        given = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", given)
        path.write_bytes(base64.b64decode(taken["data"]))

    def move_to(self, x: int, y: int) -> None:
        """Move the mouse to a pixel of the page."""
        actions = ActionChains(self.driver)
        actions.w3c_actions.pointer_action.move_to_location(x - 1, y - 1)
        actions.w3c_actions.pointer_action.move_to_location(x, y)
        actions.perform()

    @property
    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def console_errors(self) -> list[str]:
        """Return the errors in the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requested_elsewhere(self) -> list[str]:
        """Return the URLs outside this machine that pages have requested since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        places = [url for url in sent if urlsplit(url).scheme in ("http", "https", "ws", "wss")]
        return [url for url in places if urlsplit(url).hostname != LOOPBACK]

    def requests(self) -> set[str]:
        """Return the URLs that pages and workers have requested; Chromium must have exited."""
        events = [event.get("params", {}) for event in json.loads(self.log.read_text())["events"]]
        return {
            one["url"]
            for one in events
            if urlsplit(one.get("initiator", "")).hostname == LOOPBACK and "url" in one
        }


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Run Chromium with its files in ``folder``. Without Chromium, skip the test, or fail it in CI."""
    for program in ("chromium", "chromedriver"):
        need_program(shutil.which(program), "apt-get install chromium chromium-driver")
    browser = Browser(folder)
    try:
        yield browser
    finally:
        browser.driver.quit()
