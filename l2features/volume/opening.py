"""Opens a layer: finds its info, checks it, and chooses what reads its blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.paths import GRAPHENE, Location, parse_path
from ..graph.server import open_graphene
from .blocks import BlockReader, open_blocks
from .buckets import open_storage
from .http import check_reachable
from .layer import check_layer, check_scale, choose_scale
from .storage import LocalStorage, Request, Storage, StorageError

MAX_REDIRECTS = 10
_OPTIONS: dict[str, Any] = {
    "bounded": False,
    "fill_missing": True,
    "progress": False,
    "parallel": 1,
    "cache": False,
}


class Opened(NamedTuple):
    """An open layer at one scale; ``folder`` is where it lies, if on this machine."""

    cv: Any
    blocks: BlockReader
    dtype: np.dtype[Any]
    folder: Path | None


def open_layer(location: Location, mip: int | None, scale: Sequence[float] | None) -> Opened:
    """Open a layer. Raises ValueError or StorageError in one line, or what cloud-volume raises."""
    reach(location.url)
    if location.format == GRAPHENE:
        return _open_graphene(location, mip, scale)
    if location.format == "precomputed":
        return _open_precomputed(location, mip, scale)
    return _open_arrays(location, mip, scale)


def reach(url: str) -> None:
    """Raise StorageError, naming the host, where the server of a URL cannot be reached."""
    for prefix in ("middleauth+", "s3://"):
        url = url.removeprefix(prefix)
    if url.startswith(("http://", "https://")):
        check_reachable(url)


def _open_precomputed(location: Location, mip: int | None, scale: Sequence[float] | None) -> Opened:
    location, storage, info = _find_info(location)
    check_layer(info)
    chosen = choose_scale([s.get("resolution") for s in info["scales"]], mip, scale)
    check_scale(info["scales"][chosen], info["data_type"])
    cv = _with_info(location, info, chosen)
    return _opened(cv, storage, info, open_blocks(storage, info["scales"][chosen], info["data_type"]))


def _open_graphene(location: Location, mip: int | None, scale: Sequence[float] | None) -> Opened:
    cv = open_graphene(location.cloudpath, **_OPTIONS)
    info, own = cv.meta.info, int(cv.mip)
    check_layer(info)
    chosen = choose_scale([s.get("resolution") for s in info["scales"]], mip, scale, own)
    if chosen != own:
        raise ValueError(f"mip {chosen}: its graph is made of mip {own}: leave out 'mip' and 'scale'")
    check_scale(info["scales"][chosen], info["data_type"])
    place = parse_path(cv.meta.cloudpath)
    reach(place.url)
    storage = open_storage(place.url)
    return _opened(cv, storage, info, open_blocks(storage, info["scales"][chosen], info["data_type"]))


def _open_arrays(location: Location, mip: int | None, scale: Sequence[float] | None) -> Opened:
    """Open zarr or N5; its ``cv`` knows bounds and scales, but cannot read it."""
    from .zarr import open_zarr

    storage = open_storage(location.url)
    try:
        info, chosen, blocks = open_zarr(location, storage, mip, scale)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"its metadata is not that of {location.format}: {error!r}") from error
    check_scale(info["scales"][chosen], info["data_type"])
    cv = _with_info(location, info, chosen)
    return _opened(cv, storage, info, blocks)


def _with_info(location: Location, info: dict[str, Any], mip: int) -> Any:
    """A CloudVolume that knows bounds and scales; nothing is fetched."""
    from cloudvolume import CloudVolume

    url = location.url.removeprefix("s3://") if location.url.startswith("s3://http") else location.url
    return CloudVolume(f"precomputed://{url}", info=info, provenance={}, mip=mip, **_OPTIONS)


def _opened(cv: Any, storage: Storage, info: dict[str, Any], blocks: BlockReader) -> Opened:
    folder = Path(storage.folder) if isinstance(storage, LocalStorage) else None
    return Opened(cv, blocks, np.dtype(f"u{np.dtype(info['data_type']).itemsize}"), folder)


def _find_info(location: Location) -> tuple[Location, Storage, dict[str, Any]]:
    """The info of a layer, where it lies after redirects."""
    for _ in range(MAX_REDIRECTS):
        storage = open_storage(location.url)
        content, forbidden = storage.fetch_one(Request("info", most=1 << 28))
        if content is None:
            raise StorageError("file info: HTTP 403 Forbidden" if forbidden else "it has no file info")
        try:
            info = json.loads(content)
        except ValueError as error:
            raise ValueError(f"its info is not JSON: {error}") from error
        target = info.get("redirect") if isinstance(info, dict) else None
        if not target:
            return location, storage, info
        location = parse_path(str(target))
        if location.format != "precomputed":
            raise ValueError(f"its info redirects to {target}, expected precomputed://…")
        reach(location.url)
    raise ValueError(f"its info redirects more than {MAX_REDIRECTS} times")
