"""The last steps of making a version: write its manifest, and remove files that the version does not need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import numpy as np

from .. import __version__
from ..core.errors import VersionError
from ..core.times import iso_text
from ..store.notes import put_note
from .delta_table import commit_version
from .folders import Folder
from .leftovers import WORK, clean, leftovers
from .lookup import VersionReader
from .manifest import Layer, Manifest, Totals, folder_name, manifest_path, read_manifest
from .materialization import Materialization
from .parquet_files import ParquetFiles
from .partitions import LAYOUTS, Written
from .places import NOTE, Place
from .plan import Plan, plan_path


class OtherJob(VersionError):
    """Another job is making or has finished the version."""


@contextmanager
def alone(run: Materialization) -> Iterator[None]:
    """Hold the version's lock during the block. Raises OtherJob if another job on this machine holds it.

    A bucket has no locks: there, another job is noticed only after it has written the version's manifest.
    """
    with run.folder.locked(plan_path(run.plan.number)) as locked:
        if not locked:
            raise OtherJob(
                f"version {run.plan.number} in {run.folder.url} is being made by another job: wait for it"
            )
        yield


def finished_before(run: Materialization) -> Manifest | None:
    """Return the manifest that an interrupted run of the job wrote; None if the version has no manifest.

    If `leftovers` (files that the version does not need) remain, finishes the version by `_close`. If none
    remain, another job has finished the version: raises OtherJob.
    """
    folder, number = run.folder, run.plan.number
    if not folder.exists(manifest_path(number)):
        return None
    manifest = read_manifest(folder, number)
    if not leftovers(folder, manifest):
        raise OtherJob(f"version {number} in {folder.url} was finished by another job")
    _close(run, manifest)
    return manifest


def finish(run: Materialization, done: Sequence[Written]) -> Manifest:
    """Write the folder's URL to the features table, write the manifest, and commit to Delta, if wanted.

    At the end, removes files that the version does not need (`leftovers`). Raises OtherJob if another job
    finished the version. Raises VersionError if no node is valid, if rows of the table changed while the
    version was made, or if a file is missing or has the wrong size.
    """
    folder, number = run.folder, run.plan.number
    _check_same_rows(run, done)
    files = [file for part in done for file in part.files]
    layers: tuple[Layer, ...] = ()
    counts = dict.fromkeys(Totals.model_fields, 0)
    if run.plan.base is not None:
        base = read_manifest(folder, run.plan.base)
        layers, counts = base.layers, _without(folder, base, run.plan).model_dump()
        files.append(run.writer().retired(np.array(run.plan.retired, dtype=np.uint64)))
    for name in counts:
        counts[name] += sum(getattr(part, name) for part in done)
    if not counts["nodes"]:
        raise VersionError(
            f"no node is valid at {iso_text(run.plan.timestamp, 'milliseconds')} in chunks {run.plan.box}: "
            "expected a time after the graph was made"
        )
    for file in files:
        folder.check_size(file.path, file.bytes)
    own = Layer(version=number, files=tuple(sorted(files, key=lambda file: file.path)))
    manifest = _manifest(run, (*layers, own), Totals(**counts))
    with closing(run.open_store()) as store:
        put_note(store, NOTE, Place(url=folder.url).model_dump())
    created = folder.create(manifest_path(number), manifest.to_json())
    if not created and read_manifest(folder, number).job != run.job:  # else a runner repeats this step
        raise OtherJob(f"version {number} in {folder.url} was finished by another job")
    _close(run, manifest)
    return manifest


def _close(run: Materialization, manifest: Manifest) -> None:
    """Commit to Delta, if wanted; then remove `leftovers`. If any remain, a rerun does both."""
    if run.delta:
        commit_version(run.folder, manifest)
    clean(run.folder, manifest)


def _manifest(run: Materialization, layers: tuple[Layer, ...], totals: Totals) -> Manifest:
    names = ("number", "timestamp", "base", "dataset", "l2cache_id", "graph_id", "cv_path", "box")
    return Manifest(
        **{name: getattr(run.plan, name) for name in names},
        created=datetime.now(UTC),
        software=f"l2features {__version__}",
        job=run.job,
        layers=layers,
        totals=totals,
    )


def _without(folder: Folder, base: Manifest, plan: Plan) -> Totals:
    """Return the totals of the base version without the roots that the plan retires."""
    retired = np.array(plan.retired, dtype=np.uint64)
    reader = VersionReader(ParquetFiles(folder), base, most_rows=len(retired) + 1, most_groups=1 << 40)
    gone = reader.roots(retired, ["n_nodes", "n_missing", "n_empty"]).table
    sums = {name: int(gone[name].to_numpy().sum()) for name in ("n_nodes", "n_missing", "n_empty")}
    return Totals(
        nodes=base.totals.nodes - sums["n_nodes"],
        roots=base.totals.roots - len(gone),
        missing=base.totals.missing - sums["n_missing"],
        empty=base.totals.empty - sums["n_empty"],
    )


def _check_same_rows(run: Materialization, done: Sequence[Written]) -> None:
    """Raise VersionError if the files by root and the files by node have different rows.

    Before it raises, deletes the records of finished work, so that the next run starts over.
    """
    sums = {layout: sum(part.digest for part in done if part.layout == layout) for layout in LAYOUTS}
    if len({total % (1 << 64) for total in sums.values()}) > 1:
        run.folder.delete_folder(f"{folder_name(run.plan.number)}/{WORK}")
        raise VersionError(
            f"version {run.plan.number} in {run.folder.url}: rows of the table changed while it was made, "
            "so its files by root and by node differ: run the command again"
        )
