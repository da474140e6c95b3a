"""A Parquet file of a version that is written and hashed at the same time."""

from __future__ import annotations

import io
from contextlib import ExitStack
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import L2_ID, ROOT_ID, schema_of
from .folders import Folder
from .manifest import Layout, VersionFile

GROUP_ROWS = 20_000
"""Rows of a row group: so many that the rows of a neuron are in few row groups."""


class OpenFile:
    """A Parquet file that is being written. It appears in the folder when it is closed.

    If an error ends the caller's ``with`` block before `close`, a local folder stays unchanged, but a bucket
    keeps the incomplete file.
    """

    def __init__(
        self, folder: Folder, path: str, layout: Layout, stack: ExitStack, group_rows: int = GROUP_ROWS
    ) -> None:
        self.path, self.layout, self.rows, self.group_rows = path, layout, 0, group_rows
        self._own = stack.enter_context(ExitStack())
        self._sink = _Hashing(self._own.enter_context(folder.writing(path)))
        self._own.callback(self._sink.end)
        schema = schema_of(layout)
        self._ids = [name for name in (ROOT_ID, L2_ID) if name in schema.names]
        self._ends: dict[str, tuple[int, int]] = {}
        self._waiting: list[Any] = []
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            write_statistics=[*self._ids, *({"missing"} & set(schema.names))],
            write_page_index=True,
            write_page_checksum=True,
        )

    def write(self, table: Any) -> None:
        """Append rows, in row groups of ``group_rows``."""
        for name in self._ids if len(table) else ():
            ids = table[name].to_numpy()
            low, high = self._ends.get(name, (int(ids[0]), int(ids[0])))
            self._ends[name] = min(low, int(ids.min())), max(high, int(ids.max()))
        self.rows += len(table)
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= self.group_rows:
            self._flush(self.group_rows)

    def close(self) -> VersionFile:
        """Write the last row group and the footer; return the file's entry for the manifest."""
        self._flush(1)
        self._writer.close()
        self._own.close()
        low_root, high_root = self._ends.get(ROOT_ID, (0, 0))
        low_node, high_node = self._ends.get(L2_ID, (None, None))
        return VersionFile(
            path=self.path,
            layout=self.layout,
            rows=self.rows,
            bytes=self._sink.size,
            sha256=self._sink.digest.hexdigest(),
            min_root=low_root,
            max_root=high_root,
            min_node=low_node,
            max_node=high_node,
        )

    def _flush(self, least: int) -> None:
        """Write full row groups; keep the other rows, or write them as a smaller group if ``least`` is 1."""
        table = pa.concat_tables(self._waiting) if self._waiting else schema_of(self.layout).empty_table()
        size = self.group_rows
        full = len(table) if least == 1 else len(table) // size * size
        for first in range(0, full, size):
            self._writer.write_table(table.slice(first, min(size, full - first)).combine_chunks())
        self._waiting = [table.slice(full)]


class _Hashing(io.RawIOBase):
    """A stream that passes bytes to another stream, and hashes and counts them."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.digest, self.size, self.ended = stream, sha256(), 0, False

    def end(self) -> None:
        """Ignore further bytes. After an error, the Parquet writer still writes a footer when it is freed."""
        self.ended = True

    def write(self, data: Any) -> int:
        piece = memoryview(data)
        if self.ended:
            return int(piece.nbytes)
        self._stream.write(piece)
        self.digest.update(piece)
        self.size += piece.nbytes
        return int(piece.nbytes)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self.ended:
            self._stream.flush()

    def close(self) -> None:
        """Do nothing: `Folder.writing` closes the underlying stream."""

    def writable(self) -> bool:
        return True
