"""How the kernel's functions are compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile on first use, without the GIL; keep the result on disk where there is a place for it.

    Numba does not see that a compiled function depends on other modules' compiled or inlined functions:
    after a change in this module, ``simd`` or ``runs``, delete the ``*.nbi`` files of the cache.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        logging.getLogger(__name__).warning("compiling %s in every process: %s", function.__name__, error)
        return numba.njit(nogil=True)(function)


def inlined(function: F) -> F:
    """Compile as a part of each caller."""
    return numba.njit(inline="always")(function)
