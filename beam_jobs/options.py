"""Options of the jobs: as flags of a command, and as ``name=value``, which is all that a template passes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from l2features.config.datasets import CONFIG_VARIABLE

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


class Switch(NamedTuple):
    """A flag that sets the boolean option ``option`` to ``on``, and with ``=false`` to the opposite.

    ``bare`` says that Beam takes the flag without a value.
    """

    option: str
    on: bool
    bare: bool = True


def beam_parser() -> argparse.ArgumentParser:
    """Return a parser that knows Beam's options."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser


def switches(parser: argparse.ArgumentParser) -> dict[str, Switch]:
    """Return the flags of a parser that set a boolean option.

    Some store True or False, some have a ``--no-`` spelling, and some store their value as text, to which
    ``false`` is as true as any other (``--dry_run``).
    """
    found = {}
    for action in parser._actions:
        paired = isinstance(action, argparse.BooleanOptionalAction)
        as_text = action.nargs is None and isinstance(action.default, bool)
        if not (paired or as_text or (action.nargs == 0 and isinstance(action.const, bool))):
            continue
        on = action.const if isinstance(action.const, bool) else True
        for flag in action.option_strings:
            off = paired and flag.startswith("--no-")
            found[flag] = Switch(action.dest, on and not off, bare=not as_text)
    return found


def beam_flags(parser: argparse.ArgumentParser, flags: Sequence[str]) -> list[str]:
    """Beam's flags, for `pipeline_options`. Exits with status 2 where Beam does not know one.

    Those of boolean options come last, each option once, as Beam spells them where it can. In the launch of a
    template all pass: the service has checked what was given, and may add its own flags.
    """
    known = beam_parser()
    try:
        booleans, rest = booleans_of(flags)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    unknown = known.parse_known_args(rest)[1]
    if unknown and not PipelineOptions(rest).view_as(GoogleCloudOptions).template_location:
        parser.error(_unknown(unknown[0], switches(known)))
    return [*rest, *_spelled(known, booleans)]


def booleans_of(flags: Sequence[str]) -> tuple[dict[str, bool], list[str]]:
    """Return what flags set of Beam's boolean options, the last flag counting, and the other flags.

    A flag is ``--flag``, ``--flag=true``, ``--flag=false``, or has its value as the next word. Raises
    ArgumentTypeError for another value.
    """
    known = switches(beam_parser())
    found: dict[str, bool] = {}
    left, rest = list(flags), []
    while left:
        flag = left.pop(0)
        name, given, value = flag.partition("=")
        if name not in known:
            rest.append(flag)
            continue
        if not given:
            value = left.pop(0) if left and left[0].lower() in _BOOLEANS else "true"
        try:
            found[known[name].option] = known[name].on == boolean(value)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from None
    return found, rest


def pipeline_options(flags: Sequence[str]) -> PipelineOptions:
    """Beam's options, of which boolean ones have exactly the value that was given last.

    Defaults stand before what is given. ``--flag=false`` also turns off what Beam has no flag for.
    """
    booleans, rest = booleans_of(flags)
    return PipelineOptions(rest, **booleans)


def _spelled(parser: argparse.ArgumentParser, booleans: dict[str, bool]) -> Iterator[str]:
    """Flags that set these options, without those that Beam sets so by default and has no flag for."""
    flags = {(s.option, s.on): flag for flag, s in reversed(switches(parser).items()) if s.bare}
    names = {s.option: (flag, s.on) for flag, s in switches(parser).items()}
    for option, value in booleans.items():
        flag, on = names[option]
        if (option, value) in flags:
            yield flags[option, value]
        elif parser.get_default(option) is not value:
            yield f"{flag}={str(on == value).lower()}"


def _unknown(flag: str, known: dict[str, Switch]) -> str:
    name = flag.replace("-", "_").removeprefix("__no_")
    if f"--{name}" in known:
        return f"unknown option {flag}: expected --{name}=false"
    return f"unknown option {flag}: neither an option of this job nor one of Beam's"
