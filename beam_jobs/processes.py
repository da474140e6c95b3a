"""Worker processes: started apart from the launcher, spoken to through a pipe, and ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from l2features.local.processes import ending_with_parent, heeded

END_TIMEOUT_S = 5.0


class WorkerProcess:
    """A process that runs the function ``work(fd)`` of a module; ``pipe`` is our end, ``fd`` its own.

    It does not see the signals that end a job, which terminals and service managers send to all processes at
    once: what becomes of it is for the launcher to say, with which it ends, however that ends.
    """

    def __init__(self, module: str) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        code = f"from {__name__} import follow; follow({os.getpid()}); "
        code += f"from {module} import work; work({theirs.fileno()})"
        with theirs, blocked(signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # which the new process inherits
            self.process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])

    def exit_reason(self) -> str:
        """How it ended, in words; one that has closed its pipe and does not end is killed."""
        try:
            code = self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def end_all(workers: Sequence[WorkerProcess]) -> None:
    """End processes; one that has ended its work would take a second or two to exit by itself."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()
        worker.pipe.close()


def follow(parent: int) -> None:
    """Have this process killed, at whatever it is, when the one that started it ends (on Linux)."""
    ending_with_parent(signal.SIGKILL)()
    if os.getppid() != parent:  # it has ended before
        sys.exit(1)


@contextmanager
def handled(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """Give signals another handler for a while."""
    before = {number: signal.signal(number, handler) for number in heeded(*signals)}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    """Let signals to this thread wait for a while."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
