"""A helper that runs `l2features up` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from l2features.local.emulator_programs import BIGTABLE, PUBSUB
from tests.support.jobs import need_program

GUARD_S = 300.0
"""A start takes some 30 s alone, and four times as long beside seven other tests on a slow machine."""
NO_SUCH_PROXY = {"http_proxy": "http://127.0.0.1:9"}
"""No such proxy exists: requests to this machine must not go through a proxy."""


class Up:
    """A process of ``l2features up``, which should write to its folder only (see `written_elsewhere`)."""

    def __init__(self, path: Path) -> None:
        self.folder, self.elsewhere = path / "a stack", path / "elsewhere"
        variables = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "CLOUDSDK_CONFIG": "gcloud"}
        for name in (*variables.values(), "cwd"):
            (self.elsewhere / name).mkdir(parents=True)
        self.own = {name: str(self.elsewhere / folder) for name, folder in variables.items()}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "l2features.cli", "up", str(self.folder)],
            cwd=self.elsewhere / "cwd",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **NO_SUCH_PROXY, **self.own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said = ""
        self.family: list[psutil.Process] = []

    def read_until(self, end: str) -> None:
        """Read the output until a line ends with ``end``; fail if the process ends first."""
        guard = threading.Timer(GUARD_S, self.process.kill)
        guard.start()
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line
            if line.rstrip("\n").endswith(end):
                break
        else:
            _, error = self.process.communicate()
            pytest.fail(f"it ended: {self.said}{error}")
        guard.cancel()
        own = psutil.Process(self.process.pid)
        self.family = [own, *own.children(recursive=True)]

    def leftovers(self) -> list[str]:
        """Return processes that run after 10 s: the stack's, and any with its folder in the command line."""
        until = time.monotonic() + 10
        while True:
            named = [p for p in psutil.process_iter() if str(self.folder) in command_line(p)]
            left = [str(p) for p in (*self.family, *named) if is_alive(p)]
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.1)

    def temporary(self) -> list[Path]:
        return list(self.folder.glob("up-tmp-*"))

    def written_elsewhere(self) -> list[Path]:
        return [path for path in self.elsewhere.rglob("*") if path.is_file()]

    def finish(self) -> tuple[int, str]:
        """Wait for the process to exit, and return its exit status and stderr."""
        _, error = self.process.communicate(timeout=60)
        return self.process.returncode, error

    def kill(self) -> None:
        """Kill the process and its children."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            self.family += [own, *own.children(recursive=True)]
        for process in self.family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.communicate()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    for program in (BIGTABLE, PUBSUB):
        need_program(program.find(), program.how_to_get_it)
    stack = Up(tmp_path)
    yield stack
    stack.kill()


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
