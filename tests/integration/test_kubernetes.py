"""Tests of deploy/kubernetes: valid manifests whose commands, variables and probes match the code."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests
import yaml
from middle_auth_client import decorators

from api.config import Settings
from beam_jobs import audit, materialize, update
from l2features.config.datasets import load_dataset
from l2features.testing.server import Server
from l2features.testing.small_table import DATASET, small_table
from tests.support.attacks import GOOD
from tests.support.dockerfile import environment, read_steps, stages
from tests.support.jobs import ROOT, need_program
from tests.support.manifests import EXPANDED, Container, find_containers, render
from tests.support.nginx import HOW_TO_GET_IT, PROGRAM, TEMPLATE, Nginx, compose_environment

JOBS = {"updater": update, "audit": audit, "materialize": materialize}


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return render()


@pytest.fixture(scope="module")
def containers(documents: list[dict[str, Any]]) -> dict[str, Container]:
    return find_containers(documents)


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}


# ------------------------------------------------------------------ as documents
def test_every_document_is_valid(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    wrong = {**documents[0], "mataData": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_what_they_name_exists(documents: list[dict[str, Any]], containers: dict[str, Container]) -> None:
    """Check references to volumes, ConfigMaps, service accounts and the API's Deployment."""
    maps, accounts = of_kind(documents, "ConfigMap"), of_kind(documents, "ServiceAccount")
    for name, container in containers.items():
        volumes = {volume["name"]: volume for volume in container.pod["volumes"]}
        assert {mount["name"] for mount in container.spec["volumeMounts"]} <= volumes.keys(), name
        used = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
        assert used <= maps.keys()
        assert container.pod["serviceAccountName"] in accounts
    api = of_kind(documents, "Deployment")["l2features-api"]
    labels = api["spec"]["template"]["metadata"]["labels"].items()
    for kind in ("Service", "PodDisruptionBudget"):
        (spec,) = (document["spec"] for document in of_kind(documents, kind).values())
        selector = spec["selector"].get("matchLabels", spec["selector"])
        assert selector.items() <= labels, kind
    (scaler,) = (document["spec"] for document in of_kind(documents, "HorizontalPodAutoscaler").values())
    assert scaler["scaleTargetRef"] == {
        "apiVersion": api["apiVersion"],
        "kind": "Deployment",
        "name": api["metadata"]["name"],
    }
    assert {metric["containerResource"]["container"] for metric in scaler["metrics"]} <= containers.keys()


def texts_in(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each string of a document with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from texts_in(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner, key)


def test_they_hold_no_secret(documents: list[dict[str, Any]]) -> None:
    assert not of_kind(documents, "Secret")
    texts = set(texts_in(documents))
    assert len(texts) > 100
    found = {(key, text) for key, text in texts if re.search("(?i)token|passw|secret|credential|_key", key)}
    assert found == {("secretName", "l2features-cave")}
    assert not [text for _, text in texts if "PRIVATE KEY" in text or "Bearer " in text]


# ------------------------------------------------------------------ as what the product runs
@pytest.mark.parametrize("job", JOBS)
def test_a_job_takes_its_arguments(containers: dict[str, Container], job: str) -> None:
    container, module = containers[job], JOBS[job]
    name, *options = container.args
    assert name == module.__name__
    assert "command" not in container.spec
    args, flags = module.parse(options)
    assert flags == []
    assert "--config=/config/datasets.yml" in options
    assert 'ENTRYPOINT ["python", "-m"]' in (ROOT / "templates" / "Dockerfile").read_text()
    assert args.workers <= int(container.spec["resources"]["requests"]["cpu"])
    if job != "updater":
        assert args.dataset in yaml.safe_load(datasets_text(containers[job]))


def datasets_text(container: Container) -> str:
    (name,) = (v["configMap"]["name"] for v in container.pod["volumes"] if v["name"] == "datasets")
    (document,) = (d for d in render() if d["metadata"]["name"] == name)
    return str(document["data"]["datasets.yml"])


def test_the_data_sets_file_is_valid(containers: dict[str, Container], tmp_path: Path) -> None:
    (tmp_path / "datasets.yml").write_text(datasets_text(containers["materialize"]))
    args, _ = materialize.parse(containers["materialize"].args[1:])
    assert load_dataset(args.dataset, tmp_path / "datasets.yml").versions == args.output
    image = environment(read_steps("Dockerfile.api"))
    assert image["GRAPH_L2CACHE_CONFIG_PATH"] == "/config/datasets.yml"


def test_every_variable_is_read(containers: dict[str, Container]) -> None:
    """Check that each container's variables are read by its program, template or arguments."""
    fields = Settings.model_fields
    settings = {field.validation_alias or f"L2CACHE_{name.upper()}" for name, field in fields.items()}
    assert containers["api"].env.keys() <= settings | {n for n in vars(decorators) if "AUTH_" in n}
    template = {"NGINX_ENVSUBST_OUTPUT_DIR", *re.findall(r"\$\{(\w+)\}", TEMPLATE.read_text())}
    assert containers["nginx"].env.keys() == template
    used = {name for job in JOBS for name in EXPANDED.findall(" ".join(containers[job].spec["args"]))}
    assert containers["updater"].env.keys() == used
    same = {name for name in template if name.startswith("L2CACHE_")} | {"NGINX_ENVSUBST_OUTPUT_DIR"}
    compose = compose_environment()
    assert {n: containers["nginx"].env[n] for n in same} == {n: compose[n] for n in same}


def test_users_and_homes_are_those_of_the_images(containers: dict[str, Container]) -> None:
    images = {
        "api": read_steps("Dockerfile.api"),
        **dict.fromkeys(JOBS, stages(read_steps("templates/Dockerfile"))["jobs"]),
    }
    for name, steps in images.items():
        (added,) = (step.rest for step in steps if step.word == "RUN" and step.rest.startswith("useradd"))
        words = shlex.split(added.partition("&&")[0])
        spec, user = containers[name].spec, words[-1]
        assert spec["securityContext"]["runAsUser"] == int(words[words.index("--uid") + 1])
        secrets = [mount["mountPath"] for mount in spec["volumeMounts"] if mount["name"] == "cave"]
        assert secrets == [f"/home/{user}/.cloudvolume/secrets"]
        assert f"/{'api' if name == 'api' else 'jobs'}:" in spec["image"]


def seconds_before_sigterm(container: Container) -> int:
    command = " ".join(container.spec["lifecycle"]["preStop"]["exec"]["command"])
    return int(re.findall(r"sleep (\d+)$", command)[0])


def test_the_order_of_a_drain(containers: dict[str, Container]) -> None:
    """Check that requests stop before nginx, and nginx before gunicorn. Check the updater's grace period."""
    api, nginx = containers["api"], containers["nginx"]
    first, second = seconds_before_sigterm(nginx), seconds_before_sigterm(api)
    probe = nginx.spec["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < first
    assert first + int(nginx.env["L2CACHE_BODY_TIMEOUT_S"]) <= second
    graceful = Settings().graceful_timeout_s
    assert second + graceful < api.pod["terminationGracePeriodSeconds"] <= second + graceful + 30
    assert probe["timeoutSeconds"] > Settings().store_timeout_s
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["updater"]
    assert compose["stop_grace_period"] == "1m"
    assert containers["updater"].pod["terminationGracePeriodSeconds"] == 60


def test_schedules(documents: list[dict[str, Any]]) -> None:
    """Check that CronJob runs do not overlap and that failed runs are retried."""
    for document in of_kind(documents, "CronJob").values():
        spec = document["spec"]
        assert re.fullmatch(r"([0-9*,/-]+ ){4}[0-9*,/-]+", spec["schedule"])
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


# ------------------------------------------------------------------ as processes
@pytest.fixture(scope="module")
def pod(
    containers: dict[str, Container], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Nginx]]:
    """Start gunicorn and nginx with their containers' variables, except addresses and paths."""
    need_program(PROGRAM, HOW_TO_GET_IT)
    folder = tmp_path_factory.mktemp("pod")
    env, given = containers["api"].env, dict(containers["nginx"].env)
    own = {"L2CACHE_DRAIN_FILE": str(folder / "draining"), "L2CACHE_EXCHANGE": ""}
    port = environment(read_steps("Dockerfile.api"))["L2CACHE_BIND"].rpartition(":")[2]
    assert given.pop("API_SERVERS") == f"server 127.0.0.1:{port} max_fails=0;"
    del given["API_PORT"]
    with Server(small_table(folder), {**env, **own}) as server:
        nginx = Nginx(folder, [server.port], given)
        yield server, nginx
        nginx.stop()


def port_of(container: Container, name: str) -> int:
    return next(int(port["containerPort"]) for port in container.spec["ports"] if port["name"] == name)


def test_probes_and_drain(containers: dict[str, Container], pod: tuple[Server, Nginx]) -> None:
    """Check that the probes' routes answer, and that draining fails only the readiness probe."""
    server, nginx = pod
    api, front = containers["api"], containers["nginx"]
    assert front.env["API_PORT"] == str(port_of(front, "http"))
    live = api.spec["livenessProbe"]["httpGet"]
    assert api.spec["startupProbe"]["httpGet"] == live
    ready = front.spec["readinessProbe"]["httpGet"]
    assert (live["port"], ready["port"]) == ("gunicorn", "http")
    assert requests.get(server.url + live["path"], timeout=20).status_code == 200
    assert requests.get(nginx.url + ready["path"], timeout=20).status_code == 200
    command = api.spec["lifecycle"]["preStop"]["exec"]["command"]
    env = {"PATH": os.environ["PATH"], "L2CACHE_DRAIN_FILE": server.environment["L2CACHE_DRAIN_FILE"]}
    assert "L2CACHE_DRAIN_FILE" in environment(read_steps("Dockerfile.api"))
    with subprocess.Popen(command, env=env, start_new_session=True) as draining:
        until = time.monotonic() + 10
        while requests.get(nginx.url + ready["path"], timeout=20).status_code != 503:
            assert time.monotonic() < until
        assert requests.get(server.url + live["path"], timeout=20).status_code == 200
        read, name = f"{nginx.api}/table/{DATASET}/attributes", api.env["L2CACHE_TRUSTED_HOSTS"].split()[0]
        assert requests.post(read, data=GOOD, headers={"Host": name}, timeout=20).ok
        assert requests.post(read, data=GOOD, timeout=20).status_code == 400  # by an address
        assert draining.poll() is None
        os.killpg(draining.pid, signal.SIGKILL)


def test_metrics_are_scraped_where_they_are(
    documents: list[dict[str, Any]], pod: tuple[Server, Nginx]
) -> None:
    api = of_kind(documents, "Deployment")["l2features-api"]
    notes = api["spec"]["template"]["metadata"]["annotations"]
    port = port_of(find_containers(documents)["nginx"], "http")
    assert notes["prometheus.io/port"] == str(port)
    assert "l2cache_" in requests.get(pod[1].url + notes["prometheus.io/path"], timeout=20).text
