"""Public names of ``l2features.core.schema``."""

from .core.schema import *  # noqa: F403
