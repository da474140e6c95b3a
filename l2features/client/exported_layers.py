"""Neuroglancer layers of a version, exported as static files and read from any file server."""

from __future__ import annotations

from typing import Any

import numpy as np
import requests

from ..core.errors import ConfigError
from ..core.ids import Ids
from ..pictures.view_state import View
from ..pictures.viewers import BUCKETS
from .http_source import cause_of

TIMEOUT_S = 20.0
GS = "gs://"


def exported_view(url: str, roots: Ids) -> View:
    """Return a view for a Neuroglancer link: the layers of a static export, with ``roots`` selected.

    The layers are the export's nodes and, if they exist, its skeletons and its segment properties.

    Raises ConfigError if ``url`` is not the folder of an export, or cannot be read.
    """
    folder = url.rstrip("/")
    if not folder.startswith(("http://", "https://", GS)):
        raise ConfigError(f"layers {url!r}: expected http://…, https://… or gs://…")
    nodes = _info(folder, "nodes")
    if nodes is None:
        raise ConfigError(f"{folder}/nodes/info is missing or forbidden: expected the folder of an export")
    try:
        box = np.array([nodes["lower_bound"], nodes["upper_bound"]], dtype=np.float64).reshape(2, 3)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder}/nodes/info: expected a layer of annotations") from error
    found = {name: _info(folder, name) for name in ("skeletons", "segment_properties")}
    skeletons, properties = (f"precomputed://{folder}/{name}" if found[name] else None for name in found)
    return View(f"precomputed://{folder}/nodes", skeletons, properties, None, roots, box)


def _info(folder: str, layer: str) -> Any:
    """Return the ``info`` file of a layer; None if it is missing or forbidden."""
    place = f"{folder}/{layer}/info"
    try:
        answer = requests.get(place.replace(GS, f"{BUCKETS['gs']}/", 1), timeout=TIMEOUT_S)
        if answer.status_code in (403, 404):
            return None
        answer.raise_for_status()
        return answer.json()
    except requests.JSONDecodeError as error:
        raise ConfigError(f"{place}: expected JSON") from error
    except requests.RequestException as error:
        raise ConfigError(f"{place} cannot be read: {cause_of(error)}") from error
