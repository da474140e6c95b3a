"""Supervise commands: start them in stages, watch them, and stop them together.

Each command has its own process group. So Ctrl-C reaches only the supervisor, and a command is killed with
its children. If the supervisor is killed, the commands exit too.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from ..core.errors import L2FeaturesError
from .processes import STOP_SIGNALS, ending_with_parent, handled

POLL_S = 0.05
STOP_S = 30.0
"""Seconds between SIGTERM and SIGKILL for a command that does not exit."""
TAIL_LINES = 12


class Stopped(Exception):
    """A signal stopped the supervisor."""


class Ended(L2FeaturesError):
    """A command exited unexpectedly, failed, or took too long."""


class Command:
    """A running command; its output goes to the file ``log``."""

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                argv,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=ending_with_parent(signal.SIGTERM),  # noqa: PLW1509
            )

    def printed(self) -> str:
        """Return the command's output so far."""
        return self.log.read_text(errors="replace")

    def how_it_ended(self) -> str:
        """Return how the command ended: exit status, path of the log, and the log's last lines."""
        code = self.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        tail = "\n".join(f"  {line}" for line in self.printed().splitlines()[-TAIL_LINES:])
        return f"{self.name} {how}: see {self.log}" + (f"\n{tail}" if tail else "")

    def terminate(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """Kill the command and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class CommandSupervisor:
    """Starts commands and watches them. Use a supervisor in ``with``: no command outlives the block.

    When the block ends, the commands of later stages are stopped first. A second signal kills all commands
    at once. ``environment`` returns a command's environment; its keyword arguments are additional variables.
    """

    def __init__(self, environment: Callable[..., dict[str, str]], logs: Path) -> None:
        self.environment, self.logs = environment, logs
        self.stages: list[list[Command]] = [[]]
        self.signals = 0
        self._handled = ExitStack()

    def __enter__(self) -> CommandSupervisor:
        self._handled.enter_context(handled(self._count, *STOP_SIGNALS))
        return self

    def __exit__(self, *_: object) -> None:
        with self._handled:
            for stage in reversed(self.stages):
                self._stop(stage)

    def _count(self, *_: object) -> None:
        self.signals += 1

    def start(self, name: str, argv: Sequence[str], more: Mapping[str, str]) -> Command:
        """Start a command that runs until it is stopped; ``more`` are additional environment variables."""
        command = self._command(name, argv, more)
        self.stages[-1].append(command)
        return command

    def next_stage(self) -> None:
        """Begin a stage: its commands are stopped before the commands of earlier stages."""
        self.stages.append([])

    def run(self, name: str, argv: Sequence[str], more: Mapping[str, str], seconds: float) -> None:
        """Run a command until it exits; ``more`` are additional environment variables.

        Raises Stopped after a signal. Raises Ended if the command fails or takes longer than ``seconds``, or
        if another command exits.
        """
        command = self._command(name, argv, more)
        try:
            self.wait_until(lambda: command.process.poll() is not None, name, seconds)
        finally:
            if command.process.poll() is None:
                self._stop([command])
            command.kill()
        if command.process.returncode:
            raise Ended(command.how_it_ended())

    def _command(self, name: str, argv: Sequence[str], more: Mapping[str, str]) -> Command:
        return Command(name, argv, self.environment(**more), self.logs / f"{name}.log")

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until ``ready()`` is true; ``what`` is the name of the command, for the error message.

        Raises Stopped after a signal, and Ended if a command exits or after ``seconds``.
        """
        until = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise Ended(f"{what} is not ready after {seconds:g} s: see {self.logs / what}.log")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raise Stopped after a signal, and Ended if a command has exited."""
        if self.signals:
            raise Stopped
        for command in itertools.chain(*self.stages):
            if command.process.poll() is not None:
                raise Ended(command.how_it_ended())

    def watch(self) -> None:
        """Watch the commands. Raises Stopped after a signal, and Ended if a command exits."""
        while True:
            self.check()
            time.sleep(POLL_S)

    def _stop(self, commands: Sequence[Command]) -> None:
        until = time.monotonic() + STOP_S
        for command in commands:
            command.terminate()
        while any(command.process.poll() is None for command in commands):
            if self.signals > 1 or time.monotonic() > until:
                break
            time.sleep(POLL_S)
        for command in commands:
            command.kill()
