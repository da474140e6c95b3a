"""Find Google's Bigtable and Pub/Sub emulators in an installed Google Cloud SDK."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from ephemeral_port_reserve import reserve

from ..config.datasets import BIGTABLE_VARIABLE, PUBSUB_VARIABLE
from ..core.errors import ConfigError

LOOPBACK = "127.0.0.1"
_USUAL_PLACES = (Path("/usr/lib/google-cloud-sdk"), Path("~/google-cloud-sdk"))
HOW_TO_GET_JAVA = (
    "java is not on PATH, and the Pub/Sub emulator needs it: get it by `apt install default-jre-headless`, "
    "or from https://adoptium.net"
)


@dataclass(frozen=True)
class EmulatorProgram:
    """An emulator: its program, and the variable from which Google's clients read the emulator's address."""

    name: str
    title: str
    variable: str
    in_platform: str
    """Path of the program below ``platform`` in the SDK."""
    component: str
    """Name of the emulator among gcloud's components."""
    flags: tuple[str, ...]
    needs_java: bool

    def find(self) -> str | None:
        """Return the program's path, on PATH or in an SDK; None if the program or its Java is missing."""
        return None if self._lacks_java() else self._find_program()

    @property
    def how_to_get_it(self) -> str:
        """Message that names the missing programs, and how to install them."""
        get_program = (
            f"the {self.title} emulator ({Path(self.in_platform).name}) is not installed: it comes with the "
            f"Google Cloud SDK (`gcloud components install {self.component}`, or Debian's "
            f"google-cloud-cli-{self.name}-emulator from Google's package repository); put it or its gcloud "
            "on PATH"
        )
        missing = [] if self._find_program() else [get_program]
        return "\n".join([*missing, HOW_TO_GET_JAVA] if self._lacks_java() else missing)

    def _lacks_java(self) -> bool:
        return self.needs_java and shutil.which("java") is None

    def _find_program(self) -> str | None:
        gcloud = shutil.which("gcloud")
        beside = [Path(gcloud).resolve().parent.parent] if gcloud else []
        sdks = [*beside, *(path.expanduser() for path in _USUAL_PLACES)]
        programs = [sdk / "platform" / self.in_platform for sdk in sdks]
        found = shutil.which(Path(self.in_platform).name)
        return found or next((str(program) for program in programs if program.exists()), None)

    def command(self, host: str, port: int) -> list[str]:
        """Return the command that runs the emulator in the foreground.

        Raises ConfigError if the program or its Java is missing.
        """
        path = self.find()
        if not path:
            raise ConfigError(self.how_to_get_it)
        return [path, *(flag.format(host=host, port=port) for flag in self.flags)]


BIGTABLE = EmulatorProgram(
    "bigtable",
    "Bigtable",
    BIGTABLE_VARIABLE,
    "bigtable-emulator/cbtemulator",
    "bigtable",
    ("-host", "{host}", "-port", "{port}"),
    needs_java=False,
)
PUBSUB = EmulatorProgram(
    "pubsub",
    "Pub/Sub",
    PUBSUB_VARIABLE,
    "pubsub-emulator/bin/cloud-pubsub-emulator",
    "pubsub-emulator",
    ("--host={host}", "--port={port}"),
    needs_java=True,
)


def free_port() -> int:
    """Return a free port of the loopback address. For a minute, the system gives it to no other process."""
    return int(reserve(LOOPBACK))


def is_listening(port: int) -> bool:
    """Return whether a port of the loopback address accepts connections."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
