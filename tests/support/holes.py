"""A segmentation whose files can be taken away and put back."""

from __future__ import annotations

import shutil
from pathlib import Path


class Holes:
    """A copy of a segmentation in ``folder``."""

    def __init__(self, segmentation: Path, folder: Path) -> None:
        self.path = Path(shutil.copytree(segmentation, folder / "segmentation"))
        self.data = self.path / "16_16_40"
        self.away = folder / "away"
        self.away.mkdir()

    def take(self, pattern: str = "*") -> int:
        """Take the chunk files of this pattern away; returns how many."""
        files = list(self.data.glob(pattern))
        for file in files:
            file.rename(self.away / file.name)
        return len(files)

    def put_back(self) -> None:
        """Put all of them back."""
        for file in self.away.iterdir():
            file.rename(self.data / file.name)
