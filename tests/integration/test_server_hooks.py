"""Tests of what the server's processes do before the first request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HOOKS = """
import gc
from types import SimpleNamespace

from api import gunicorn_hooks
from api.app import create_app

app = create_app()
gunicorn_hooks.prepare_fork(app)
before = len(gc.get_objects()), gc.get_freeze_count()
gunicorn_hooks.warm_worker(SimpleNamespace(wsgi=app))
print(*before, len(gc.get_objects()), gc.get_freeze_count())
"""


def test_garbage_collections_leave_out_what_is_loaded(tmp_path: Path) -> None:
    """Collecting the objects of all modules would add 0.1 s to a request."""
    config = tmp_path / "datasets.yml"
    entry = f"cv_path: 'precomputed://file:///nowhere', l2cache_id: t, store: 'sqlite://{tmp_path}/t.db'"
    config.write_text(f"nodes: {{{entry}}}\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GRAPH_L2CACHE_CONFIG_PATH": str(config),
        "AUTH_DISABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", HOOKS], env=environment, check=True, capture_output=True, text=True
    )
    left, frozen, left_in_worker, frozen_in_worker = map(int, done.stdout.split())
    assert max(left, left_in_worker) < 10_000
    assert frozen_in_worker >= frozen > 50_000
