"""Tests of compose.yaml: its validity, and equality with `l2features up`."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml
from compose_spec import PyOptions
from compose_spec.models import ComposeSpecification, Service

from api.config import Settings
from l2features.local.emulator_programs import BIGTABLE, PUBSUB
from l2features.local.services import StackPlace, services
from tests.support.jobs import ROOT

COMPOSE = ROOT / "compose.yaml"
CONTAINERS = StackPlace("/data", "bigtable:8086", "pubsub:8085", "0.0.0.0:8080")
IMAGE_SDK = "/google-cloud-sdk"
"""Path of the SDK in Google's emulator image."""


def test_the_containers_run_what_up_runs() -> None:
    written = yaml.safe_load(COMPOSE.read_text())["services"]
    expected = services(CONTAINERS)
    assert set(written) == {BIGTABLE.name, PUBSUB.name, *(service.name for service in expected), "nginx"}
    for service in expected:
        own = written[service.name]
        assert own["command"] == list(service.argv), service.name
        assert own["environment"] == service.environment
        assert {name: on["condition"] for name, on in own["depends_on"].items()} == service.after
        assert any(volume.startswith(f"data:{CONTAINERS.folder}") for volume in own["volumes"])
        assert (ROOT / own["build"]["dockerfile"]).exists()
        for name, condition in service.after.items():
            assert condition != "service_healthy" or written[name]["healthcheck"]["test"]
    for program, address in ((BIGTABLE, CONTAINERS.bigtable), (PUBSUB, CONTAINERS.pubsub)):
        host, _, port = address.partition(":")
        assert host == program.name
        flags = [flag.format(host="0.0.0.0", port=port) for flag in program.flags]
        path = f"{IMAGE_SDK}/platform/{program.in_platform}"
        assert written[program.name]["command"] == [path, *flags]
        assert f"/dev/tcp/127.0.0.1/{port}" in written[program.name]["healthcheck"]["test"][-1]


def test_nginx_stands_in_front_of_the_api() -> None:
    """Check that compose.yaml sets all variables in nginx.conf, and limits body size as the API does."""
    written = yaml.safe_load(COMPOSE.read_text())["services"]
    nginx, template = written["nginx"], ROOT / "deploy" / "nginx.conf"
    [mount] = nginx["volumes"]
    assert mount == "./deploy/nginx.conf:/etc/nginx/templates/nginx.conf.template:ro"
    variables = set(re.findall(r"\$\{(\w+)\}", template.read_text()))
    environment = dict(nginx["environment"])
    assert environment.pop("NGINX_ENVSUBST_OUTPUT_DIR") == "/etc/nginx"
    assert variables == environment.keys()
    assert environment["API_SERVERS"].startswith(f"server api:{CONTAINERS.api.rpartition(':')[2]} ")
    assert nginx["ports"] == [f"127.0.0.1:4100:{environment['API_PORT']}"]
    assert environment["L2CACHE_MAX_BODY_BYTES"] == str(Settings().max_body_bytes)
    assert "ports" not in written["api"]


def test_the_jobs_start_from_a_stage_of_their_dockerfile() -> None:
    build = yaml.safe_load(COMPOSE.read_text())["x-jobs"]["build"]
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / build["dockerfile"]).read_text(), re.MULTILINE)
    assert build["target"] in stages


def test_compose_yaml_is_valid() -> None:
    ComposeSpecification.model_validate(yaml.safe_load(COMPOSE.read_text()))
    strict, services = PyOptions(apply_merge=True), yaml.safe_load(COMPOSE.read_text())
    assert "pre_stop" in Service.model_fields
    del services["services"]["api"]["pre_stop"]  # of a newer specification than the strict parser's
    strict.from_yaml(yaml.safe_dump(services)).validate()
    with pytest.raises(ValueError, match="service_helthy"):
        strict.from_yaml(yaml.safe_dump(services).replace("service_healthy", "service_helthy"))
    compose = [shutil.which("docker") or "false", "compose"]
    if subprocess.run([*compose, "version"], check=False, capture_output=True).returncode == 0:
        command = [*compose, "-f", str(COMPOSE), "config", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
