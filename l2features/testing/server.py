"""The API as a process: gunicorn with production's configuration."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families

from ..config.datasets import load_dataset
from ..core.geometry import Chunk
from ..core.ids import Ids
from ..local.emulator_programs import is_listening
from ..store.base import open_store
from .emulators import free_port

ROOT = Path(__file__).resolve().parents[2]
APP = "api.app:create_app()"
TOKEN = "0123456789abcdef0123"
"""A token that no log may contain."""
ROUTE = "/l2cache/api/v1/table/<dataset>/attributes"


def nodes_of(config: Path) -> Ids:
    """Return the ids of all nodes in the table of data set ``sample``."""
    dataset = load_dataset("sample", config)
    with closing(open_store(dataset.store, dataset.l2cache_id)) as store:
        geometry = store.geometry()
        assert geometry
        chunks = [geometry.chunk_id(Chunk(*xyz)) for xyz in np.ndindex(*geometry.grid)]
        return np.concatenate([store.scan_chunk(c, geometry.layout.last_id(c)).ids for c in chunks])


class Server:
    """Serves the data sets in the file ``config`` on loopback, by default on a free port.

    The constructor waits until the server answers. The server has one process and no authentication, unless
    the additional environment variables ``env`` change that. Output goes to ``log_file``, by default a new
    file beside the data sets file. Use the server in ``with``, or `stop` it.
    """

    def __init__(
        self,
        config: Path,
        env: Mapping[str, str] | None = None,
        *,
        log_file: Path | None = None,
        port: int | None = None,
        root: Path = ROOT,
        wait_s: float = 60.0,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.url}/l2cache/api/v1"
        self.log_file = log_file or config.parent / f"server-{self.port}.log"
        self.environment = {
            **os.environ,
            "GRAPH_L2CACHE_CONFIG_PATH": str(config),
            "L2CACHE_BIND": f"127.0.0.1:{self.port}",
            "L2CACHE_WORKERS": "1",
            "AUTH_DISABLED": "true",
            **(env or {}),
        }
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", str(root / "api" / "gunicorn.conf.py"), APP],
                cwd=root,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.wait_until_live(wait_s)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """The server's output."""
        return self.log_file.read_text()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of the server's log. Raises ValueError for a line that is not JSON."""
        return [json.loads(line) for line in self.log.splitlines()]

    @property
    def workers(self) -> list[psutil.Process]:
        """The server's worker processes."""
        return psutil.Process(self.process.pid).children()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels."""
        text = requests.get(f"{self.url}/metrics", timeout=20).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_until_live(self, seconds: float = 60.0) -> None:
        """Wait until /live answers.

        Raises AssertionError, with the log, if the server exits or takes too long.
        """
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(requests.RequestException):
                if is_listening(self.port) and requests.get(f"{self.url}/live", timeout=5).ok:
                    return
            assert self.process.poll() is None, f"the server ended:\n{self.log}"
            assert time.monotonic() < until, f"the server is not up after {seconds:g} s:\n{self.log}"
            time.sleep(0.05)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = 30.0) -> int:
        """Send SIGTERM and return the exit status; kill the server if it takes too long."""
        try:
            self.terminate()
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the server and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
