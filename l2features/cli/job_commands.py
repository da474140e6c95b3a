"""``l2features ingest``, ``audit`` and ``materialize``: the jobs without Apache Beam, locally or on Dask."""

from __future__ import annotations

import argparse
from functools import cache, partial
from importlib import import_module
from typing import Any, NoReturn

import click

from ..config.datasets import Dataset, dataset_of_graph

INGEST = """Compute the features of every L2 node of a data set, and store them. See docs/ingest.md.

Worker processes share the chunks. The same command continues a run that was stopped. As in PCGL2Cache, the
arguments may be CACHE_ID GRAPH_ID CV_PATH TIMESTAMP instead, without a data sets file.

\b
Example:
  l2features ingest sample --config sample/datasets.yml --create
  l2features ingest minnie --create --timestamp "2026-11-21 00:27:44"
  l2features ingest l2cache_minnie minnie graphene://https://host/segmentation/table/minnie \\
      "2026-11-21 00:27:44" --create --test
"""
AUDIT = """Check that every L2 node of the graph has a row; with --repair, compute missing rows.

See docs/audit.md.

\b
Example:
  l2features audit minnie --timestamp "2026-11-21 00:27:44"
  l2features audit minnie --repair
"""
LOCAL, RUNNER = "local", "Local (default), or DaskRunner."
MATERIALIZE = """Freeze a data set at a given time: nodes, roots and features in Parquet files.

See docs/versions.md.

\b
Example:
  l2features materialize minnie --timestamp 2026-11-21T00:27:44.368Z --output versions
"""


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors as the other commands do."""

    def error(self, message: str) -> NoReturn:
        raise click.UsageError(message, click.get_current_context())


class JobCommand(click.Command):
    """A command with the options of ``python -m beam_jobs.NAME``.

    Reading the options imports the job, so they are read on first use.
    """

    def __init__(self, name: str, text: str, most_words: int = 1) -> None:
        super().__init__(name, help=text, callback=self._run, options_metavar="[OPTIONS]")
        self.most_words = most_words

    @property
    def module(self) -> Any:
        return import_module(f"..jobs.{self.name}_run", __package__)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self.params:
            shown = "[DATASET]" if self.most_words == 1 else "[DATASET | CACHE_ID GRAPH_ID CV_PATH TIMESTAMP]"
            self.params = [click.Argument(["words"], nargs=-1, metavar=shown)]
            self.params += [_option(action) for action in _actions(self)]
            self.params.append(click.Option(["--runner"], default=LOCAL, help=RUNNER))
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give bare switches a value, so that they do not consume the next argument; then parse."""
        switches = {name for option in self.get_params(ctx) if _is_switch(option) for name in option.opts}
        given = list[str]()
        for i, word in enumerate(args):
            alone = word in switches and args[i + 1 : i + 2] not in (["true"], ["false"])
            given.append(f"{word}=true" if alone else word)
        return super().parse_args(ctx, given)

    def _run(self, words: tuple[str, ...], runner: str, **values: Any) -> None:
        from ..jobs.job_command import exit_status
        from ..jobs.job_options import check_options, is_beams
        from ..local import log_lines

        if is_beams(runner):
            _parser(self).error(
                f"--runner {runner}: expected {LOCAL} or DaskRunner; for other runners, use "
                f"python -m beam_jobs.{self.name}"
            )
        parser, dataset = _parser(self), None
        if len(words) == 4 == self.most_words:
            dataset = _old_form(words, values)
        elif len(words) > 1:
            parser.error(
                f"{' '.join(words)!r}: expected {self.get_params(click.get_current_context())[0].metavar}"
            )
        elif words and values["dataset"] is not None:
            parser.error(f"two data sets: {words[0]} and --dataset {values['dataset']}: expected one")
        elif words:
            values["dataset"] = words[0]
        if values["dataset"] is None:
            parser.error(f"no data set is named: expected l2features {self.name} DATASET")
        args = parser.parse_args([f"--{name}={value}" for name, value in values.items() if value is not None])
        args.runner = runner
        check_options(parser, args)
        log_lines.configure()
        raise SystemExit(exit_status(partial(self.module.run, args, dataset), self.module.STOPPED))


def _old_form(words: tuple[str, ...], values: dict[str, Any]) -> Dataset:
    """Return the data set that ``words``, the four arguments of PCGL2Cache's ingest, describe.

    Sets ``dataset`` and ``timestamp`` in ``values``. Raises UsageError if --dataset, --config or --timestamp
    is given too.
    """
    cache_id, graph_id, cv_path, timestamp = words
    for name in ("dataset", "config", "timestamp"):
        if values[name] is not None:
            message = f"--{name}: cannot be combined with CACHE_ID GRAPH_ID CV_PATH TIMESTAMP"
            raise click.UsageError(message, click.get_current_context())
    dataset = dataset_of_graph(cache_id, graph_id, cv_path)
    values.update(dataset=cache_id, timestamp=timestamp)
    click.echo(
        f"for other commands, put this entry in a data sets file: {cache_id}: {{cv_path: {cv_path}, "
        f"l2cache_id: {cache_id}, graph: {dataset.graph}, store: {dataset.store}}}",
        err=True,
    )
    return dataset


@cache
def _parser(command: JobCommand) -> argparse.ArgumentParser:
    """Return the job's parser, which checks the options' values and combinations."""
    parser = _Parser(prog=f"l2features {command.name}", add_help=False, allow_abbrev=False)
    command.module.add_options(parser)
    return parser


def _actions(command: JobCommand) -> list[argparse.Action]:
    from ..jobs.job_options import actions

    return actions(_parser(command))


def _is_switch(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and option.flag_value == "true"


def _option(action: argparse.Action) -> click.Option:
    """Return the click option for an argparse action, with the same flags, help text and choices."""
    text = (action.help or "") % {"default": action.default}
    switch = action.nargs == "?"
    return click.Option(
        [action.dest, *action.option_strings],
        help=f"{text[:1].upper()}{text[1:]}.".replace(" (required).", "."),
        metavar=None if action.choices else "" if switch else str(action.metavar or action.dest.upper()),
        type=click.Choice([str(choice) for choice in action.choices]) if action.choices else str,
        is_flag=False,
        flag_value="true" if switch else None,
    )


ingest = JobCommand("ingest", INGEST, most_words=4)
audit = JobCommand("audit", AUDIT)
materialize = JobCommand("materialize", MATERIALIZE)
