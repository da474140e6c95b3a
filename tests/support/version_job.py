"""Helpers of the tests of the materialize job."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from beam_jobs.materialize import main
from l2features.core.geometry import Geometry
from l2features.core.ids import as_ids
from l2features.core.times import iso_text
from l2features.store.base import Store
from l2features.testing.stores import INSTANCE, PROJECT
from l2features.testing.version_files import visible_rows
from l2features.versions.columns import L2_ID, MISSING, ROOT_ID, node_table
from l2features.versions.folders import Folder
from l2features.versions.manifest import Layout, Manifest, read_manifest
from tests.support.audit_job import run_audit
from tests.support.graph_roots import at
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import Ran, Recordings, dataset_file, own_copy, run_job

LAYOUTS: tuple[Layout, ...] = ("by_root", "by_node", "roots", "missing_nodes")


def run_materialize(
    config: Path, output: Path | str, time: int | str, *flags: object, processes: bool = False
) -> Ran:
    """Run the command; ``time`` is in milliseconds since 1970, or text."""
    text = time if isinstance(time, str) else iso_text(at(time), "milliseconds")
    argv = ("--config", config, "--dataset", "sample", "--workers", 1, "--output", output)
    return run_job(main, *argv, "--timestamp", text, *flags, processes=processes)


def made(config: Path, output: Path | str, time: int | str, *flags: object) -> Manifest:
    """Run the materialize job, and return the manifest of the version that it writes."""
    done = run_materialize(config, output, time, *flags)
    assert done.returncode == 0, done.stderr
    number = int(done.stdout.split()[1])
    return read_manifest(Folder(str(output)), number)


def ingested(folder: Path, recordings: Recordings, graph: str) -> Path:
    """Ingest every node that ever existed in a recorded graph into SQLite; return the data sets file."""
    source = f"bigtable://{PROJECT}/{INSTANCE}/{graph}"
    config = dataset_file(folder, recordings.cv_path(graph), graph=source, chunk_size=None)
    done = run_ingest(config, "--create", "--timestamp", "2026-11-21 00:27:44")
    assert done.returncode == 0, done.stderr
    done = run_audit(config, "--repair")
    assert done.returncode == 0, done.stderr
    return config


def other_graph(config: Path, folder: Path, graph: str) -> Path:
    """Copy a data sets file and its table, set the copy's graph to ``graph``, and return the new file."""
    copy = own_copy(config, folder)
    text = copy.read_text()
    before = text[text.index('"graph": "') :].split('"')[3]
    copy.write_text(text.replace(f'"graph": "{before}"', f'"graph": "{graph}"'))
    return copy


def check_nodes(manifest: Manifest, folder: Path, roots: dict[int, int], store: Store) -> None:
    """Check that a version has exactly these nodes with these roots, and the features in the store."""
    files = Folder(str(folder))
    rows = visible_rows(files, manifest, "by_node")
    assert {row[L2_ID]: row[ROOT_ID] for row in rows} == roots
    by_root = [(row[ROOT_ID], row[L2_ID]) for row in visible_rows(files, manifest, "by_root")]
    assert by_root == sorted((root, node) for node, root in roots.items())
    geometry = geometry_of(store)
    expected = store.read(as_ids(sorted(roots)))
    owners = as_ids([roots[node] for node in expected.ids.tolist()])
    missing = ~expected.found
    expected.present[expected.not_computed] = False
    assert rows == node_table(owners, expected, missing, geometry).to_pylist()
    summaries = visible_rows(files, manifest, "roots")
    assert [row[ROOT_ID] for row in summaries] == sorted(set(roots.values()))
    totals = manifest.totals
    assert (totals.nodes, totals.roots) == (len(roots), len(summaries))
    assert totals.missing == sum(row[MISSING] for row in rows) == int(missing.sum())


def geometry_of(store: Store) -> Geometry:
    geometry = store.geometry()
    assert geometry
    return geometry


def content(manifest: Manifest, folder: Path | str) -> list[Any]:
    """Return a version's totals, and all its rows in each of `LAYOUTS`."""
    files = Folder(str(folder))
    return [manifest.totals, *(visible_rows(files, manifest, layout) for layout in LAYOUTS)]


def files_of(folder: Path) -> dict[str, str]:
    """Return each file's SHA-256 digest by path; "" for manifests, as they contain the time of creation."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    named = {str(path.relative_to(folder)): path for path in paths}
    return {
        name: "" if name.endswith("manifest.json") else sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
    }
