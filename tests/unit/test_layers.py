"""Tests of the allowed imports between packages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from l2features.core.jit import COMPILED
from tests.support.jobs import ROOT

FORBIDDEN = {
    "l2features": {"apache_beam", "flask", "beam_jobs", "api"},
    "beam_jobs": {"flask", "api"},
    "api": {"apache_beam", "beam_jobs"},
}
ALLOWED_TWICE = {"__init__.py", "base.py"}
FLOORS = (
    ("core",),
    ("kernel",),
    ("store", "messages", "volume"),
    ("graph",),
    ("config",),
    ("pubsub", "ingest", "query"),
    ("audit", "neurons", "updates"),
    ("overview", "pictures", "versions", "doctor"),
    ("client", "local"),
    ("jobs",),
    ("cli",),
    ("testing",),
)
"""The packages (rooms) of `l2features`, lowest floor first. A room may import from its floor and below."""
FORBIDDEN_IN_UNIT = re.compile(r"(apache_beam|beam_jobs|api\.app|api\.cave|tests\.(?!support\.))")
"""Modules that `tests/unit` does not import: Beam, its jobs, the API's applications, and other tests."""
WITH_IO = {"google", "cloudvolume", "requests", "sqlite3", "yaml", "os", "subprocess", "socket"}


class Parsed(NamedTuple):
    """The import statements of a file, and the names of its public classes."""

    imports: list[ast.Import | ast.ImportFrom]
    classes: list[str]


@cache
def parsed(path: Path) -> Parsed:
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    return Parsed(imports, classes)


def imported_names(path: Path) -> set[str]:
    """Return dotted names of absolute imports: `a.b` for `import a.b` and for `from a import b`."""
    found = set()
    for node in parsed(path).imports:
        module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, ast.Import) or node.level == 0:
            found |= {f"{module}{alias.name}" for alias in node.names}
    return found


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    return {name.split(".")[0] for name in imported_names(path)}


@cache
def names_with_support(path: Path) -> set[str]:
    """Return the `imported_names` of a test, and those of the modules in `tests/support` that it imports."""
    found = imported_names(path)
    support = {
        ROOT.joinpath(*name.split(".")[:3]).with_suffix(".py")
        for name in found
        if name.startswith("tests.support.")
    }
    return found.union(*(names_with_support(module) for module in support))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not FORBIDDEN[package] & imported(path), path


def test_unit_tests_import_neither_beam_nor_the_application() -> None:
    paths = list((ROOT / "tests" / "unit").rglob("*.py"))
    assert len(paths) > 50
    for path in paths:
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in parsed(path).imports), path
        assert not [*filter(FORBIDDEN_IN_UNIT.match, names_with_support(path))], path


@pytest.mark.parametrize("room", ["core", "kernel"])
def test_core_and_kernel_do_no_io(room: str) -> None:
    paths = list((ROOT / "l2features" / room).glob("*.py"))
    assert paths
    for path in paths:
        assert not WITH_IO & imported(path), path


def rooms_imported(path: Path) -> Iterator[str]:
    """Yield the subpackages of `l2features` that a file imports relatively, except its own."""
    parts = path.relative_to(ROOT).parts[:-1]
    for node in parsed(path).imports:
        if isinstance(node, ast.ImportFrom) and node.level:
            target = [
                *parts[: len(parts) - node.level + 1],
                *str(node.module or node.names[0].name).split("."),
            ]
            if target[1] not in (parts[1], "__version__"):
                yield target[1]


@pytest.mark.parametrize("room", [room for floor in FLOORS for room in floor])
def test_no_room_imports_one_above_it(room: str) -> None:
    below = {name for floor in FLOORS[: floor_of(room) + 1] for name in floor}
    paths = list((ROOT / "l2features" / room).rglob("*.py"))
    assert paths
    for path in paths:
        assert set(rooms_imported(path)) <= below, path


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in (ROOT / "l2features").glob("*/__init__.py")}
    assert rooms == {name for floor in FLOORS for name in floor}


def floor_of(room: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if room in floor)


def test_names_of_modules_and_public_classes_occur_once() -> None:
    """Exempt are modules called `base`, and top-level modules, which re-export for users."""
    paths = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")]
    own = [path for path in paths if path.parent != ROOT / "l2features" and path.name not in ALLOWED_TWICE]
    modules = Counter(path.stem for path in own)
    classes = Counter(name for path in paths for name in parsed(path).classes)
    assert len(modules) > 200 < len(classes)
    assert {name for name, count in (modules + classes).items() if count > 1} == set()


def test_only_the_configuration_reads_the_environment() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in (ROOT / package).rglob("*.py")
        if "testing" not in path.parts
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    ]
    assert sorted(readers) == ["api/config.py", "l2features/config/datasets.py"]


def test_the_cache_of_compiled_code_depends_on_every_module_of_its_package() -> None:
    modules = {path: path.read_bytes() for path in (ROOT / "l2features").rglob("*.py")}
    compiled = {path for path, text in modules.items() if re.search(rb"^@(compiled|inlined)", text, re.M)}
    assert len(compiled) > 3
    for path in compiled:
        assert COMPILED.search(modules[path]), path


def test_importing_the_library_is_cheap() -> None:
    code = (
        "import sys, l2features; print(*(m for m in sys.modules if m in ('numpy', 'numba', 'cloudvolume')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
