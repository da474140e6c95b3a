"""The largest number of nodes of a chunk, from a table's chunk records; kept in a note.

A scan of millions of records takes minutes, so processes share its result: it is repeated when it is
`SHARE` times as old as it took, and a minute at least.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, Field

from ..core.errors import StoreError
from ..store.base import Store
from ..store.notes import Time, put_note, replaceable_note

NOTE = "largest_chunk"
LEAST_S, SHARE = 60.0, 100.0
logger = logging.getLogger(__name__)


class LargestChunk(BaseModel):
    """The note of the last scan."""

    nodes: int = Field(ge=0, description="Most nodes of a chunk.")
    time: Time = Field(description="When the scan ended.")
    seconds: float = Field(ge=0, description="How long it took.")

    @property
    def due(self) -> datetime:
        """When to scan again."""
        return self.time + timedelta(seconds=max(LEAST_S, SHARE * self.seconds))


def largest_chunk(store: Store) -> int:
    """Return the most nodes that a record of a chunk has; 0 without records. Raises StoreError."""
    known = replaceable_note(store, NOTE, LargestChunk)
    if known is not None and datetime.now(UTC) < known.due:
        return known.nodes
    start = time.monotonic()
    nodes = max((record.nodes for record in store.chunk_records()), default=0)
    found = LargestChunk(nodes=nodes, time=datetime.now(UTC), seconds=time.monotonic() - start)
    try:
        put_note(store, NOTE, found.model_dump(mode="json"))
    except StoreError as error:
        logger.warning("table %s: cannot keep the note %r: %s", store.name, NOTE, error)
    return nodes
