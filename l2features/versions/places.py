"""The folder of a data set's versions, named in the data sets file or in a note (a text in the table)."""

from __future__ import annotations

from pydantic import BaseModel

from ..config.datasets import Dataset
from ..core.errors import VersionNotFound
from ..store.base import TableNotes
from ..store.notes import read_note
from .folders import Folder

NOTE = "versions"
"""Name of the note that has the URL of the folder of versions."""


class Place(BaseModel):
    """The content of a table's note `versions`: the URL of the folder with the table's versions."""

    url: str


def versions_folder(dataset: Dataset, notes: TableNotes) -> Folder:
    """Return the folder of a data set's versions.

    Raises VersionNotFound if neither the data sets file nor the table names a folder, ConfigError for a
    malformed URL, and StoreError.
    """
    if dataset.versions is not None:
        return Folder(dataset.versions)
    place = read_note(notes, NOTE, Place)
    if place is None:
        raise VersionNotFound(
            f"data set {dataset.name!r} has no versions: make one with `l2features materialize`, "
            "or set the key 'versions' in the data sets file to a folder of versions"
        )
    return Folder(place.url)
