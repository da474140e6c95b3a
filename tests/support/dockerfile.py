"""Helpers that parse Dockerfiles and follow them without Docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

from tests.support.jobs import ROOT

SITE = "/usr/local/lib/python3.11/site-packages"
OURS = {"l2features", "api", "beam_jobs"}
ONLY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)
sys.meta_path.insert(0, Absent())
"""


class Step(NamedTuple):
    """A Dockerfile's instruction: its keyword, such as ``COPY``, and its arguments."""

    word: str
    rest: str


def read_steps(dockerfile: str) -> list[Step]:
    text = (ROOT / dockerfile).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [Step(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def stages(steps: list[Step]) -> dict[str, list[Step]]:
    """Return each stage's instructions by stage name. The instructions of its base stages come first."""
    found: dict[str, list[Step]] = {}
    for step in steps:
        if step.word == "FROM":
            image, _, name = step.rest.partition(" AS ")
            current = found[name] = [*found.get(image, [])]
        elif found:
            current.append(step)
    return found


def environment(steps: list[Step]) -> dict[str, str]:
    """Return the variables that the ENV instructions set."""
    pairs = [pair for step in steps if step.word == "ENV" for pair in step.rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def follow_copies(dockerfile: str, steps: list[Step], root: Path) -> None:
    """Copy into ``root`` what COPY copies from the repository. .dockerignore must allow each source."""
    ignored = (ROOT / f"{dockerfile}.dockerignore").read_text().split()
    for step in steps:
        if step.word != "COPY" or step.rest.startswith("--from="):
            continue
        *sources, target = step.rest.split()
        for source in sources:
            assert f"!{source.split('/')[0]}" in ignored, f"{source} is ignored"
            place = root / target.strip("/") / ("" if not target.endswith("/") else source)
            if (ROOT / source).is_dir():
                without = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, ignore=without, dirs_exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)


def below(text: str, root: Path) -> str:
    """Put ``root`` in front of each absolute path in ``text``, a command or value of a Dockerfile."""
    return re.sub(r"(?<![\w./:])/(?=\w)", f"{root}/", text)


def last(steps: list[Step], word: str) -> str:
    """Return the arguments of the last instruction with this keyword."""
    return [step.rest for step in steps if step.word == word][-1]


def build(root: Path) -> Path:
    """Build the packages in ``root/src``. Return the site-packages folder below ``root`` that has them."""
    site = root / SITE.strip("/")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(site)]
    subprocess.run(command, cwd=root / "src", check=True, capture_output=True)
    return site


def import_with_only(lock: str, code: str, variables: Mapping[str, str] | None = None) -> set[str]:
    """Run code, but hide third-party modules that the lock file lacks. Return the hidden modules' names."""
    required = (ROOT / lock).read_text()
    pinned = {_normal(name) for name in re.findall(r"^([\w.-]+)==", required, re.MULTILINE)}
    modules = packages_distributions().items()
    absent = {name for name, packages in modules if not {_normal(p) for p in packages} & pinned}
    absent -= OURS | {"_distutils_hack"}
    ran = subprocess.run(
        [sys.executable, "-c", f"absent = {absent!r}{ONLY}{code}"],
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return absent


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
