"""Tests of the metadata of the Flex Templates: they match the jobs' options."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.cloud.dataflow_v1beta3.types import ContainerSpec, ParameterType, WorkerIPAddressConfiguration
from google.protobuf import json_format

from beam_jobs import audit, ingest, materialize, precomputed, templates, update
from beam_jobs.dataflow import DEFAULTS, labels
from beam_jobs.templates import TEMPLATES, as_text, metadata
from beam_jobs.update_dataflow import HANGS_MIN
from l2features.core.errors import ConfigError
from l2features.jobs import ingest_run
from tests.support.jobs import ROOT

JOBS = sorted(TEMPLATES)
PARSE: dict[str, Callable[[Sequence[str]], tuple[argparse.Namespace, list[str]]]] = {
    "ingest": ingest.parse,
    "audit": audit.parse,
    "materialize": materialize.parse,
    "precomputed": precomputed.parse,
    "update": update.parse,
}
HIGH, LOW = "projects/my-project/subscriptions/edits-high", "projects/ab:c/subscriptions/low_1"
EXAMPLES = {
    "dataset": ("minnie65_public", "", "-a", "a b"),
    "config": ("gs://my-bucket/l2/datasets.yml", "datasets.yml", "gs://bucket"),
    "timestamp": ("2026-11-21T02:27:44.5+02:00", "2026-11-21", "now", "2026-11-21 00:27:44 CET"),
    "chunks": ("0:12,3:4,0:1", "0:1", "a:b,c:d,e:f"),
    "output": ("gs://my-bucket/versions/minnie", "versions", "gs://bucket"),
    "base": ("12", "0", "one"),
    "version": ("7", "0", "latest"),
    "layers": ("nodes,segment_properties", "nodes,", "Nodes", "nodes axes"),
    "segments": ("10000", "0"),
    "shard_size": ("50000000", "0", "50MB"),
    "cell_nodes": ("10000", "0"),
    "settle_seconds": ("60.0", "-1", "a minute"),
    "sink": ("bigtableio",),
    "attempts": ("12", "0", "-1", "many"),
    "subscriptions": (f"{HIGH},{LOW}", "edits", f"{HIGH},", "projects/my-project/topics/edits"),
    "dead_letters": ("projects/my-project/topics/dead", HIGH, "dead/"),
    "sdk_container_image": ("us-docker.pkg.dev/p/jobs/ingest@sha256:0af1", "ingest", "a/b"),
    "number_of_worker_harness_threads": ("2", "0"),
    "disk_size_gb": ("100", "0", "1.5"),
}
"""Of each parameter a value that is right, and some that are wrong."""
IMAGE = "us-docker.pkg.dev/p/jobs/ingest:1"


def parameters(job: str) -> dict[str, dict[str, Any]]:
    found = metadata(job)["parameters"]
    by_name = {parameter["name"]: parameter for parameter in found}
    assert len(by_name) == len(found)
    return by_name


@pytest.mark.parametrize("job", JOBS)
def test_the_files_hold_what_the_options_say(job: str) -> None:
    written = (ROOT / "templates" / f"{job}.json").read_text()
    assert written == as_text(job), "python -m beam_jobs.templates writes the files anew"


def test_an_option_without_metadata_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        ingest_run.add_options(parser)
        parser.add_argument("--more", help="what nobody described")

    monkeypatch.setitem(TEMPLATES, "ingest", replace(TEMPLATES["ingest"], add_options=more))
    with pytest.raises(ConfigError, match="option --more of ingest: expected in FIELDS or LOCAL"):
        as_text("ingest")


def test_metadata_that_no_job_has_any_more() -> None:
    taken = {name for job in JOBS for name in parameters(job)}
    assert set(templates.FIELDS) == taken
    switches = {"test", "create", "recompute", "retry_missing", "allow_empty", "repair", "rebase", "delta"}
    assert set(EXAMPLES) | switches == taken


@pytest.mark.parametrize("job", JOBS)
def test_what_the_service_lets_pass_the_job_takes(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = parameters(job)
    switches = [name for name, parameter in found.items() if parameter["paramType"] == "BOOLEAN"]
    for name, parameter in found.items():
        right, *wrong = EXAMPLES.get(name, ("true", "yes", ""))
        for regex in parameter.get("regexes", []):
            assert "(?" not in regex
            assert re.search(regex, right), name
            assert not [text for text in wrong if re.search(regex, text)], name
        if "enumOptions" in parameter:
            assert right in [option["value"] for option in parameter["enumOptions"]]
    given = [f"--{name}={EXAMPLES[name][0]}" for name in found if name in EXAMPLES]
    on = [f"--{name}=true" for name in switches if name != "test"]
    own, flags = PARSE[job]([*given, *on])
    assert not {flag.split("=")[0] for flag in flags} - {f"--{name}" for name in templates.BEAM_HELP}
    assert all(getattr(own, name) is (name != "test") for name in switches)
    bare, _ = PARSE[job]([*given, *(f"--{name}" for name in switches if name != "test")])
    off, _ = PARSE[job]([*given, *(f"--{name}=false" for name in switches)])
    assert vars(bare) == vars(own)
    assert not any(getattr(off, name) for name in switches)
    for name in switches[:1]:
        with pytest.raises(SystemExit):
            PARSE[job]([*given, f"--{name}=maybe"])
        assert "expected true or false, got 'maybe'" in capsys.readouterr().err


def test_the_scheduled_parameters_pass() -> None:
    found = parameters("materialize")
    body = json.loads((ROOT / "deploy" / "scheduler-materialize.json").read_text())
    for name, value in body["launchParameter"]["parameters"].items():
        assert all(re.search(regex, value) for regex in found[name].get("regexes", [])), name


@pytest.mark.parametrize("job", JOBS)
def test_helps_are_complete(job: str) -> None:
    assert not [name for name, parameter in parameters(job).items() if "%(" in parameter["helpText"]]


@pytest.mark.parametrize("job", JOBS)
def test_what_is_required_and_what_is_not(job: str) -> None:
    found = parameters(job)
    required = {name for name, parameter in found.items() if not parameter["isOptional"]}
    of_the_job = {
        "update": {"subscriptions", "dead_letters"},
        "materialize": {"dataset", "timestamp", "output"},
        "precomputed": {"dataset", "version", "output"},
    }
    assert required == {"config", "sdk_container_image", *of_the_job.get(job, {"dataset"})}
    with_default = {name: p["defaultValue"] for name, p in found.items() if "defaultValue" in p}
    own, _ = PARSE[job]([f"--{name}={EXAMPLES[name][0]}" for name in required])
    for name, default in with_default.items():
        if name not in templates.BEAM_HELP:
            assert str(getattr(own, name)).lower() == default
    assert with_default["number_of_worker_harness_threads"] == "1"


def test_switches_of_beam_with_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    known = ["--dataset=a", "--no_use_public_ips=true", "--enable_hot_key_logging=false", "--update"]
    assert ingest.parse(known)[1] == ["--no_use_public_ips", "--update"]
    with pytest.raises(SystemExit):
        ingest.parse([*known, "--not_of_beam=1"])
    assert "unknown option --not_of_beam=1" in capsys.readouterr().err


def test_labels_are_labels() -> None:
    assert labels("audit", "H01.Release-C3") == [
        "--labels=application=l2features",
        "--labels=l2features-job=audit",
        "--labels=l2features-dataset=h01_release-c3",
    ]


@pytest.mark.parametrize("job", JOBS)
def test_the_spec_is_one_that_the_service_reads(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The client library parses the spec, and would refuse an unknown field."""
    account, network = "jobs@p.iam.gserviceaccount.com", "regions/us-east1/subnetworks/jobs"
    flags = ["--image", IMAGE, "--service_account", account, "--subnetwork", network]
    assert templates.main(["--spec", job, *flags]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["metadata"] == json.loads((ROOT / "templates" / f"{job}.json").read_text())
    message = ContainerSpec.pb()()
    json_format.ParseDict(written, message)
    read = ContainerSpec.wrap(message)
    environment = read.default_environment
    assert read.image == IMAGE
    assert environment.ip_configuration == WorkerIPAddressConfiguration.WORKER_IP_PRIVATE
    assert (environment.service_account_email, environment.subnetwork) == (account, network)
    assert read.metadata.streaming == environment.enable_streaming_engine == (job == "update")
    assert read.metadata.supports_at_least_once == (job == "update")
    kinds = {parameter.name: parameter.param_type for parameter in read.metadata.parameters}
    assert kinds["config"] == ParameterType.GCS_READ_FILE
    with pytest.raises(SystemExit):
        templates.main(["--spec", job])
    assert "--image IMAGE is required" in capsys.readouterr().err


@pytest.mark.parametrize(
    "image", ["bad image", "us-docker.pkg.dev/p/jobs/a b:1", "ingest:1", "host/ingest", "a/b:"]
)
def test_an_image_that_no_launch_would_take(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        templates.main(["--spec", "ingest", "--image", image])
    printed = capsys.readouterr()
    assert f"--image {image!r}: expected HOST/PATH/NAME:TAG" in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("job", "workers"),
    [("ingest", 100), ("audit", 20), ("materialize", 100), ("precomputed", 100), ("update", 5)],
)
def test_how_a_job_runs_where_a_launch_says_nothing(job: str, workers: int) -> None:
    defaults = {
        "machineType": "n2-standard-4",
        "maxWorkers": workers,
        "autoscalingAlgorithm": "AUTOSCALING_ALGORITHM_BASIC",
        "ipConfiguration": "WORKER_IP_PRIVATE",
        "additionalUserLabels": {"application": "l2features", "l2features-job": job},
    }
    if job == "update":
        defaults["enableStreamingEngine"] = True
    assert templates.spec(job, IMAGE)["defaultEnvironment"] == defaults
    given = {"serviceAccountEmail": "jobs@p", "subnetwork": "regions/r/subnetworks/s"}
    assert templates.spec(job, IMAGE, **given)["defaultEnvironment"] == defaults | given


def test_the_defaults_in_the_docs() -> None:
    """Check each row of the table in docs/dataflow.md against the specs and the jobs' flags."""
    documented = defaults_in_the_docs()
    specs = {job: templates.spec(job, IMAGE) for job in JOBS}
    of_launch = {job: spec["defaultEnvironment"] for job, spec in specs.items()}
    [machine] = {environment["machineType"] for environment in of_launch.values()}
    assert documented.pop("machine").startswith(f"`{machine}`: a process per core")
    for row, name, unit in (
        ("threads", "number_of_worker_harness_threads", " per process"),
        ("disk", "disk_size_gb", " GB"),
    ):
        [default] = {parameters(job)[name]["defaultValue"] for job in JOBS}
        assert documented.pop(row).startswith(f"{default}{unit}, ")
    bounds = {job: environment["maxWorkers"] for job, environment in of_launch.items()}
    assert {job: int(bound) for bound, job in re.findall(r"(\d+) \((\w+)\)", documented["workers"])} == bounds
    assert documented.pop("workers").startswith("scaled by throughput, up to ")
    assert {environment["autoscalingAlgorithm"] for environment in of_launch.values()} == {
        "AUTOSCALING_ALGORITHM_BASIC"
    }
    assert documented.pop("network").startswith("private addresses: ")
    assert {environment["ipConfiguration"] for environment in of_launch.values()} == {"WORKER_IP_PRIVATE"}
    assert documented.pop("account").startswith("the account in the spec, ")
    of_run = {label.removeprefix("--labels=").partition("=")[0] for label in labels("ingest", "minnie")}
    assert {label.partition("=")[0] for label in re.findall("`([^`]+)`", documented["labels"])} == of_run
    assert documented.pop("labels").startswith("`application=l2features`, ")
    for job, environment in of_launch.items():
        assert environment["additionalUserLabels"] == {"application": "l2features", "l2features-job": job}
    assert documented.pop("streaming").startswith("Streaming Engine in at-least-once mode: ")
    assert [job for job in JOBS if of_launch[job].get("enableStreamingEngine")] == ["update"]
    assert specs["update"]["metadata"]["defaultStreamingMode"] == "AT_LEAST_ONCE"
    flags = dict(flag.split("=") for flag in DEFAULTS if "=" in flag)
    minutes = flags["--element_processing_timeout_minutes"]
    hangs = f"a process exits after {minutes} minutes on one chunk, or {HANGS_MIN} on one batch of messages"
    assert documented.pop("hangs") == hangs
    assert not documented


def defaults_in_the_docs() -> dict[str, str]:
    part = (ROOT / "docs" / "dataflow.md").read_text().partition("## Defaults")[2].partition("\n## ")[0]
    heading, *rows = re.findall(r"^\| (.+?) \| (.+?) \|", part, re.MULTILINE)
    assert heading == ("what", "default")
    return dict(rows)


def test_the_launches_in_the_docs_are_let_pass() -> None:
    written = (ROOT / "docs" / "dataflow.md").read_text()
    written = written.replace("$IMAGE", IMAGE).replace("$BUCKET", "my-bucket")
    launches = re.findall(r'--parameters "\^;\^(.+?)"', written)
    for job, launch in zip(("ingest", "update"), launches, strict=True):
        given, found = dict(pair.split("=", 1) for pair in launch.split(";")), parameters(job)
        assert {name for name, parameter in found.items() if not parameter["isOptional"]} <= given.keys()
        for name, value in given.items():
            assert all(re.search(regex, value) for regex in found[name].get("regexes", [])), name


def test_the_specs_in_the_docs_are_written_before_they_are_put_into_the_bucket(tmp_path: Path) -> None:
    written = (ROOT / "docs" / "dataflow.md").read_text()
    [command] = re.findall(
        r"^python -m beam_jobs\.templates.*?\n(?=gcloud)", written, re.MULTILINE | re.DOTALL
    )
    fake = 'python() { printf "%s\\n" "$@" >&3; return $STATUS; }; gcloud() { echo "$2" >&4; }\n'
    for status, copied in (("0", "cp\n"), ("1", "")):
        given, put = tmp_path / "given", tmp_path / "put"
        script = fake + command.replace("/tmp/", f"{tmp_path}/")
        names = {"JOB": "audit", "IMAGE": IMAGE, "ACCOUNT": "a@p", "SUBNETWORK": "s", "BUCKET": "b"}
        run = ["/bin/bash", "-c", f"exec 3>{given} 4>{put}\n{script}"]
        subprocess.run(run, env=names | {"STATUS": status}, check=False)
        own = templates.parse(given.read_text().split()[2:])
        assert (own.spec, own.image, own.service_account, own.subnetwork) == ("audit", IMAGE, "a@p", "s")
        assert put.read_text() == copied


def test_the_command_writes_the_files(tmp_path: Path) -> None:
    assert templates.main(["--folder", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{job}.json" for job in JOBS]


def test_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        templates.main(["--folder", str(tmp_path / "none")])
    assert f"--folder {tmp_path}/none: No such file or directory" in capsys.readouterr().err
