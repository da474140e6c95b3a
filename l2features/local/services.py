"""What runs on one machine: the services, their commands, and who waits for whom.

`l2features up` starts these as processes, and compose.yaml has them as containers; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .emulator_programs import BIGTABLE, PUBSUB
from .sample.graph_table import TIMESTAMP
from .sample.segmentation_files import NAME
from .sample.topics import MISSING, subscription_paths, topic_path

PROJECT = INSTANCE = "local"
STORE = f"bigtable://{PROJECT}/{INSTANCE}"
GRAPH = f"{STORE}/{NAME}"
READY, DONE = "service_healthy", "service_completed_successfully"
"""What one service may wait for of another, as compose.yaml calls it."""
SAMPLE, INGEST, UPDATER, API = "sample", "ingest", "updater", "api"


@dataclass(frozen=True)
class Place:
    """Where the services are: a folder, the addresses of the emulators, and where the API listens."""

    folder: str
    bigtable: str
    pubsub: str
    api: str

    @property
    def config(self) -> str:
        """The data sets file."""
        return f"{self.folder}/datasets.yml"

    @property
    def environment(self) -> dict[str, str]:
        """By which Google's clients find the emulators."""
        return {BIGTABLE.variable: self.bigtable, PUBSUB.variable: self.pubsub}


CONTAINERS = Place("/data", "bigtable:8086", "pubsub:8085", "0.0.0.0:8080")
"""Of compose.yaml."""


@dataclass(frozen=True)
class Service:
    """One command, and what it waits for; ``python`` and ``l2features`` are those of whoever starts it."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)

    def is_finite(self, services: list[Service]) -> bool:
        """Whether it ends by itself: others wait until it is done."""
        return any(other.after.get(self.name) == DONE for other in services)


def services(place: Place) -> list[Service]:
    """All but the emulators, in the order in which they start."""
    config = ("--config", place.config)
    ingest = ("--dataset", NAME, "--create", "--timestamp", TIMESTAMP, "--workers", "1")
    subscriptions = ",".join(subscription_paths(PROJECT))
    letters = f"{place.folder}/dead_letters"
    update = ("--subscriptions", subscriptions, "--dead_letters", letters, "--workers", "1")
    missing = {"L2CACHE_EXCHANGE": topic_path(PROJECT, MISSING)}
    return [
        Service(
            SAMPLE,
            ("l2features", "sample", place.folder, "--graph", GRAPH, "--topics", PROJECT),
            place.environment,
            {BIGTABLE.name: READY, PUBSUB.name: READY},
        ),
        Service(
            INGEST, ("python", "-m", "beam_jobs.ingest", *config, *ingest), place.environment, {SAMPLE: DONE}
        ),
        Service(
            UPDATER, ("python", "-m", "beam_jobs.update", *config, *update), place.environment, {INGEST: DONE}
        ),
        Service(
            API,
            ("l2features", "serve", place.config, "--bind", place.api),
            {**place.environment, **missing},
            {INGEST: DONE},
        ),
    ]
