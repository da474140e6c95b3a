"""Helpers of the tests of docs/operations.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import ROOT, need_program
from tests.support.templates import HOW_TO_GET_GCLOUD

WRITTEN = (ROOT / "docs" / "operations.md").read_text()
PROGRAMS = ("python", "l2features", "gcloud", "docker", "git", "date")
TIME = "2026-11-21 00:27:44"
RECORD = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([program := os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if "-" in sys.argv:  # else what writes to its pipe may find it closed
    sys.stdin.read()
print({{"git": "0af1b2c", "date": "{TIME}"}}.get(program, ""))
"""


def blocks(language: str, text: str = WRITTEN) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Return each command in the ``sh`` blocks of docs/operations.md as a list of words."""
    return record(tmp_path_factory.mktemp("programs"), "\n".join(blocks("sh")), PROGRAMS)


def record(folder: Path, script: str, programs: Sequence[str]) -> list[list[str]]:
    """Run a script with stubs in place of ``programs``, and return their recorded calls."""
    for name in programs:
        (folder / name).write_text(RECORD)
        (folder / name).chmod(0o755)
    environment = {"PATH": str(folder), "CALLS": str(folder / "calls")}
    command = ["/bin/bash", "-euc", script]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def of_program(calls: list[list[str]], *words: str) -> list[list[str]]:
    return [call[len(words) :] for call in calls if call[: len(words)] == list(words)]


def values(call: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(call) if name == option]


def completions() -> dict[str, Any]:
    program = shutil.which("gcloud")
    need_program(program, HOW_TO_GET_GCLOUD)
    assert program
    file = Path(program).resolve().parent.parent / "data" / "cli" / "gcloud_completions.py"
    need_program(str(file) if file.exists() else None, f"this SDK has no {file}: {HOW_TO_GET_GCLOUD}")
    names: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    tree: dict[str, Any] = names["STATIC_COMPLETION_CLI_TREE"]
    return tree


def check_gcloud(calls: Sequence[Sequence[str]]) -> None:
    """Check that the SDK's shell completion table has these gcloud commands and their flags."""
    tree = completions()
    for words in calls:
        node = tree
        flags = set(tree["flags"])
        for word in words:
            node = node["commands"].get(word, node) if not word.startswith("--") else node
            flags |= set(node["flags"])
        given = {word.split("=")[0] for word in words if word.startswith("--")}
        assert not node["commands"], words
        assert not given - flags, words
