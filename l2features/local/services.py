"""The services of a local stack: commands, environments and dependencies.

`l2features up` runs them as processes, compose.yaml as containers; a test compares the two.
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
"""Conditions in ``depends_on`` of compose.yaml: a service is ready, or has exited with status 0."""
SAMPLE, INGEST, UPDATER, API = "sample", "ingest", "updater", "api"


@dataclass(frozen=True)
class StackPlace:
    """The folder of a local stack, and the addresses of its emulators and its API."""

    folder: str
    bigtable: str
    pubsub: str
    api: str

    @property
    def config(self) -> str:
        """Path of the data sets file."""
        return f"{self.folder}/datasets.yml"

    @property
    def environment(self) -> dict[str, str]:
        """Variables from which Google's clients read the emulators' addresses."""
        return {BIGTABLE.variable: self.bigtable, PUBSUB.variable: self.pubsub}


@dataclass(frozen=True)
class Service:
    """A service. It starts when each service in ``after`` has reached the given condition, `READY` or `DONE`.

    ``argv`` begins with ``python`` or ``l2features``. The launcher maps this word to a program.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)

    def is_finite(self, services: list[Service]) -> bool:
        """Return whether the service exits by itself. It does if another service waits until it is `DONE`."""
        return any(other.after.get(self.name) == DONE for other in services)


def services(place: StackPlace) -> list[Service]:
    """Return all services except the emulators, in the order of their start."""
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
            ("l2features", "serve", place.config, "--bind", place.api, "--cave"),
            {**place.environment, **missing},
            {INGEST: DONE},
        ),
    ]
