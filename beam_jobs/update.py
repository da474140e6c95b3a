"""Updates: the nodes that recorded messages name, to their features in the store.

Messages are edits, and missing ids that the HTTP API asks for: files NAME.bin with their attributes in
NAME.json, or dead letters. A node whose row is there is skipped, so that messages may be applied again.

example:
  python -m beam_jobs.update --config datasets.yml --messages recorded/ --dead_letters dead/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam

from l2features import features
from l2features.config import CONFIG_VARIABLE, load_datasets
from l2features.deadletters import open_dead_letters
from l2features.outcomes import Fate, Verdict
from l2features.recorded import find_messages, read_message
from l2features.update import Update

from . import command
from .command import EXIT_FAILED
from .update_transforms import KeepDeadLetters, build

DEFAULT_RUNNER = "FnApiRunner"
STOPPED = "stopped: the same command goes on from here"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the job's own options, beside Beam's."""
    parser.add_argument("--messages", metavar="FOLDER|FILE", help="recorded messages (required)")
    parser.add_argument("--config", help=f"the data sets file (YAML); default: ${CONFIG_VARIABLE}")
    parser.add_argument(
        "--dead_letters",
        metavar="FOLDER|TOPIC",
        help="where messages go that can never succeed: a folder, or projects/PROJECT/topics/NAME; "
        "default: they are only named",
    )
    parser.add_argument("--recompute", action="store_true", help="compute nodes again that are there")
    parser.add_argument(
        "--attempts",
        type=int,
        default=3,
        help="how often what may pass is tried, such as a graph that does not know a node; default: 3",
    )


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The job's own options, and the flags for Beam. Exits with status 2 where one is unknown."""
    parser = command.new_parser("update", __doc__)
    add_options(parser)
    parser.add_argument("--runner", default=DEFAULT_RUNNER, help=f"a Beam runner; default: {DEFAULT_RUNNER}")
    own, rest = parser.parse_known_args(argv)
    if not own.messages:
        parser.error("--messages FOLDER or FILE is required")
    if own.attempts < 1:
        parser.error(f"--attempts {own.attempts}: expected 1 or more")
    command.check_flags(parser, rest)
    return own, rest


@dataclass
class ReadRecorded(beam.PTransform):
    """Nothing to the `Delivery`s in files, each with its file's path as the key."""

    files: Sequence[Path]

    def expand(self, begin: Any) -> Any:
        return begin | "Files" >> beam.Create(list(self.files)) | "Read" >> beam.Map(read_message)


def replay(own: argparse.Namespace, flags: list[str]) -> int:
    """Apply recorded messages; gives the exit status. Raises L2FeaturesError."""
    update = Update(tuple(load_datasets(own.config).values()), own.recompute, own.attempts)
    files = find_messages(Path(own.messages))
    letters = None
    if own.dead_letters:
        open_dead_letters(own.dead_letters).close()
        letters = KeepDeadLetters(own.dead_letters)
    features.warm_up()
    counts = command.run_on(
        own.runner, flags, lambda pipeline: build(pipeline, ReadRecorded(files), update, letters)
    )
    return 0 if counts is None else report(counts, bool(letters))


def report(counts: dict[str, int], kept: bool) -> int:
    """Say what a run did; gives the exit status."""
    messages = {verdict: counts.get(f"messages_{verdict}", 0) for verdict in Verdict}
    ids = ", ".join(f"{counts.get(f'ids_{fate}', 0)} {fate}" for fate in Fate)
    print(f"{messages[Verdict.DONE]} of {sum(messages.values())} messages done; ids: {ids}")
    if messages[Verdict.DEAD]:
        where = "among the dead letters" if kept else "not kept: --dead_letters says where"
        print(f"error: {messages[Verdict.DEAD]} messages refused, {where}", file=sys.stderr)
    if messages[Verdict.RETRY]:
        print(
            f"error: {messages[Verdict.RETRY]} messages failed: the same command tries again", file=sys.stderr
        )
    return 0 if messages[Verdict.DONE] == sum(messages.values()) else EXIT_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit status: 1 where messages failed or were refused, 2 for a wrong option."""
    own, flags = parse(sys.argv[1:] if argv is None else argv)
    return command.exit_status(lambda: replay(own, flags), STOPPED)


if __name__ == "__main__":
    sys.exit(main())
