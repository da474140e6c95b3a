"""Options of the jobs: as flags of a command, and as ``name=value``, which is all that a template passes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from l2features.config import CONFIG_VARIABLE

CONFIG_HELP = f"the data sets file (YAML), here or gs://…; default: ${CONFIG_VARIABLE}"
_BOOLEANS = {"true": True, "false": False}


def boolean(text: str) -> bool:
    """What ``true`` or ``false`` says."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}") from None


def add_switch(parser: argparse._ActionsContainer, flag: str, what: str) -> None:
    """Add an option that is off unless given: ``--flag``, or ``--flag=true``.

    A flag with dashes is taken with underscores too, which is how a template passes it.
    """
    spellings = dict.fromkeys((flag, "--" + flag.removeprefix("--").replace("-", "_")))
    parser.add_argument(
        *spellings, nargs="?", const=True, default=False, type=boolean, metavar="true|false", help=what
    )


def beam_flags(parser: argparse.ArgumentParser, flags: Sequence[str]) -> list[str]:
    """Beam's flags, in which ``--flag=true`` is ``--flag``. Exits with status 2 where Beam does not know one.

    In the launch of a template all pass: the service has checked what was given, and may add its own flags.
    """
    beam_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(beam_parser)
    plain = list(_without_booleans(beam_parser, flags))
    unknown = beam_parser.parse_known_args(plain)[1]
    if unknown and not PipelineOptions(plain).view_as(GoogleCloudOptions).template_location:
        parser.error(f"unknown option {unknown[0]}: neither an option of this job nor one of Beam's")
    return plain


def _without_booleans(beam_parser: argparse.ArgumentParser, flags: Sequence[str]) -> Iterator[str]:
    on_or_off = [action for action in beam_parser._actions if action.nargs == 0]
    switches = {flag for action in on_or_off for flag in action.option_strings}
    for flag in flags:
        name, _, value = flag.partition("=")
        if name not in switches or value.lower() not in _BOOLEANS:
            yield flag
        elif boolean(value):
            yield name
