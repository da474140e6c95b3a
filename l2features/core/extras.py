"""Extras of the package: groups of optional dependencies, as in pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ConfigError

EXTRAS = {
    "compute": (
        "blosc",
        "cloudfiles",
        "cloudvolume",
        "compresso",
        "crackle",
        "edt",
        "numba",
        "pebble",
        "pythonjsonlogger",
        "sklearn",
        "threadpoolctl",
    ),
    "bigtable": ("google", "grpc"),
    "skeletons": ("scipy",),
    "delta": ("deltalake",),
    "dask": ("distributed",),
    "jobs": ("apache_beam", "google.pubsub_v1"),
    "api": ("flask", "gunicorn"),
    "query": ("duckdb", "polars"),
    "viewer": ("neuroglancer",),
}
"""Modules that each extra of pyproject.toml installs; a package's name stands for all its modules."""
_EXTRA_OF = {module: extra for extra, modules in EXTRAS.items() for module in modules}


@contextmanager
def naming_extras(extra: str | None = None) -> Iterator[None]:
    """Turn the ModuleNotFoundError of an optional dependency into a ConfigError that names an extra.

    The error names ``extra``, or by default the extra of `EXTRAS` that installs the missing module.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        found = extra or extra_of(error.name or "")
        if found is None:
            raise
        raise ConfigError(
            f"the module {error.name!r} is not installed: pip install 'l2features[{found}]'"
        ) from error


def extra_of(module: str) -> str | None:
    """Return the extra that installs a module; None if no extra does.

    >>> extra_of("google.cloud.bigtable.data")
    'bigtable'
    """
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((_EXTRA_OF[name] for name in names if name in _EXTRA_OF), None)
