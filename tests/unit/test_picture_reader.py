"""Tests of `PictureReader`: which skeletons are stored, and which lists of nodes may be cached."""

from __future__ import annotations

import logging
from typing import cast

import numpy as np
import pytest

from l2features.graph.base import Graph
from l2features.neurons.neuron_reader import NeuronReader
from l2features.pictures.node_layers import NODE_LAYERS
from l2features.pictures.picture_reader import PictureReader
from l2features.query.reader import Reader
from l2features.store.base import Store
from l2features.store.rewrites import Rewriting, end_rewrites
from tests.support.known_roots import GEOMETRY, KnownGraph, features_in_chunks, random_roots, table_of

ROOTS = random_roots([40, 7])
ROOT, IDS = next(iter(ROOTS.items()))
NODES = NODE_LAYERS["nodes"]


class Setting:
    """A table and a graph. `pictures` returns a new reader, with nothing cached in memory."""

    def __init__(self, permanent: bool = True) -> None:
        self.table, self.graph = table_of(ROOTS), KnownGraph(ROOTS, permanent)

    def pictures(self, cache_bytes: int = 0) -> PictureReader:
        rows, graph = Reader(cast(Store, self.table), GEOMETRY), cast(Graph, self.graph)
        return PictureReader(NeuronReader(rows, graph, keep=True, cache_bytes=cache_bytes))

    def reads(self) -> int:
        """Return the number of row reads since the last call."""
        found = len(self.table.reads)
        self.table.reads = []
        return found


# ------------------------------------------------------------------ skeletons
@pytest.mark.parametrize("permanent", [True, False])
def test_the_skeleton_of_a_complete_root_is_kept(permanent: bool) -> None:
    setting = Setting(permanent)
    first = setting.pictures().skeleton(ROOT)
    assert setting.reads() > 0
    again = setting.pictures().skeleton(ROOT)
    assert (again.body, again.lasting, setting.reads()) == (first.body, permanent, 0)
    reader = setting.pictures(cache_bytes=10_000_000)
    reader.skeleton(ROOT)
    setting.table.asked.clear()
    assert reader.skeleton(ROOT).body == first.body
    assert setting.table.asked == []


@pytest.mark.parametrize("permanent", [True, False])
def test_a_kept_skeleton_is_found_without_the_roots_nodes(permanent: bool) -> None:
    setting = Setting(permanent)
    assert setting.pictures().kept_skeleton(ROOT) is None
    made = setting.pictures().skeleton(ROOT)
    setting.table.asked.clear()
    setting.graph.calls.clear()
    found = setting.pictures().kept_skeleton(ROOT)
    assert (found and (found.body, found.lasting)) == ((made.body, True) if permanent else None)
    assert setting.table.asked == ([["skeleton"]] if permanent else [])
    assert setting.graph.calls == []
    with Rewriting(cast(Store, setting.table)).open():
        assert setting.pictures().kept_skeleton(ROOT) is None


def test_a_kept_skeleton_ends_with_its_rows() -> None:
    setting = Setting()
    pictures = setting.pictures(cache_bytes=10_000_000)
    first = pictures.skeleton(ROOT).body
    with Rewriting(cast(Store, setting.table)).open():
        setting.table.write(features_in_chunks(IDS, seed=2))
        assert not pictures.skeleton(ROOT).lasting
    end_rewrites(cast(Store, setting.table))
    fresh = pictures.skeleton(ROOT)
    assert fresh.body != first
    assert fresh.lasting
    assert setting.pictures().skeleton(ROOT).body == fresh.body


def test_the_skeleton_of_an_incomplete_root_is_not_kept() -> None:
    setting = Setting()
    lost = setting.table.features[np.isin(setting.table.features["label"], IDS[:2])]
    setting.table.delete(IDS[:2])
    first = setting.pictures().skeleton(ROOT)
    assert (first.lasting, first.missing.tolist()) == (False, IDS[:2].tolist())
    setting.table.write(lost)
    fresh = setting.pictures().skeleton(ROOT)
    assert (fresh.lasting, len(fresh.missing)) == (True, 0)
    assert fresh.body != first.body


def test_a_malformed_skeleton_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    first = setting.pictures().skeleton(ROOT).body
    cell = setting.table.cells[ROOT]["skeleton"]
    setting.table.cells[ROOT]["skeleton"] = cell[:-1] + bytes([cell[-1] ^ 1])
    with caplog.at_level(logging.WARNING):
        assert setting.pictures().skeleton(ROOT).body == first
    assert "has the checksum" in caplog.text


# ------------------------------------------------------------------ lists of nodes
def test_a_list_of_nodes_lasts_if_none_is_missing() -> None:
    setting = Setting()
    assert setting.pictures().nodes_of_root(NODES, ROOT).lasting
    with Rewriting(cast(Store, setting.table)).open():
        assert not setting.pictures().nodes_of_root(NODES, ROOT).lasting
    end_rewrites(cast(Store, setting.table))
    setting.table.delete(IDS[:1])
    found = setting.pictures().nodes_of_root(NODES, ROOT)
    assert (found.lasting, found.missing.tolist()) == (False, IDS[:1].tolist())
    assert not Setting(permanent=False).pictures().nodes_of_root(NODES, ROOT).lasting
