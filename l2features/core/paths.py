"""Parse paths of segmentations, in the forms of cloud-volume and of Neuroglancer.

>>> parse_path("gs://bucket/seg/|neuroglancer-precomputed:")
Location(format='precomputed', url='gs://bucket/seg')
>>> parse_path("/data/seg").cloudpath
'precomputed://file:///data/seg'
"""

from __future__ import annotations

import re
from typing import NamedTuple

GRAPHENE = "graphene"
FORMATS = ("precomputed", GRAPHENE, "zarr", "zarr2", "zarr3", "n5")
PROTOCOLS = ("file", "gs", "s3", "http", "https", "middleauth+https", "matrix", "tigerdata", "nokura")
EXPECTED = "precomputed://… or graphene://…, or another path of docs/volumes.md"
_NEUROGLANCER = {"neuroglancer-precomputed": "precomputed"}
_FORMAT = re.compile(rf"({'|'.join(FORMATS)})://(.*)", re.DOTALL)
_PIPE = re.compile(r"(?P<url>[^|]+)\|(?P<format>[\w-]+):(?P<inside>[^|]*)")
_URL = re.compile(rf"({'|'.join(map(re.escape, PROTOCOLS))})://[^|]*[^|/:]/*")


class Location(NamedTuple):
    """Format and URL of a segmentation."""

    format: str
    url: str

    @property
    def cloudpath(self) -> str:
        """The path in cloud-volume's form."""
        return f"{self.format}://{self.url}"


def parse_path(cv_path: str) -> Location:
    """Return format and URL of a ``cv_path``. Raises ValueError for an unknown form."""
    path = cv_path
    piped = _PIPE.fullmatch(path)
    if piped:
        kind = _NEUROGLANCER.get(piped["format"], piped["format"])
        inside = piped["inside"].strip("/")
        path = piped["url"].rstrip("/") + (f"/{inside}" if inside else "")
        if _FORMAT.match(path) or kind not in FORMATS or kind == GRAPHENE:
            raise _unknown(cv_path)
    else:
        match = _FORMAT.fullmatch(path)
        kind, path = match.groups() if match else ("precomputed", path)
    if kind == GRAPHENE:
        if not path:
            raise _unknown(cv_path)
        return Location(kind, path)
    if path.startswith(("/", "~/")):
        path = f"file://{path}"
    if not _URL.fullmatch(path):
        raise _unknown(cv_path)
    return Location(kind, path.rstrip("/"))


def _unknown(cv_path: str) -> ValueError:
    return ValueError(f"path {cv_path!r}: expected {EXPECTED}")
