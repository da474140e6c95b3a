"""Tests of finding and counting values that are cut off at the limit of their stored type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from l2features import compute_features
from l2features.core.geometry import Geometry
from l2features.core.saturation import likely_saturated, saturated_counts, saturated_text
from l2features.core.schema import ATTRIBUTES, FEATURES, SATURATING
from l2features.testing.stores import GEOMETRY
from tests.support.features import COARSE, cubes


def test_attributes_that_saturate_are_those_that_the_kernel_cuts_off() -> None:
    names = ["area_nm2", "max_dt_nm", "mean_dt_nm", "chunk_intersect_count"]
    assert [a.name for a in SATURATING] == names
    assert [a.largest for a in SATURATING] == [2**32 - 1, 65535, 65504.0, 65535]
    assert not {a.name for a in ATTRIBUTES if a.optional} & set(names)


def test_nodes_are_counted_by_attribute() -> None:
    assert saturated_counts(compute_features(cubes(), (16, 16, 40))) == {}
    assert saturated_counts(compute_features(cubes(), COARSE)) == {"area_nm2": 1, "max_dt_nm": 1}
    assert saturated_counts(np.zeros(0, FEATURES)) == {}


def test_a_label_that_fills_a_chunk_has_distances_at_the_limit() -> None:
    full = compute_features(np.ones((8, 8, 8), np.uint64), (16, 16, 40))
    assert saturated_counts(full) == {"max_dt_nm": 1, "mean_dt_nm": 1}


def test_a_vector_counts_once() -> None:
    rows = np.zeros(3, FEATURES)
    rows["chunk_intersect_count"][1] = 65535
    rows["chunk_intersect_count"][2, 1, 2] = 65535
    assert saturated_counts(rows) == {"chunk_intersect_count": 2}


def test_counts_as_text() -> None:
    assert saturated_text({"max_dt_nm": 1, "area_nm2": 6}) == "area_nm2 in 6 nodes, max_dt_nm in 1 nodes"


def geometry(resolution: tuple[float, float, float], chunk: tuple[int, int, int]) -> Geometry:
    return replace(GEOMETRY, resolution=resolution, chunk_size=chunk)


@pytest.mark.parametrize(
    ("resolution", "chunk", "attributes"),
    [
        ((4.0, 4.0, 40.0), (256, 256, 512), []),
        ((40.0, 40.0, 40.0), (256, 256, 256), []),
        ((75.0, 75.0, 75.0), (512, 512, 512), []),
        ((75.0, 75.0, 75.0), (1024, 1024, 1024), ["area_nm2"]),
        (COARSE, (64, 64, 64), ["area_nm2", "max_dt_nm"]),
        (COARSE, (256, 256, 256), ["area_nm2", "max_dt_nm", "mean_dt_nm"]),
        ((1.0, 1.0, 200_000.0), (64, 64, 64), []),
        ((1e6, 1e6, 1e6), (2, 2, 2), ["area_nm2", "max_dt_nm", "mean_dt_nm"]),
    ],
)
def test_likely_ones_are_named(
    resolution: tuple[float, float, float], chunk: tuple[int, int, int], attributes: list[str]
) -> None:
    assert [line.split()[0] for line in likely_saturated(geometry(resolution, chunk))] == attributes


def test_a_warning_names_resolution_and_limit() -> None:
    assert likely_saturated(geometry(COARSE, (64, 64, 64)))[0] == (
        "area_nm2 is likely to saturate at voxels of 7720 x 7720 x 7720 nm: a flat sheet across a chunk has "
        "488230092800 nm^2, the largest stored value is 4294967295 nm^2"
    )
