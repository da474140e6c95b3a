"""Ctrl-C before and after a job has read its options."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
JOBS = ("ingest", "audit", "update", "materialize", "precomputed")
RUN = """
import os, signal, sys
from l2features.jobs.job_command import exit_status
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(exit_status(lambda: os.kill(os.getpid(), signal.SIGINT), "stopped"))
"""


def run(*arguments: str, path: str = "") -> tuple[int, str]:
    """Return the status and stderr of Python, which finds modules in ``path`` first."""
    places = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": places}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, check=False, env=environment, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("job", JOBS)
def test_ctrl_c_during_the_imports_prints_nothing(tmp_path: Path, job: str) -> None:
    (tmp_path / "numpy.py").write_text(INTERRUPT)
    assert run("-m", f"beam_jobs.{job}", path=str(tmp_path)) == (-signal.SIGINT, "")


def test_ctrl_c_after_the_imports_is_reported() -> None:
    assert run("-c", RUN) == (130, "stopped\n")
