"""Hooks that configure pytest; shared fixtures are in `tests.support.fixtures`."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SLOW = (
    "test_stream",
    "test_ingest_failures",
    "test_server",
    "test_chaos",
    "test_portable_deaths",
    "test_installed",
    "test_job_image",
    "test_up",
    "test_nginx",
    "test_api_clients",
    "test_api_auth",
    "test_portable",
    "test_api_image",
    "test_reach",
    "test_serve",
    "test_audit_job",
    "test_ingest",
    "test_volume_slabs",
)
"""Files of tests that take long, the longest first."""
NOT_IN_UNIT = {"emulator", "pubsub", "recordings", "undisturbed", "without_tokens"}
"""Fixtures that start an emulator, run a job or open the API's application."""
EXAMPLES = {"suite": 30, "thorough": 1_000}
"""Random examples per property test in each hypothesis profile; the first is the default."""
COMPILE = (
    "from l2features import kernel; kernel.warm_up()",
    "from l2features.store.bigtable import decoded; from l2features.neurons import branches;"
    "decoded.warm_up(); branches.warm_up()",
)
"""No two programs compile one package: processes that compile the same functions at once spoil the cache."""
COLLECT = ("-m", "pytest", "--collect-only", "-qq", "-n0")
"""Arguments that compile the tests of a new checkout once, instead of in every worker.

Without ``-n0``, a ``-n`` in PYTEST_ADDOPTS would make each such process start another one.
"""
JAVA_OPTS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For the Pub/Sub emulator, which lives for minutes: full optimization takes longer than it saves."""
COMPILING: list[subprocess.Popen[bytes]] = []
pytest.register_assert_rewrite(
    *(
        f"l2features.testing.{suite}"
        for suite in ("store_suite", "chunk_log_suite", "root_suite", "graph_history")
    )
)


def pytest_configure(config: pytest.Config) -> None:
    """Compile kernels, modules and tests once, not in each of the many test processes.

    The xdist controller runs no tests, so it skips the fixtures, whose imports take seconds.
    Hypothesis examples have no deadline, because any of them may be slow on a loaded machine.
    """
    for profile, examples in EXAMPLES.items():
        settings.register_profile(
            profile, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow]
        )
    settings.load_profile(next(iter(EXAMPLES)))  # --hypothesis-profile comes after it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("JAVA_OPTS", JAVA_OPTS)
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        COMPILING.extend(subprocess.Popen([sys.executable, "-c", code]) for code in COMPILE)
        if not any(Path(__file__).parent.glob("*/__pycache__/*-pytest-*.pyc")):
            subprocess.run([sys.executable, *COLLECT, *config.args], stdout=subprocess.DEVNULL, check=False)
    else:
        gc.disable()  # until all tests are imported
        config.pluginmanager.import_plugin("tests.support.fixtures")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished() -> None:
    """Wait for the compilations. Workers collect meanwhile, but start no test before this returns."""
    for process in COMPILING:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)


def pytest_unconfigure() -> None:
    """Kill compilations that still run if pytest ends before any test starts."""
    for process in COMPILING:
        process.kill()
        process.wait()


def pytest_collection_finish() -> None:
    """Exempt imported modules and tests from garbage collection, and run full collections a tenth as often.

    A full collection takes a second with the modules and tests, and up to 0.3 s without.
    """
    gc.freeze()
    young, middle, full = gc.get_threshold()
    gc.set_threshold(young, middle, 10 * full)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder; run slow files first, so that none runs alone at the end."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(folder)
    rank = {stem: place for place, stem in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOW)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a unit test that requests one of the fixtures `NOT_IN_UNIT`, before they start."""
    others = NOT_IN_UNIT & {*getattr(item, "fixturenames", ())}
    if item.path.parent.name == "unit" and others:
        pytest.fail(f"uses {', '.join(sorted(others))}: expected tests/integration", pytrace=False)
