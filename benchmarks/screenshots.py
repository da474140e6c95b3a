"""Take the docs' pictures of a running server's pages, in Chromium: light, dark, and on a phone."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.browser import Browser, open_browser

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
DRAWN = (
    "document.fonts.status === 'loaded' && (typeof state === 'undefined' || "
    "(state && state.map && state.sample && document.querySelectorAll('.uplot canvas').length >= 2))"
)
EPILOG = """
Needs Debian's chromium and chromium-driver, and the packages of tests/requirements.txt.

example:
  l2features up      # in another terminal, with some `l2features sample-edit`
  python -m benchmarks.screenshots http://127.0.0.1:4100 --dataset sample
"""


class Picture(NamedTuple):
    """A picture to take: path of the page, width and height in pixels, theme. Height None: the whole page."""

    path: str
    width: int
    height: int | None = None
    dark: bool = False


PICTURES = {
    "dashboard-light": Picture("/l2cache/table/{dataset}", 1024, 1350),
    "dashboard-dark": Picture("/l2cache/table/{dataset}", 1024, 1000, dark=True),
    "dashboard-phone": Picture("/l2cache/table/{dataset}", 390, 844),
}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as browser:
        for name, picture in PICTURES.items():
            path = options.to / f"{name}.png"
            place = picture.path.format(dataset=options.dataset)
            take(browser, options.url.rstrip("/") + place, picture, path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="URL of a running server, such as http://127.0.0.1:4100")
    parser.add_argument("--dataset", default="sample", help="data set to show; default sample")
    parser.add_argument(
        "--to", type=Path, default=FOLDER, help="folder of the pictures; default docs/pictures"
    )
    return parser.parse_args(arguments)


def take(browser: Browser, url: str, picture: Picture, path: Path) -> None:
    """Save a picture of the page at ``url`` to ``path``, once the page's figures are drawn."""
    browser.look(picture.width, picture.height or 900, dark=picture.dark)
    browser.driver.get(url)
    browser.wait_for(DRAWN)
    browser.screenshot(path, height=picture.height)


if __name__ == "__main__":
    sys.exit(main())
