"""The end of a static export: its info files, its listings and its manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from ..core.errors import VersionError
from ..store.notes import Time
from ..versions.columns import ROOT_COLUMNS, ROOT_ID, unsigned
from ..versions.leftovers import WORK
from ..versions.manifest import MANIFEST
from ..versions.version_roots import summaries_of
from .listing import listing_page
from .segment_list import segment_list
from .static_export import SEGMENTS, StaticExport, WrittenPart
from .static_index import SKELETONS, Index, static_info
from .static_plan import FORMAT
from .static_skeletons import skeletons_info
from .version_nodes import largest_by_id

INFO, PAGE = "info", "index.html"
_UNFINISHED = re.compile(r"\.(info|index\.html|(plan|manifest)\.json|[0-9a-f]+\.shard)\.[0-9a-f]{32}")


class StaticManifest(BaseModel):
    """The content of an export: counts of annotations, segments or skeletons by layer, and bytes by shard."""

    format: int = FORMAT
    dataset: str
    version: int
    timestamp: Time
    counts: dict[str, int]
    shards: dict[str, int]


def finished_before(run: StaticExport) -> StaticManifest | None:
    """Return the manifest of an export that an earlier run completed; None if the export is incomplete.

    Also removes temporary files, if the export is complete.
    """
    manifest = run.folder.read_model(MANIFEST, StaticManifest, FORMAT, "is malformed: choose an empty folder")
    if manifest is not None:
        _clean(run)
    return manifest


def finish(run: StaticExport, done: Sequence[WrittenPart]) -> StaticManifest:
    """Write the ``info`` files and the pages that list the folders, then the manifest.

    Raises VersionError if a layer's indexes differ in node count, or a shard is missing or incomplete.
    """
    source, folder = run.open(), run.folder
    by_index = {index.path: list[WrittenPart]() for index in run.plan.indexes}
    for written in done:
        by_index[run.index_of(written.part)[0].path].append(written)

    def largest(index: Index) -> int:
        return max((written.largest for written in by_index[index.path]), default=0)

    counts = {layer: _counted(run, layer, by_index) for layer in run.node_layers}
    for layer in run.node_layers:
        info = static_info(layer, run.geometry, run.plan.indexes, largest)
        folder.write(f"{layer}/{INFO}", _as_json(info))
    if SEGMENTS in run.plan.layers:
        roots = largest_by_id(source.reader, run.plan.segments, ROOT_COLUMNS)
        counts[SEGMENTS] = len(roots)
        info = segment_list(unsigned(roots[ROOT_ID]), summaries_of(roots))
        folder.write(f"{SEGMENTS}/{INFO}", _as_json(info))
    for index in run.plan.indexes:
        if index.kind == SKELETONS:
            counts[SKELETONS] = sum(written.keys for written in by_index[index.path])
            folder.write(f"{SKELETONS}/{INFO}", _as_json(skeletons_info(index)))
    shards = {
        written.path: written.bytes for written in sorted(done, key=lambda one: one.part) if written.path
    }
    for path, content in pages(run, list(shards)):
        folder.write(path, content)
    manifest = StaticManifest(
        dataset=run.plan.dataset,
        version=run.plan.version,
        timestamp=source.reader.manifest.timestamp,
        counts=counts,
        shards=shards,
    )
    folder.write(MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")
    _clean(run)
    return manifest


def _clean(run: StaticExport) -> None:
    """Remove the records of finished parts, and the temporary files of killed jobs."""
    run.folder.delete_folder(WORK)
    for place in ("", *run.plan.layers, *(index.path for index in run.plan.indexes)):
        for name in run.folder.names(place):
            if _UNFINISHED.fullmatch(name):
                run.folder.delete(f"{place}/{name}".lstrip("/"))


def _counted(run: StaticExport, layer: str, by_index: dict[str, list[WrittenPart]]) -> int:
    """Return the number of annotations of a layer.

    Raises VersionError if the layer's indexes differ in node count, or a shard is missing or incomplete.
    """
    sums = dict.fromkeys(("by_id", "related", "cells"), 0)
    for index in run.plan.indexes:
        if index.layer == layer:
            sums[index.kind] += sum(written.nodes for written in by_index[index.path])
    if len(set(sums.values())) > 1:
        run.folder.delete_folder(WORK)
        raise VersionError(
            f"{run.url}: layer {layer} has {sums['by_id']} nodes in the index by id, "
            f"{sums['related']} in the index by root, {sums['cells']} in the spatial index: "
            "expected equal numbers, run the command again"
        )
    own = (by_index[index.path] for index in run.plan.indexes if index.layer == layer)
    for written in (one for parts in own for one in parts if one.path):
        run.folder.check_size(written.path, written.bytes)
    return sums["by_id"]


def pages(run: StaticExport, shards: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield pairs (path, content) of HTML pages, one per folder, for servers that do not list folders."""
    folders: dict[str, dict[str, str]] = {"": {}}
    for path in [*(f"{layer}/{INFO}" for layer in run.plan.layers), *shards]:
        parts = path.split("/")
        for depth, name in enumerate(parts):
            place = "".join(f"{part}/" for part in parts[:depth])
            folders.setdefault(place, {})[name if depth == len(parts) - 1 else f"{name}/"] = ""
    for place, names in folders.items():
        title = f"{run.plan.dataset}, version {run.plan.version}: /{place}"
        yield f"{place}{PAGE}", listing_page(title, names).encode()


def _as_json(info: dict[str, Any]) -> bytes:
    return json.dumps(info, separators=(",", ":")).encode()
