"""Files that an interrupted job leaves in a version's folder, and that the version does not need."""

from __future__ import annotations

import re

from .folders import Folder
from .manifest import Manifest, folder_name, manifest_path
from .plan import plan_path

WORK = "work"
"""Subfolder of a version's folder, with the records of a job in progress."""
_OURS = re.compile(r"work|part-\d{5}-\d{3}\.parquet|\.(part-|retired|plan|manifest)[^/]*")
"""Names that jobs use: of the subfolder `WORK`, of Parquet files, and of temporary files."""


def leftovers(folder: Folder, manifest: Manifest) -> list[str]:
    """Return the paths in a version's folder that jobs left, and that the version does not need.

    These are the paths with names that jobs use, except the manifest, the plan and the version's own files.
    """
    own = folder_name(manifest.number)
    known = {file.path for file in manifest.layers[-1].files}
    known |= {manifest_path(manifest.number), plan_path(manifest.number)}
    found = list[str]()
    for path in (f"{own}/{name}" for name in folder.names(own)):
        inside = path != f"{own}/{WORK}" and folder.is_folder(path)
        found += [f"{path}/{name}" for name in folder.names(path)] if inside else [path]
    return [path for path in found if path not in known and _OURS.fullmatch(path.rsplit("/", 1)[-1])]


def clean(folder: Folder, manifest: Manifest) -> None:
    """Remove the `leftovers` of a finished version."""
    for path in leftovers(folder, manifest):
        (folder.delete_folder if folder.is_folder(path) else folder.delete)(path)
