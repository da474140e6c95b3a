"""Run the docs' code blocks that follow ``<!-- example -->``, page by page, on the README's sample."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from l2features.local.sample.segmentation_files import Sample, make_sample
from tests.support.ingest_jobs import run_ingest
from tests.support.jobs import ROOT

BLOCK = re.compile(r"<!-- example -->\n```(python|sh)\n(.*?)```", re.DOTALL)
PAGES = {path.name: BLOCK.findall(path.read_text()) for path in sorted((ROOT / "docs").glob("*.md"))}


assert any(PAGES.values()), "no page has an example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's sample segmentation and its ingested table."""
    folder = tmp_path_factory.mktemp("examples")
    done = run_ingest(make_sample(folder / "sample", Sample()), "--create")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Change to ``folder``; return the environment for shell commands."""
    monkeypatch.chdir(folder)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
def test_examples_run(page: str, commands: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for language, text in PAGES[page]:
        if language == "python":
            exec(compile(text, page, "exec"), names)
        else:
            subprocess.run(["/bin/bash", "-euc", text], env=commands, check=True, timeout=120)
    assert capsys.readouterr().out
