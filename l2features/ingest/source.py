"""A data set's segmentation and graph, opened together and compared."""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial

from ..config.datasets import Dataset
from ..graph.base import Graph, GraphInfo
from ..graph.sources import open_graph
from ..store.base import open_store
from ..volume import Volume
from ..volume.opening import LayerPlace
from .agreement import Described, check_agreement


@dataclass
class Source:
    """An open segmentation and an open graph that agree. ``info`` is the graph's description, if any."""

    volume: Volume
    graph: Graph
    info: GraphInfo | None

    def close(self) -> None:
        """Close connections."""
        self.graph.close()


def open_dataset_graph(dataset: Dataset, url: str | None = None) -> Graph:
    """Open a data set's graph, or the graph at another URL.

    Raises ConfigError or GraphError; also VolumeError if a graph server cannot be opened.
    """
    return open_graph(url or dataset.graph_url, partial(open_store, dataset.store, dataset.l2cache_id))


def open_source(dataset: Dataset) -> Source:
    """Open the segmentation and the graph of a data set.

    The segmentation is read at the scale that the data set's entry names; by default, at the scale from which
    the graph was made. Raises VolumeError if the segmentation cannot be opened, GraphError if the graph
    cannot be read, and ConfigError if segmentation and graph contradict each other.
    """
    graph = open_dataset_graph(dataset)
    try:
        described = _describe(dataset, graph)
        info = described[0].info if described else None
        mip = info.mip if info and dataset.mip is None and dataset.scale is None else dataset.mip
        layer = LayerPlace(str(info.watershed), info.layer) if info and dataset.served else None
        volume = Volume(dataset.cv_path, mip, dataset.scale, dataset.empty_files, layer)
        check_agreement(dataset, volume, graph, described)
    except BaseException:
        graph.close()
        raise
    return Source(volume, graph, info)


def _describe(dataset: Dataset, graph: Graph) -> list[Described]:
    """Return the descriptions of the data set's graph; the one from a server in ``cv_path`` comes first."""
    described = []
    for url in dict.fromkeys([dataset.cv_path, graph.url] if dataset.served else [graph.url]):
        with nullcontext(graph) if url == graph.url else closing(open_dataset_graph(dataset, url)) as one:
            if (info := one.info()) is not None:
                described.append(Described(url, info))
    return described
