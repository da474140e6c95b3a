"""Parses Beam's options. A boolean option can be written in several ways."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from l2features.jobs.job_options import actions, boolean

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


class Switch(NamedTuple):
    """A flag that sets the boolean option ``option`` to ``on``, or to the opposite with ``=false``.

    ``bare`` tells whether Beam accepts the flag without a value.
    """

    option: str
    on: bool
    bare: bool = True


@cache
def beam_parser() -> argparse.ArgumentParser:
    """Return a parser of all Beam options. This is slow."""
    from apache_beam.options.pipeline_options import PipelineOptions

    found: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=found.append)
    return found[0]


def switches(parser: argparse.ArgumentParser) -> dict[str, Switch]:
    """Return the flags of a parser that set a boolean option, each with its `Switch`.

    Some flags take no value, and some of these have a ``--no-`` spelling. The other flags need a value, which
    Beam stores as text. Beam takes any such text for true, even ``--dry_run=false``.
    """
    found = {}
    for action in actions(parser):
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
    """Return Beam's flags, for `pipeline_options`. Exits with status 2 for a flag that Beam does not know.

    Flags of boolean options come last, one per option, in a spelling that Beam knows, if there is one.
    The launch of a template accepts unknown flags: Dataflow has checked the user's and may add its own.
    """
    if not flags:
        return []  # a local run starts without Beam, whose import takes seconds
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

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
    """Return a tuple: the values of Beam's boolean options; the other flags.

    A boolean option is written ``--flag``, ``--flag=true``, ``--flag=false``, or ``--flag true``. The last
    flag of an option counts. Raises ArgumentTypeError for any value but true and false.
    """
    if not flags:
        return {}, []
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag, (option, on, _) in switches(beam_parser()).items():
        value: dict[str, Any] = {"nargs": "?", "const": on, "type": partial(_means, on=on)}
        parser.add_argument(flag, dest=option, default=argparse.SUPPRESS, **value)
    try:
        # An unknown flag with a space would count as the value of the flag before it.
        found, rest = parser.parse_known_args([flag.replace(" ", "\0") for flag in flags])
    except argparse.ArgumentError as error:
        raise argparse.ArgumentTypeError(f"{error.argument_name}: {error.message}") from None
    return vars(found), [flag.replace("\0", " ") for flag in rest]


def _means(text: str, on: bool) -> bool:
    return boolean(text) == on


def pipeline_options(flags: Sequence[str]) -> PipelineOptions:
    """Return the `PipelineOptions` that ``flags`` set.

    The last flag of a boolean option counts, so put defaults before the user's flags. ``--flag=false`` works
    even if Beam has no flag to turn the option off.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    booleans, rest = booleans_of(flags)
    return PipelineOptions(rest, **booleans)


def _spelled(parser: argparse.ArgumentParser, booleans: dict[str, bool]) -> Iterator[str]:
    """Yield flags that set ``booleans``. Default values are left out if Beam has no flag for them."""
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
