"""Tests of the package's extras, and of commands whose extra is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from l2features.cli.commands import Commands, main
from l2features.core.errors import ConfigError
from l2features.core.extras import EXTRAS, extra_of, naming_extras
from tests.support.jobs import ROOT

HEAVY = {"apache-beam", "cloud-volume", "google-cloud-bigtable", "numba", "scikit-learn", "scipy"}
OF_USERS = ("compute", "bigtable", "skeletons", "delta", "dask", "jobs", "api", "query", "viewer")
Extras = dict[str, list[str]]


@pytest.fixture(scope="module")
def declared() -> Extras:
    """Return each extra's requirements, including those of nested extras. The key "" stands for no extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]

    def lines(extra: str) -> set[str]:
        found = set()
        for line in extras[extra]:
            requirement = Requirement(line)
            own = requirement.name == project["name"]
            found |= {inner for name in requirement.extras for inner in lines(name)} if own else {line}
        return found

    return {"": project["dependencies"], **{extra: sorted(lines(extra)) for extra in extras}}


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


@pytest.fixture(scope="module")
def distributions() -> dict[str, list[str]]:
    namespaces = {"google": ["google-cloud-bigtable"], "google.pubsub_v1": ["google-cloud-pubsub"]}
    return {**packages_distributions(), **namespaces}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_the_modules_that_it_is_named_for(
    declared: Extras, distributions: dict[str, list[str]], extra: str
) -> None:
    listed = names_of(declared[extra]) | {"grpcio"}  # which the bigtable client needs
    for module in EXTRAS[extra]:
        assert {canonicalize_name(name) for name in distributions[module]} & listed, module


def test_without_extras_nothing_heavy_is_installed(declared: Extras) -> None:
    assert not names_of(declared[""]) & HEAVY
    assert names_of(declared["all"]) >= HEAVY


def test_all_has_every_extra_of_users(declared: Extras) -> None:
    assert {"", *OF_USERS, "all", "docs", "test"} == set(declared)
    assert {line for name in OF_USERS for line in declared[name]} == set(declared["all"])


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.txt", ["", "all"]), ("api/requirements.txt", ["", "bigtable"])]
)
def test_a_lock_has_its_extras(declared: Extras, lock: str, extras: list[str]) -> None:
    """The API's image leaves out some packages of its extras, which only jobs need."""
    text = (ROOT / lock).read_text()
    locked = {canonicalize_name(n): v for n, v in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}
    for line in [line for extra in extras for line in declared[extra]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), line


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("numba", "compute"),
        ("numba.core", "compute"),
        ("scipy.sparse", "skeletons"),
        ("google", "bigtable"),
        ("google.cloud.bigtable.data", "bigtable"),
        ("google.pubsub_v1", "jobs"),
        ("duckdb", "query"),
        ("distributed.client", "dask"),
        ("numbat", None),
        ("", None),
    ],
)
def test_the_extra_of_a_module(module: str, extra: str | None) -> None:
    assert extra_of(module) == extra


def test_a_missing_module_of_no_extra_stays_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="l2features_typo"), naming_extras():
        import l2features_typo  # type: ignore[import-not-found]  # noqa: F401


def test_an_extra_that_is_named_counts() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'l2features\[jobs\]'"), naming_extras("jobs"):
        raise ModuleNotFoundError("No module named 'grpc'", name="grpc")


def test_a_command_without_its_extra_ends_with_status_2() -> None:
    @click.group(cls=Commands)
    def group() -> None:
        pass

    @group.command()
    def work() -> None:
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    ran = CliRunner().invoke(group, ["work"])
    assert ran.exit_code == 2
    assert ran.output == "error: the module 'numba' is not installed: pip install 'l2features[compute]'\n"


def test_ctrl_c_during_the_imports_of_a_command_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*names: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("l2features.cli.commands.import_module", interrupted)
    ran = CliRunner().invoke(main, ["status", "sample"])
    assert (ran.exit_code, ran.output) == (130, "stopped\n")


def test_the_command_line_imports_only_what_it_runs() -> None:
    code = "import sys, l2features.cli; print({'numpy', 'pyarrow', 'pydantic'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
