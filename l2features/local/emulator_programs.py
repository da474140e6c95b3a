"""Google's emulators of Bigtable and Pub/Sub: where an installed Google Cloud SDK has them."""

from __future__ import annotations

import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from ..config.datasets import PUBSUB_VARIABLE
from ..core.errors import ConfigError

LOOPBACK = "127.0.0.1"
IMAGE_SDK = "/google-cloud-sdk"
"""Where the SDK lies in Google's image of the emulators."""
_USUAL_PLACES = (Path("/usr/lib/google-cloud-sdk"), Path("~/google-cloud-sdk"))
_WHERE = "put it on PATH, or gcloud, beside which it is looked for"
HOW_TO_GET_JAVA = (
    "java is not on PATH, and the Pub/Sub emulator needs it: get it by `apt install default-jre-headless`, "
    "or from https://adoptium.net"
)


@dataclass(frozen=True)
class EmulatorProgram:
    """One of the emulators: its program, and the variable by which Google's clients find it."""

    name: str
    variable: str
    program: str
    in_platform: str
    """Path of the program below ``platform`` in the SDK."""
    flags: tuple[str, ...]
    needs_java: bool
    how_to_get_program: str

    def find(self) -> str | None:
        """Path of the program, on PATH or in an SDK, where java is there if it needs it."""
        return None if self._lacks_java() else self._find_program()

    @property
    def how_to_get_it(self) -> str:
        """What is missing of it here and how to get that, a line each."""
        missing = [] if self._find_program() else [self.how_to_get_program]
        return "\n".join([*missing, HOW_TO_GET_JAVA] if self._lacks_java() else missing)

    def _lacks_java(self) -> bool:
        return self.needs_java and shutil.which("java") is None

    def _find_program(self) -> str | None:
        found = shutil.which(self.program)
        if found:
            return found
        paths = (root / "platform" / self.in_platform for root in _sdks())
        return next((str(path) for path in paths if path.exists()), None)

    def command(self, host: str, port: int, path: str | None = None) -> list[str]:
        """What starts it in the foreground. Raises ConfigError where it is not installed."""
        path = path or self.find()
        if not path:
            raise ConfigError(self.how_to_get_it)
        return [path, *(flag.format(host=host, port=port) for flag in self.flags)]

    def image_command(self, port: int) -> list[str]:
        """What starts it in Google's image, for all who reach the container."""
        return self.command("0.0.0.0", port, f"{IMAGE_SDK}/platform/{self.in_platform}")


BIGTABLE = EmulatorProgram(
    "bigtable",
    "BIGTABLE_EMULATOR_HOST",
    "cbtemulator",
    "bigtable-emulator/cbtemulator",
    ("-host", "{host}", "-port", "{port}"),
    False,
    "the Bigtable emulator (cbtemulator) is not installed: it comes with the Google Cloud SDK "
    "(`gcloud components install bigtable`, or Debian's google-cloud-cli-bigtable-emulator from Google's "
    f"package repository); {_WHERE}",
)
PUBSUB = EmulatorProgram(
    "pubsub",
    PUBSUB_VARIABLE,
    "cloud-pubsub-emulator",
    "pubsub-emulator/bin/cloud-pubsub-emulator",
    ("--host={host}", "--port={port}"),
    True,
    "the Pub/Sub emulator (cloud-pubsub-emulator) is not installed: it comes with the Google Cloud SDK "
    "(`gcloud components install pubsub-emulator`, or Debian's google-cloud-cli-pubsub-emulator from "
    f"Google's package repository); {_WHERE}",
)


def free_port() -> int:
    """A port of loopback at which nobody listens now."""
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections at a port of loopback."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for_port(port: int, seconds: float = 20.0) -> None:
    """Return when somebody listens at a port of loopback. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not is_listening(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens at {LOOPBACK}:{port} after {seconds:g} s")
        time.sleep(0.02)


def _sdks() -> list[Path]:
    """Folders of Google Cloud SDKs: that which ``gcloud`` on PATH belongs to, and the usual ones."""
    gcloud = shutil.which("gcloud")
    beside = [Path(gcloud).resolve().parent.parent] if gcloud else []
    return [*beside, *(path.expanduser() for path in _USUAL_PLACES)]
