"""Print the row keys that split a new table of features into tablets of about equally many chunks.

    python deploy/bigtable/splits.py DATASET DATASETS_FILE TABLETS

The output is the value of --splits of `gcloud bigtable tables create`.
"""

from __future__ import annotations

import sys

import numpy as np

from l2features.config import load_dataset
from l2features.core.errors import ConfigError, L2FeaturesError
from l2features.ids import row_keys
from l2features.ingest.compute import read_geometry


def split_keys(name: str, config: str, tablets: int) -> list[bytes]:
    """Return the first row key of each tablet except the first. Raises ConfigError."""
    geometry = read_geometry(load_dataset(name, config))
    if not 1 < tablets <= geometry.n_chunks:
        raise ConfigError(f"{tablets} tablets: expected 2 to {geometry.n_chunks}, the number of chunks")
    places = np.arange(1, tablets) * geometry.n_chunks // tablets
    chunks = np.stack(np.unravel_index(places, geometry.grid), axis=-1)
    return row_keys(geometry.layout.chunk_id_array(chunks))


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[3].isdecimal():
        sys.exit(__doc__)
    _, dataset, file, number = sys.argv
    try:
        print(b",".join(split_keys(dataset, file, int(number))).decode())
    except L2FeaturesError as error:
        sys.exit(f"error: {error}")
