"""A decoder of precomputed annotations and skeletons, written from Neuroglancer's specification."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

SIZES = {"float32": ("f", 4), "uint32": ("I", 4), "uint16": ("H", 2), "uint8": ("B", 1)}
POINTS = {"POINT": 1, "LINE": 2}


class Annotation(NamedTuple):
    """An annotation's points, properties by name, and related ids by relationship (only if read by id)."""

    points: list[tuple[float, ...]]
    properties: dict[str, float]
    related: dict[str, list[int]]


class Decoder:
    """A decoder of the files of the annotation layer that ``info`` describes."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info, self.rank = info, len(info["dimensions"])
        self.points = POINTS[info["annotation_type"]]
        sizes = [SIZES[p["type"]][1] for p in info["properties"]]
        assert sizes == sorted(sizes, reverse=True)
        self.size = -(-(4 * self.rank * self.points + sum(sizes)) // 4) * 4

    def annotation(self, body: bytes, at: int = 0) -> Annotation:
        numbers = struct.unpack_from(f"<{self.rank * self.points}f", body, at)
        place, properties = at + 4 * len(numbers), {}
        for one in self.info["properties"]:
            form, size = SIZES[one["type"]]
            (properties[one["id"]],) = struct.unpack_from(f"<{form}", body, place)
            place += size
        assert set(body[place : at + self.size]) <= {0}
        points = [numbers[i : i + self.rank] for i in range(0, len(numbers), self.rank)]
        return Annotation(points, properties, {})

    def listed(self, body: bytes) -> dict[int, Annotation]:
        """Decode the annotations of one cell or one related id. Return them by their id, in file order."""
        (count,) = struct.unpack_from("<Q", body)
        assert len(body) == 8 + count * (self.size + 8)
        ids = struct.unpack_from(f"<{count}Q", body, 8 + count * self.size)
        assert len(set(ids)) == count
        return {node: self.annotation(body, 8 + i * self.size) for i, node in enumerate(ids)}

    def by_id(self, body: bytes) -> Annotation:
        found, place = self.annotation(body), self.size
        for relationship in self.info["relationships"]:
            (count,) = struct.unpack_from("<I", body, place)
            found.related[relationship["id"]] = list(struct.unpack_from(f"<{count}Q", body, place + 4))
            place += 4 + 8 * count
        assert place == len(body)
        return found


class DrawnSkeleton(NamedTuple):
    """A decoded skeleton: vertex positions, edges, and vertex values by attribute."""

    vertices: list[tuple[float, ...]]
    edges: list[tuple[int, ...]]
    attributes: dict[str, tuple[float, ...]]


def decode_skeleton(info: dict[str, Any], body: bytes) -> DrawnSkeleton:
    vertices, edges = struct.unpack_from("<II", body)
    place, columns = 8 + 12 * vertices + 8 * edges, {}
    numbers = struct.unpack_from(f"<{3 * vertices}f", body, 8)
    ends = struct.unpack_from(f"<{2 * edges}I", body, 8 + 12 * vertices)
    for attribute in info["vertex_attributes"]:
        assert (attribute["data_type"], attribute["num_components"]) == ("float32", 1)
        columns[attribute["id"]] = struct.unpack_from(f"<{vertices}f", body, place)
        place += 4 * vertices
    assert place == len(body)
    positions = [numbers[i : i + 3] for i in range(0, len(numbers), 3)]
    return DrawnSkeleton(positions, [ends[i : i + 2] for i in range(0, len(ends), 2)], columns)
