"""Public names of ``l2features.core.ids``."""

from .core.ids import *  # noqa: F403
