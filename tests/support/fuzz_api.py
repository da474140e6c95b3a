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
from pathlib import Path

from l2features.testing.auth_server import DATASET as AUTH_DATASET
from l2features.testing.auth_server import VIEWER, AuthServer
from l2features.testing.server import ROOT, Server
from l2features.testing.small_table import DATASET
from tests.support.versioned_tables import indexed_table, with_a_version

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
