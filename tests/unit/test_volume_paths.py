"""Tests of the accepted forms of a segmentation's path."""

from __future__ import annotations

import pytest

from l2features.core.paths import Location, parse_path


@pytest.mark.parametrize(
    ("path", "kind", "url"),
    [
        ("precomputed://gs://bucket/seg", "precomputed", "gs://bucket/seg"),
        ("gs://bucket/seg/", "precomputed", "gs://bucket/seg"),
        ("s3://bucket/a/seg", "precomputed", "s3://bucket/a/seg"),
        ("s3://https://host:9000/bucket/seg", "precomputed", "s3://https://host:9000/bucket/seg"),
        ("https://host/seg", "precomputed", "https://host/seg"),
        ("precomputed://middleauth+https://host/seg", "precomputed", "middleauth+https://host/seg"),
        ("/data/seg", "precomputed", "file:///data/seg"),
        ("file:///data/seg", "precomputed", "file:///data/seg"),
        ("precomputed:///data/seg", "precomputed", "file:///data/seg"),
        ("gs://bucket/seg|neuroglancer-precomputed:", "precomputed", "gs://bucket/seg"),
        ("gs://bucket/seg/|neuroglancer-precomputed:", "precomputed", "gs://bucket/seg"),
        ("/data/seg|neuroglancer-precomputed:", "precomputed", "file:///data/seg"),
        ("gs://bucket/seg|zarr2:", "zarr2", "gs://bucket/seg"),
        ("https://host/seg.zarr/|zarr3:labels/0/", "zarr3", "https://host/seg.zarr/labels/0"),
        ("s3://bucket/seg|n5:", "n5", "s3://bucket/seg"),
        ("zarr:///data/seg.zarr", "zarr", "file:///data/seg.zarr"),
        ("n5://https://host/seg.n5", "n5", "https://host/seg.n5"),
        ("graphene://https://host/segmentation/table/x", "graphene", "https://host/segmentation/table/x"),
        ("graphene://middleauth+https://host/table/x/", "graphene", "middleauth+https://host/table/x/"),
    ],
)
def test_paths(path: str, kind: str, url: str) -> None:
    assert parse_path(path) == Location(kind, url)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "seg",
        "data/seg",
        "precomputed://",
        "graphene://",
        "file://",
        "gs://",
        "ftp://host/seg",
        "boss://a/b/c",
        "gs://bucket/seg|zip:",
        "gs://bucket/seg|graphene:",
        "precomputed://gs://bucket/seg|zarr2:",
        "gs://bucket/a.zip|zip:|zarr2:",
        "precomputed://graphene://https://host/x",
    ],
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="expected precomputed://… or graphene://…"):
        parse_path(path)
