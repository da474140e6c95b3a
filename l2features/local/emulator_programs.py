"""Google's Bigtable and Pub/Sub emulators, found in an installed Google Cloud SDK."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from ..config.datasets import PUBSUB_VARIABLE
from ..core.errors import ConfigError

LOOPBACK = "127.0.0.1"
_USUAL_PLACES = (Path("/usr/lib/google-cloud-sdk"), Path("~/google-cloud-sdk"))
HOW_TO_GET_JAVA = (
    "java is not on PATH, and the Pub/Sub emulator needs it: get it by `apt install default-jre-headless`, "
    "or from https://adoptium.net"
)


def _how_to_get(name: str, program: str, component: str, package: str) -> str:
    return (
        f"the {name} emulator ({program}) is not installed: it comes with the Google Cloud SDK "
        f"(`gcloud components install {component}`, or Debian's {package} from Google's package repository); "
        "put it or its gcloud on PATH"
    )


@dataclass(frozen=True)
class EmulatorProgram:
    """An emulator: its program, and the variable from which Google's clients read its address."""

    name: str
    variable: str
    program: str
    in_platform: str
    """Path of the program below ``platform`` in the SDK."""
    flags: tuple[str, ...]
    needs_java: bool
    how_to_get_program: str

    def find(self) -> str | None:
        """Return the program's path, on PATH or in an SDK; None without it, or without the java it needs."""
        return None if self._lacks_java() else self._find_program()

    @property
    def how_to_get_it(self) -> str:
        """What is missing and how to install it, one line each."""
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

    def command(self, host: str, port: int) -> list[str]:
        """Return the command that runs it in the foreground. Raises ConfigError where it is not installed."""
        path = self.find()
        if not path:
            raise ConfigError(self.how_to_get_it)
        return [path, *(flag.format(host=host, port=port) for flag in self.flags)]


BIGTABLE = EmulatorProgram(
    "bigtable",
    "BIGTABLE_EMULATOR_HOST",
    "cbtemulator",
    "bigtable-emulator/cbtemulator",
    ("-host", "{host}", "-port", "{port}"),
    False,
    _how_to_get("Bigtable", "cbtemulator", "bigtable", "google-cloud-cli-bigtable-emulator"),
)
PUBSUB = EmulatorProgram(
    "pubsub",
    PUBSUB_VARIABLE,
    "cloud-pubsub-emulator",
    "pubsub-emulator/bin/cloud-pubsub-emulator",
    ("--host={host}", "--port={port}"),
    True,
    _how_to_get("Pub/Sub", "cloud-pubsub-emulator", "pubsub-emulator", "google-cloud-cli-pubsub-emulator"),
)


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def is_listening(port: int) -> bool:
    """Return whether a port of loopback accepts connections."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def _sdks() -> list[Path]:
    """Return the folders of Google Cloud SDKs: the one of ``gcloud`` on PATH, and the usual ones."""
    gcloud = shutil.which("gcloud")
    beside = [Path(gcloud).resolve().parent.parent] if gcloud else []
    return [*beside, *(path.expanduser() for path in _USUAL_PLACES)]
