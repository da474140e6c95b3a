"""Compilation with numba, and a cache on disk that each package invalidates as a whole.

The cache locators are numba's own classes and not a stable interface: pyproject.toml pins numba.
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
"""Marks a module of compiled functions."""


@cache
def _stamp(package: Path) -> str:
    """Return a digest of a package's modules of compiled functions, which inline one another."""
    sources = [path.read_bytes() for path in sorted(package.glob("*.py"))]
    return hashlib.sha256(b"\0".join([s for s in sources if COMPILED.search(s)])).hexdigest()


class _PackageStamp:
    """Invalidates a function when any module of its package changes, not only its own as numba does.

    The stamp is part of the file names, so that no outdated file is opened: it may name deleted classes.
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
    """Compile a function on first use, to run without the GIL; cache it on disk if a folder is writable."""
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
    """Inline the function into each caller."""
    return numba.njit(inline="always")(function)


def embedded(function: F) -> F:
    """Compile the function into each caller by LLVM; this is faster than `inlined` for large functions."""
    return numba.njit(nogil=True, forceinline=True)(function)
