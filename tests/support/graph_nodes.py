"""Helpers that list a grid's chunks, and the recorded nodes that are valid at a given time."""

from __future__ import annotations

from typing import Any

import numpy as np

from l2features.core.geometry import Chunk, Geometry
from tests.support.nodes import SOURCES

V2, V2_GRAPHENE = SOURCES[:2]


def chunks_of(geometry: Geometry) -> list[Chunk]:
    return [Chunk(*xyz) for xyz in np.ndindex(*geometry.grid)]


def valid_nodes(children: dict[str, Any], ms: int) -> list[int]:
    return sorted(
        int(i)
        for i, node in children["l2"].items()
        if node["valid_from_ms"] <= ms and (node["superseded_ms"] is None or node["superseded_ms"] > ms)
    )
