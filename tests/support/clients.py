"""Client threads that read features and count the outcomes of their requests."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from l2features.core.ids import Ids

BINARY = {"Content-Type": "application/octet-stream"}
REFUSED, CUT_OFF = "refused", "cut off"
PAUSE_S = 0.05


class Clients:
    """Client threads: half of them keep a connection; the others open one per request.

    They pause between requests only while they are `paced`. An outcome is an HTTP status, `CUT_OFF` for a
    truncated answer, or an error. A client whose connection is `REFUSED` stops.
    """

    def __init__(self, api: str, ids: Ids, count: int = 8) -> None:
        self.url, self.ids = f"{api}/table/sample/attributes", ids
        self.outcomes: Counter[str] = Counter()
        self._ended, self._pause_s = threading.Event(), 0.0
        self._threads = [threading.Thread(target=self._ask, args=(i % 2 == 0,)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, answers: int) -> None:
        goal = self.outcomes["200"] + answers
        until = time.monotonic() + 60
        while self.outcomes["200"] < goal:
            assert time.monotonic() < until, self.outcomes
            time.sleep(0.01)

    @contextmanager
    def paced(self) -> Iterator[None]:
        """Pause each client after each request, so that a server can start on the same cores."""
        self._pause_s = PAUSE_S
        yield
        self._pause_s = 0.0

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, keep: bool) -> None:
        session = requests.Session()
        while not self._ended.is_set():
            post = session.post if keep else requests.post
            try:
                answer = post(self.url, data=self.ids.tobytes(), headers=BINARY, timeout=60)
                outcome = str(answer.status_code)
                assert outcome != "200" or len(answer.json()) == len(self.ids)
            except requests.exceptions.ChunkedEncodingError:
                outcome = CUT_OFF
            except requests.RequestException as error:
                outcome = REFUSED if "Connection refused" in str(error) else repr(error)
            self.outcomes[outcome] += 1
            if outcome == REFUSED:
                return
            time.sleep(self._pause_s)
