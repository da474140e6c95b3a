"""Models of the state of a data set, as its dashboard shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from l2features.overview.chunk_scan import IngestProgress
from l2features.store.notes import LastAudit, Time
from l2features.updates.lag_history import UpdateHistory
from l2features.versions.catalog import VersionSummary

from .schemas import DatasetPath, UpdatesInfo

AS_OF = Field(description="When this was read (UTC).")
Plane = Literal["xy", "xz", "yz"]


class ProgressInfo(IngestProgress):
    """Progress of the ingest from its chunk records, as in `l2features status`."""

    as_of: Time = AS_OF
    seconds_left: float | None = Field(
        description="Time left at the current rate; null if no ingest is running."
    )


class CellsInfo(BaseModel):
    """A projection of the grid; lists are row by row."""

    columns: int
    rows: int
    span: int = Field(description="Chunks along each side of a cell.")
    total: list[int] = Field(description="Chunks of each cell, summed over the third axis.")
    done: list[int] = Field(description="Done chunks with nodes.")
    failed: list[int]
    empty: list[int] = Field(description="Done chunks without nodes.")


class MapInfo(BaseModel):
    as_of: Time = AS_OF
    planes: dict[Plane, CellsInfo]


class RequestsInfo(BaseModel):
    """Requests for the data set, except those of dashboards."""

    as_of: Time = AS_OF
    total: int = Field(description="Requests since the server started.")
    failed: int = Field(description="Requests with a status of 500 or above.")
    window_s: float | None = Field(None, description="Length in seconds of the window of the rates.")
    per_second: float | None = None
    failed_per_second: float | None = None


class HistogramInfo(BaseModel):
    edges: list[float] = Field(description="Edges of the bins, one more than counts.")
    counts: list[int]


class SampleInfo(BaseModel):
    """Computed nodes of random chunks."""

    as_of: Time = AS_OF
    chunks: int
    nodes: int
    size_um3: HistogramInfo | None
    max_dt_nm: HistogramInfo | None
    node: str | None = Field(description="A node with features and, if known, a root.")
    root: str | None = Field(description="Root of the node.")


class VersionsInfo(BaseModel):
    as_of: Time = AS_OF
    versions: list[VersionSummary]


class AuditInfo(LastAudit):
    as_of: Time = AS_OF


class HistoryInfo(UpdateHistory):
    as_of: Time = AS_OF


class Line(BaseModel):
    """A figure as text."""

    label: str
    value: str
    tone: Literal["", "good", "bad", "none"] = Field("", description="`none` means no data.")


class BoardInfo(BaseModel):
    """State of a data set. A part is null while it is unknown."""

    dataset: str
    problem: str | None = Field(description="Why the table cannot be read.")
    progress: ProgressInfo | None
    map: MapInfo | None
    updates: UpdatesInfo | None
    history: HistoryInfo | None
    audit: AuditInfo | None
    versions: VersionsInfo | None
    requests: RequestsInfo | None
    sample: SampleInfo | None
    unreadable: dict[str, str] = Field(description="Maps parts that cannot be read to the reason.")
    lines: dict[str, list[Line]] = Field(description="The figures as text, by section of the page.")


class CellPath(DatasetPath):
    """A cell of a projection of the chunks."""


class CellQuery(BaseModel):
    plane: Plane = Field(description="Plane of the projection.", json_schema_extra={"example": "xy"})
    column: int = Field(ge=0, le=1000, description="Column of the cell, from 0.")
    row: int = Field(ge=0, le=1000, description="Row of the cell, from 0.")


class FailedChunk(BaseModel):
    chunk: str
    reason: str


class CellInfo(BaseModel):
    """The chunks of a cell."""

    chunks: str = Field(description="Chunks of the cell, x0:x1,y0:y1,z0:z1.")
    total: int
    done: int
    failed: int
    empty: int
    failures: list[FailedChunk] = Field(description="Up to 20 failed chunks.")
