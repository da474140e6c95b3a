"""Tests of the logs of jobs: JSON lines in a file, plain lines and a progress bar on a terminal."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from l2features.local import progress
from tests.support.jobs import ROOT, dataset_file

SEVERITIES = {"DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"}
"""https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry#LogSeverity"""


def ingest(program: list[str], folder: Path, sample: Path, stderr: int) -> subprocess.Popen[bytes]:
    """Start an ingest of a copy of the sample with one corrupt file."""
    shutil.copytree(sample, folder / "segmentation")
    garbled = min(path for path in (folder / "segmentation").glob("*/*_*"))
    garbled.write_bytes(b"garbled")
    config = dataset_file(folder, folder / "segmentation")
    command = [sys.executable, "-m", *program, "--config", str(config), "--dataset", "sample", "--create"]
    options = ["--workers", "1", "--chunks", "0:1,0:1,0:1"]
    return subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr)


def read_terminal(terminal: int) -> str:
    """Return everything written to a terminal until its last writer closes it."""
    text = b""
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as reader:
        while part := reader.read(65_536):
            text += part
    return text.decode()


def test_a_job_that_fails_at_a_chunk(tmp_path: Path, sample: Path) -> None:
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    (tmp_path / "shown").mkdir()
    (tmp_path / "kept").mkdir()
    shown = ingest(["l2features.cli", "ingest"], tmp_path / "shown", sample, end)
    os.close(end)
    with (tmp_path / "log").open("wb") as file:
        kept = ingest(["beam_jobs.ingest"], tmp_path / "kept", sample, file.fileno())
    text = read_terminal(terminal)
    assert (shown.wait(300), kept.wait(300)) == (1, 1)

    assert re.search(r"ERROR l2features\.ingest\.\S+: chunk 0,0,0 failed", text)
    assert "sample: 100%" in text
    assert "{" not in text

    lines = (tmp_path / "log").read_text().splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    plain = [line for line in lines if not line.startswith("{")]
    assert all(line.startswith("error: ") for line in plain), plain
    (failed,) = [record for record in records if "chunk 0,0,0 failed" in record["message"]]
    assert (failed["severity"], failed["logger"]) == ("ERROR", "l2features.ingest.chunk_results")
    for record in records:
        assert record["severity"] in SEVERITIES
        assert datetime.fromisoformat(record["time"]).utcoffset() is not None
        assert record["pid"]


COMPILE_SLOWLY = """
import time
from l2features import kernel
from l2features.jobs import job_command

def warm_up(on_step):
    for _ in range(kernel.WARM_UP_STEPS):
        time.sleep(0.1)
        on_step()

kernel.warm_up, job_command.COMPILING_S = warm_up, 0.3
job_command.compile_kernel()
"""


def test_a_first_compilation_shows_its_progress() -> None:
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    process = subprocess.Popen([sys.executable, "-c", COMPILE_SLOWLY], cwd=ROOT, stderr=end)
    os.close(end)
    text = read_terminal(terminal)
    assert process.wait(60) == 0
    shares = [int(share) for share in re.findall(r"compiling the kernel, the first time only: +(\d+)%", text)]
    assert len(shares) > 2
    assert shares == sorted(shares)


def test_uncaught_errors_and_warnings_are_records() -> None:
    code = (
        "import warnings; from l2features.local import log_lines; log_lines.configure()\n"
        "warnings.warn('odd'); raise ValueError('two\\nlines')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    odd, uncaught = map(json.loads, ran.stderr.splitlines())
    assert (odd["severity"], "UserWarning: odd" in odd["message"]) == ("WARNING", True)
    assert (uncaught["severity"], uncaught["message"]) == ("CRITICAL", "uncaught error")
    assert uncaught["exc_info"].endswith("ValueError: two\nlines")


def test_a_log_has_a_line_of_progress_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter(range(0, 140, 10))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    lines = progress.ProgressLines("minnie", 300)
    with caplog.at_level(logging.INFO, logger=progress.__name__):
        for _ in range(13):
            lines.advance(20)
    assert caplog.messages == [
        "progress: dataset=minnie done=120 total=300",
        "progress: dataset=minnie done=240 total=300",
    ]
