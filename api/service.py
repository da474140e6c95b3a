"""What the routes of an app share."""

from __future__ import annotations

from typing import NamedTuple

from .config import Settings
from .datasets import Datasets
from .limiter import Limiter
from .missing import MissingIds
from .version_reads import VersionReads


class Service(NamedTuple):
    """An app's settings and open resources, as ``app.extensions["l2cache"]``."""

    settings: Settings
    datasets: Datasets
    missing: MissingIds
    waits: Limiter
    versions: VersionReads
