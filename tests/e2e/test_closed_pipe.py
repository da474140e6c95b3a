"""Tests of commands whose stdout is closed early, as by `| head`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRINTS = "from beam_jobs.command import exit_status as run; raise SystemExit(run(lambda: print({}) or 0, ''))"
RAISES = "from beam_jobs.command import exit_status\ndef run(): raise BrokenPipeError\nexit_status(run, '')"


def run_unread(*command: str, **more: str) -> tuple[int, str]:
    """Run Python with a closed pipe as stdout; return exit status and stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, *command],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, **more},
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("text", ["'short'", "'x' * 1_000_000"])
def test_a_job(text: str, unbuffered: str) -> None:
    assert run_unread("-c", PRINTS.format(text), PYTHONUNBUFFERED=unbuffered) == (1, "")


def test_another_pipe_that_breaks_is_an_error() -> None:
    done = subprocess.run([sys.executable, "-c", RAISES], capture_output=True, text=True, check=False)
    assert (done.returncode, "BrokenPipeError" in done.stderr) == (1, True)


def test_the_command_line(undisturbed: Path) -> None:
    arguments = ("get", "sample", "--chunk", "1,0,0", "--config", str(undisturbed))
    assert run_unread("-m", "l2features.cli", *arguments) == (1, "")
