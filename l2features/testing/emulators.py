"""Google's emulators of Bigtable and Pub/Sub as real processes, which tests pause and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

from ..local.emulator_programs import BIGTABLE, LOOPBACK, PUBSUB, free_port, is_listening

__all__ = ["free_port"]
HOW_TO_GET_IT, HOW_TO_GET_PUBSUB = BIGTABLE.how_to_get_it, PUBSUB.how_to_get_it
START_S = 60.0
"""Seconds that the start of a Java program may take on a loaded machine."""
find_emulator, find_pubsub_emulator = BIGTABLE.find, PUBSUB.find


def wait_for_port(port: int, seconds: float = 20.0) -> None:
    """Wait until a port of loopback accepts connections. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not is_listening(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no connection to {LOOPBACK}:{port} within {seconds:g} s")
        time.sleep(0.02)


class Emulator:
    """A running Bigtable emulator; its tables are lost when it stops."""

    program = BIGTABLE
    preexec_fn: Callable[[], object] | None = None

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.host = f"{LOOPBACK}:{self.port}"
        self.start()

    @property
    def variable(self) -> str:
        return self.program.variable

    def start(self) -> None:
        command = self.program.command(LOOPBACK, self.port)
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=self.preexec_fn,  # noqa: PLW1509
        )
        try:
            wait_for_port(self.port, START_S)
        except TimeoutError:
            self.stop()
            raise

    def pause(self) -> None:
        """Pause the whole process until SIGCONT; wait until its threads have stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses this emulator."""
        return {**os.environ, self.variable: self.host, **more}


class PubSubEmulator(Emulator):
    """A running Pub/Sub emulator; subscriptions need fresh names in every test."""

    program = PUBSUB
