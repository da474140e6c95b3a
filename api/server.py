"""What gunicorn's processes do when they begin and end; `gunicorn.conf.py` names it."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import tempfile
from functools import cache
from typing import Any

LAST_MESSAGES_S = 5.0
"""How long a process that ends goes on publishing."""
ARENAS, MMAP_BYTES = 2, 1 << 20
_ARENA_MAX, _MMAP_THRESHOLD = -8, -3
"""Parameters of the GNU C library's mallopt."""


@cache
def metrics_folder() -> str:
    """A new folder for the metrics of all processes of this server, which it takes with it."""
    folder, owner = tempfile.mkdtemp(prefix="l2cache-metrics-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def bound_memory() -> None:
    """Let freed memory go back to the system: by default it stays in the arenas of dozens of threads."""
    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_ARENA_MAX, ARENAS)
        libc.mallopt(_MMAP_THRESHOLD, MMAP_BYTES)


def load_kernels(app: Any) -> None:
    """Load the compiled code that reads Bigtable, where a data set is there; before processes are forked."""
    entries = [served.entry for served in app.extensions["l2cache"].datasets.all()]
    if any(entry.store.startswith("bigtable:") for entry in entries):
        from l2features.store.bigtable.decoded import warm_up

        warm_up()


def worker_begins(worker: Any) -> None:
    """Read what the data sets are, before the first request asks for them, and load what it would load."""
    import numpy as np
    import pyarrow

    # This imports pandas where that is installed; it starts threads, so it may not be there before the fork.
    pyarrow.array(np.zeros(1))
    bound_memory()
    worker.wsgi.extensions["l2cache"].datasets.warm()


def worker_ends(worker: Any) -> None:
    """Send the last messages, and let go of the stores; of this process, not of one that was found dead."""
    if worker.pid != os.getpid() or not hasattr(worker, "wsgi"):
        return
    service = worker.wsgi.extensions["l2cache"]
    service.missing.close(LAST_MESSAGES_S)
    if worker.at_once:
        os._exit(0)
    service.datasets.close()


def worker_is_gone(worker: Any) -> None:
    """Forget what a process had in hand; what it has counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
