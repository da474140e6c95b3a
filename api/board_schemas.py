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
        description="Seconds until all chunks are done at the current rate; null if no ingest is running."
    )


class CellsInfo(BaseModel):
    """One projection of the chunk map. Each list has a count of chunks for each cell, row by row."""

    columns: int
    rows: int
    span: int = Field(description="Chunks along each side of a cell.")
    total: list[int] = Field(description="Number of chunks in each cell, over the whole third axis.")
    done: list[int] = Field(description="Number of done chunks with nodes in each cell.")
    failed: list[int] = Field(description="Number of failed chunks in each cell.")
    empty: list[int] = Field(description="Number of done chunks without nodes in each cell.")


class MapInfo(BaseModel):
    as_of: Time = AS_OF
    planes: dict[Plane, CellsInfo]


class RequestsInfo(BaseModel):
    """Requests for the data set, except those of dashboards."""

    as_of: Time = AS_OF
    total: int = Field(description="Requests since the server started.")
    failed: int = Field(description="Requests with a status of 500 or above.")
    window_s: float | None = Field(None, description="Seconds over which the rates are computed.")
    per_second: float | None = None
    failed_per_second: float | None = None


class HistogramInfo(BaseModel):
    edges: list[float] = Field(description="Edges of the bins: one value more than in `counts`.")
    counts: list[int]


class SampleInfo(BaseModel):
    """A sample of the computed nodes, from random chunks."""

    as_of: Time = AS_OF
    chunks: int
    nodes: int
    size_um3: HistogramInfo | None
    max_dt_nm: HistogramInfo | None
    node: str | None = Field(description="Id of a node with features, if known.")
    root: str | None = Field(description="Id of the root of `node`, if known.")


class VersionsInfo(BaseModel):
    as_of: Time = AS_OF
    versions: list[VersionSummary]


class AuditInfo(LastAudit):
    as_of: Time = AS_OF


class HistoryInfo(UpdateHistory):
    as_of: Time = AS_OF


class Line(BaseModel):
    """A labelled value on the dashboard, as text."""

    label: str
    value: str
    tone: Literal["", "good", "bad", "none"] = Field(
        "", description="How to show the line; `none` means no data."
    )


class BoardInfo(BaseModel):
    """State of a data set. A field such as `progress` is null while its value is unknown."""

    dataset: str
    problem: str | None = Field(description="Why the table cannot be read; null if it can be read.")
    progress: ProgressInfo | None
    map: MapInfo | None
    updates: UpdatesInfo | None
    history: HistoryInfo | None
    audit: AuditInfo | None
    versions: VersionsInfo | None
    requests: RequestsInfo | None
    sample: SampleInfo | None
    unreadable: dict[str, str] = Field(description="Parts that cannot be read, each with the reason.")
    lines: dict[str, list[Line]] = Field(description="The figures as text, by section of the dashboard.")


class CellPath(DatasetPath):
    """Path of a request for one cell of the chunk map."""


class CellQuery(BaseModel):
    plane: Plane = Field(description="Plane of the projection.", json_schema_extra={"example": "xy"})
    column: int = Field(ge=0, le=1000, description="Column of the cell, from 0.")
    row: int = Field(ge=0, le=1000, description="Row of the cell, from 0.")


class FailedChunk(BaseModel):
    chunk: str
    reason: str


class CellInfo(BaseModel):
    """One cell of the chunk map: its chunk counts by state, and up to 20 failed chunks."""

    chunks: str = Field(
        description="Bounds of the cell in chunks, x0:x1,y0:y1,z0:z1; x1, y1 and z1 are excluded."
    )
    total: int
    done: int = Field(description="Done chunks with nodes.")
    failed: int
    empty: int = Field(description="Done chunks without nodes.")
    failures: list[FailedChunk] = Field(description="Up to 20 failed chunks, with the reasons.")
