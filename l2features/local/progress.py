"""Progress of a command: a bar on a terminal, else a log line each minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

LINE_S = 60.0
"""Seconds between two log lines."""
T = TypeVar("T")
logger = logging.getLogger(__name__)


def progress_bar(total: int, unit: str, description: str | None = None, **more: Any) -> tqdm[Any]:
    """Return a progress bar, hidden unless stderr is a terminal; ``more`` are tqdm's options."""
    return tqdm(total=total, unit=unit, desc=description, disable=None, **more)


def shown(items: Iterable[T], bar: tqdm[Any]) -> Iterator[T]:
    """Yield items, and advance a progress bar after each item has been used."""
    with bar:
        for item in items:
            yield item
            bar.update()


class ProgressLines:
    """Logs the number of done chunks of a data set once a minute."""

    def __init__(self, dataset: str, total: int) -> None:
        self.dataset, self.total, self.done = dataset, total, 0
        self._logged = time.monotonic()

    def advance(self, chunks: int) -> None:
        """Add to the number of done chunks, and log it once a minute."""
        self.done += chunks
        now = time.monotonic()
        if now >= self._logged + LINE_S:
            self._logged = now
            logger.info("progress: dataset=%s done=%d total=%d", self.dataset, self.done, self.total)
