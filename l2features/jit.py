"""How the kernel's functions are compiled, and when what was compiled before is out of date."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

F = TypeVar("F", bound=Callable[..., Any])
MODULES = (
    "features/cut",
    "features/distance",
    "features/envelope",
    "features/moments",
    "features/runs",
    "features/score",
    "features/simd",
    "jit",
    "store/readrows",
    "store/wire",
    "volume/compressed",
)
"""Modules of the kernel: their functions are compiled into one another."""


@cache
def _stamp() -> str:
    sources = [(Path(__file__).parent / f"{module}.py").read_bytes() for module in MODULES]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


class _KernelStamp:
    """Numba looks at the file that a function stands in; ours depend on each other's files too.

    What was compiled from other sources has other file names, so that it is never even opened: it may name
    classes that are gone.
    """

    def get_source_stamp(self) -> str:
        return _stamp()

    def get_disambiguator(self) -> str:
        line: str = super().get_disambiguator()  # type: ignore[misc]
        return f"{line}-{_stamp()[:16]}"


class UserProvided(_KernelStamp, UserProvidedCacheLocator):
    """In ``NUMBA_CACHE_DIR``."""


class InTree(_KernelStamp, InTreeCacheLocator):
    """Beside the modules."""


class UserWide(_KernelStamp, UserWideCacheLocator):
    """In the user's cache directory."""


def compiled(function: F) -> F:
    """Compile on first use, without the GIL; keep the result on disk where there is a place for it."""
    before = numba.config.CACHE_LOCATOR_CLASSES
    places = before or ",".join(f"{__name__}.{place.__name__}" for place in (UserProvided, InTree, UserWide))
    numba.config.CACHE_LOCATOR_CLASSES = places
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        logging.getLogger(__name__).warning("compiling %s in every process: %s", function.__name__, error)
        return numba.njit(nogil=True)(function)
    finally:
        numba.config.CACHE_LOCATOR_CLASSES = before


def inlined(function: F) -> F:
    """Compile as a part of each caller."""
    return numba.njit(inline="always")(function)
