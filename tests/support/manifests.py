"""The manifests of deploy/kubernetes, rendered by kubectl."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.support.jobs import ROOT, need_program

EXAMPLE = ROOT / "deploy" / "kubernetes" / "overlays" / "example"
KUBECTL = shutil.which("kubectl")
HOW_TO_GET_KUBECTL = "kubectl is not installed: https://kubernetes.io/docs/tasks/tools"
EXPANDED = re.compile(r"\$\((\w+)\)")


def render(folder: Path = EXAMPLE) -> list[dict[str, Any]]:
    need_program(KUBECTL, HOW_TO_GET_KUBECTL)
    command = [str(KUBECTL), "kustomize", "--load-restrictor", "LoadRestrictionsNone", str(folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (rendered.returncode, rendered.stderr) == (0, "")
    return list(yaml.safe_load_all(rendered.stdout))


class Container(NamedTuple):
    """A container's spec, its pod's spec, and the container's environment variables."""

    spec: dict[str, Any]
    pod: dict[str, Any]
    env: dict[str, str]

    @property
    def args(self) -> list[str]:
        """Return its arguments with each ``$(NAME)`` replaced. Raises KeyError for an unknown name."""
        return [EXPANDED.sub(lambda name: self.env[name[1]], arg) for arg in self.spec["args"]]


def find_containers(documents: list[dict[str, Any]]) -> dict[str, Container]:
    maps = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        pod = spec.get("template", {}).get("spec", {})
        for container in pod.get("containers", ()):
            env = {entry["name"]: entry["value"] for entry in container.get("env", ())}
            for source in container.get("envFrom", ()):
                env |= maps[source["configMapRef"]["name"]]
            found[container["name"]] = Container(container, pod, env)
    return found
