"""A source tree with a ninth attribute, added in two places: the schema and the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2]
SCHEMA, KERNEL = Path("l2features/core/schema.py"), Path("l2features/kernel/attributes.py")
ENTRY = """    Attribute(
        "ninth",
        np.dtype("<u8"),
        (2,),
        "voxels",
        "the size, and its double",
        condition=Condition("has_ninth", "absent in nodes of one voxel"),
    ),
"""
COMPUTATION = """

@computes("ninth", "has_ninth")
def _ninth(measured: Measured) -> tuple[Any, ...]:
    large = measured.size > 1
    return np.stack([measured.size, 2 * measured.size], axis=-1) * large[:, None], large
"""


def with_ninth_attribute(folder: Path) -> Path:
    """Make a source tree of symlinks. Only the schema and the kernel are copies, with the attribute added."""
    changed = {SCHEMA: _with_entry((SOURCES / SCHEMA).read_text())}
    changed[KERNEL] = (SOURCES / KERNEL).read_text() + COMPUTATION
    for part in (Path("l2features"), SCHEMA.parent, KERNEL.parent):
        (folder / part).mkdir(parents=True)
        for path in (SOURCES / part).iterdir():
            place = part / path.name
            if place not in (*changed, SCHEMA.parent, KERNEL.parent):
                (folder / place).symlink_to(path)
    for place, text in changed.items():
        (folder / place).write_text(text)
    for name in ("api", "tests", "mkdocs_hooks.py"):
        (folder / name).symlink_to(SOURCES / name)
    return folder


def _with_entry(schema: str) -> str:
    head, table = schema.split("\nATTRIBUTES:")
    entries, rest = table.split("\n)\n", 1)
    return f"{head}\nATTRIBUTES:{entries}\n{ENTRY})\n{rest}"


def run(sources: Path, code: str, *arguments: str) -> str:
    """Run code with these sources in a new process, and return its output."""
    environment = {"PYTHONPATH": str(sources), "PYTHONDONTWRITEBYTECODE": "1", "AUTH_DISABLED": "true"}
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=sources,
        env=os.environ | environment,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
