"""Tests of Beam's boolean options: `--flag`, `--flag=true` and `--flag true` set the same value."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)

from beam_jobs import audit, ingest, materialize, precomputed, update
from beam_jobs.dataflow import dataflow_flags
from beam_jobs.options import Switch, pipeline_options, switches
from beam_jobs.update_dataflow import streaming_flags
from tests.support.jobs import ROOT


class Flag(NamedTuple):
    """A command-line flag of a boolean option, and the value that it sets."""

    name: str
    option: str
    on: bool
    kind: type[PipelineOptions]


def flags_of_beam() -> list[Flag]:
    """Return the boolean flags of the installed Beam version's own option classes."""
    found = []
    for kind in PipelineOptions.__subclasses__():
        parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
        kind._add_argparse_args(parser)
        for action in parser._actions:
            if action.nargs == 0 or isinstance(action.default, bool):
                on = action.const is not False
                found += [Flag(name, action.dest, on, kind) for name in action.option_strings]
    return found


FLAGS = flags_of_beam()
SPELLINGS = {
    "bare": (["{}"], True),
    "true": (["{}=true"], True),
    "True": (["{}=True"], True),
    "a word": (["{}", "true"], True),
    "false": (["{}=false"], False),
    "False": (["{}=False"], False),
    "false as a word": (["{}", "false"], False),
    "false last": (["{}", "{}=false"], False),
    "true last": (["{}=false", "{}"], True),
}


def test_beam_has_such_options() -> None:
    assert len(FLAGS) > 30
    assert {"--use_public_ips", "--no_use_public_ips", "--dry_run"} <= {flag.name for flag in FLAGS}


def batches() -> Iterator[list[Flag]]:
    """Yield the flags in batches, to build few parsers. No two flags of a batch set the same option."""
    left = FLAGS
    while left:
        batch = list({flag.option: flag for flag in left}.values())
        yield batch
        left = [flag for flag in left if flag not in batch]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("batch", [*batches()], ids=lambda batch: batch[0].name)
def test_options_have_the_values_that_were_given(batch: list[Flag], spelling: str) -> None:
    words, means = SPELLINGS[spelling]
    given = [word.format(flag.name) for flag in batch for word in words]
    _, parsed = ingest.parse(["--dataset=a", "--temp_location", "gs://b/temp", *given])
    for flags in (parsed, dataflow_flags("DataflowRunner", parsed)):
        options = pipeline_options(flags)
        every = options.get_all_options()
        for flag in batch:
            assert getattr(options.view_as(flag.kind), flag.option) is (flag.on == means), flag.name
            assert every[flag.option] is (flag.on == means), flag.name
        assert options.view_as(GoogleCloudOptions).temp_location == "gs://b/temp"


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_another_value_is_an_error_that_names_the_flag(
    flag: Flag, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        audit.parse(["--dataset=a", f"{flag.name}=maybe"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(f"error: {flag.name}: expected true or false, got 'maybe'")


def test_a_value_with_a_space_is_not_that_of_the_flag_before() -> None:
    _, parsed = ingest.parse(
        ["--dataset=a", "--streaming", "--job_name=a b", "--temp_location", "gs://b/c d"]
    )
    google = pipeline_options(parsed).view_as(GoogleCloudOptions)
    assert (google.job_name, google.temp_location) == ("a b", "gs://b/c d")
    assert pipeline_options(parsed).view_as(StandardOptions).streaming


def test_options_that_turn_each_other_off() -> None:
    for words in (["--use_public_ips", "--no_use_public_ips"], ["--use_public_ips=false"]):
        assert ingest.parse(["--dataset=a", *words])[1] == ["--no_use_public_ips"]
    assert ingest.parse(["--dataset=a", "--no_use_public_ips=false"])[1] == ["--use_public_ips"]


def test_a_default_of_ours_gives_way() -> None:
    _, parsed = ingest.parse(["--dataset=a", "--save_main_session"])
    assert pipeline_options(dataflow_flags("DataflowRunner", parsed)).get_all_options()["save_main_session"]


def test_switches_with_a_custom_no_spelling() -> None:
    """`argparse.BooleanOptionalAction` adds `--no-fast` to `--fast`. Beam 2.77's options do not use it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action=argparse.BooleanOptionalAction, default=True)
    assert switches(parser) == {"--fast": Switch("fast", True), "--no-fast": Switch("fast", False)}


@pytest.mark.parametrize("flag", ["--no_streaming", "--no-streaming"])
def test_a_spelling_that_beam_lacks(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ingest.parse(["--dataset=a", flag])
    assert f"unknown option {flag}: expected --streaming=false" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["streaming", "enable_streaming_engine"])
def test_what_a_streaming_job_cannot_do_without(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--subscriptions=projects/p-1/subscriptions/abc", "--dead_letters=projects/p-1/topics/dead"]
    with pytest.raises(SystemExit, match="2"):
        update.parse([*given, f"--{name}=false"])
    assert f"--{name}=false: always on for a job with --subscriptions" in capsys.readouterr().err
    assert update.parse([*given, f"--{name}=true"])


def test_a_local_run_starts_without_beam() -> None:
    """Importing Beam would take longer than the rest of the start."""
    code = (
        "import sys\n"
        "from beam_jobs import ingest, update\n"
        "assert ingest.parse(['--dataset=a'])[1] == update.parse(['--messages=a'])[1] == []\n"
        "assert 'apache_beam' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


EXACTLY_ONCE = "streaming_mode_exactly_once"
DEFAULT = "streaming_mode_at_least_once"


@pytest.mark.parametrize(
    "given",
    [
        [f"--dataflow_service_options={EXACTLY_ONCE}"],
        ["--dataflow_service_options", EXACTLY_ONCE],
        [f"--dataflow_service_option={EXACTLY_ONCE}"],
        [f"--dataflow_service_options=enable_prime,{EXACTLY_ONCE}"],
        [f"--dataflow_service_options={EXACTLY_ONCE}", "--dataflow_service_options=enable_prime"],
        [f"--dataflow_service_options={EXACTLY_ONCE}", f"--dataflow_service_options={DEFAULT}"],
        [f"--dataflow_service_options={DEFAULT},{EXACTLY_ONCE}"],
        [f"--experiments={EXACTLY_ONCE}"],
        ["--experiment", f"upload_graph,{EXACTLY_ONCE}"],
        [f"--experiments={EXACTLY_ONCE}", f"--dataflow_service_options={DEFAULT}"],
    ],
)
def test_exactly_once_overrides_the_default_mode(given: list[str]) -> None:
    options = pipeline_options(streaming_flags(["--experiments=a,b=c=d,e", *given]))
    service = options.view_as(GoogleCloudOptions).dataflow_service_options
    experiments = options.view_as(DebugOptions).experiments
    assert [name for name in service if name.startswith("streaming_mode")] == [EXACTLY_ONCE]
    assert not [name for name in experiments if name.startswith("streaming_mode")]
    assert {"a", "b=c=d,e"} <= set(experiments)
    assert ("enable_prime" in service) == any("enable_prime" in flag for flag in given)
    assert options.view_as(StandardOptions).streaming


def test_a_word_that_looks_like_a_mode_is_none() -> None:
    for given in ([], ["--job_name=streaming_mode_exactly_once"], [f"--dataflow_service_options={DEFAULT}"]):
        options = pipeline_options(streaming_flags(given))
        assert options.view_as(GoogleCloudOptions).dataflow_service_options == [DEFAULT]


@pytest.mark.parametrize("output", ["versions", "/data/versions", "file:///data/versions"])
def test_dataflow_has_no_folder_on_this_machine(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--dataset=a", f"--output={output}"]
    for parse, more in ((materialize.parse, "--timestamp=2026-11-21"), (precomputed.parse, "--version=1")):
        assert parse([*given, more])[0].output == output
        with pytest.raises(SystemExit, match="2"):
            parse([*given, more, "--runner=DataflowRunner"])
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"error: --output {output}: Dataflow workers cannot share this folder" in error
