"""The data sets file, and the library's only access to environment variables.

The file is PCGL2Cache's YAML, ``<dataset>: {cv_path, l2cache_id}``, with optional keys::

    minnie:
      cv_path: graphene://https://server/segmentation/table/minnie
      l2cache_id: l2cache_minnie
      graph: bigtable://project/instance/minnie    # or graphene (the server in cv_path), or flat (no graph)
      store: bigtable://project/instance           # or sqlite:///path/file.db
      chunk_size: [256, 256, 512]                  # needed without a graph
      watershed: gs://bucket/ws                    # path of the original segmentation, if cv_path is a copy
      mip: 1                                       # or scale: [16, 16, 40], in nm; default: first scale
      empty_files: background                      # for files of 0 bytes; default: fail their chunk
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.request import getproxies_environment

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..core.errors import ConfigError
from ..core.geometry import MAX_CHUNK_VOXELS
from ..core.paths import EXPECTED as EXPECTED_PATHS
from ..core.paths import parse_path
from ..core.schema import TABLE_NAME
from ..graph.sources import expected_urls, is_graph_url, source_of
from ..store.base import STORES, store_form
from .entries import BUCKETS, read_entries

CONFIG_VARIABLE = "GRAPH_L2CACHE_CONFIG_PATH"
PREFIX_VARIABLE = "PCGL2CACHE_URL_PREFIX"
PROJECT_VARIABLE, INSTANCE_VARIABLE = "BIGTABLE_PROJECT", "BIGTABLE_INSTANCE"
PUBSUB_VARIABLE, BIGTABLE_VARIABLE = "PUBSUB_EMULATOR_HOST", "BIGTABLE_EMULATOR_HOST"
DATASET_NAME = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,99}")
FLAT, SERVED = "flat", "graphene"
"""Values of ``graph``: for a data set without a graph, and for a ``cv_path`` that is a graph's server."""
PRECOMPUTED = "precomputed://"
"""Any ``cv_path`` with this scheme is valid: serving a table does not need a readable segmentation."""
ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\[\]:]+):([0-9]{1,5})")
"""Pattern of the HOST:PORT of a server."""
_CHECKS: dict[str, Callable[[str], object]] = {
    "cv_path": lambda path: (path.startswith(PRECOMPUTED) and path != PRECOMPUTED) or parse_path(path),
    "l2cache_id": TABLE_NAME.fullmatch,
    "graph": is_graph_url,
    "store": store_form,
    "versions": re.compile(r"(/|file:///|gs://[^/]+/?).*").fullmatch,
}
EXPECTED = {
    "cv_path": EXPECTED_PATHS,
    "l2cache_id": "a table name of 1 to 50 letters, digits, '_', '-' or '.'",
    "graph": expected_urls(),
    "store": " or ".join(STORES),
    "chunk_size": "three integers from 1 to 65535, such as [256, 256, 512]",
    "watershed": "the path of the layer that the graph names, such as gs://bucket/ws",
    "mip": "an integer of 0 or more",
    "scale": "three positive numbers of nm, such as [16, 16, 40]",
    "empty_files": "fail or background",
    "versions": "a folder of versions: an absolute path, file:///… or gs://bucket/path",
}
"""Valid values of a data set's keys, as text for messages."""


_Voxels = Annotated[int, Field(gt=0, le=65_535)]
_Nanometres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Dataset(BaseModel):
    """One entry of the data sets file, with every default filled in."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    cv_path: str
    l2cache_id: str
    graph: str
    store: str
    chunk_size: tuple[_Voxels, _Voxels, _Voxels] | None = None
    watershed: str | None = None
    mip: int | None = Field(None, ge=0)
    scale: tuple[_Nanometres, _Nanometres, _Nanometres] | None = None
    empty_files: Literal["fail", "background"] = "fail"
    versions: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        filled = dict(values)
        if filled.get("graph") is None:
            filled["graph"] = SERVED if str(filled.get("cv_path")).startswith(f"{SERVED}://") else FLAT
        for key in ("chunk_size", "scale"):
            if isinstance(filled.get(key), list):
                filled[key] = tuple(filled[key])
        return filled

    @field_validator(*_CHECKS)
    @classmethod
    def _is_valid(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not _CHECKS[str(info.field_name)](value):
            raise ValueError("no match")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Dataset:
        if self.graph == SERVED and not self.served:
            raise ValueError(f"key 'graph': graphene needs a cv_path graphene://…, got {self.cv_path!r}")
        voxels = math.prod(self.chunk_size or ())
        if voxels > MAX_CHUNK_VOXELS:
            raise ValueError(
                f"key 'chunk_size': {list(self.chunk_size or ())} has {voxels} voxels in all, "
                f"expected at most {MAX_CHUNK_VOXELS}"
            )
        if self.mip is not None and self.scale is not None:
            raise ValueError("keys 'mip' and 'scale': expected only one of them")
        return self

    @property
    def has_graph(self) -> bool:
        """Whether the nodes come from a graph; otherwise they are the segments of each chunk."""
        return self.graph != FLAT

    @property
    def served(self) -> bool:
        """Whether ``cv_path`` is the URL of a graph on a server, ``graphene://…``."""
        return self.cv_path.startswith(f"{SERVED}://")

    @property
    def graph_url(self) -> str:
        """The graph's URL: ``cv_path`` if ``graph`` is ``graphene``, else the value of ``graph``."""
        return self.cv_path if self.graph == SERVED else self.graph

    @property
    def graph_id(self) -> str:
        """Name of the graph, taken from its URL."""
        return source_of(self.graph_url).name_of(self.graph_url)


class Datasets(NamedTuple):
    """A data sets file.

    Attributes:
        usable: the valid data sets, by name.
        problems: error messages of the invalid data sets, by name.
        entries: the YAML values of all data sets, valid or not, by name.
    """

    file: str
    usable: dict[str, Dataset]
    problems: dict[str, str]
    entries: dict[str, Any]

    @property
    def errors(self) -> list[str]:
        """One error message for each invalid data set."""
        return [f"data sets file {self.file}: {problem}" for problem in self.problems.values()]


def read_datasets(path: str | os.PathLike[str] | None = None) -> Datasets:
    """Read a data sets file, on this machine or at ``gs://…``; by default ``$GRAPH_L2CACHE_CONFIG_PATH``.

    Raises ConfigError if the file cannot be read or has no valid data set. The message names the first
    invalid data set, the key and the expected value.
    """
    datasets = _read(path)
    if not datasets.usable:
        others = f" (and {len(datasets.errors) - 1} more errors)" if len(datasets.errors) > 1 else ""
        raise ConfigError(datasets.errors[0] + others)
    return datasets


def load_datasets(path: str | os.PathLike[str] | None = None) -> dict[str, Dataset]:
    """Return the valid data sets of a file. Raises ConfigError if the file is unreadable or has none."""
    return read_datasets(path).usable


def load_dataset(name: str, path: str | os.PathLike[str] | None = None) -> Dataset:
    """Return one data set of the file. Raises ConfigError if this data set is invalid or missing."""
    datasets = _read(path)
    if name in datasets.problems:
        raise ConfigError(f"data sets file {datasets.file}: {datasets.problems[name]}")
    if name not in datasets.usable:
        raise ConfigError(
            f"data set {name!r} is not in the data sets file: expected one of {', '.join(datasets.entries)}"
        )
    return datasets.usable[name]


def _read(path: str | os.PathLike[str] | None) -> Datasets:
    path = path or os.environ.get(CONFIG_VARIABLE)
    if not path:
        raise ConfigError(f"no data sets file is given: pass --config FILE or set {CONFIG_VARIABLE}")
    file = os.fspath(path)
    entries, unreadable = read_entries(file)
    datasets = Datasets(file, {}, {}, entries)
    for name, entry in entries.items():
        try:
            if name in unreadable:
                raise ConfigError(f"data set {name!r}: {unreadable[name]}")
            datasets.usable[name] = _dataset(file, name, entry)
        except ConfigError as error:
            datasets.problems[name] = str(error)
    return datasets


def dataset_of_graph(cache_id: str, graph_id: str, cv_path: str) -> Dataset:
    """Return the data set that PCGL2Cache's arguments describe, without a data sets file.

    If ``cv_path`` is the URL of the graph ``graph_id`` on a server, the graph is read from that server.
    Otherwise it is read from the table ``graph_id`` of a Bigtable instance, which the environment variables
    ``BIGTABLE_PROJECT`` and ``BIGTABLE_INSTANCE`` name. Features are stored in the same instance; without
    the variables, in a SQLite file in the current folder. Raises ConfigError if an argument is invalid, or
    if the graph is not read from a server and the variables are unset.
    """
    served = cv_path.startswith(f"{SERVED}://") and source_of(cv_path).name_of(cv_path) == graph_id
    project, instance = os.environ.get(PROJECT_VARIABLE), os.environ.get(INSTANCE_VARIABLE)
    if not served and not (project and instance):
        raise ConfigError(
            f"cv_path {cv_path} is not the URL of graph {graph_id!r}: expected graphene://https://HOST/"
            f"segmentation/table/{graph_id}. To read the graph from its Bigtable table, set "
            f"${PROJECT_VARIABLE} and ${INSTANCE_VARIABLE}"
        )
    entry = {
        "cv_path": cv_path,
        "l2cache_id": cache_id,
        "graph": SERVED if served else f"bigtable://{project}/{instance}/{graph_id}",
    }
    return _dataset(str(Path.cwd() / "datasets.yml"), cache_id, entry)


def datasets_of_table(
    datasets: Iterable[Dataset], table_id: str, l2cache_id: str | None = None
) -> list[Dataset]:
    """Return the data sets whose name, or whose graph's name, is the ``table_id`` of an update message.

    A graph may have several tables of features; ``l2cache_id`` selects one table. If several data sets have
    the same table of features, only the first of them is returned. The list is empty if nothing matches.
    """
    found: dict[tuple[str, str], Dataset] = {}
    for d in datasets:
        named = table_id == d.name or (d.has_graph and table_id == d.graph_id)
        if named and l2cache_id in {None, d.l2cache_id}:
            found.setdefault((d.store, d.l2cache_id), d)
    return list(found.values())


def server_environment(path: str | os.PathLike[str], bind: str, workers: int, auth: bool) -> dict[str, str]:
    """Return the environment of an HTTP server that reads the data sets file ``path``."""
    file = os.fspath(path)
    variables = {
        CONFIG_VARIABLE: file if file.startswith(BUCKETS) else str(Path(file).resolve()),
        "L2CACHE_BIND": bind,
        "L2CACHE_WORKERS": str(workers),
        "AUTH_DISABLED": "false" if auth else "true",
    }
    return environment(**variables)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment with these variables added, for a child process."""
    return {**os.environ, **more}


def without_proxy(host: str) -> dict[str, str]:
    """Return the environment variable that exempts a host from the proxy, as ``{name: value}``.

    Without a proxy, the result is empty.
    """
    proxies = getproxies_environment()
    excepted = proxies.pop("no", None)
    return {"no_proxy": f"{excepted},{host}" if excepted else host} if proxies else {}


def emulator_address(variable: str) -> str | None:
    """Return the emulator address that an environment variable holds; None if the variable is unset."""
    return os.environ.get(variable)


def url_prefix() -> str:
    """Return the prefix of the HTTP server's URL paths, such as ``/l2cache``."""
    parts = os.environ.get(PREFIX_VARIABLE, "l2cache").split("/")
    return "".join(f"/{part}" for part in parts if part)


def _dataset(file: str, name: str, entry: Any) -> Dataset:
    where = f"data set {name!r}"
    if not DATASET_NAME.fullmatch(name):
        raise ConfigError(f"{where}: expected a name of 1 to 100 letters, digits, '_', '-' and '.'")
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected a mapping with cv_path and l2cache_id, got {entry!r}")
    unknown = [key for key in entry if key not in EXPECTED]
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}: expected {', '.join(EXPECTED)}")
    values = {**entry, "name": name, "store": entry.get("store")}
    if values["store"] is None:
        values["store"] = _default_store(file, entry)
    try:
        return Dataset.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
    if not first["loc"]:
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}")
    key = str(first["loc"][0])
    if key not in values:
        raise ConfigError(f"{where}: key {key!r} is missing: expected {EXPECTED[key]}")
    raise ConfigError(f"{where}: key {key!r}: expected {EXPECTED[key]}, got {values[key]!r}")


def _default_store(file: str, entry: dict[str, Any]) -> str | None:
    """Return the store of a data set that names none.

    This is the Bigtable instance that environment variables name, as in PCGL2Cache. Without the variables,
    it is a SQLite file beside the data sets file, or None if the data sets file is in a bucket.
    """
    project, instance = os.environ.get(PROJECT_VARIABLE), os.environ.get(INSTANCE_VARIABLE)
    if project and instance:
        return f"bigtable://{project}/{instance}"
    if file.startswith(BUCKETS):
        return None
    return f"sqlite://{Path(file).resolve().parent}/{entry.get('l2cache_id', 'l2cache')}.db"
