"""Synthetic tables of features, and server processes that read these tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

from l2features.core.geometry import Geometry
from l2features.core.ids import IdLayout
from l2features.core.schema import FEATURES, LARGE, PCA_MIN_VOLUME_NM3
from l2features.store.base import Meta, open_store
from l2features.testing.emulators import free_port

ROOT = Path(__file__).resolve().parent.parent
PROJECT, INSTANCE, TABLE, DATASET = "benchmark", "benchmark", "l2cache_benchmark", "nodes"
GRID = (20, 20, 10)
CHUNK = (256, 256, 512)
GEOMETRY = Geometry(
    (16, 16, 40),
    (1024, 512, 20),
    (GRID[0] * CHUNK[0], GRID[1] * CHUNK[1], GRID[2] * CHUNK[2]),
    CHUNK,
    IdLayout({2: 10}),
)
START_S, STOP_S = 60.0, 15.0


def make_features(n: int) -> np.ndarray:
    """Return synthetic features, dtype `FEATURES`, of n nodes all over the grid; 90 % have a PCA."""
    random = np.random.default_rng(0)
    features = np.zeros(n, dtype=FEATURES)
    chunks = np.stack(np.meshgrid(*map(np.arange, GRID), indexing="ij"), axis=-1).reshape(-1, 3)
    chunk_ids = GEOMETRY.layout.chunk_id_array(chunks)
    which, number = np.arange(n) % len(chunk_ids), np.arange(n) // len(chunk_ids)
    features["label"] = np.sort(chunk_ids[which] + (number * 37 + 1).astype(np.uint64))
    size = random.lognormal(np.log(8000), 1.6, n).clip(1, 3e7)
    features["size_nm3"] = size
    features["area_nm2"] = size ** (2 / 3) * random.uniform(6, 12, n) * 480
    features["max_dt_nm"] = size ** (1 / 3) * random.uniform(3, 8, n)
    features["mean_dt_nm"] = features["max_dt_nm"] * random.uniform(0.2, 0.5, n)
    features["rep_coord_nm"] = random.integers(0, CHUNK, (n, 3))
    counts = random.integers(0, 2000, (n, 2, 3)) * (random.random((n, 2, 3)) < 0.4)
    features["chunk_intersect_count"] = counts
    large = features["size_nm3"] * np.prod(GEOMETRY.resolution) >= PCA_MIN_VOLUME_NM3
    features[LARGE.flag] = large
    axes = np.linalg.qr(random.normal(size=(n, 3, 3)))[0]
    features["pca"] = axes * large[:, None, None]
    values = np.sort(random.lognormal(10, 0.6, (n, 3)), axis=1)[:, ::-1]
    features["pca_val"] = values * large[:, None]
    return features


def fill(store_url: str, features: np.ndarray) -> None:
    """Create the table `TABLE` in a store, with these rows and the geometry `GEOMETRY`."""
    store = open_store(store_url, TABLE)
    store.create(Meta("benchmark", "precomputed://file:///nowhere", "2026-01-01 00:00:00", GEOMETRY))
    store.write(features)
    store.close()


def write_config(folder: Path, name: str, store_url: str) -> Path:
    """Write a data sets file for the table in a store; return its path."""
    config = folder / f"{name}.yml"
    entry = f"cv_path: precomputed://file:///nowhere, l2cache_id: {TABLE}, store: '{store_url}'"
    config.write_text(f"{DATASET}: {{{entry}}}\n")
    return config


class Server:
    """A running gunicorn server of the code in folder ``root``; measures the memory of all its processes."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        root: Path = ROOT,
    ) -> None:
        self.name, self.arguments, self.log, self.root = name, list(arguments), log, root
        self.environment = {**environment, "PYTHONPATH": str(root)}
        self.port = free_port()
        self._before: dict[int, int] = {}
        self.start()

    def start(self) -> None:
        """Start the server; return once it answers. Raises RuntimeError, with the log, if it does not."""
        command = [sys.executable, "-m", "gunicorn", *self.arguments, "-b", f"127.0.0.1:{self.port}"]
        environment = {**os.environ, **self.environment, "L2CACHE_BIND": f"127.0.0.1:{self.port}"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.root, env=environment, stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while not self._alive():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop all processes of the server."""
        processes = self._processes()
        self.process.terminate()
        _, left = psutil.wait_procs(processes, STOP_S)
        for process in left:
            process.kill()
        self.process.wait()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            return str(response.read().decode())

    def _alive(self) -> bool:
        try:
            self.get("/live")
        except OSError:
            return False
        return True

    def cache_counts(self) -> tuple[int, int]:
        """Return the row cache's hits and misses since the server started."""
        text = self.get("/metrics")
        counts = dict.fromkeys(("hit", "miss"), 0)
        for line in re.findall(r"^l2cache_cache_lookups_total\{.*", text, re.MULTILINE):
            for result in counts:
                if f'result="{result}"' in line:
                    counts[result] += int(float(line.rsplit(" ", 1)[1]))
        return counts["hit"], counts["miss"]

    def begin_memory(self) -> None:
        """Reset the peak memory of all processes of the server."""
        self._before = {}
        for process in self._processes():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            memory = process.memory_full_info()
            self._before[process.pid] = memory.pss - memory.rss

    def peak_mb(self) -> float:
        """Return the peak memory of all processes in MB: PSS at `begin_memory`, plus growth of RSS since."""
        peak = 0
        for process in self._processes():
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak += self._before.get(process.pid, 0)
            peak += 1024 * int(re.findall(r"^VmHWM:\s*(\d+)", status, re.MULTILINE)[0])
        return peak / 1e6

    def _processes(self) -> list[psutil.Process]:
        if self.process.poll() is not None:
            return []
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]
