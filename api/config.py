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
"""Some settings, by name: the pattern of the whole value, and the expected form for an error message."""


class Settings(BaseSettings):
    """The server's settings. A setting's environment variable is its alias, else L2CACHE_ plus its name."""

    model_config = SettingsConfigDict(env_prefix="L2CACHE_", extra="ignore", frozen=True, allow_inf_nan=False)

    datasets: str | None = Field(
        None, validation_alias="GRAPH_L2CACHE_CONFIG_PATH", description="The data sets file (YAML)."
    )
    url_prefix: str = Field(
        "l2cache",
        validation_alias="PCGL2CACHE_URL_PREFIX",
        description="First part of the paths of the API and its pages.",
    )
    bind: str = Field("127.0.0.1:4100", description="Address and port to listen on.")
    trusted_hosts: str = Field(
        "",
        description="Host names of this server, separated by spaces; .example.org includes subdomains. "
        "Requests for other hosts get 400, except those for health and metrics. By default, every host is"
        " trusted. Links use the host of the request.",
    )
    workers: int = Field(2, ge=1, le=64, description="Number of worker processes.")
    threads: int = Field(64, ge=4, le=512, description="Threads per process.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level to log; health probes are logged at debug."
    )
    graceful_timeout_s: int = Field(
        60, ge=1, description="Seconds after SIGTERM within which running requests must end."
    )
    drain_file: Path | None = Field(
        None,
        description="While this file exists, /ready answers 503, so that no new clients are sent to this "
        "server.",
    )

    max_ids: int = Field(
        250_000, ge=1, le=5_000_000, description="Maximum ids per request; more get 413 too_many_ids."
    )
    max_body_bytes: int = Field(
        16 * MIB,
        ge=1024,
        description="Maximum size of a request body, before and after decompression; a larger one gets "
        "413 body_too_large.",
    )
    max_wait_s: float = Field(
        30.0,
        ge=0,
        le=600,
        description="Maximum of the parameter `wait` in seconds; more gets 422 wait_too_long.",
    )
    max_waiting: int = Field(
        8,
        ge=1,
        description="Maximum concurrent requests per process with the parameter `wait`; more get 429 "
        "too_many_requests.",
    )
    max_requests: int = Field(
        24,
        ge=1,
        description="Maximum concurrent reads per process. With several data sets, three quarters of this "
        "number is the maximum for one data set. More get 429 too_many_requests.",
    )
    max_ids_in_flight: int = Field(
        500_000,
        ge=1,
        description="Maximum ids in all concurrent reads of a process; further reads wait in a queue.",
    )
    queue_timeout_s: float = Field(
        20.0,
        gt=0,
        description="Maximum seconds that a read waits in the queue of L2CACHE_MAX_IDS_IN_FLIGHT; then it "
        "gets 429 too_many_ids. Requests for pictures wait as long in the queue of "
        "L2CACHE_MAX_ROOT_REQUESTS, then get 429 too_many_requests.",
    )
    store_timeout_s: float = Field(10.0, gt=0, description="Deadline of a store read in seconds.")
    auth_timeout_s: float = Field(
        10.0, gt=0, description="Deadline of a call to the authentication service in seconds."
    )
    retry_after_s: int = Field(
        2,
        ge=1,
        description="Seconds in the header Retry-After of 429 and 503. Also the interval between attempts to "
        "reach the authentication service while it is down.",
    )
    max_roots: int = Field(
        10_000, ge=1, le=1_000_000, description="Maximum roots per request; more get 413 too_many_ids."
    )
    max_root_nodes: int = Field(
        250_000,
        ge=1,
        le=10_000_000,
        description="Maximum L2 nodes of a root. In summaries, a larger root has the status too_large; other "
        "requests for it get 413 too_many_nodes.",
    )
    max_chunks: int = Field(
        64,
        ge=1,
        le=100_000,
        description="Maximum chunks that the bounds of a request may overlap; more get 413 too_many_chunks. "
        "Bounds with more than L2CACHE_MAX_IDS nodes get 413 too_many_nodes.",
    )
    max_root_requests: int = Field(
        6,
        ge=1,
        description="Maximum concurrent requests for roots per process. The same number limits, separately, "
        "requests for chunks and bounds, for pictures, and for versions. Requests for pictures also wait "
        "in a queue: up to three times as many, but together with the running ones at most half of "
        "L2CACHE_THREADS. More get 429 too_many_requests.",
    )
    graph_timeout_s: float = Field(10.0, gt=0, description="Deadline of a graph read in seconds.")
    root_timeout_s: float = Field(
        60.0, gt=0, description="Deadline in seconds of a request for roots, a chunk, bounds or a picture."
    )
    keep_roots: bool = Field(
        False,
        description="Whether to store results of roots in the table: L2 ids, edges, complete summaries, and "
        "skeletons for the viewer.",
    )
    cache_root_bytes: int = Field(
        64 * MIB, ge=0, description="Maximum bytes of cached results of roots, per process and data set."
    )
    max_row_groups: int = Field(
        512,
        ge=1,
        le=100_000,
        description="Maximum row groups of a version that a request may read; more get 413 "
        "too_many_row_groups.",
    )
    public_url: str | None = Field(
        None,
        description="URL at which clients find the folder of versions; {dataset} is replaced by the data "
        "set's name.",
    )
    viewer: str | None = Field(
        None,
        description="URL of the viewer to which links lead. By default, /viewer/ of this server, or a public "
        "viewer if /viewer/ is not built.",
    )
    viewer_origins: str = Field(
        "",
        description="Additional origins, such as https://host, from which the viewer at /viewer/ may read; "
        "separated by spaces.",
    )
    docs_url: str | None = Field(
        None, pattern=r"https?://\S+", description="URL of the documentation, to which pages link."
    )
    cache_rows: int = Field(
        500_000, ge=0, description="Maximum cached rows per process and data set; 0 for none."
    )

    exchange: str | None = Field(
        None, description="Pub/Sub topic for missing ids: its name, or projects/PROJECT/topics/NAME."
    )
    project: str | None = Field(
        None,
        validation_alias="PROJECT_ID",
        description="Google Cloud project of the topic, if L2CACHE_EXCHANGE is only a name.",
    )
    publish_interval_s: float = Field(
        60.0, gt=0, description="Minimum seconds before a process publishes the same missing id again."
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
        """Return the URL at which clients find a data set's versions; None if the operator has set none."""
        return self.public_url and self.public_url.replace("{dataset}", dataset).rstrip("/")

    @property
    def api_prefix(self) -> str:
        """Path of the API's routes."""
        return f"{self.url_prefix}/api/v1"

    @property
    def limits(self) -> dict[str, int | float]:
        """The limits that `GET /table/<dataset>` returns, by name."""
        return {name: getattr(self, name) for name in LIMITS}


LIMITS = (
    *("max_ids", "max_body_bytes", "max_wait_s", "max_waiting", "max_requests", "max_ids_in_flight"),
    *("max_roots", "max_root_nodes", "max_chunks", "max_root_requests"),
    "max_row_groups",
)
"""Settings that `GET /table/<dataset>` returns as limits."""


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises ConfigError, with the variable and its value, for an invalid setting.
    """
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
