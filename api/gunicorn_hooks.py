"""Functions that gunicorn calls when its processes start and exit; `gunicorn.conf.py` sets them."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import shutil
import signal
import tempfile
from functools import cache
from typing import Any

LAST_MESSAGES_S = 5.0
"""Seconds for which an exiting process continues to publish ids."""
ARENAS, KEPT_BYTES, MMAP_BYTES = 2, 16 << 20, 4 << 20
"""malloc's maximum number of arenas, freed bytes kept at an arena's end, and smallest size allocated by mmap.

If malloc returned freed memory to the system after each request, the next request would fault it in again.
"""
_ARENA_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3
"""Parameters of the GNU C library's mallopt."""


@cache
def metrics_folder() -> str:
    """Create and return the folder for the metrics of all processes; it is removed when the server exits."""
    folder, owner = tempfile.mkdtemp(prefix="l2cache-metrics-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def prepare_fork(app: Any) -> None:
    """Load what all server processes share, before gunicorn forks them; then call `spare_known_objects`.

    If the table or the graph of a data set is in Bigtable, loads two compiled functions: the decoder of
    Bigtable's rows, and the inner loop that makes skeletons.
    """
    entries = [served.entry for served in app.extensions["l2cache"].datasets.all()]
    if any(url.startswith("bigtable:") for entry in entries for url in (entry.store, entry.graph_url)):
        from l2features.neurons import branches
        from l2features.store.bigtable import decoded

        decoded.warm_up()
        branches.warm_up()
    spare_known_objects()


def spare_known_objects() -> None:
    """Exclude all current objects from later garbage collections.

    A garbage collection that visits these objects would take 0.1 s and delay a request. It would also write
    to memory that the processes have shared since the fork; each process would then get a copy of it.
    """
    gc.collect()
    gc.freeze()


def warm_worker(worker: Any) -> None:
    """Prepare a new worker process for its first request, and start reading the data sets' metadata.

    Also handles Ctrl-C, and sets how much freed memory malloc keeps; see `KEPT_BYTES`.
    """
    import numpy as np
    import pyarrow

    from l2features.query import column_texts

    end_at_once_on_ctrl_c(worker)
    # Imports pandas where it is installed, which starts threads: not before the fork.
    pyarrow.array(np.zeros(1))
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_ARENA_MAX, ARENAS)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, MMAP_BYTES)
    column_texts.warm_up()
    spare_known_objects()
    worker.wsgi.extensions["l2cache"].datasets.warm()


@cache
def in_flight() -> Any:
    """Return the gauge of requests in flight."""
    # Not at import: prometheus_client would look for its folder too early.
    from .metrics import IN_FLIGHT

    return IN_FLIGHT


def end_at_once_on_ctrl_c(worker: Any) -> None:
    """Make Ctrl-C publish the queued missing ids and end the worker, without waiting for running requests.

    The worker ignores SIGINT. gunicorn's master, which Ctrl-C also reaches, then sends SIGQUIT to the worker.
    """

    def end(*_signal: Any) -> None:
        worker.wsgi.extensions["l2cache"].missing.close(LAST_MESSAGES_S)
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, end)


def close_worker(_arbiter: Any, worker: Any) -> None:
    """Publish the queued missing ids of an exiting worker, and close its data sets' stores.

    Does nothing if gunicorn's master calls it for a dead worker.
    """
    if worker.pid == os.getpid() and hasattr(worker, "wsgi"):
        service = worker.wsgi.extensions["l2cache"]
        service.missing.close(LAST_MESSAGES_S)
        service.datasets.close()


def forget_worker(_arbiter: Any, worker: Any) -> None:
    """Remove a dead worker's gauges from the metrics; the worker's counters stay in the sums."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
