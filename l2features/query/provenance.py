"""The provenance of data, for the metadata of files and tables."""

from __future__ import annotations

from .. import __version__
from ..config.datasets import Dataset
from ..store.base import Meta


def provenance(dataset: Dataset, meta: Meta | None) -> dict[str, str]:
    """Return a table's provenance: data set, segmentation, graph, timestamp of the graph, and software."""
    recorded = {"graph_id": meta.graph_id, "timestamp": meta.timestamp} if meta else {}
    return {
        "dataset": dataset.name,
        "cv_path": dataset.cv_path,
        "l2cache_id": dataset.l2cache_id,
        **recorded,
        "software": f"l2features {__version__}",
    }
