"""A graph on a PyChunkedGraph server: ``graphene://https://HOST/segmentation/table/TABLE``, HTTP API 1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
from numpy.typing import NDArray

from ..core.chunks import ChunkBox
from ..core.errors import ConfigError, GraphError, L2FeaturesError, VolumeError, reason_of
from ..core.geometry import Chunk, Geometry, as_triple
from ..core.ids import L2, IdLayout, Ids, as_ids, from_bytes, sorted_unique
from ..core.rows import Rows
from ..core.transient import graph_error, volume_error
from .base import (
    ChangedRoots,
    Children,
    Graph,
    GraphInfo,
    NodeRoots,
    OpenTable,
    Pairs,
    RootHistory,
    RootNodes,
    check_children,
    check_nodes,
    map_supervoxels,
)
from .id_cells import batches
from .root_lives import changes, log_since
from .root_requests import REQUESTS, RootRequests
from .table_meta import LAYER_BITS

if TYPE_CHECKING:
    import requests

API_VERSION = 1
TIMEOUT_S = (10.0, 60.0)
"""Time limits of a request, in seconds: to connect, and to receive each part of the response."""
LIST_TIMEOUT_S = (10.0, 300.0)
"""Time limits of a request that lists all nodes of a chunk, as in `TIMEOUT_S`."""
FEW = 64
"""Maximum nodes of a chunk that are requested one by one; for more, the whole chunk is listed."""
AT_ONCE, NODES = 64, 1_000_000
"""Chunks in a batch of requests for nodes; nodes in a batch of requests for roots."""
_PATHS = re.compile(r"/*(\w+)/(?:table|[\d.]+|api/v[\d.]+(?:/table)?)/([\w.-]+)")
"""Pattern of paths on a server: ``segmentation/`` and ``table/T``, ``1.0/T`` or ``api/v1/(table/)T``."""


class GrapheneGraph(Graph):
    """A graph on a PyChunkedGraph server.

    cloud-volume maps supervoxels to nodes; our own requests read nodes and children. The server lists a
    chunk's nodes with their supervoxels, but does not mark superseded nodes. To find the nodes that are
    valid at a time, `nodes` maps all listed supervoxels to their nodes at this time.
    """

    pattern, expected = re.compile("graphene"), "graphene"
    edges_need_rows = False

    def __init__(self, url: str, open_table: OpenTable | None = None) -> None:
        self.url, self.cv = url, open_server(url)
        self.server, self._session = _open_session(self.cv)

    @classmethod
    def name_of(cls, url: str) -> str:
        """Return the table's name in a server's URL; for a URL of unknown form, the last part of its path.

        >>> GrapheneGraph.name_of("graphene://https://host/segmentation/1.0/fly_v31/")
        'fly_v31'
        """
        parts, match = _split(url)
        return match[2] if match else parts.path.rstrip("/").rsplit("/", 1)[-1]

    @classmethod
    def readable_time(cls, time: datetime) -> datetime:
        """Return ``time`` rounded up to whole seconds, as cloud-volume does before it sends a time."""
        return time.replace(microsecond=0) + timedelta(seconds=bool(time.microsecond))

    def info(self) -> GraphInfo:
        return server_info(self.cv.meta.info, self.url)

    def check(self) -> None:
        versions = self.cv.meta.info["app"]["supported_api_versions"]
        if API_VERSION not in versions:
            raise ConfigError(
                f"{self.url}: the server supports API versions {versions}: expected {API_VERSION} among them"
            )

    def l2_ids(self, geometry: Geometry, chunk: Chunk, supervoxels: Ids, time: datetime) -> Ids:
        try:
            return as_ids(self.cv.get_roots(supervoxels, stop_layer=L2, timestamp=time))
        except Exception as error:  # requests, urllib3 and cloud-volume share no base class
            message = f"chunk {chunk}: {self.cv.meta.server_url} did not map its supervoxels: {error}"
            raise graph_error(message, error) from error

    def children(self, geometry: Geometry, chunk: Chunk, ids: Ids) -> Children:
        few = len(ids) <= FEW
        return check_children(
            geometry, chunk, self._one_by_one(ids) if few else self._listed(geometry, chunk, ids)
        )

    def nodes(self, geometry: Geometry, chunk: Chunk, time: datetime | None = None) -> Ids:
        pairs = self._pairs(geometry, chunk)
        if time is None or not len(pairs):
            return check_nodes(geometry, chunk, sorted_unique(pairs[:, 0]))
        mapped = map_supervoxels(self, geometry, chunk, sorted_unique(pairs[:, 1]), time)
        if mapped.errors:
            raise GraphError(f"chunk {chunk}: {'; '.join(mapped.errors[:3])}")
        return sorted_unique(mapped.l2_ids[mapped.l2_ids != 0])

    def valid_nodes(self, geometry: Geometry, box: ChunkBox, time: datetime) -> NodeRoots:
        """See `Graph.valid_nodes`.

        The server lists all nodes of a chunk that were made at ``time`` or earlier, including superseded
        nodes. Superseded nodes have a retired root, and are dropped. Nodes are read in batches of `AT_ONCE`
        chunks; then the roots of all nodes are read in batches of `NODES` nodes. Each batch has its own
        deadline.
        """
        chunks = [chunk for chunk in box.in_order() if geometry.in_grid([chunk])[0]]
        ids = [as_ids([])]
        for first in range(0, len(chunks), AT_ONCE):
            part = chunks[first : first + AT_ONCE]
            listed = self._requests().chunk_nodes(geometry.layout.chunk_id_array(part), time)
            ids += [check_nodes(geometry, *one) for one in zip(part, listed, strict=True)]
        l2_ids = np.concatenate(ids)
        parts = [self.roots_of(geometry, part, time) for part in batches(l2_ids, NODES)]
        roots = np.concatenate([as_ids([]), *parts])
        return NodeRoots(l2_ids[roots != 0], roots[roots != 0])

    def changed_roots(self, geometry: Geometry, since: datetime, until: datetime) -> ChangedRoots:
        """See `Graph.changed_roots`.

        The candidates are all roots that the server logged from shortly before ``since`` until now. A log
        entry may be written shortly before its roots, or long after them. A candidate has changed if it is
        valid at only one of the two times.
        """
        logged = self._requests().logged_roots(log_since(since))
        roots = logged[self.is_root(geometry, logged)]
        return changes(roots, *(self._requests().are_latest(roots, time) for time in (since, until)))

    def is_root(self, geometry: Geometry, ids: Ids) -> NDArray[np.bool_]:
        return np.asarray(geometry.layout.layers(ids) == self.info().n_layers)

    def root_nodes(self, geometry: Geometry, roots: Ids, most: int) -> RootNodes:
        found = RootNodes()
        for root, ids in self._requests().leaves(self._roots_among(geometry, roots), most).items():
            if ids is None or len(ids) > most:
                found.too_large[root] = most + 1 if ids is None else len(ids)
            elif (geometry.layout.layers(ids) != L2).any():
                found.errors[root] = f"root {root}: the server lists nodes of other layers: expected layer 2"
            elif len(ids):
                found.l2_ids[root] = sorted_unique(ids)
        return found

    def root_edges(
        self, geometry: Geometry, nodes: Mapping[int, Ids], rows: Rows | None = None
    ) -> dict[int, Pairs]:
        several = [root for root, ids in nodes.items() if len(ids) > 1]
        found = dict(zip(several, self._requests().edges(several), strict=True))
        none = np.empty((0, 2), dtype=np.uint64)
        return {root: found.get(root, none) for root in nodes}

    def roots_of(self, geometry: Geometry, l2_ids: Ids, time: datetime) -> Ids:
        requests, layers = self._requests(), geometry.layout.layers
        nodes, inverse = np.unique(l2_ids, return_inverse=True)
        roots = np.zeros(len(nodes), dtype=np.uint64)
        known = layers(nodes) == L2
        roots[known] = requests.roots(nodes[known], time)
        roots[~self.is_root(geometry, roots)] = 0
        distinct = sorted_unique(roots[roots != 0])
        roots[~np.isin(roots, distinct[requests.are_latest(distinct, time)])] = 0
        return roots[inverse]

    def histories(self, geometry: Geometry, roots: Ids) -> dict[int, RootHistory]:
        requests, wanted = self._requests(), self._roots_among(geometry, roots)
        known = requests.are_latest(wanted)
        known[~known] = requests.have_children(wanted[~known])
        return requests.histories(wanted[known])

    def _requests(self) -> RootRequests:
        return RootRequests(self.server, self._session, monotonic() + self.deadline_s)

    def _roots_among(self, geometry: Geometry, ids: Ids) -> Ids:
        return sorted_unique(ids[self.is_root(geometry, ids)])

    def close(self) -> None:
        self._session.close()

    def _one_by_one(self, ids: Ids) -> Children:
        with ThreadPoolExecutor(min(REQUESTS, max(1, len(ids)))) as threads:
            leaves = list(threads.map(self._leaves, ids.tolist()))
        return Children({node: known for node, known in zip(ids.tolist(), leaves, strict=True) if len(known)})

    def _leaves(self, node: int) -> Ids:
        """Return the supervoxels of a node; an empty array if the server does not know the node."""
        try:
            bounds = {"bounds": self.cv.bounds.to_filename()}
            answer = self._session.get(f"{self.server}/node/{node}/leaves", params=bounds, timeout=TIMEOUT_S)
            answer.raise_for_status()
            return as_ids(answer.json()["leaf_ids"])
        except (OSError, ValueError, KeyError, TypeError) as error:  # all of requests' errors are OSError
            message = f"{self.server} did not list the supervoxels of {node}: {error}"
            raise graph_error(message, error) from error

    def _listed(self, geometry: Geometry, chunk: Chunk, ids: Ids) -> Children:
        pairs = self._pairs(geometry, chunk)
        pairs = pairs[np.isin(pairs[:, 0], ids)]
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        nodes, first = np.unique(pairs[:, 0], return_index=True)
        return Children(dict(zip(nodes.tolist(), np.split(pairs[:, 1], first)[1:], strict=True)))

    def _pairs(self, geometry: Geometry, chunk: Chunk) -> NDArray[np.uint64]:
        """Return pairs (L2 node, supervoxel) for all nodes of a chunk, superseded ones too, shape (n, 2)."""
        url = f"{self.server}/l2_chunk_children_binary/{geometry.chunk_id(chunk)}"
        try:
            answer = self._session.get(url, params={"as_array": "True"}, timeout=LIST_TIMEOUT_S)
            answer.raise_for_status()
            return from_bytes(answer.content).reshape(-1, 2)
        except (OSError, ValueError) as error:
            message = f"chunk {chunk}: {self.server} did not list its nodes: {error}"
            raise graph_error(message, error) from error


def _split(url: str) -> tuple[SplitResult, re.Match[str] | None]:
    """Return a tuple: the parts of a server's URL; the match of its path with `_PATHS`, or None."""
    parts = urlsplit(url.removeprefix("graphene://").removeprefix("middleauth+"))
    return parts, _PATHS.match(parts.path)


def cloudpath(url: str) -> str:
    """Return a server's URL in the form that makes cloud-volume use version 1 of the API.

    cloud-volume takes the API version from the URL, even if the server has a newer version, and does not
    accept ``…/api/v1/table/T``. The prefix ``middleauth+`` is removed. A URL of unknown form is returned
    unchanged.

    >>> cloudpath("graphene://middleauth+https://host/segmentation/1.0/fly_v31/")
    'graphene://https://host/segmentation/api/v1/fly_v31'
    """
    parts, match = _split(url)
    if not match or not parts.netloc:
        return url
    return f"graphene://{parts.scheme}://{parts.netloc}/{match[1]}/api/v{API_VERSION}/{match[2]}"


def info_url(url: str) -> str:
    """Return the URL of a graph's info on its server; reading it takes a token with view permission.

    >>> info_url("graphene://https://host/segmentation/1.0/fly_v31/")
    'https://host/segmentation/table/fly_v31/info'
    """
    parts, match = _split(url)
    path = f"{match[1]}/table/{match[2]}" if match else parts.path.strip("/")
    return f"{parts.scheme}://{parts.netloc}/{path}/info"


def open_server(url: str) -> Any:
    """Return an open ``graphene://`` CloudVolume, at the scale from which its graph was made.

    Raises GraphError if the server's info is not a graph's, and VolumeError if the server cannot be opened.
    """
    from cloudvolume import CloudVolume

    from ..volume.http import check_reachable

    try:
        check_reachable(url.partition("://")[2])
        cv = CloudVolume(cloudpath(url), progress=False)
        graph = server_info(cv.meta.info, url)
        _fill_in(cv.meta.info, graph)
        mip, last = graph.mip or 0, len(cv.available_mips) - 1
        if not 0 <= mip <= last:
            raise ValueError(f"mip {mip}: expected the index of a scale, 0 to {last}")
        cv.mip = mip
        return cv
    except L2FeaturesError:
        raise
    except KeyError as error:
        raise VolumeError(
            f"cannot open {url}: the server's info lacks key {error}: expected the info of a PyChunkedGraph"
        ) from error
    except Exception as error:  # cloud-volume and requests share no base class
        raise volume_error(f"cannot open {url}: {reason_of(error)}", error) from error


def _fill_in(info: dict[str, Any], graph: GraphInfo) -> None:
    """Change a server's info so that cloud-volume can use version 1 of the server's API.

    cloud-volume fails if the info lacks the API versions or the number of layers. It also fails if the info
    lists an API version that cloud-volume does not know.
    """
    app = info.get("app") or {}
    versions = app.get("supported_api_versions") or [API_VERSION]
    known = [API_VERSION] if API_VERSION in versions else versions
    info["app"] = {**app, "supported_api_versions": known}
    info["graph"].setdefault("n_layers", max(graph.layout.spatial_bits))


def server_info(info: Mapping[str, Any], url: str) -> GraphInfo:
    """Return the graph that a server's info describes. Raises GraphError for an info of another form."""
    try:
        graph = info["graph"]
        masks = {int(layer): int(bits) for layer, bits in graph["spatial_bit_masks"].items()}
        layer_bits = int(graph.get("n_bits_for_layer_id") or LAYER_BITS)
        return GraphInfo(
            as_triple(graph["chunk_size"]),
            IdLayout({layer: bits for layer, bits in masks.items() if layer > 0}, layer_bits),
            int(graph.get("cv_mip") or 0),
            info.get("data_dir"),
            ocdbt=any(part.get(key) for part in (info, graph) for key in ("ocdbt_seg", "ocdbt_kvstore_spec")),
            layer=info,
            n_layers=int(graph["n_layers"]) if graph.get("n_layers") else None,
        )
    except KeyError as error:
        raise GraphError(
            f"{url}: the server's info lacks key {error}: expected the info of a PyChunkedGraph"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise GraphError(
            f"{url}: the server's info is malformed: expected the info of a PyChunkedGraph: {error}"
        ) from error


def _open_session(cv: Any) -> tuple[str, requests.Session]:
    """Return a tuple: the URL of a CloudVolume's graph on its server; a session with the volume's token."""
    import requests
    from requests.adapters import HTTPAdapter

    meta, session = cv.meta, requests.Session()
    session.headers.update(meta.auth_header or {})
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=REQUESTS))
    path = meta.server_path
    return f"{meta.base_path}{path.modality}/api/v{API_VERSION}/table/{path.dataset}", session
