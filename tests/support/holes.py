"""A segmentation whose chunk files can be removed and restored."""

from __future__ import annotations

import shutil
from pathlib import Path


class Holes:
    def __init__(self, segmentation: Path, folder: Path) -> None:
        self.path = Path(shutil.copytree(segmentation, folder / "segmentation"))
        self.data = self.path / "16_16_40"
        self.away = folder / "away"
        self.away.mkdir()

    def take(self, pattern: str = "*") -> int:
        """Remove the chunk files that match ``pattern``, and return their number."""
        files = list(self.data.glob(pattern))
        for file in files:
            file.rename(self.away / file.name)
        return len(files)

    def put_back(self) -> None:
        for file in self.away.iterdir():
            file.rename(self.data / file.name)
