"""Helpers that encode edit messages and return the error of a refused message."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout
from l2features.messages.decoding import (
    BadMessage,
    decode,
)

EDIT = {"table_id": "fixture_v2", "remesh_priority": "true", "user_id": "0", "remesh": "true"}
MISSING = {"table_id": "fixture_v2", "l2_cache_id": "l2cache_fixture"}
LAYOUT = IdLayout({1: 10, 2: 10, 3: 1, 4: 1})
GEOMETRY = Geometry((16, 16, 40), (1024, 512, 20), (160, 128, 48), (64, 64, 32), LAYOUT)
NODE = LAYOUT.chunk_id(1, 1, 0) + 7


def edit(ids: Any, protocol: int = 4, **keys: Any) -> bytes:
    return pickle.dumps({"operation_id": 7, "new_lvl2_ids": ids, "new_root_ids": [1], **keys}, protocol)


def refusal(data: bytes, attributes: dict[str, str] = EDIT) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        decode(data, attributes)
    assert caught.value.reason.meaning
    return caught.value
