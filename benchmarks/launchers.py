"""Measure how the batch ingest starts on 10,000,000 chunks: locally, on Dask, and on a Beam job service.

The segmentation has no files, so that a chunk costs little. The table is in the Bigtable emulator, behind
nginx. The launcher and the workers connect to nginx at two addresses, whose logs count their requests. Local
workers use the launcher's address, so their requests count as the launcher's. The measured time ends when the
first chunk is done; on Beam, when a worker first reads the states of chunks, because Beam enumerates all
chunks before it ingests the first.

example:
  python -m benchmarks.launchers
  python -m benchmarks.launchers --engines local --seconds 20
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from cloudvolume import CloudVolume

from benchmarks.servers import DATASET, INSTANCE, PROJECT, ROOT, TABLE
from l2features.core.errors import TableNotFound
from l2features.store.base import open_store
from l2features.testing.bars import Bar, begin, print_bars
from l2features.testing.dask_cluster import LOOPBACK, DaskCluster
from l2features.testing.emulators import Emulator, free_port, wait_for_port

GRID, CHUNK = (250, 200, 200), (256, 256, 512)
STORE = f"bigtable://{PROJECT}/{INSTANCE}"
LOCAL, DASK, BEAM = ENGINES = ("local", "dask", "beam")
MOST_FIRST_S, MOST_MB, MOST_GROWTH_MB = 20.0, 500.0, 20.0
START_S, STOP_S = 90.0, 60.0
HTTP = """
error_log {folder}/nginx.log;
pid {folder}/nginx.pid;
events {{}}
http {{
  log_format method $uri;
  client_body_temp_path {folder}/body;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  {servers}
}}
"""
SERVER = """
  server {{
    listen {host} http2;
    access_log {log} method;
    location / {{
      grpc_pass grpc://{emulator};
      grpc_read_timeout 300s;
    }}
  }}
"""


@dataclass
class Address:
    """An address of nginx, which forwards requests to the emulator; ``log`` has a line per request."""

    log: Path
    host: str = field(default_factory=lambda: f"{LOOPBACK}:{free_port()}")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that uses this address."""
        # Beam's worker pool runs "python"
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        return {
            **os.environ,
            Emulator.program.variable: self.host,
            "PYTHONPATH": str(ROOT),
            "PATH": path,
        }

    def requests(self) -> Counter[str]:
        """Return the number of requests so far, by method."""
        return Counter(line.rpartition("/")[2] for line in self.log.read_text().splitlines())


@dataclass
class Launch:
    """The first seconds of an ingest.

    Attributes:
        first_s: seconds from the start of the command until the first chunk was done or, on Beam, until a
            worker read the states of the first chunks.
        first_mb, peak_mb: resident memory of the launcher at that time, and its maximum.
        chunks: number of chunks done.
        launcher, workers: number of requests by method.
    """

    first_s: float
    first_mb: float
    peak_mb: float
    chunks: int
    launcher: Counter[str]
    workers: Counter[str]


def main() -> int:
    options = parse()
    console = begin()
    bars = []
    for engine in options.engines.split(","):
        try:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
                found = launch(engine, Path(folder).resolve(), options.seconds, running)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        console.print(f"{engine}: {found.chunks:,} chunks in {options.seconds:g} s")
        for name, requests in (("launcher", found.launcher), ("workers", found.workers)):
            counts = ", ".join(f"{method} {n:,}" for method, n in sorted(requests.items()))
            console.print(f"  requests of the {name}: {counts or 'none'}")
        first = "first shard" if engine == BEAM else "first chunk"
        bars += [
            Bar(f"{engine}: {first}", found.first_s, MOST_FIRST_S, most=True, unit="s"),
            Bar(f"{engine}: launcher", found.peak_mb, MOST_MB, most=True, unit="MB"),
            Bar(f"{engine}: growth since", found.peak_mb - found.first_mb, MOST_GROWTH_MB, True, "MB"),
        ]
    return 0 if print_bars(console, bars) else 1


def launch(engine: str, folder: Path, seconds: float, running: ExitStack) -> Launch:
    """Ingest for ``seconds``. Raises RuntimeError, with output, if the ingest exits or reaches no chunk."""
    emulator = Emulator()
    running.callback(emulator.stop)
    os.environ[emulator.variable] = emulator.host  # for this process
    launcher, workers = (Address(folder / f"{name}.log") for name in ("launcher", "workers"))
    running.enter_context(nginx(folder, emulator, (launcher, workers)))
    flags = flags_of(engine, folder, workers.environment, running)
    command = ["beam_jobs.ingest", "--dataset", DATASET, "--config", str(write_dataset(folder)), "--create"]
    output = folder / "output"
    start = time.perf_counter()
    with started([*command, *flags], launcher.environment, output) as process:
        resident, first = psutil.Process(process.pid), None
        peak = first_mb = 0.0
        while (passed := time.perf_counter() - start) < seconds:
            if process.poll() is not None:
                raise RuntimeError(f"the ingest on {engine} exited:\n{output.read_text()[-3000:]}")
            memory = resident.memory_info().rss / 1e6
            peak = max(peak, memory)
            if first is None and (workers.requests() if engine == BEAM else chunks_done()):
                first, first_mb = passed, memory
            time.sleep(0.2)
    if first is None:
        raise RuntimeError(
            f"the ingest on {engine} reached no chunk; raise --seconds:\n{output.read_text()[-3000:]}"
        )
    return Launch(first, first_mb, peak, chunks_done(), launcher.requests(), workers.requests())


def flags_of(engine: str, folder: Path, environment: Mapping[str, str], running: ExitStack) -> list[str]:
    """Start the cluster of an engine, with one worker; return the flags of a job that runs on it."""
    if engine == LOCAL:
        return ["--workers=1"]
    if engine == DASK:
        return running.enter_context(closing(DaskCluster(folder, 1, environment))).flags
    service, pool = free_port(), free_port()
    runners = "apache_beam.runners"
    for module, flag in (
        (f"{runners}.portability.local_job_service_main", f"--port={service}"),
        (f"{runners}.worker.worker_pool_main", f"--service_port={pool}"),
    ):
        running.enter_context(started([module, flag], environment, folder / "cluster.log"))
    for port in (service, pool):
        wait_for_port(port, START_S)
    return [
        "--runner=PortableRunner",
        f"--job_endpoint={LOOPBACK}:{service}",
        "--environment_type=EXTERNAL",
        f"--environment_config={LOOPBACK}:{pool}",
    ]


def write_dataset(folder: Path) -> Path:
    """Write a segmentation that has only its info file, and a datasets.yml; return the latter's path."""
    path = f"precomputed://file://{folder}/segmentation"
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding="raw",
        resolution=(16, 16, 40),
        voxel_offset=(0, 0, 0),
        volume_size=[chunks * length for chunks, length in zip(GRID, CHUNK, strict=True)],
        chunk_size=CHUNK,
    )
    CloudVolume(path, info=info, progress=False).commit_info()
    entry = {"cv_path": path, "l2cache_id": TABLE, "store": STORE}
    config = folder / "datasets.yml"
    config.write_text(json.dumps({DATASET: {**entry, "chunk_size": CHUNK}}))
    return config


def chunks_done() -> int:
    """Return the number of done chunks; 0 if the table is missing."""
    with closing(open_store(STORE, TABLE)) as store:
        try:
            return store.coverage().done
        except TableNotFound:
            return 0


@contextmanager
def nginx(folder: Path, emulator: Emulator, addresses: Sequence[Address]) -> Iterator[None]:
    """Run nginx in front of the emulator, at these addresses."""
    servers = [SERVER.format(host=at.host, log=at.log, emulator=emulator.host) for at in addresses]
    config = folder / "nginx.conf"
    config.write_text(HTTP.format(folder=folder, servers="".join(servers)))
    main = "daemon off;" + (" user root;" if os.getuid() == 0 else "")
    process = subprocess.Popen([nginx_program(), "-c", config, "-g", main], stderr=subprocess.DEVNULL)
    try:
        for address in addresses:
            wait_for_port(int(address.host.rpartition(":")[2]))
        yield
    finally:
        process.terminate()
        process.wait(STOP_S)


def nginx_program() -> str:
    """Return the path of nginx. Raises SystemExit if it is not installed."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("error: nginx is not installed: apt-get install nginx-light")
    return program


@contextmanager
def started(
    module: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m module`` in a separate process group, which is killed at the end."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_S)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--engines", default=",".join(ENGINES), help="comma-separated: some of %(default)s, the default"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="per engine; default %(default)g")
    options = parser.parse_args()
    if unknown := set(options.engines.split(",")) - set(ENGINES):
        parser.error(f"--engines {', '.join(sorted(unknown))}: expected some of {', '.join(ENGINES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
