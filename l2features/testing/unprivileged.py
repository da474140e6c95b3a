"""Helpers to test permissions in a process that runs as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run the block as an unprivileged user."""
    before = os.geteuid()
    if not before:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@contextmanager
def readable_folder() -> Iterator[Path]:
    """Yield a temporary folder that all users can read; pytest's folders are private."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
