"""A helper that runs the genuine nginx with deploy/nginx.conf in front of servers."""

from __future__ import annotations

import os
import shutil
import string
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from l2features.testing.emulators import free_port, wait_for_port
from l2features.testing.server import ROOT

TEMPLATE = ROOT / "deploy" / "nginx.conf"
PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
HOW_TO_GET_IT = "nginx is not installed: apt-get install nginx-light"


def compose_environment() -> dict[str, str]:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["nginx"]
    return dict(service["environment"])


class Nginx:
    """An nginx proxy to servers on loopback; ``env`` overrides the variables of compose.yaml."""

    def __init__(self, folder: Path, ports: Sequence[int], env: Mapping[str, str] | None = None) -> None:
        assert PROGRAM, HOW_TO_GET_IT
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.url}/l2cache/api/v1"
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
        variables = {
            **compose_environment(),
            "API_SERVERS": servers,
            "API_PORT": f"127.0.0.1:{self.port}",
            **(env or {}),
        }
        text = string.Template(TEMPLATE.read_text()).safe_substitute(variables)
        config = folder / "nginx.conf"
        config.write_text(text.replace("/tmp/", f"{folder}/"))
        main = "daemon off;" + (" user root;" if os.getuid() == 0 else "")
        with (folder / "nginx.log").open("w") as log:
            self.process = subprocess.Popen([PROGRAM, "-c", config, "-g", main], stderr=log)
        wait_for_port(self.port, 10)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
