"""The sdist and the wheel that are built from this repository."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import NamedTuple

from tests.support.elsewhere import clone_repository, pip
from tests.support.jobs import ROOT

PACKAGES = ("api", "beam_jobs", "l2features")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
"""What every build frontend calls."""


class Published(NamedTuple):
    """The packages' files as paths in the repository, and the paths of the built sdist and wheel."""

    files: set[str]
    sdist: Path
    wheel: Path

    @classmethod
    def below(cls, folder: Path) -> Published:
        """Find the sdist and wheel that `build_packages` put in a folder, and list the packages' files."""
        (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
        modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
        data = [ROOT / "l2features" / name for name in ("py.typed", "testing/golden.npz")]
        pages = [
            path
            for name in ("pages", "viewer")
            for path in (ROOT / "api" / name).rglob("*")
            if path.is_file()
        ]
        files = {str(path.relative_to(ROOT)) for path in (*modules, *data, *pages)}
        return cls(files, sdist, wheel)


def build_packages(folder: Path) -> None:
    """Build the sdist from a copy of the repository, and the wheel from the sdist alone."""
    clone, tools = folder / "clone", folder / "tools"
    clone_repository(clone)
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    pip("install", "--no-compile", f"--target={tools}", *required)

    def build(hook: str, source: Path) -> None:
        command = [sys.executable, "-c", BUILD, hook, str(folder)]
        inside = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tools)}
        subprocess.run(command, cwd=source, env=inside, check=True, capture_output=True)

    build("build_sdist", clone)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    build("build_wheel", folder / "unpacked" / sdist.name.removesuffix(".tar.gz"))
