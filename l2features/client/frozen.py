"""A version of a data set, as clients read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..core.errors import ConfigError

if TYPE_CHECKING:
    from ..core.ids import Ids
    from ..versions.manifest import Manifest
    from ..versions.sql import Files, VersionSql

Kind = Literal["nodes_of", "nodes", "roots"]
"""Kind of a look-up by ids: the nodes of these roots, these nodes, or the summaries of these roots."""
Columns = Sequence[str] | None
"""Names of attributes, measures or columns; None for all columns."""


class VersionSource(Protocol):
    """Access to one version: its rows and its files."""

    manifest: Manifest

    def rows(self, kind: Kind, ids: Ids, columns: Columns) -> Any:
        """Return an Arrow table of nodes or of root summaries. Id columns are uint64.

        With the kind ``nodes_of``, ``ids`` are roots; return all their nodes, sorted by root, then by node.
        With ``nodes``, ``ids`` are nodes; return them, sorted by id. With ``roots``, ``ids`` are roots;
        return their summaries, sorted by id.
        """

    def files(self) -> Files:
        """Return access to the files. Raises ConfigError if they cannot be reached."""


class Version:
    """A version: the data set frozen at one time. `Client.version` returns one.

    Results are pyarrow tables with flat columns (``rep_coord_nm_x``), in nm: ``.to_pandas()`` makes a pandas
    DataFrame, ``polars.from_arrow(…)`` a polars DataFrame. ``manifest`` describes the version.
    """

    def __init__(self, source: VersionSource) -> None:
        self._source = source
        self._sql: VersionSql | None = None
        self.manifest = source.manifest

    def __repr__(self) -> str:
        return f"Version({self.number}, {self.timestamp.isoformat(timespec='milliseconds')!r})"

    @property
    def number(self) -> int:
        """The version's number."""
        return self.manifest.number

    @property
    def timestamp(self) -> datetime:
        """The time (UTC) at which the version's nodes and roots are valid."""
        return self.manifest.timestamp

    def nodes(self, *, root_ids: Any = None, node_ids: Any = None, columns: Columns = None) -> Any:
        """Return nodes with their roots and features.

        Args:
            root_ids: return all nodes of these roots, sorted by root and node. Give either ``root_ids`` or
                ``node_ids``.
            node_ids: return these nodes, sorted by node.
            columns: attributes (``rep_coord_nm``) or columns (``rep_coord_nm_x``), by default all;
                ``root_id`` and ``l2_id`` are always included.

        Ids that are not in the version have no row. The column ``missing`` is true for a node whose features
        were not computed.
        """
        from .client import node_ids as checked

        if (root_ids is None) == (node_ids is None):
            raise ConfigError(
                "nodes: expected either root_ids or node_ids; to read all nodes, use sql('SELECT …')"
            )
        if root_ids is not None:
            return self._rows("nodes_of", checked(root_ids), columns)
        return self._rows("nodes", checked(node_ids), columns)

    def roots(self, root_ids: Any = None, columns: Columns = None) -> Any:
        """Return the summaries of roots, sorted by root; by default, of all roots in the version.

        Roots that are not in the version have no row. ``root_id`` is always included.
        """
        from ..versions.lookup import root_columns, with_unsigned_ids
        from .client import node_ids as checked

        if root_ids is not None:
            return self._rows("roots", checked(root_ids), columns)
        listed = ", ".join(root_columns(_listed(columns)))
        return self._stamped(with_unsigned_ids(self.sql(f"SELECT {listed} FROM roots ORDER BY root_id")))

    def sql(self, query: str) -> Any:
        """Return the result of a SELECT statement over the views ``nodes``, ``nodes_by_id`` and ``roots``.

        ``nodes`` and ``nodes_by_id`` have the same rows, from files sorted by root and by L2 id. All ids are
        int64. DuckDB reads the version's files in place; it is installed with ``l2features[query]``. If the
        client reads from a server, the server must publish the files' URLs.
        """
        from ..versions.sql import VersionSql

        if self._sql is None:
            self._sql = VersionSql(self.manifest, self._source.files())
        return self._sql.table(query)

    def _rows(self, kind: Kind, ids: Ids, columns: Columns) -> Any:
        return self._stamped(self._source.rows(kind, ids, _listed(columns)))

    def _stamped(self, table: Any) -> Any:
        from .result_tables import stamped

        manifest = self.manifest
        about = {
            "dataset": manifest.dataset,
            "version": str(manifest.number),
            "timestamp": manifest.timestamp.isoformat(),
            "software": manifest.software,
        }
        return stamped(table.replace_schema_metadata(None), about)


def _listed(columns: Columns) -> Columns:
    if isinstance(columns, str):
        raise ConfigError(f"columns {columns!r}: expected a list of names, such as [{columns!r}]")
    return columns
