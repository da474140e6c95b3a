"""Tests of segment summaries across all chunks of a data set without a graph."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from cloudvolume import CloudVolume

from l2features.config.datasets import load_dataset
from l2features.core.ids import Ids, as_ids
from l2features.ingest.source import open_dataset_graph
from l2features.neurons.neuron_reader import NeuronReader
from l2features.neurons.root_summaries import RootStatus, Summaries
from l2features.query.reader import Reader
from l2features.testing.stores import open_table
from tests.support.ingest_jobs import run_ingest


def summaries(config: Path, roots: Ids) -> tuple[Summaries, int]:
    """Return the summaries that a newly opened reader finds, and the number of rows that it reads."""
    read: list[int] = []
    graph = open_dataset_graph(load_dataset("sample", config))
    with closing(open_table(config)) as store, closing(graph):
        geometry = store.geometry()
        assert geometry
        reader = Reader(store, geometry, on_read=lambda rows, _: read.append(rows))
        return NeuronReader(reader, graph, keep=True).summaries(roots, with_graph=True), sum(read)


def test_volumes_of_segments_are_their_voxels(config: Path, sample: Path) -> None:
    layer = CloudVolume(f"precomputed://file://{sample}", progress=False)
    segments, voxels = np.unique(np.asarray(layer[:]), return_counts=True)
    assert segments[0] == 0
    roots = as_ids([*segments.tolist(), 10**9])
    for flags, expected in ((), True), ((), False), (("--recompute", "--test"), True), ((), False):
        if flags:
            assert run_ingest(config, *flags).returncode == 0
        found, rows = summaries(config, roots)
        assert (rows > 0) == expected  # or all were kept
        ready = [RootStatus.READY] * (len(roots) - 2)
        assert found.status.tolist() == [RootStatus.NOT_A_ROOT, *ready, RootStatus.UNKNOWN]
        volumes = voxels[1:] * int(np.prod(layer.resolution))
        assert found.summary["size_nm3"][1:-1].tolist() == volumes.tolist()
        assert found.summary["n_nodes"].max() > 1
        assert (found.summary["n_edges"] + 1 >= found.summary["n_nodes"])[1:-1].any()
