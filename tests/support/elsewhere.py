"""Helpers that make a Python with this repository's dependencies, but without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.jobs import ROOT

NOT_CLONED = (".*", "*.egg-info", "__pycache__", "node_modules")
PRODUCTS = {"build", "dist", "sample"}


def clone_repository(folder: Path) -> None:
    """Copy the checkout without hidden files, caches and build products."""

    def others(here: str, names: list[str]) -> set[str]:
        products = PRODUCTS if Path(here) == ROOT else set()
        return shutil.ignore_patterns(*NOT_CLONED)(here, names) | products

    shutil.copytree(ROOT, folder, ignore=others)


def make_python(folder: Path, wheel: Path | None = None) -> Path:
    """Create an environment, install ``wheel`` if given, and return its Python.

    The environment also finds the running Python's libraries, but it ignores the .pth files beside them.
    So it does not find an editable install of this repository.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    if wheel:
        pip(f"--python={python}", "install", "--no-deps", "--no-index", str(wheel))
    (site_packages(folder) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def pip(*arguments: str) -> None:
    """Run pip without PYTHONPATH. Raises AssertionError with pip's messages if pip fails."""
    inside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "-q", *arguments],
        env=inside,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def site_packages(folder: Path) -> Path:
    (found,) = folder.glob("lib/python*/site-packages")
    return found


def environment(python: Path, **more: str) -> dict[str, str]:
    """Return environment variables with ``python`` first on PATH and nothing from ``os.environ``."""
    home = str(python.parents[1])
    return {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": home, "TMPDIR": home, **more}


def copy_kernels(packages: Path) -> None:
    """Copy this checkout's compiled kernels into installed packages, which then need not compile them."""
    for compiled in (ROOT / "l2features").rglob("__pycache__/*.nb[ci]"):
        place = packages / compiled.relative_to(ROOT)
        place.parent.mkdir(exist_ok=True)
        shutil.copy(compiled, place)
