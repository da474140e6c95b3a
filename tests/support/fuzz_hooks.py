"""What Schemathesis cannot know of our API from its document: which bytes are buffers of ids."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

from l2features.testing.small_table import node_ids

ids = st.sampled_from(node_ids().tolist()) | st.integers(1 << 56, (1 << 64) - 1)
buffers = st.lists(ids, max_size=50).map(lambda all_ids: b"".join(i.to_bytes(8, "little") for i in all_ids))
schemathesis.openapi.media_type("application/octet-stream", buffers)


@schemathesis.deserializer("text/html")
def text_of(_context: Any, response: Any) -> str:
    return str(response.text)
