"""Checks of the local stack with the genuine CAVE clients."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import requests
from caveclient import CAVEclient


def check_datastack(client: CAVEclient, url: str) -> None:
    info = client.info.get_datastack_info()
    assert client.info.get_datastacks() == ["sample"]
    assert info["local_server"] == url
    assert info["segmentation_source"] == f"graphene://{url}/segmentation/table/sample"
    assert client.chunkedgraph.segmentation_info["graph"]["n_layers"] == 4
    assert str(client.chunkedgraph.server_version) == "2.21.1"
    assert client.l2cache.has_cache()


def largest_root(client: CAVEclient) -> int:
    """Return the root with the most L2 nodes, among the roots of the first chunk's supervoxels."""
    roots = set(client.chunkedgraph.get_roots([(1 << 56) + number for number in range(1, 30)]).tolist()) - {0}
    leaves = client.chunkedgraph.get_leaves_many(sorted(roots), stop_layer=2)
    return int(max(leaves, key=lambda root: len(leaves[root])))


def skeleton_of(client: CAVEclient, root: int) -> None:
    """Check that our skeleton equals the genuine pcg_skel's, once all the root's nodes have features."""
    from pcg_skel import pcg_skel

    nodes = client.chunkedgraph.get_leaves(root, stop_layer=2)
    assert client.chunkedgraph.is_latest_roots([root]).tolist() == [True]
    edges = client.chunkedgraph.level2_chunk_graph(root)
    assert {node for edge in edges for node in edge} == (set(nodes.tolist()) if len(nodes) > 1 else set())
    soon(client, nodes.tolist())
    skeleton, mesh = pcg_skel.pcg_skeleton(root, client=client, return_mesh=True, require_complete=True)
    assert len(mesh.vertices) == len(nodes)
    assert np.isfinite(skeleton.vertices).all()
    assert (skeleton.path_length() > 0) == (len(nodes) > 1)
    if len(nodes) > 1:
        url = f"{client.server_address}/l2cache/api/v1/table/sample/root/{root}/skeleton?format=json"
        ours: dict[str, Any] = requests.get(url, timeout=60).json()
        assert sorted(ours["vertices"]) == sorted(skeleton.vertices.tolist())
        assert ours["vertices"][ours["root"]] == skeleton.vertices[skeleton.root].tolist()
        assert _lengths(ours["vertices"], ours["edges"]) == pytest.approx(skeleton.path_length())
    bounds = np.array([[1024, 1088], [512, 576], [20, 52]])
    here = client.chunkedgraph.get_leaves(root, bounds=bounds, stop_layer=2).tolist()
    assert here == [node for node in nodes.tolist() if not node & ((1 << 56) - (1 << 26))]
    among = client.chunkedgraph.level2_chunk_graph(root, bounds=bounds)
    assert among == [edge for edge in edges if set(edge) <= set(here)]


def _lengths(vertices: list[list[float]], edges: list[list[int]]) -> float:
    ends = np.array(vertices)[np.array(edges)]
    return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())


def check_history(client: CAVEclient, edit: dict[str, list[int]]) -> None:
    """Check that the CAVE client finds an edit's new roots from its old root, and the reverse."""
    graph, (old,), new = client.chunkedgraph, edit["old_root_ids"], edit["new_root_ids"]
    assert graph.is_latest_roots([old, *new]).tolist() == [False, *[True for _ in new]]
    assert sorted(graph.get_latest_roots(old).tolist()) == sorted(new)
    assert graph.get_original_roots(new).tolist() == [old]
    (made,) = set(graph.get_root_timestamps(new).tolist())
    assert graph.get_root_timestamps([old], latest=True)[0] < made
    assert graph.get_root_id(edit["new_l2_ids"][0]) in new
    past = graph.get_oldest_timestamp()
    gone, come = graph.get_delta_roots(past)
    assert (set(gone.tolist()), sorted(come.tolist())) == ({old}, sorted(new))
    assert set(graph.get_leaves(old, stop_layer=2).tolist()) - set(edit["new_l2_ids"])


def soon(client: CAVEclient, ids: list[int]) -> dict[str, Any]:
    """Return the nodes' features from the CAVE client, as soon as all nodes have them."""
    until = time.monotonic() + 30
    while True:
        data: dict[str, Any] = client.l2cache.get_l2data(ids)
        assert sorted(data) == sorted(map(str, ids))
        if all(data.values()):
            return data
        assert time.monotonic() < until, data
        time.sleep(0.1)
