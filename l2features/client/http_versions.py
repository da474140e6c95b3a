"""Versions of a data set, read through the HTTP API of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError

from ..core.ids import Ids, sorted_unique
from ..versions.catalog import VersionSummary
from ..versions.manifest import Manifest
from .frozen import Columns, Kind
from .http_files import VersionUrls
from .result_tables import joined
from .service_errors import ServiceError

if TYPE_CHECKING:
    from ..versions.sql import Files

SPLIT = ("too_many_rows", "too_many_row_groups")
"""The server's error codes after which a request is split into two, each with half of the ids."""
Model = TypeVar("Model", bound=BaseModel)
Post = Callable[[str, bytes], Any]
"""Posts JSON to a path below the data set's URL, and returns the table in the response."""


class _Listed(BaseModel):
    versions: list[VersionSummary]


class _File(BaseModel):
    path: str
    url: str | None = None


class _Layer(BaseModel):
    files: list[_File]


class _Urls(BaseModel):
    layers: list[_Layer]


class HttpVersion:
    """A `VersionSource` that reads a version through a server."""

    def __init__(self, where: str, content: bytes, post: Post, limits: Callable[[str], int]) -> None:
        self.manifest = parsed(Manifest, content, where, "a version's manifest")
        self._where, self._post, self._limits = where, post, limits
        layers = parsed(_Urls, content, where, "the URLs of a version's files").layers
        self._urls = {file.path: file.url for layer in layers for file in layer.files}

    def rows(self, kind: Kind, ids: Ids, columns: Columns) -> Any:
        ids = sorted_unique(ids)
        most = self._limits("max_ids" if kind == "nodes" else "max_roots")
        most = min(most, self._limits("max_body_bytes") // 21)
        firsts = range(0, max(1, len(ids)), most)
        return joined([part for i in firsts for part in self._parts(kind, ids[i : i + most], columns)])

    def files(self) -> Files:
        return VersionUrls(self._where, self.manifest, self._urls)

    def _parts(self, kind: Kind, ids: Ids, columns: Columns) -> Iterator[Any]:
        """Yield tables of the rows of sorted ids; split the ids until the server's limits admit each part."""
        asked: dict[str, Any] = {"node_ids" if kind == "nodes" else "root_ids": np.ascontiguousarray(ids)}
        if columns is not None:
            asked["columns"] = list(columns)
        if kind == "roots":
            asked["part"] = kind
        try:
            path = f"/versions/{self.manifest.number}/query"
            yield self._post(path, orjson.dumps(asked, option=orjson.OPT_SERIALIZE_NUMPY))
            return
        except ServiceError as error:
            if error.code not in SPLIT or len(ids) < 2:
                raise
        middle = len(ids) // 2
        for half in (ids[:middle], ids[middle:]):
            yield from self._parts(kind, half, columns)


def summaries_of(content: bytes, where: str) -> list[VersionSummary]:
    """Return the versions in a server's list. Raises ServiceError for a malformed list."""
    return parsed(_Listed, content, where, "a list of versions").versions


def parsed(model: type[Model], content: bytes, where: str, expected: str) -> Model:
    """Return the content of a response, parsed as ``model``.

    Raises ServiceError for malformed content; the message says what was ``expected``.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        message = f"{where}: expected {expected}: {error.errors()[0]['msg']}"
        raise ServiceError(message, 200) from error
