"""Public names of ``l2features.core.geometry``."""

from .core.geometry import *  # noqa: F403
