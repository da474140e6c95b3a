"""Google's emulators of Bigtable and Pub/Sub as real processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

HOW_TO_GET_IT = (
    "the Bigtable emulator (cbtemulator) is not installed: it comes with the Google Cloud SDK "
    "(`gcloud components install bigtable`, or Debian's google-cloud-cli-bigtable-emulator from Google's "
    "package repository); put it on PATH, or gcloud, beside which it is looked for"
)


HOW_TO_GET_PUBSUB = (
    "the Pub/Sub emulator (cloud-pubsub-emulator, and java, which it needs) is not installed: it comes with "
    "the Google Cloud SDK (`gcloud components install pubsub-emulator`, or Debian's "
    "google-cloud-cli-pubsub-emulator from Google's package repository); put it on PATH, or gcloud, beside "
    "which it is looked for"
)


def find_emulator() -> str | None:
    """Path of ``cbtemulator``: on PATH, or in the SDK that ``gcloud`` belongs to."""
    return _find("cbtemulator", "bigtable-emulator/cbtemulator")


def find_pubsub_emulator() -> str | None:
    """Path of ``cloud-pubsub-emulator``, found as `find_emulator` does, where there is java to run it."""
    if shutil.which("java") is None:
        return None
    return _find("cloud-pubsub-emulator", "pubsub-emulator/bin/cloud-pubsub-emulator")


def _find(program: str, in_platform: str) -> str | None:
    found = shutil.which(program)
    if found:
        return found
    gcloud = shutil.which("gcloud")
    roots = [Path(gcloud).resolve().parent.parent] if gcloud else []
    for root in [*roots, Path("/usr/lib/google-cloud-sdk"), Path.home() / "google-cloud-sdk"]:
        path = root / "platform" / in_platform
        if path.exists():
            return str(path)
    return None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Emulator:
    """One running emulator of Bigtable; it keeps nothing when it stops."""

    variable = "BIGTABLE_EMULATOR_HOST"

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.start()

    def command(self) -> list[str]:
        path = find_emulator()
        assert path, HOW_TO_GET_IT
        return [path, "-host", "127.0.0.1", "-port", str(self.port)]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(self.port)

    def pause(self) -> None:
        """Stop it as a whole until SIGCONT; its threads go on for a moment after the signal was sent."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def environment(self, **more: str) -> dict[str, str]:
        """Environment of a process that shall use this emulator."""
        return {**os.environ, self.variable: self.host, **more}


class PubSubEmulator(Emulator):
    """One running emulator of Pub/Sub; subscriptions need fresh names in every test."""

    variable = "PUBSUB_EMULATOR_HOST"

    def command(self) -> list[str]:
        path = find_pubsub_emulator()
        assert path, HOW_TO_GET_PUBSUB
        return [path, "--host=127.0.0.1", f"--port={self.port}"]


def wait_for_port(port: int, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
