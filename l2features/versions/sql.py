"""SQL over a version: DuckDB reads the version's files in place.

DuckDB itself reads files on a disk. It receives other files as pyarrow data sets, so no extension of DuckDB
is installed or loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ..core.errors import ConfigError, DamagedVersion, VersionError
from ..core.extras import naming_extras
from .columns import node_schema, retired_schema, root_schema
from .manifest import Layout, Manifest

VIEWS: dict[str, Layout] = {"nodes": "by_root", "nodes_by_id": "by_node", "roots": "roots"}
"""The layout of the files behind each view."""
BATCH_ROWS = 50_000
_GLOB = re.compile(r"([*?\[])")
_SETTINGS = ("autoinstall_known_extensions = false", "autoload_known_extensions = false")


class Files(Protocol):
    """Access to the files of a version."""

    @property
    def local(self) -> Path | None:
        """The folder on this machine; None if the folder is elsewhere."""

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        """Return files as a `pyarrow.dataset.Dataset`."""


class VersionSql:
    """A connection to DuckDB with the views `VIEWS` of one version. Use it from one thread, and in ``with``.

    Only SELECT statements are accepted, so that nothing is written. Queries may read any file that the user
    can read, such as ``'cells.csv'``. Ids are BIGINT, as in the files.

    Raises ConfigError if DuckDB is not installed.
    """

    def __init__(self, manifest: Manifest, files: Files) -> None:
        with naming_extras():
            import duckdb
        self._duckdb = duckdb
        self._connection = duckdb.connect(":memory:")
        with self._errors("cannot open the version"):
            for view in VIEWS:
                self._connection.execute(self._view(view, manifest, files))
            for setting in (*_SETTINGS, "lock_configuration = true"):
                self._connection.execute(f"SET {setting}")

    def batches(self, query: str) -> Any:
        """Return the result of a query as a `pyarrow.RecordBatchReader`.

        Read the batches in a ``with`` block of `errors`, which turns DuckDB's errors into ConfigError or
        VersionError. Raises ConfigError for anything but one valid SELECT statement.
        """
        with self.errors():
            statements = self._connection.extract_statements(query)
            kinds = [statement.type.name for statement in statements]
            if kinds != ["SELECT"]:
                found = ", ".join(kinds) or "nothing"
                raise ConfigError(f"expected one SELECT statement, got {found}")
            result = self._connection.sql(query)
            return result.to_arrow_reader(BATCH_ROWS)

    def table(self, query: str) -> Any:
        """Return the result of a query as an Arrow table.

        Raises ConfigError for anything but one valid SELECT statement, and VersionError if reading fails.
        """
        reader = self.batches(query)
        with self.errors():
            return reader.read_all()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of DuckDB into ConfigError or VersionError with a one-line message."""
        with self._errors("query"):
            yield

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> VersionSql:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ views
    def _view(self, view: str, manifest: Manifest, files: Files) -> str:
        """Return the SQL that creates a view: rows of all layers, except those of roots retired later."""
        layout, schema = VIEWS[view], root_schema() if view == "roots" else node_schema()
        columns, parts = ", ".join(schema.names), list[str]()
        for i, layer in enumerate(manifest.layers):
            paths = [file.path for file in layer.of(layout) if file.rows]
            gone = [file.path for file in manifest.removing(i) if file.rows]
            if paths:
                source = self._source(f"{view}_{i}", paths, schema, files)
                less = self._source(f"{view}_retired_{i}", gone, retired_schema(), files) if gone else None
                join = f" ANTI JOIN {less} AS retired USING (root_id)" if less else ""
                parts.append(f"SELECT {columns} FROM {source} AS layer{join}")
        if not parts:
            self._connection.register(f"{view}_none", schema.empty_table())
            parts.append(f"SELECT {columns} FROM {view}_none")
        return f"CREATE VIEW {view} AS {' UNION ALL '.join(parts)}"

    def _source(self, name: str, paths: Sequence[str], schema: Any, files: Files) -> str:
        """Return these files in SQL: a call of read_parquet; for a bucket, ``name``, registered here."""
        if files.local is None:
            self._connection.register(name, files.dataset(paths, schema))
            return name
        missing = next((path for path in paths if not (files.local / path).exists()), None)
        if missing is not None:
            raise DamagedVersion(missing, "is missing")
        listed = ", ".join(_text(_GLOB.sub(r"[\1]", str(files.local / path))) for path in paths)
        return f"read_parquet([{listed}], hive_partitioning = false)"

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn errors in the query into ConfigError, and errors in reading files into VersionError."""
        errors = self._duckdb
        try:
            yield
        except (errors.IOException, errors.InternalException, errors.InvalidInputException) as error:
            raise VersionError(f"{what}: {_line(error)}") from error
        except errors.Error as error:
            raise ConfigError(f"{what}: {_line(error)}") from error
        except (OSError, pa.ArrowException) as error:
            raise VersionError(f"{what}: {_line(error)}") from error


def _text(value: str) -> str:
    """Return a text as a quoted SQL string.

    >>> print(_text("it's"))
    'it''s'
    """
    return "'" + value.replace("'", "''") + "'"


def _line(error: BaseException) -> str:
    """Return an error in one line, without the lines that point into the query."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("LINE ", "^"))]
    return " ".join(kept)[:400]
