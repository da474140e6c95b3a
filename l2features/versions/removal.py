"""Deletion of a version that no other version needs."""

from __future__ import annotations

from contextlib import nullcontext

from ..core.errors import VersionError
from .folders import Folder
from .leftovers import WORK
from .manifest import (
    BY_NODE,
    BY_ROOT,
    MANIFEST,
    MISSING_NODES,
    RETIRED,
    ROOTS,
    folder_name,
    manifest_path,
    not_found,
    read_manifest,
    version_numbers,
)
from .plan import PLAN, plan_path, read_plan

OURS = {PLAN, MANIFEST, BY_ROOT, BY_NODE, ROOTS, MISSING_NODES, f"{RETIRED}.parquet", WORK}
"""Names of the files and subfolders in a version's folder."""


def is_unfinished(folder: Folder, number: int) -> bool:
    """Return whether a version has no manifest: it is unfinished or being deleted.

    Raises VersionNotFound for a missing or empty folder, and VersionError for a folder that is not a
    version's.
    """
    names = folder.names(folder_name(number))
    if not names:
        raise not_found(folder, number)
    if PLAN not in names and (foreign := sorted(set(names) - OURS)):
        raise VersionError(
            f"{folder.url}/{folder_name(number)} is not a version's folder: it contains {foreign[0]}"
        )
    return MANIFEST not in names


def standing_on(folder: Folder, number: int) -> list[int]:
    """Return the numbers of the versions that need the files of version ``number``.

    Unfinished versions are included. Raises VersionError if a manifest or a plan is malformed.
    """
    finished = version_numbers(folder)
    manifests = [read_manifest(folder, other) for other in finished if other != number]
    numbers = {int(name) for name in folder.names() if len(name) == 6 and name.isdecimal()}
    plans = [read_plan(folder, other) for other in numbers - {number, *finished}]
    found = [m.number for m in manifests if number in (layer.version for layer in m.layers)]
    return sorted([*found, *(plan.number for plan in plans if plan and plan.base == number)])


def delete_version(folder: Folder, number: int) -> None:
    """Delete a version's manifest, then its folder.

    Raises VersionNotFound, and VersionError if another version needs this version, if another version's
    manifest or plan is malformed, if a job of this machine is making this version, or if the folder is not a
    version's.
    """
    names = folder.names(folder_name(number)) if is_unfinished(folder, number) else [MANIFEST]
    if others := standing_on(folder, number):
        listed = ", ".join(map(str, others))
        raise VersionError(f"version {number} is needed by version {listed}: delete {listed} first")
    with folder.locked(plan_path(number)) if PLAN in names else nullcontext(True) as free:
        if not free:
            raise VersionError(f"a job is making version {number} in {folder.url}: stop it first")
        folder.delete(manifest_path(number))
        folder.delete_folder(folder_name(number))
