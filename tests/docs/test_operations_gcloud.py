"""Tests of the gcloud commands in docs/operations.md: gcloud parses them, values are within limits."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.support.jobs import ROOT, need_program
from tests.support.operations import calls, completions, of_program, values
from tests.support.templates import HOW_TO_GET_GCLOUD

__all__ = ["calls"]
PRINTED = "a"
"""Value of a flag if the program that would print it is a stub."""
MOST_TIMES_THE_FEWEST = 10
"""https://cloud.google.com/bigtable/docs/autoscaling: the maximum is at most ten times the minimum."""


def one_word_flags(words: list[str]) -> str:
    """Return the command with its flags last, as ``--flag=value``: gcloud's linter reads no other form."""
    flags, names = [], []
    left = iter(words)
    for word in left:
        if not word.startswith("--"):
            names.append(word)
        elif "=" in word or takes_no_value(words, word):
            flags.append(word)
        else:
            value = next(left, None)
            flags.append(word if value is None else f"{word}={value or PRINTED}")
    return shlex.join(["gcloud", *names, *flags])


tree = functools.cache(completions)


def takes_no_value(words: list[str], flag: str) -> bool:
    node = tree()
    kinds = dict(node["flags"])
    for word in words:
        node = node["commands"].get(word, node)
        kinds |= node["flags"]
    return bool(kinds.get(flag) == "bool")


REFUSED = {
    "pubsub subscriptions create a --topic b --message-retention-duration 32d": "less than or equal to 31d",
    "pubsub subscriptions create a --topic b --retain-acked-message": "unrecognized arguments",
    "bigtable instances create a --display-name b --cluster-config id=c,zon=d": "zon",
    "bigtable backups create a --table b --instance c --cluster d": "Exactly one of",
    "dataflow jobs cancel a --regions b": "unrecognized arguments",
    "dataflow jobs stop a": "Invalid choice",
}


@pytest.fixture(scope="module")
def errors(calls: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return gcloud's lint error for each command in docs/operations.md and `REFUSED`. No command runs.

    The error of a valid command is "".
    """
    need_program(shutil.which("gcloud"), HOW_TO_GET_GCLOUD)
    words = [*of_program(calls, "gcloud"), *(command.split() for command in REFUSED)]
    commands = {one_word_flags(command) for command in words}
    file = tmp_path_factory.mktemp("gcloud") / "commands.json"
    file.write_text(json.dumps([{"command_string": command} for command in sorted(commands)]))
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {one["command_string"]: one for one in json.loads(done.stdout)}
    assert set(found) == commands
    return {name: "" if one["success"] else one["error_message"] for name, one in found.items()}


def test_gcloud_parses_every_command(calls: list[list[str]], errors: dict[str, str]) -> None:
    commands = [one_word_flags(words) for words in of_program(calls, "gcloud")]
    assert len(commands) > 20
    assert {command: errors[command] for command in commands if errors[command]} == {}


def test_a_wrong_command_is_reported(errors: dict[str, str]) -> None:
    for command, words in REFUSED.items():
        assert words in errors[one_word_flags(command.split())]


def test_gcloud_reads_a_templates_metadata() -> None:
    need_program(shutil.which("gcloud"), HOW_TO_GET_GCLOUD)
    command = ["gcloud", "dataflow", "flex-template", "build", "gs://bucket/update.json", "--print-only"]
    image, metadata = "us-docker.pkg.dev/p/jobs/ingest:1", ROOT / "templates" / "update.json"
    flags = [f"--image={image}", "--sdk-language=PYTHON", f"--metadata-file={metadata}"]
    printed = subprocess.run([*command, *flags], capture_output=True, text=True, check=True).stdout
    read = yaml.safe_load(yaml.safe_load(printed))["metadata"]
    assert read["parameters"] == json.loads(metadata.read_text())["parameters"]


def clusters(calls: list[list[str]]) -> Iterator[dict[str, str]]:
    for call in of_program(calls, "gcloud", "bigtable"):
        for value in values(call, "--cluster-config"):
            yield dict(pair.split("=") for pair in value.split(","))


def autoscaling(calls: list[list[str]]) -> Iterator[dict[str, int]]:
    """Yield the autoscaling values that commands set for instances and clusters."""
    names = ("min-nodes", "max-nodes", "cpu-target")
    for cluster in clusters(calls):
        yield {name: int(cluster[f"autoscaling-{name}"]) for name in names}
    for call in of_program(calls, "gcloud", "bigtable", "clusters"):
        if any(word.startswith("--autoscaling") for word in call):
            yield {name: int(values(call, f"--autoscaling-{name}")[0]) for name in names}


def test_autoscaling_is_valid_for_bigtable(calls: list[list[str]]) -> None:
    found = list(autoscaling(calls))
    assert len(found) == 2
    for bounds in found:
        fewest, most = bounds["min-nodes"], bounds["max-nodes"]
        assert 1 <= fewest <= most <= MOST_TIMES_THE_FEWEST * fewest
        assert 10 <= bounds["cpu-target"] <= 80


DAYS_OF_A_BACKUP = 90
"""https://cloud.google.com/bigtable/docs/backups: the longest retention; the shortest is six hours."""


def test_names_and_times_are_valid_for_the_services(calls: list[list[str]]) -> None:
    """Check the names of created resources, and the retention of backups."""
    patterns = {
        "service-accounts": r"[a-z][-a-z0-9]{4,28}[a-z0-9]",
        "instances": r"[a-z][-a-z0-9]{4,31}[a-z0-9]",
        "topics": r"(?!goog)[A-Za-z][-\w.~+%]{2,254}",
        "subscriptions": r"(?!goog)[A-Za-z][-\w.~+%]{2,254}",
    }
    seen = set()
    for call in of_program(calls, "gcloud"):
        if "create" not in call:
            continue
        verb = call.index("create")
        if pattern := patterns.get(call[verb - 1]):
            seen.add(call[verb - 1])
            assert re.fullmatch(pattern, call[verb + 1]), call
        for days in values(call, "--retention-period"):
            assert 1 <= int(days.removesuffix("d")) <= DAYS_OF_A_BACKUP
    assert seen == set(patterns)
    assert all(re.fullmatch(r"[a-z][-a-z0-9]{4,28}[a-z0-9]", cluster["id"]) for cluster in clusters(calls))


def test_seeked_subscriptions_retain_acknowledged_messages(calls: list[list[str]]) -> None:
    """A seek to a time redelivers acknowledged messages only where the subscription retains them."""
    made = {call[0]: call for call in of_program(calls, "gcloud", "pubsub", "subscriptions", "create")}
    sought = {call[0] for call in of_program(calls, "gcloud", "pubsub", "subscriptions", "seek")}
    assert sought == {"l2-edits-true", "l2-edits-false", "l2-missing"}
    for name in sought:
        assert "--retain-acked-messages" in made[name]
