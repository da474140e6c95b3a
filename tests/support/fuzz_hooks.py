"""Schemathesis hooks: generators for our API's string formats, and corrections of generated requests."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

from l2features.testing.small_table import node_ids

ids = st.sampled_from(node_ids().tolist()) | st.integers(1 << 56, (1 << 64) - 1)
buffers = st.lists(ids, max_size=50).map(lambda all_ids: b"".join(i.to_bytes(8, "little") for i in all_ids))
schemathesis.openapi.media_type("application/octet-stream", buffers)

spans = st.tuples(st.integers(-200, 1500), st.integers(1, 1500)).map(lambda s: f"{s[0]}-{s[0] + s[1]}")
schemathesis.openapi.format("voxel-bounds", st.tuples(spans, spans, spans).map("_".join))
chunks = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1))
schemathesis.openapi.format("chunk", chunks.map(lambda xyz: "_".join(map(str, xyz))))
schemathesis.openapi.format("version", st.sampled_from(["latest", "1", "000001", "7"]))
schemathesis.openapi.format(
    "roots", st.lists(st.integers(0, 200), min_size=1).map(lambda ids: ",".join(map(str, ids)))
)
schemathesis.openapi.format("boolean", st.sampled_from(["true", "false", "yes", "0", "maybe"]))
coordinates = st.integers(-100_000, 100_000).map(str)
schemathesis.openapi.format("point", st.tuples(coordinates, coordinates, coordinates).map(",".join))


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Add a root point to requests with ``collapse_nm``, and remove ``graph`` from those with ``version``.

    If the node id in the path is odd, replace it with the id of a node in the table.
    """
    if case.query and "collapse_nm" in case.query:
        case.query.setdefault("root_point", "17056,8464,1760")
    if case.query and "version" in case.query:
        case.query.pop("graph", None)
    node = str((case.path_parameters or {}).get("node_id", ""))
    if node.isdecimal() and int(node) % 2:
        known = node_ids().tolist()
        case.path_parameters["node_id"] = known[int(node) % len(known)]


@schemathesis.deserializer("text/html")
def text_of(_context: Any, response: Any) -> str:
    return str(response.text)
