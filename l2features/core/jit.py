"""Compilation with numba, cached on disk. Changing a compiled module invalidates its package's cache.

The classes here extend numba's cache locators, which are not a stable interface, so pyproject.toml pins
numba.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

F = TypeVar("F", bound=Callable[..., Any])
COMPILED = re.compile(rb"core\.jit import|import numba|from numba")
"""Source text by which a module with compiled functions is recognized."""


@cache
def _stamp(package: Path) -> str:
    """Return a digest of all compiled modules of a package; each may contain inlined code of the others."""
    sources = [path.read_bytes() for path in sorted(package.glob("*.py"))]
    return hashlib.sha256(b"\0".join([s for s in sources if COMPILED.search(s)])).hexdigest()


class _PackageStamp:
    """Invalidates a cached function when any compiled module of the function's package changes.

    By itself, numba checks only the function's own module. Here, the names of cache files contain the
    package's digest, so numba never opens an outdated file. Unpickling an outdated file may fail, because it
    may refer to classes that no longer exist.
    """

    package: Path

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
        locator = super().from_function(py_func, py_file)  # type: ignore[misc]
        if locator is not None:
            locator.package = Path(py_file).parent
        return locator

    def get_source_stamp(self) -> str:
        return _stamp(self.package)

    def get_disambiguator(self) -> str:
        line: str = super().get_disambiguator()  # type: ignore[misc]
        return f"{line}-{_stamp(self.package)[:16]}"


class UserProvided(_PackageStamp, UserProvidedCacheLocator):
    """Cache compiled code in ``NUMBA_CACHE_DIR``."""


class InTree(_PackageStamp, InTreeCacheLocator):
    """Cache compiled code beside the modules."""


class UserWide(_PackageStamp, UserWideCacheLocator):
    """Cache compiled code in the user's cache directory."""


def compiled(function: F) -> F:
    """Compile a function on its first call, to run without the GIL.

    The compiled code is cached on disk; if no folder for the cache is writable, a warning is logged.
    """
    before = numba.config.CACHE_LOCATOR_CLASSES
    places = before or ",".join(f"{__name__}.{place.__name__}" for place in (UserProvided, InTree, UserWide))
    numba.config.CACHE_LOCATOR_CLASSES = places
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        logging.getLogger(__name__).warning(
            "compiling %s in every process: %s: set NUMBA_CACHE_DIR to a writable folder",
            function.__name__,
            error,
        )
        return numba.njit(nogil=True)(function)
    finally:
        numba.config.CACHE_LOCATOR_CLASSES = before


def inlined(function: F) -> F:
    """Have numba inline the function into each caller."""
    return numba.njit(inline="always")(function)


def embedded(function: F) -> F:
    """Have LLVM inline the function into each caller; large functions compile faster than with `inlined`."""
    return numba.njit(nogil=True, forceinline=True)(function)
