"""Tests of stores of each kind in forked processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from l2features.store.base import Store
from l2features.testing.stores import FIRST, features_of


def test_a_store_opened_before_a_fork_works_after_it(store: Store) -> None:
    """gunicorn loads the application before it forks; gRPC channels must not be open by then."""
    store.write(features_of([FIRST]))
    script = FORK.format(url=store.url, name=store.name, first=FIRST)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "found\n" * 3), ran.stderr


FORK = """
import os, sys
from l2features.store import open_store
store = open_store("{url}", "{name}")
if "sqlite" in store.url:
    store.ping()  # its connection must not be used by the children
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        if store.read([{first}]).found.all():
            os.write(1, b"found\\n")
        store.close()
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""
