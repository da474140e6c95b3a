"""The folder of a data set's versions, from the key ``versions`` of its entry or from a note of its table."""

from __future__ import annotations

from pydantic import BaseModel

from ..config.datasets import Dataset
from ..core.errors import VersionNotFound
from ..store.base import TableNotes
from ..store.notes import read_note
from .folders import Folder

NOTE = "versions"
"""Name of the note with the URL of the folder."""


class Place(BaseModel):
    """The folder of a table's versions."""

    url: str


def versions_folder(dataset: Dataset, notes: TableNotes) -> Folder:
    """Return the folder of a data set's versions.

    Raises VersionNotFound if no folder is known, ConfigError for a malformed URL, and StoreError.
    """
    if dataset.versions is not None:
        return Folder(dataset.versions)
    place = read_note(notes, NOTE, Place)
    if place is None:
        raise VersionNotFound(
            f"data set {dataset.name!r} has no versions: make one with `l2features materialize`, "
            "or name a folder of versions by the key 'versions'"
        )
    return Folder(place.url)
