"""Tests of a new attribute in schema and kernel: all outputs have it, and old rows stay readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mkdocs_hooks
from l2features.core.errors import UnknownFormat
from l2features.core.schema import BY_NAME, NAMES
from l2features.store.base import open_store
from l2features.testing.stores import CHUNK, FIRST, LAYOUT, features_of
from tests.support.ninth_attribute import run, with_ninth_attribute

STORED = Path(__file__).parents[1] / "data" / "stored"
PREFIX = "/l2cache/api/v1"
INGEST_AND_SERVE = """
import json, sys
import mkdocs_hooks
import pyarrow as pa
from api.response_bodies import ARROW
from api.app import create_app
from api.config import Settings
from l2features.cli.report import features_table
from l2features.config.datasets import load_dataset
from l2features.core.chunks import whole_box
from l2features.ingest.steps import compute_chunk, prepare, save_chunk

config, prefix = sys.argv[1:]
ingest = prepare(load_dataset("sample", config), create=True, choose_box=whole_box)
source, store = ingest.open_source(), ingest.open_store()
for first, last in ingest.shards():
    for chunk in ingest.pending(store, first, last):
        save_chunk(store, ingest.geometry, compute_chunk(source, chunk))
rows = store.scan_chunk(0, 2**63 - 1)
client = create_app(Settings(GRAPH_L2CACHE_CONFIG_PATH=config)).test_client()
read, asked = f"{prefix}/table/sample/attributes", {"l2_ids": rows.ids.tolist()}
arrow = client.post(read, json=asked, headers={"Accept": ARROW}).data
print(json.dumps({
    "rows": rows.features["ninth"].tolist(),
    "present": rows.present[:, -1].tolist(),
    "json": list(client.post(read, json=asked).json.values()),
    "as_str": list(client.post(f"{read}?int64_as_str=true&attribute_names=ninth", json=asked).json.values()),
    "arrow": pa.ipc.open_stream(arrow).read_all()["ninth"].to_pylist(),
    "openapi": client.get(f"{prefix}/openapi.json").json["components"]["schemas"]["Node"]["properties"],
    "attribute_metadata": client.get(f"{prefix}/attribute_metadata").json,
    "attributes": client.get(f"{prefix}/table/sample").json["attributes"],
    "docs": mkdocs_hooks.attributes(),
    "cli": features_table(rows, ingest.geometry),
}))
"""
READ_AND_WRITE = """
import json, sys
from l2features.store.base import open_store
from l2features.testing.stores import CHUNK, FIRST, LAYOUT, features_of, served_values

url, name, mode = sys.argv[1:]
store = open_store(url, name)
if mode == "write":
    store.write(features_of([FIRST + 1, FIRST + 90], seed=5))
rows = store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))
assert served_values(store.read(rows.ids[::-1])) == served_values(rows)[::-1]
print(json.dumps(dict(zip(map(str, rows.ids.tolist()), served_values(rows)))))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_ninth_attribute(tmp_path_factory.mktemp("ninth"))


@pytest.fixture(scope="module")
def found(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ingest a node of 8 voxels and a node of one; return all outputs: rows, JSON, Arrow, docs and others."""
    from cloudvolume import CloudVolume

    folder = tmp_path_factory.mktemp("sample")
    path = f"precomputed://file://{folder}/seg"
    info = CloudVolume.create_new_info(
        1, "segmentation", "uint64", "raw", (16, 16, 40), (0, 0, 0), (32, 32, 32)
    )
    volume = CloudVolume(path, info=info, progress=False)
    volume.commit_info()
    labels = np.zeros((32, 32, 32, 1), np.uint64)
    labels[4:6, 4:6, 4:6], labels[20, 20, 20] = 1, 2
    volume[:] = labels
    entry = {"cv_path": path, "l2cache_id": "t", "graph": "flat", "chunk_size": [32, 32, 32]}
    config = folder / "datasets.yml"
    config.write_text(json.dumps({"sample": {**entry, "store": f"sqlite://{folder}/t.db"}}))
    result: dict[str, Any] = json.loads(run(sources, INGEST_AND_SERVE, str(config), PREFIX))
    return result


def test_it_is_in_the_rows_of_a_store(found: dict[str, Any]) -> None:
    assert (found["rows"], found["present"]) == ([[8, 16], [0, 0]], [True, False])


def test_it_is_in_json(found: dict[str, Any]) -> None:
    assert [row.get("ninth") for row in found["json"]] == [[8, 16], None]
    assert [set(NAMES) - set(row) for row in found["json"]] == [{"pca", "pca_val"}] * 2
    assert found["as_str"] == [{"ninth": ["8", "16"]}, {}]


def test_it_is_in_arrow(found: dict[str, Any]) -> None:
    assert found["arrow"] == [[8, 16], None]


def test_it_is_in_the_openapi_document(found: dict[str, Any]) -> None:
    ninth = found["openapi"]["ninth"]
    assert (ninth["type"], ninth["minItems"], ninth["maxItems"]) == ("array", 2, 2)
    assert ninth["items"]["anyOf"][0] == {"type": "integer", "minimum": 0}
    assert ninth["description"] == "the size, and its double (voxels)"


def test_it_is_in_the_descriptions_of_a_data_set(found: dict[str, Any]) -> None:
    assert found["attribute_metadata"]["ninth"] == "<class 'numpy.uint64'>"
    described = {"name": "ninth", "unit": "voxels", "shape": [2], "optional": True}
    assert found["attributes"][-1] == {**described, "meaning": "the size, and its double"}


def test_it_is_in_the_docs(found: dict[str, Any]) -> None:
    meaning = "the size, and its double; absent in nodes of one voxel"
    line = f"| `ninth` | 2 × uint64 | voxels | voxels | {meaning} |"
    before, after = mkdocs_hooks.attributes().splitlines(), found["docs"].splitlines()
    assert [text for text in after if text not in before] == [line]
    assert len(after) == len(before) + 1


def test_it_is_in_the_tables_of_the_command_line(found: dict[str, Any]) -> None:
    header, first, second = found["cli"].splitlines()
    assert (header.endswith("ninth"), first.endswith("8 16"), second.endswith("-")) == (True, True, True)


# ------------------------------------------------------------------ rows that were stored before
def test_older_rows_lack_it(sources: Path, tmp_path: Path) -> None:
    nodes = json.loads((STORED / "format_1.json").read_text())["nodes"]
    url = f"sqlite://{shutil.copy(STORED / 'format_1.db', tmp_path)}"
    assert json.loads(run(sources, READ_AND_WRITE, url, "l2cache_old", "read")) == nodes


def test_rows_with_and_without_it_lie_in_one_table(sources: Path, tmp_path: Path) -> None:
    nodes = json.loads((STORED / "format_1.json").read_text())["nodes"]
    url = f"sqlite://{shutil.copy(STORED / 'format_1.db', tmp_path)}"
    rows = json.loads(run(sources, READ_AND_WRITE, url, "l2cache_old", "write"))
    assert sorted(rows) == sorted({*nodes, str(FIRST + 90)})
    assert {node for node, row in rows.items() if "ninth" in row} == {str(FIRST + 1), str(FIRST + 90)}
    others = {node: row for node, row in rows.items() if "ninth" not in row}
    assert others == {node: row for node, row in nodes.items() if node != str(FIRST + 1)}
    store = open_store(url, "l2cache_old")
    with pytest.raises(
        UnknownFormat, match=r"l2cache_old in .*: the records of nodes cannot be read: the field 'ninth'"
    ):
        store.scan_chunk(CHUNK, LAYOUT.last_id(CHUNK))
    with pytest.raises(UnknownFormat):
        store.write(features_of([FIRST]))
    store.close()


def test_every_attribute_says_what_it_is() -> None:
    assert all(attribute.meaning and attribute.unit for attribute in BY_NAME.values())
