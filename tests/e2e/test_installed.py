"""Tests of the built and installed packages, run without the checkout."""

from __future__ import annotations

import json
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from l2features.config.datasets import CONFIG_VARIABLE
from tests.support.elsewhere import copy_kernels, environment, make_python, site_packages
from tests.support.ingest_jobs import table_bytes
from tests.support.jobs import ROOT
from tests.support.published import PACKAGES, Published

BESIDE = {
    "LICENSE",
    "MANIFEST.in",
    "PKG-INFO",
    "README.md",
    "l2features.egg-info",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
}
IMPORT_ALL = """
import importlib, sys
_, site, checkout, *names = sys.argv
assert checkout not in sys.path, sys.path
for name in names:
    found = importlib.import_module(name)
    assert found.__file__.startswith(site), found.__file__
"""


class Installed(NamedTuple):
    """A Python that has the wheel, and an empty working folder."""

    python: Path
    folder: Path
    site: Path

    def run(self, *command: str, **variables: str) -> str:
        program = str(self.python.parent / command[0])
        ran = subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env=environment(self.python, **variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        assert "Traceback" not in ran.stderr
        return ran.stdout


@pytest.fixture(scope="module")
def installed(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    python = make_python(folder / "python", published.wheel)
    site = site_packages(folder / "python")
    copy_kernels(site)
    (folder / "empty").mkdir()
    return Installed(python, folder / "empty", site)


def test_what_is_published(published: Published) -> None:
    """Check for all files of the packages, and none of the tests and benchmarks."""
    with zipfile.ZipFile(published.wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == published.files
    with tarfile.open(published.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    assert {
        name for name in names if name.startswith(PACKAGES) and ".egg-info/" not in name
    } == published.files
    assert {name.split("/")[0] for name in names - published.files} == BESIDE


def test_every_module_is_found(published: Published, installed: Installed) -> None:
    names = [name for name in published.files if name.endswith(".py") and "/testing/" not in name]
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names}
    modules -= {"api.gunicorn.conf", "l2features.cli.__main__"}
    installed.run("python", "-c", IMPORT_ALL, str(installed.site), str(ROOT), *sorted(modules))


def test_from_a_sample_to_its_features(installed: Installed, undisturbed: Path) -> None:
    """The commands of a newcomer make the same table as the checkout's code."""
    installed.run("l2features", "sample", "sample", "--grid", "3,2,2", "--chunk-size", "32,32,16")
    config = "sample/datasets.yml"
    data = ["--config", config, "--dataset", "sample", "--workers", "1"]
    ingested = installed.run("l2features", "ingest", *data, "--create")
    assert ingested.startswith("12 of 12 chunks done: ")
    assert table_bytes(installed.folder / config) == table_bytes(undisturbed)
    assert "12/12 chunks done" in installed.run("l2features", "status", "sample", "--config", config)
    got = installed.run("l2features", "get", "sample", "--chunk", "1,1,1", "--json", "--config", config)
    assert all(row["size_nm3"] > 0 for row in json.loads(got).values())
    audited = installed.run("python", "-m", "beam_jobs.audit", *data, "--runner=FnApiRunner")
    assert audited.endswith("\ncomplete\n"), audited
    server = ("gunicorn", "--check-config", "-c", f"{installed.site}/api/gunicorn.conf.py")
    variables = {CONFIG_VARIABLE: config, "L2CACHE_BIND": "127.0.0.1:0"}
    installed.run("python", "-m", *server, "api.app:create_app()", **variables)


@pytest.mark.parametrize(
    "command",
    [
        "l2features serve --help",
        "l2features up --help",
        "l2features sample-edit --help",
        "python -m beam_jobs.update --help",
    ],
)
def test_other_commands_start(installed: Installed, command: str) -> None:
    assert installed.run(*command.split()).lower().startswith("usage: ")
