"""Retries of calls for a data set, and a rest for a store that cannot be reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity

from ..core.errors import ConfigError, L2FeaturesError, StoreUnavailable

LONGEST_PAUSE_S = 10.0
REST_S = 5.0
"""How long calls for a data set fail at once after its store could not be reached."""
_Result = TypeVar("_Result")


class Retries:
    """Retries with exponential backoff from ``pause_s``. It is safe to share among threads."""

    def __init__(self, attempts: int, pause_s: float) -> None:
        self.attempts, self.pause_s = attempts, pause_s
        self._away: dict[str, tuple[L2FeaturesError, float]] = {}

    def pauses(self) -> list[float]:
        """Return the seconds between the attempts."""
        return [min(self.pause_s * 2**n, LONGEST_PAUSE_S) for n in range(self.attempts - 1)]

    def call(self, name: str, call: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return the result of a call for a data set, retried after errors of this project.

        While its store rests, the error that stopped it is raised again.
        """
        away, until = self._away.get(name, (None, 0.0))
        if away is not None and time.monotonic() < until:
            raise type(away)(str(away))
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_exponential_jitter(self.pause_s, LONGEST_PAUSE_S, jitter=self.pause_s),
            retry=tenacity.retry_if_exception(_is_retried),
            reraise=True,
        )
        try:
            return retrying(call, *arguments)
        except StoreUnavailable as error:
            self._away[name] = error, time.monotonic() + REST_S
            raise


def _is_retried(error: BaseException) -> bool:
    """Whether to retry a call; a ConfigError stays until the data sets file changes."""
    return isinstance(error, L2FeaturesError) and not isinstance(error, ConfigError)
