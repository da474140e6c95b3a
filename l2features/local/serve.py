"""`l2features serve`: gunicorn with production's configuration, and example requests."""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import shlex
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from itertools import chain, islice
from pathlib import Path

import click

from ..config.datasets import ADDRESS, Dataset
from ..config.reach import check_bigtable
from ..core.chunks import centre_box, whole_box
from ..core.errors import ConfigError, L2FeaturesError, TableNotFound
from ..store.base import open_store

PACKAGE = "api"
VIEWER = "/viewer/"
"""URL path of the viewer."""
APP, CAVE_APP = (f"{PACKAGE}.{module}:create_app()" for module in ("app", "cave"))
UP_AFTER_S, STORE_S = 60.0, 4.0
CHUNKS_TRIED, RECORDS_READ = 64, 10_000
"""Maximum numbers of chunks and of records that are read to find an example node."""


def configuration() -> Path:
    """Return the path of gunicorn's configuration file. Raises ConfigError if the server is not installed."""
    if all(importlib.util.find_spec(name) for name in (PACKAGE, "gunicorn")):
        path = Path(str(importlib.resources.files(PACKAGE))) / "gunicorn.conf.py"
        if path.exists():
            return path
    raise ConfigError("the HTTP server is not installed: pip install 'l2features[api]'")


def check_port(bind: str) -> None:
    """Raise ConfigError for an invalid address, and L2FeaturesError if the address cannot be bound."""
    match = ADDRESS.fullmatch(bind)
    if not match or int(match[2]) > 65_535:
        raise ConfigError(f"address {bind!r}: expected HOST:PORT such as 127.0.0.1:4100")
    try:
        bind_once(match[1].strip("[]"), int(match[2]))
    except OSError as error:
        raise L2FeaturesError(
            f"cannot listen at {bind}: {error.strerror}; choose another address with --bind"
        ) from error


def bind_once(host: str, port: int) -> None:
    """Bind a port for a moment. Raises OSError if the port cannot be bound."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def run_server(path: Path, environment: Mapping[str, str], app: str = APP) -> None:
    """Replace this process by gunicorn with the configuration file ``path``."""
    command = [sys.executable, "-P", "-m", "gunicorn", "-c", str(path), app]
    os.execve(sys.executable, command, dict(environment))


def greet_when_up(bind: str, prefix: str, datasets: Sequence[Dataset], auth: bool) -> None:
    """Fork a process that prints example requests once the server answers.

    The calling process becomes the server after this call. ``auth`` tells whether requests need a token.
    """
    server = os.getpid()
    if os.fork():
        return
    try:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_DFL)
        host, _, port = bind.rpartition(":")
        here = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        url = f"http://{here}:{port}"
        problems = {dataset.name: table_problem(dataset) for dataset in datasets}
        for problem in filter(None, problems.values()):
            click.echo(f"error: {problem}", err=True)
        if _is_up(f"{url}/live", server):
            present = [dataset for dataset in datasets if not problems[dataset.name]]
            click.echo(greeting(url, prefix, datasets, auth, some_node(present)))
            sys.stdout.flush()
    except Exception as error:
        click.echo(f"cannot print example requests: {error}", err=True)
    finally:
        os._exit(0)


def greeting(
    url: str, prefix: str, datasets: Sequence[Dataset], auth: bool, found: tuple[Dataset, int] | None
) -> str:
    """Return the text to print when the server is up; ``found`` is the example request's node, if any."""
    api = f"{url}{prefix}/api/v1"
    name = found[0].name if found else datasets[0].name
    who = "users with a token" if auth else "everyone who can reach it, without a token (see --auth)"
    lines = [
        f"Serving {', '.join(d.name for d in datasets)} at {url} to {who}. Ctrl-C ends it. Try:",
        "",
        f"  {url}{prefix}/",
        f"  {api}/docs/",
        f"  {api}/table/{name}",
        f"  {url}{VIEWER}",
        f"  {url}/ready",
        f"  {url}/metrics",
        "",
    ]
    if found:
        token = " -H 'Authorization: Bearer TOKEN'" if auth else ""
        body = shlex.quote(f'{{"l2_ids": [{found[1]}]}}')
        lines += [
            f"  curl -s{token} -H 'Content-Type: application/json' -d {body} \\",
            f"    {api}/table/{name}/attributes",
            "",
        ]
    return "\n".join(lines)


def table_problem(dataset: Dataset) -> str | None:
    """Return why a data set's table cannot be served, and what to do; None if there is no problem."""
    where = f"data set {dataset.name!r}: table {dataset.l2cache_id}"
    try:
        check_bigtable(dataset.store)
        with closing(open_store(dataset.store, dataset.l2cache_id, deadline_s=STORE_S)) as store:
            store.ping()
    except TableNotFound:
        return f"{where} is not in {dataset.store}: l2features ingest {dataset.name} --create makes it"
    except L2FeaturesError as error:
        return f"{where}: {error}"
    return None


def _is_up(url: str, server: int) -> bool:
    """Wait until the server answers; return False if the server exits or takes longer than `UP_AFTER_S`."""
    until = time.monotonic() + UP_AFTER_S
    while os.getppid() == server and time.monotonic() < until:
        if answers(url):
            return True
        time.sleep(0.1)
    return False


def answers(url: str) -> bool:
    """Return whether a server on this machine answers a GET with status 200; proxies are not used."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def some_node(datasets: Sequence[Dataset]) -> tuple[Dataset, int] | None:
    """Return a tuple: a data set; one of its nodes with features. None if none is found within `STORE_S`."""
    until = time.monotonic() + STORE_S
    for dataset in datasets:
        with suppress(L2FeaturesError):
            node = _node_of(dataset, until)
            if node:
                return dataset, node
    return None


def _node_of(dataset: Dataset, until: float) -> int | None:
    with closing(open_store(dataset.store, dataset.l2cache_id, deadline_s=STORE_S)) as store:
        geometry = store.geometry()
        if geometry is None:
            return None
        records = islice(store.chunk_records(), RECORDS_READ)
        recorded = [record.chunk_id for record in records if record.nodes][:CHUNKS_TRIED]
        boxes = centre_box(geometry.grid), whole_box(geometry.grid)
        some = [geometry.layout.chunk_id_array(box.positions(0, CHUNKS_TRIED)).tolist() for box in boxes]
        for chunk_id in chain(recorded, *some):
            if time.monotonic() > until:
                return None
            rows = store.scan_chunk(chunk_id, geometry.layout.last_id(chunk_id), ("size_nm3",))
            real = rows.ids[rows.found & ~rows.not_computed]
            if len(real):
                return int(real[0])
    return None
