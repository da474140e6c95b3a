"""Tests of materialize jobs killed at any moment: a second run makes the same files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from l2features.versions.folders import Folder
from l2features.versions.manifest import read_manifest, version_numbers
from tests.support.ingest_jobs import wait_until, workers_of
from tests.support.jobs import ROOT
from tests.support.version_job import files_of, run_materialize

TIME = "2026-11-21T00:27:44Z"
FORKED = """
import os, signal, sys
from pathlib import Path
import beam_jobs.materialize, l2features.versions.spill, l2features.store.sqlite, sqlite3
from tests.support.version_job import run_materialize

config, output, log = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "open", "os.rmdir"}

def run(folder, last):
    os.setpgid(0, 0)
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in CHANGES and str(output) in str(arguments[0]):
            seen += 1
            if seen == last:
                os.killpg(0, signal.SIGKILL)
    sys.addaudithook(hook)
    done = run_materialize(Path(config), folder, "2026-11-21T00:27:44Z")
    Path(log).write_text(f"{seen}\\n{done.stderr}")
    os._exit(done.returncode)

# what the job loads and compiles once is there in every fork
run_materialize(Path(config), Path(log + "-warm"), "2026-11-21T00:27:44Z")
for line in sys.stdin:
    name, last = line.split()
    child = os.fork()
    if not child:
        run(output / name, int(last))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""For each line "FOLDER N" of stdin, runs a job in a fork that is killed before its Nth file change."""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "versions"
    folder.mkdir()
    return folder


def check_whole(folder: Path) -> None:
    """Check that a version with a manifest has all of its files."""
    files = Folder(str(folder))
    for number in version_numbers(files):
        for layer in read_manifest(files, number).layers:
            for file in layer.files:
                assert sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256


def test_killed_before_any_change_of_a_file(config: Path, output: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", FORKED, str(config), str(output), str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) as forks:
        assert forks.stdin
        assert forks.stdout

        def run(name: str, last: int) -> int:
            print(name, last, file=forks.stdin, flush=True)
            return int(forks.stdout.readline())  # type: ignore[union-attr]

        assert run("undisturbed", 0) == 0
        expected, changes = files_of(output / "undisturbed"), int(log.read_text().split()[0])
        assert changes > 20
        points = random.Random(5).sample(range(1, changes), 7)
        for last in sorted({*points, changes}):
            name = f"killed-{last}"
            assert run(name, last) == -signal.SIGKILL
            check_whole(output / name)
            assert run(name, 0) == 0, log.read_text()
            assert files_of(output / name) == expected, last
        forks.stdin.close()


def test_kill_9_of_the_whole_group(config: Path, output: Path) -> None:
    """Check that the workers exit, and that no lock blocks the next run."""
    options = ["--config", config, "--dataset", "sample", "--timestamp", TIME, "--output", output / "killed"]
    command = [sys.executable, "-m", "beam_jobs.materialize", *map(str, options), "--workers=1"]
    job = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=-1, stderr=-1)
    wait_until(lambda: bool(workers_of(job)), 120)  # type: ignore[arg-type]
    workers = workers_of(job)  # type: ignore[arg-type]
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    psutil.wait_procs(workers, timeout=30)
    assert not any(worker.is_running() for worker in workers)
    check_whole(output / "killed")
    for name in ("killed", "undisturbed"):
        done = run_materialize(config, output / name, TIME)
        assert done.stdout.startswith("version 1 at "), done.stderr
    assert files_of(output / "killed") == files_of(output / "undisturbed")
