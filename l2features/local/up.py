"""`l2features up`: run emulators, a sample with a graph, the sample's ingest, the updater and the API."""

from __future__ import annotations

import fcntl
import importlib.util
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from ..config.datasets import CONFIG_VARIABLE, environment, url_prefix, without_proxy
from ..core.errors import ConfigError
from .emulator_programs import BIGTABLE, LOOPBACK, PUBSUB, free_port, is_listening
from .sample.folder import LOCK, check_config, others_in
from .sample.segmentation_files import NAME, Sample
from .serve import VIEWER, answers, bind_once, configuration
from .services import API, GRAPH, UPDATER, Service, StackPlace, services
from .supervise import CommandSupervisor, Ended, Stopped

START_S, RUN_S = 120.0, 600.0
"""Seconds within which a service must be ready, and within which a service that exits by itself must exit."""
TEMPORARY = "up-tmp-"
"""Prefix of temporary folders."""


def run(folder: Path, ports: Mapping[str, int]) -> int:
    """Run the stack until a signal; return the exit status.

    The status is 0 after a signal, and 1 if a service failed, exited early or did not become ready.
    ``ports`` may fix the ports of ``api``, ``bigtable`` and ``pubsub``. Raises ConfigError if a program is
    missing, or the folder or a port cannot be used. No service is started then.
    """
    _check_installed()
    folder = folder.resolve()
    _check_folder(folder)
    place = _choose_place(folder, ports)
    with _own_folder(folder) as temporary:
        try:
            own = {"TMPDIR": temporary, **without_proxy(LOOPBACK)}
            with CommandSupervisor(partial(environment, **own), folder / "logs") as supervisor:
                _start(supervisor, place, temporary)
                click.echo(greeting(place))
                _watch(supervisor)
        except Stopped:
            click.echo("stopped")
            return 0
        except Ended as error:
            click.echo(f"error: {error}\nall other services were stopped", err=True)
            return 1
    return 0


def _watch(supervisor: CommandSupervisor) -> None:
    try:
        supervisor.watch()
    except Stopped:
        click.echo("stopping …")
        raise


def _check_installed() -> None:
    """Raise ConfigError if emulators, Beam jobs or server are not installed. It names what is missing."""
    missing = [program.how_to_get_it for program in (BIGTABLE, PUBSUB) if program.find() is None]
    if any(importlib.util.find_spec(package) is None for package in ("beam_jobs", "apache_beam")):
        missing.append("the jobs are not installed: pip install 'l2features[jobs]'")
    if missing:
        raise ConfigError("\n".join(missing))
    configuration()


def _check_folder(folder: Path) -> None:
    """Raise ConfigError unless the folder is new or empty, was made by `l2features up`, or has only a sample.

    Also raise it if datasets.yml is not of the sample that `l2features up` writes, or was copied or moved.
    """
    with _usable(folder):
        there = {path.name for path in folder.iterdir()} if folder.exists() else set()
        is_of_sample = "datasets.yml" in there and there <= {"datasets.yml", "segmentation"}
        if there and LOCK not in there and not is_of_sample:
            raise ConfigError(others_in(folder, there, "the folder of an earlier `l2features up`"))
        check_config(folder, Sample(graph=GRAPH))


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from error


@contextmanager
def _own_folder(folder: Path) -> Iterator[str]:
    """Create and lock the folder; yield a temporary folder inside.

    Raises ConfigError if the folder is in use, or cannot be written.
    """
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{folder} is in use by another `l2features up`") from error
        try:
            _remove_temporary(folder)
            with _usable(folder):
                (folder / "logs").mkdir(exist_ok=True)
                temporary = tempfile.mkdtemp(prefix=TEMPORARY, dir=folder)
            yield temporary
        finally:
            _remove_temporary(folder)


def _remove_temporary(folder: Path) -> None:
    """Remove temporary folders, also those left by runs that were killed."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _choose_place(folder: Path, ports: Mapping[str, int]) -> StackPlace:
    """Return addresses with the given ports, or free ports where none is given.

    Raises ConfigError for a port that is given twice or cannot be used.
    """
    chosen = dict(ports)
    for name, port in ports.items():
        if list(ports.values()).count(port) > 1:
            raise ConfigError(f"port {port} is given twice: expected different ports")
        try:
            bind_once(LOOPBACK, port)
        except OSError as error:
            raise ConfigError(
                f"port {port}: {error.strerror}: choose another with --{name}-port, or "
                "omit the option to use a free port"
            ) from error
    for name in (API, BIGTABLE.name, PUBSUB.name):
        while name not in chosen:
            port = free_port()
            if port not in chosen.values():
                chosen[name] = port
    addresses = {name: f"{LOOPBACK}:{port}" for name, port in chosen.items()}
    return StackPlace(str(folder), **addresses)


def _start(supervisor: CommandSupervisor, place: StackPlace, temporary: str) -> None:
    """Start all services in order, each after the services that it depends on."""
    java = f"-XX:-UsePerfData -Djava.io.tmpdir={shlex.quote(temporary)}"
    ports = {}
    for program, address in ((BIGTABLE, place.bigtable), (PUBSUB, place.pubsub)):
        host, _, port = address.rpartition(":")
        ports[program.name] = int(port)
        click.echo(f"starting {program.name} at {address}")
        supervisor.start(program.name, program.command(host, int(port)), {"JAVA_OPTS": java})
    for name, number in ports.items():
        supervisor.wait_until(partial(is_listening, number), name, START_S)
    supervisor.next_stage()
    listed = services(place)
    ready = Path(temporary) / "updater-ready"
    for service in listed:
        click.echo(f"starting {service.name}: {shlex.join(service.argv)}")
        if service.is_finite(listed):
            supervisor.run(service.name, _here(service), service.environment, RUN_S)
        else:
            more = ("--ready_file", str(ready)) if service.name == UPDATER else ()
            supervisor.start(service.name, [*_here(service), *more], service.environment)
    supervisor.wait_until(ready.exists, UPDATER, START_S)
    supervisor.wait_until(partial(answers, f"http://{place.api}/ready"), API, START_S)


def _here(service: Service) -> list[str]:
    """Return a service's command, to be run by this process's Python."""
    program = {"python": [sys.executable], "l2features": [sys.executable, "-m", "l2features.cli"]}
    return [*program[service.argv[0]], *service.argv[1:]]


def greeting(place: StackPlace) -> str:
    """Return addresses, variables to export, and example requests."""
    url = f"http://{place.api}"
    api = f"{url}{url_prefix()}/api/v1"
    exports = {CONFIG_VARIABLE: place.config, **place.environment, **without_proxy(LOOPBACK)}
    lines = "\n".join(f"  export {name}={shlex.quote(value)}" for name, value in exports.items())
    return f"""
Everything is up, in {place.folder}. Ctrl-C stops it. In another terminal:

{lines}

  l2features sample-edit {NAME}             # merge two objects; --split cuts one in two
  l2features status {NAME}
  l2features view {NAME} --server {url}     # in Neuroglancer
  curl -s -H 'Content-Type: application/json' -d '{{"l2_ids": [ID]}}' \\
    {api}/table/{NAME}/attributes

The same with caveclient, as with any deployment of CAVE; pcg_skel takes this client:

  from caveclient import CAVEclient
  client = CAVEclient("{NAME}", server_address="{url}", auth_token="none", write_server_cache=False)
  root = client.chunkedgraph.get_root_id(ID)
  nodes = client.chunkedgraph.get_leaves(root, stop_layer=2)
  client.l2cache.get_l2data(nodes)

  {url}{url_prefix()}/
  {api}/docs/
  {api}/table/{NAME}
  {url}{VIEWER}
  {url}/ready
  {url}/metrics
"""
