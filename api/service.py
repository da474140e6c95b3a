"""The settings and resources that the routes of an application share."""

from __future__ import annotations

from typing import NamedTuple

from .config import Settings
from .limiter import Limiter
from .missing import MissingIds
from .served_datasets import ServedDatasets
from .version_reads import VersionReads


class AppResources(NamedTuple):
    """An app's settings and open resources, as ``app.extensions["l2cache"]``."""

    settings: Settings
    datasets: ServedDatasets
    missing: MissingIds
    waits: Limiter
    versions: VersionReads
