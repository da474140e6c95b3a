"""Settings of the server; only this module of the package reads or sets the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from l2features.config.datasets import ADDRESS
from l2features.core.errors import ConfigError

MIB = 1 << 20
_HOST = r"\.?[a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?"
_ORIGIN = r"https?://[-.:*\[\]a-zA-Z0-9]+"
_FORMS = {
    "bind": (ADDRESS.pattern, "HOST:PORT such as 127.0.0.1:4100"),
    "trusted_hosts": (rf"\s*({_HOST}(\s+{_HOST})*)?\s*", "host names without ports, separated by spaces"),
    "public_url": (
        r"(https?://[^\s{}]+(\{dataset\}[^\s{}]*)*)?",
        "a URL such as https://host/versions/{dataset}",
    ),
    "viewer": (r"(https?://[^\s#]+)?", "a URL such as https://host/viewer/"),
    "viewer_origins": (
        rf"\s*({_ORIGIN}(\s+{_ORIGIN})*)?\s*",
        "origins such as https://host, separated by spaces",
    ),
}
"""What a setting matches, and what a message says it should be."""


class Settings(BaseSettings):
    """An operator's settings. A field's variable is ``L2CACHE_`` and its name, unless it has an alias."""

    model_config = SettingsConfigDict(env_prefix="L2CACHE_", extra="ignore", frozen=True, allow_inf_nan=False)

    datasets: str | None = Field(
        None, validation_alias="GRAPH_L2CACHE_CONFIG_PATH", description="The data sets file (YAML)."
    )
    url_prefix: str = Field(
        "l2cache",
        validation_alias="PCGL2CACHE_URL_PREFIX",
        description="First part of the path of every route.",
    )
    bind: str = Field("127.0.0.1:4100", description="Address and port to listen on.")
    trusted_hosts: str = Field(
        "",
        description="Host names of this server, separated by spaces; .example.org stands for its subdomains "
        "too. Requests for other hosts get 400, except for health and metrics. By default any is trusted "
        "and used in links.",
    )
    workers: int = Field(2, ge=1, le=64, description="Processes.")
    threads: int = Field(32, ge=4, le=512, description="Threads of each process.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level to log; health probes are logged at debug."
    )
    graceful_timeout_s: int = Field(60, ge=1, description="Longest time a request may take after SIGTERM.")
    drain_file: Path | None = Field(
        None, description="While this file exists, /ready answers 503, so that no new clients are sent here."
    )

    max_ids: int = Field(
        250_000, ge=1, le=5_000_000, description="Ids of a request; more are 413 too_many_ids."
    )
    max_body_bytes: int = Field(
        16 * MIB,
        ge=1024,
        description="Body of a request, as sent and after gunzip; more is 413 body_too_large.",
    )
    max_wait_s: float = Field(
        30.0, ge=0, le=600, description="Longest ?wait= in seconds; more is 422 wait_too_long."
    )
    max_waiting: int = Field(
        8, ge=1, description="Concurrent requests of a process with ?wait=; more are 429."
    )
    max_requests: int = Field(
        24,
        ge=1,
        description="Concurrent reads of a process, up to three quarters for one data set among several; "
        "more are 429 too_many_requests.",
    )
    max_ids_in_flight: int = Field(
        500_000, ge=1, description="Ids of a process' concurrent reads; more queue."
    )
    queue_timeout_s: float = Field(
        20.0, gt=0, description="How long a read queues; then it is 429 too_many_ids."
    )
    store_timeout_s: float = Field(10.0, gt=0, description="Deadline of a read of the store.")
    auth_timeout_s: float = Field(10.0, gt=0, description="Deadline of a call of the authentication service.")
    retry_after_s: int = Field(
        2,
        ge=1,
        description="Value of Retry-After in 429 and 503, in seconds; while the authentication service is "
        "down, one lookup in this time tries it.",
    )
    max_roots: int = Field(
        10_000, ge=1, le=1_000_000, description="Roots of a request; more are 413 too_many_ids."
    )
    max_root_nodes: int = Field(
        250_000,
        ge=1,
        le=10_000_000,
        description="L2 nodes of a root; more have status too_large, or are 413 too_many_nodes.",
    )
    max_chunks: int = Field(
        64,
        ge=1,
        le=100_000,
        description="Chunks that the bounds of a request overlap; more are 413 too_many_chunks, and "
        "more than L2CACHE_MAX_IDS nodes 413 too_many_nodes.",
    )
    max_root_requests: int = Field(
        6,
        ge=1,
        description="Concurrent requests of a process for roots; as many for chunks and bounds, for "
        "pictures, and for versions; more are 429 too_many_requests.",
    )
    graph_timeout_s: float = Field(10.0, gt=0, description="Deadline of a read of the graph.")
    root_timeout_s: float = Field(
        60.0, gt=0, description="Deadline of a request for roots, a chunk, bounds or a picture."
    )
    keep_roots: bool = Field(
        False, description="Write L2 ids, edges and complete summaries of roots to the table."
    )
    cache_root_bytes: int = Field(
        64 * MIB, ge=0, description="Results of roots that a process caches per data set."
    )
    max_row_groups: int = Field(
        512,
        ge=1,
        le=100_000,
        description="Row groups of a version that a request reads; more are 413 too_many_row_groups.",
    )
    public_url: str | None = Field(
        None,
        description="URL of the folder of versions for clients; {dataset} stands for the data set's name.",
    )
    viewer: str | None = Field(
        None,
        description="Viewer to which links lead, a URL; by default /viewer/ of this server, or a public one.",
    )
    viewer_origins: str = Field(
        "",
        description="Further origins from which the viewer at /viewer/ may read, such as https://host, "
        "separated by spaces.",
    )
    docs_url: str | None = Field(
        None, pattern=r"https?://\S+", description="URL of the documentation, for a link on the pages."
    )
    cache_rows: int = Field(500_000, ge=0, description="Rows that a process caches per data set; 0 for none.")

    exchange: str | None = Field(
        None, description="Pub/Sub topic for missing ids: its name, or projects/PROJECT/topics/NAME."
    )
    project: str | None = Field(
        None, validation_alias="PROJECT_ID", description="Project of the topic, if it is given by name."
    )
    publish_interval_s: float = Field(
        60.0, gt=0, description="Shortest time between two publications of a missing id by one process."
    )

    @field_validator("url_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        parts = [part for part in value.split("/") if part]
        if not all(re.fullmatch("[-_a-zA-Z0-9]+", part) for part in parts):
            raise ValueError("expected letters, digits, '-', '_' and '/'")
        return "".join(f"/{part}" for part in parts)

    @field_validator(*_FORMS)
    @classmethod
    def _form(cls, value: str | None, info: ValidationInfo) -> str | None:
        form, expected = _FORMS[str(info.field_name)]
        if not re.fullmatch(form, value or ""):
            raise ValueError(f"expected {expected}")
        return value or cls.model_fields[str(info.field_name)].default

    def public_folder(self, dataset: str) -> str | None:
        """Return the URL of a data set's folder of versions for clients; None if the operator names none."""
        return self.public_url and self.public_url.replace("{dataset}", dataset).rstrip("/")

    @property
    def api_prefix(self) -> str:
        """Path of the API's routes."""
        return f"{self.url_prefix}/api/v1"

    @property
    def limits(self) -> dict[str, int | float]:
        """The published limits by name."""
        return {name: getattr(self, name) for name in LIMITS}


LIMITS = (
    *("max_ids", "max_body_bytes", "max_wait_s", "max_waiting", "max_requests", "max_ids_in_flight"),
    *("max_roots", "max_root_nodes", "max_chunks", "max_root_requests"),
    "max_row_groups",
)
"""Settings that `GET /table/<dataset>` publishes."""


def load_settings() -> Settings:
    """Return the environment's settings. Raises ConfigError with the variable and its value."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
    name = str(first["loc"][0])
    variable = name if name.isupper() else f"L2CACHE_{name.upper()}"
    raise ConfigError(f"{variable}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}")


def set_environment(**values: str) -> None:
    """Set variables that libraries read when they are imported."""
    os.environ.update(values)
