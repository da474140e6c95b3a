"""Google's Bigtable emulator as a real process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

HOW_TO_GET_IT = (
    "the Bigtable emulator (cbtemulator) is not installed: it comes with the Google Cloud SDK "
    "(`gcloud components install bigtable`, or Debian's google-cloud-cli-bigtable-emulator from Google's "
    "package repository); put it on PATH, or gcloud, beside which it is looked for"
)


def find_emulator() -> str | None:
    """Path of ``cbtemulator``: on PATH, or in the SDK that ``gcloud`` belongs to."""
    found = shutil.which("cbtemulator")
    if found:
        return found
    gcloud = shutil.which("gcloud")
    roots = [Path(gcloud).resolve().parent.parent] if gcloud else []
    for root in [*roots, Path("/usr/lib/google-cloud-sdk"), Path.home() / "google-cloud-sdk"]:
        path = root / "platform" / "bigtable-emulator" / "cbtemulator"
        if path.exists():
            return str(path)
    return None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Emulator:
    """One running emulator; it keeps nothing when it stops."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        path = find_emulator()
        assert path, HOW_TO_GET_IT
        self.process = subprocess.Popen(
            [path, "-host", "127.0.0.1", "-port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_port(self.port)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def environment(self, **more: str) -> dict[str, str]:
        """Environment of a process that shall use this emulator."""
        return {**os.environ, "BIGTABLE_EMULATOR_HOST": self.host, **more}


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
