"""Paths of graphs on a server, ``graphene://https://HOST/segmentation/table/TABLE`` and its older forms.

>>> table_of("graphene://https://host/segmentation/1.0/fly_v31/")
'fly_v31'
>>> cloudpath("graphene://middleauth+https://host/segmentation/1.0/fly_v31/")
'graphene://https://host/segmentation/api/v1/fly_v31'
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

SCHEME = "graphene://"
_FORMS = re.compile(r"/*(\w+)/(?:table|[\d.]+|api/v[\d.]+(?:/table)?)/([\w.-]+)")
"""``segmentation`` and the table, in ``…/table/T``, ``…/1.0/T``, ``…/api/v1/T`` and ``…/api/v1/table/T``."""


def table_of(path: str) -> str:
    """Return the table that a path names: its last part, where the path has none of the known forms."""
    url = urlsplit(path.removeprefix(SCHEME).removeprefix("middleauth+"))
    match = _FORMS.match(url.path)
    return match[2] if match else url.path.rstrip("/").rsplit("/", 1)[-1]


def cloudpath(path: str) -> str:
    """Return the path in the form that makes cloud-volume ask version 1 of the API.

    cloud-volume takes the version from the path, also where the server has a newer one, and does not know
    ``…/api/v1/table/T``. A path in no known form is returned as it is.
    """
    url = urlsplit(path.removeprefix(SCHEME).removeprefix("middleauth+"))
    match = _FORMS.match(url.path)
    if not match or not url.netloc:
        return path
    return f"{SCHEME}{url.scheme}://{url.netloc}/{match[1]}/api/v1/{match[2]}"
