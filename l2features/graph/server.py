"""A graph's server, by cloud-volume and by requests of our own; both ask version 1 of its API."""

from __future__ import annotations

from typing import Any

from ..core.errors import ConfigError, VolumeError
from ..core.graphene_path import cloudpath
from .info import GraphInfo, server_info

REQUESTS = 8
"""How many questions a graph's server is asked at the same time."""
API_VERSION = 1


def open_graphene(cv_path: str, **options: Any) -> Any:
    """Return an open CloudVolume of a ``graphene://`` path, at the scale that its graph was made of.

    Raises VolumeError or GraphError that names the key of the server's info that is missing.
    """
    from cloudvolume import CloudVolume

    try:
        cv = CloudVolume(cloudpath(cv_path), **options)
    except KeyError as error:
        raise VolumeError(
            f"cannot open {cv_path}: the info of its server has no key {error}: expected that of a graph"
        ) from error
    graph = graph_of(cv, cv_path)
    fill_in(cv.meta.info, graph)
    set_mip(cv, graph.mip or 0)
    return cv


def fill_in(info: dict[str, Any], graph: GraphInfo) -> None:
    """Fill in what cloud-volume needs in the info of a server to ask version 1 of its API.

    cloud-volume fails on an info without versions or layers, and on versions that are newer than itself.
    """
    app = info.get("app") or {}
    versions = app.get("supported_api_versions") or [API_VERSION]
    known = [API_VERSION] if API_VERSION in versions else versions
    info["app"] = {**app, "supported_api_versions": known}
    info["graph"].setdefault("n_layers", max(graph.layout.spatial_bits))


def set_mip(cv: Any, mip: int) -> None:
    """Read another scale. Raises ValueError where the segmentation does not have it."""
    last = len(cv.available_mips) - 1
    if not 0 <= mip <= last:
        raise ValueError(f"mip {mip}: expected one of its mips, 0 to {last}")
    cv.mip = mip


def graph_of(cv: Any, cv_path: str) -> GraphInfo:
    """Return what the server of an open ``graphene://`` CloudVolume says of its graph. Raises GraphError."""
    return server_info(cv.meta.info, cv_path)


def check_api(cv: Any, cv_path: str) -> None:
    """Raise ConfigError where a server lacks the version of the API that answers for L2 nodes."""
    versions = cv.meta.info["app"]["supported_api_versions"]
    if API_VERSION not in versions:
        raise ConfigError(
            f"{cv_path}: its server supports the API versions {versions}: expected {API_VERSION} among them"
        )


def open_session(cv: Any) -> tuple[str, Any]:
    """Address of the graph of an open ``graphene://`` CloudVolume, and a session that has its token."""
    import requests
    from requests.adapters import HTTPAdapter

    meta = cv.meta
    session = requests.Session()
    session.headers.update(meta.auth_header or {})
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=REQUESTS))
    path = meta.server_path
    return f"{meta.base_path}{path.modality}/api/v{API_VERSION}/table/{path.dataset}", session
