"""The plan of the house: who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l2features.core.jit import MODULES
from tests.conftest import ROOT

FORBIDDEN = {
    "l2features": {"apache_beam", "flask", "beam_jobs", "api"},
    "beam_jobs": {"flask", "api"},
    "api": {"apache_beam", "beam_jobs"},
}
PURE = (
    "chunks",
    "geometry",
    "ids",
    "messages",
    "rows",
    "schema",
    "unpickle",
    "features/chunk",
    "features/cut",
    "features/distance",
    "features/groups",
    "features/moments",
    "features/runs",
    "features/score",
    "reading/answers",
    "reading/cache",
)
WITH_IO = {"google", "cloudvolume", "requests", "sqlite3", "yaml", "os", "subprocess", "socket"}


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not FORBIDDEN[package] & set(imported(path)), path


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_do_no_io(module: str) -> None:
    assert not WITH_IO & set(imported(ROOT / "l2features" / f"{module}.py"))


def test_only_the_configuration_reads_the_environment() -> None:
    readers = [
        f"{package}/{path.name}"
        for package in FORBIDDEN
        for path in (ROOT / package).rglob("*.py")
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    assert sorted(readers) == ["api/config.py", "l2features/config.py"]


def test_the_cache_of_compiled_code_depends_on_every_module_of_the_kernel() -> None:
    library = ROOT / "l2features"
    modules = {
        str(path.relative_to(library).with_suffix("")): path.read_text() for path in library.rglob("*.py")
    }
    compiled = {name for name, text in modules.items() if re.search(r"from \.+jit import", text)}
    inlined = {name for name, text in modules.items() if "from numba." in text}
    assert len(compiled) > 3
    assert compiled | inlined == set(MODULES)


def test_importing_the_library_is_cheap() -> None:
    code = (
        "import sys, l2features; print(*(m for m in sys.modules if m in ('numpy', 'numba', 'cloudvolume')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
