"""The command ``l2features``."""

from __future__ import annotations

from .commands import main

__all__ = ["main"]
