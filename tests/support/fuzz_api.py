"""Run Schemathesis on our OpenAPI document, against a real server with authentication.

python -m tests.support.fuzz_api --examples 200
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from l2features.core.ids import as_ids
from l2features.query.reader import Reader
from l2features.store.base import DONE, ChunkRecord
from l2features.store.notes import put_note
from l2features.store.segment_index import start_index
from l2features.testing.auth_server import DATASET as AUTH_DATASET
from l2features.testing.auth_server import VIEWER, AuthServer
from l2features.testing.server import ROOT, Server
from l2features.testing.small_table import DATASET, GEOMETRY, node_ids, small_table
from l2features.testing.stores import open_table
from l2features.testing.version_files import NodeRows, VersionWriter
from l2features.versions.folders import Folder

LIMITS = {"L2CACHE_MAX_WAIT_S": "0.05", "L2CACHE_MAX_ROOTS": "250000"}
"""With a limit on roots above 32,768, Schemathesis makes no lists as long as the limit."""
PROGRAM = "X-Requested-With: schemathesis"
"""Says that this is no browser: the server would redirect a browser to get a token."""


def fuzz(folder: Path, examples: int, arguments: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run all Schemathesis checks, with up to ``examples`` requests per API operation; return the process.

    Raises AssertionError if the server logged an exception.
    """
    auth = AuthServer(folder)
    auth.tables[DATASET] = AUTH_DATASET
    environment = {**auth.environment, "AUTH_DISABLED": "false", **LIMITS}
    try:
        with Server(with_a_version(indexed_table(folder)), environment) as server:
            command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.api}/openapi.json"]
            command += ["--header", f"Authorization: Bearer {VIEWER}", "--header", PROGRAM, "--checks", "all"]
            command += ["--max-examples", str(examples), "--continue-on-failure", *arguments]
            hooks = {
                "SCHEMATHESIS_HOOKS": "tests.support.fuzz_hooks",
                "NO_COLOR": "1",
                "PYTHONPATH": str(ROOT),
            }
            ran = subprocess.run(
                command, cwd=folder, env={**os.environ, **hooks}, capture_output=True, text=True, check=False
            )
            errors = [r for r in server.records if "exc_info" in r]
            assert not errors, errors[0]
            return ran
    finally:
        auth.stop()


def with_a_version(config: Path) -> Path:
    """Write version 1 of the table that `indexed_table` made, and return ``config``."""
    url = f"{config.parent}/versions"
    with closing(open_table(config)) as store:
        rows = Reader(store, GEOMETRY).read(node_ids()).rows
        put_note(store, "versions", {"url": url})
    nodes = NodeRows(as_ids(np.arange(len(rows)) + 1), rows, np.zeros(len(rows), dtype=bool))
    VersionWriter(Folder(url), GEOMETRY, about={"l2cache_id": "l2cache_small"}).write(1, nodes)
    return config


def indexed_table(folder: Path) -> Path:
    """Return the data sets file of a fully ingested table. Its nodes are in segments 1 to 100, one each."""
    config = small_table(folder)
    with closing(open_table(config)) as store:
        start_index(store)
        for xyz in np.ndindex(*GEOMETRY.grid):
            nodes = len(node_ids()) if xyz == (1, 0, 0) else 0
            segments = np.arange(nodes, dtype=np.uint64) + 1
            store.put_chunk(
                ChunkRecord(GEOMETRY.layout.chunk_id(*xyz), DONE, datetime.now(UTC), nodes), segments
            )
    return config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=200, help="examples of each operation")
    parser.add_argument("--seed", default="1", help="seed of the examples")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ran = fuzz(Path(folder), options.examples, ["--seed", options.seed])
    print(ran.stdout, ran.stderr, sep="\n")
    return ran.returncode


if __name__ == "__main__":
    sys.exit(main())
