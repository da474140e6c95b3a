"""Read the data sets file (YAML) and environment variables."""

from __future__ import annotations

from .datasets import Dataset, load_dataset, load_datasets, read_datasets

__all__ = ["Dataset", "load_dataset", "load_datasets", "read_datasets"]
