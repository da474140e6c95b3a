"""Commands run side by side: started one after another, watched, and ended together.

Each is a process group of its own, so that a Ctrl-C is for the supervisor alone, and that what a command has
started ends with it. Where the supervisor is killed, they end as well.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from ..core.errors import L2FeaturesError
from .processes import ending_with_parent, heeded

POLL_S = 0.05
STOP_S = 30.0
"""So long a command may take to end after SIGTERM."""
TAIL_LINES = 12
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked for the end."""


class Ended(L2FeaturesError):
    """A command has ended that should not have, or took too long."""


class Command:
    """One command that runs; all that it prints goes to ``log``."""

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
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def how_it_ended(self) -> str:
        """Its exit status, the place of its log, and the last lines there."""
        code = self.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        tail = "\n".join(f"  {line}" for line in self.printed().splitlines()[-TAIL_LINES:])
        return f"{self.name} {how}: see {self.log}" + (f"\n{tail}" if tail else "")

    def ask_to_end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def kill(self) -> None:
        """End at once what is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Supervisor:
    """Starts commands and watches them. Use it in ``with``: at the end none of them is left.

    What was started in a later stage ends before that of an earlier one; a second signal ends all at once.
    ``environment`` gives that of a command, with more variables.
    """

    def __init__(self, environment: Callable[..., dict[str, str]], logs: Path) -> None:
        self.environment, self.logs = environment, logs
        self.stages: list[list[Command]] = [[]]
        self.signals = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Supervisor:
        for number in heeded(*SIGNALS):
            self._before[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for stage in reversed(self.stages):
                self._stop(stage)
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1

    def start(self, name: str, argv: Sequence[str], more: Mapping[str, str]) -> Command:
        """Start a command that shall not end."""
        command = self._command(name, argv, more)
        self.stages[-1].append(command)
        return command

    def next_stage(self) -> None:
        """What is started from now on ends before what was started until now."""
        self.stages.append([])

    def run(self, name: str, argv: Sequence[str], more: Mapping[str, str], seconds: float) -> None:
        """Run a command to its end. Raises Stopped, and Ended where it fails or takes too long."""
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
        """Return when ``ready`` says so. Raises Stopped, and Ended where a command ends or time is up."""
        until = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise Ended(f"{what} is not ready after {seconds:g} s: see {self.logs / what}.log")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raises Stopped after a signal, and Ended where a command has ended that shall not."""
        if self.signals:
            raise Stopped
        for command in itertools.chain(*self.stages):
            if command.process.poll() is not None:
                raise Ended(command.how_it_ended())

    def watch(self) -> None:
        """Until a signal comes, which is Stopped, or a command ends, which is Ended."""
        while True:
            self.check()
            time.sleep(POLL_S)

    def _stop(self, commands: Sequence[Command]) -> None:
        until = time.monotonic() + STOP_S
        for command in commands:
            command.ask_to_end()
        while any(command.process.poll() is None for command in commands):
            if self.signals > 1 or time.monotonic() > until:
                break
            time.sleep(POLL_S)
        for command in commands:
            command.kill()
