"""Options of the jobs. Switches also accept a value, because Dataflow templates always pass one."""

from __future__ import annotations

import argparse
from typing import Any, Protocol

from ..config.datasets import CONFIG_VARIABLE
from ..core.chunks import ChunkBox, centre_box, parse_box, whole_box
from ..core.errors import EXIT_USAGE, ConfigError
from ..core.extras import naming_extras
from ..core.geometry import Triple

CONFIG_HELP = f"data sets file (YAML), a path or gs://…; default: ${CONFIG_VARIABLE}"
LOCAL, DASK = "local", "DaskRunner"
_BOOLEANS = {"true": True, "false": False}


class Arguments(Protocol):
    """A parser, or a group of its arguments."""

    def add_argument(self, *flags: str, **kwargs: Any) -> argparse.Action: ...


def boolean(text: str) -> bool:
    """Parse ``true`` or ``false``."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}") from None


def add_switch(parser: Arguments, flag: str, what: str) -> None:
    """Add an option that is off unless given: ``--flag``, or ``--flag=true``.

    A flag with dashes is also accepted with underscores, because Dataflow templates pass it that way.
    """
    spellings = dict.fromkeys((flag, "--" + flag.removeprefix("--").replace("-", "_")))
    parser.add_argument(
        *spellings, nargs="?", const=True, default=False, type=boolean, metavar="true|false", help=what
    )


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments of a parser; argparse has no public name for them."""
    return parser._actions


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the data set, the chunks, the number of processes and the Dask scheduler."""
    add_dataset_options(parser)
    which = parser.add_mutually_exclusive_group()
    add_switch(which, "--test", "only the 8 chunks at the centre of the grid")
    which.add_argument(
        "--chunks", metavar="x0:x1,y0:y1,z0:z1", help="only this box of the chunk grid; ends are excluded"
    )


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the data set, the number of processes and the Dask scheduler."""
    parser.add_argument(
        "--dataset", required=True, help="name of the data set in the data sets file (required)"
    )
    parser.add_argument("--config", help=CONFIG_HELP)
    parser.add_argument("--workers", type=int, help="worker processes of a local run; default: one per core")
    parser.add_argument(
        "--dask_client_address", metavar="tcp://HOST:PORT", help="scheduler of --runner=DaskRunner"
    )


def is_dask(runner: str) -> bool:
    """Return whether ``runner`` is Dask's. Case and the ending ``Runner`` are ignored, as in Beam."""
    return runner.lower().removesuffix("runner") == "dask"


def is_beams(runner: str) -> bool:
    """Return whether ``runner`` is a runner of Apache Beam, that is, neither `LOCAL` nor Dask's."""
    return runner != LOCAL and not is_dask(runner)


def _check_runner(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    address = getattr(args, "dask_client_address", None)
    if not is_dask(args.runner):
        if address is not None:
            parser.error(f"--dask_client_address {address}: expected --runner={DASK}")
        return
    if not hasattr(args, "dask_client_address"):
        parser.error(f"--runner {args.runner}: this job does not run on Dask")
    if address is None:
        parser.error(f"--runner {args.runner}: expected --dask_client_address=tcp://HOST:PORT")
    try:
        with naming_extras():
            import distributed  # noqa: F401
    except ConfigError as error:
        parser.exit(EXIT_USAGE, f"error: {error}\n")


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with status 2 if an option such as --workers is below 1, or if the options for Dask are invalid.

    Dask's runner needs a scheduler address, Dask's Python packages, and a job that supports Dask. For any
    other runner, a scheduler address is an error.
    """
    for option in ("attempts", "workers", "version", "segments", "shard_size", "cell_nodes"):
        if (number := getattr(args, option, None)) is not None and number < 1:
            parser.error(f"--{option} {number}: expected 1 or more")
    _check_runner(parser, args)


def choose_box(args: argparse.Namespace, grid: Triple) -> ChunkBox:
    """Return the box of chunks that --test or --chunks names; by default, the whole grid."""
    if args.test:
        return centre_box(grid)
    return parse_box(args.chunks, grid) if args.chunks is not None else whole_box(grid)
