"""Workers, progress, compilation and exit statuses of the commands that run jobs without Beam."""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config.datasets import Dataset
from ..core.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE, ConfigError, L2FeaturesError
from ..local.job_run import ChunkJob, Executor, JobRun, Progress
from ..local.pool import LocalPool
from ..local.processes import heeded
from ..local.progress import ProgressLines, progress_bar
from .job_options import is_dask

COMPILING, COMPILING_S = "compiling the kernel, the first time only", 5.0
"""Message about a compilation, and the seconds after which it is shown; loading compiled code takes less."""
R = TypeVar("R")
logger = logging.getLogger(__name__)


class StillRunning(L2FeaturesError):
    """The command was stopped; its job continues elsewhere."""


def executor(args: argparse.Namespace) -> Executor:
    """Return the workers that the options describe."""
    if is_dask(args.runner):
        from .dask_workers import DaskWorkers

        return DaskWorkers(args.dask_client_address)
    return LocalPool(args.workers or len(os.sched_getaffinity(0)))


def run_job(
    job: ChunkJob[R], args: argparse.Namespace, add: Callable[[R], object], workers: Executor | None = None
) -> Progress:
    """Run a job and show its progress; ``add`` receives the result of each chunk.

    The job runs on ``workers``, which the caller closes. By default, it runs on new workers, which are closed
    at its end.
    """
    run = JobRun(job, workers or executor(args), add, last=workers is None)
    lines = ProgressLines(args.dataset, len(job.box))
    with logging_redirect_tqdm(), progress_bar(len(job.box), "chunk") as bar:
        bar.set_description(f"{args.dataset} (starting)")

        def advance(chunks: int) -> None:
            bar.set_description(args.dataset, refresh=False)
            bar.update(chunks)
            if bar.disable:
                lines.advance(chunks)

        return run.run(advance)


def run_parts(parts: Sequence[ChunkJob[Any]], args: argparse.Namespace) -> bool:
    """Run jobs one after the other on the same workers; return False if a job was stopped."""
    with closing(executor(args)) as workers:
        return not any(run_job(part, args, lambda _: None, workers).stopped for part in parts)


def compile_kernel(say: Callable[[str], object] = logger.info) -> None:
    """Compile the functions of `l2features.kernel`, or load them from numba's cache.

    A first compilation takes half a minute and shows a progress bar. If the bar is hidden, ``say`` receives
    one message instead.
    """
    from .. import kernel

    bar = progress_bar(kernel.WARM_UP_STEPS, "step", COMPILING, delay=COMPILING_S, leave=False)
    with bar, _ticking(bar, say):
        kernel.warm_up(bar.update)


@contextmanager
def _ticking(bar: tqdm[Any], say: Callable[[str], object]) -> Iterator[None]:
    """Refresh a progress bar every `COMPILING_S` seconds during the block, even while a step is running.

    If the bar is hidden, pass one message to ``say`` after `COMPILING_S` seconds instead.
    """
    done = threading.Event()

    def tick() -> None:
        while not done.wait(COMPILING_S):
            if bar.disable:
                say(COMPILING)
                return
            bar.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def compile_decoder(dataset: Dataset) -> None:
    """If a table of the data set is in Bigtable, compile the row decoder, or load it from the cache."""
    if any(url.startswith("bigtable://") for url in (dataset.store, dataset.graph_url)):
        from ..store.bigtable import decoded

        decoded.warm_up()


def exit_status(run: Callable[[], int], stopped: str, shown: Callable[[str], str] = str) -> int:
    """Call ``run`` and return its exit status.

    If it fails, the status is 2 for a ConfigError, 1 for another L2FeaturesError or a closed output pipe. If
    it is stopped, the status is 130; prints ``stopped`` or, for StillRunning, the error's message. ``shown``
    converts the message of any other error to the text that is printed.
    """
    for number in heeded(signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return EXIT_FAILED
    except StillRunning as error:
        print(error, file=sys.stderr)
        return EXIT_STOPPED
    except L2FeaturesError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return EXIT_STOPPED


def _nobody_reads() -> bool:
    """Return whether standard output is a closed pipe; if so, discard what is printed from now on."""
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in reader.poll(0)):
        return False
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return True
