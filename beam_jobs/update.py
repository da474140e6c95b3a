"""Updates: the nodes that recorded messages name, to their features in the store.

Messages are edits, and missing ids that the HTTP API asks for: files NAME.bin with their attributes in
NAME.json, or dead letters. A node whose row is there is skipped, so that messages may be applied again.

example:
  python -m beam_jobs.update --config datasets.yml --messages recorded/ --dead_letters dead/
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from l2features import features
from l2features.config import CONFIG_VARIABLE, load_datasets
from l2features.deadletters import open_dead_letters
from l2features.errors import ConfigError, L2FeaturesError
from l2features.outcomes import Fate, Verdict
from l2features.recorded import find_messages, read_message
from l2features.update import Update

from .pipeline import plain_message
from .transforms import NAMESPACE
from .update_transforms import KeepDeadLetters, build

DEFAULT_RUNNER = "FnApiRunner"
EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130


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
    parser = argparse.ArgumentParser(
        prog="python -m beam_jobs.update",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Beam's options are taken as well.",
        allow_abbrev=False,
    )
    add_options(parser)
    parser.add_argument("--runner", default=DEFAULT_RUNNER, help=f"a Beam runner; default: {DEFAULT_RUNNER}")
    own, rest = parser.parse_known_args(argv)
    if not own.messages:
        parser.error("--messages FOLDER or FILE is required")
    if own.attempts < 1:
        parser.error(f"--attempts {own.attempts}: expected 1 or more")
    beam_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(beam_parser)
    unknown = beam_parser.parse_known_args(rest)[1]
    if unknown:
        parser.error(f"unknown option {unknown[0]}: neither an option of this job nor one of Beam's")
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
    try:
        pipeline = beam.Pipeline(options=PipelineOptions([*flags, f"--runner={own.runner}"]))
    except ValueError as error:
        raise ConfigError(f"runner {own.runner}: {' '.join(str(error).split())}") from error
    features.warm_up()
    build(pipeline, ReadRecorded(files), update, letters)
    result: Any = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    return report({metric.key.metric.name: metric.result for metric in counters}, bool(letters))


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
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    own, flags = parse(sys.argv[1:] if argv is None else argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return replay(own, flags)
    except ConfigError as error:
        print(f"error: {plain_message(error)}", file=sys.stderr)
        return EXIT_USAGE
    except L2FeaturesError as error:
        print(f"error: {plain_message(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("stopped: the same command may be given again", file=sys.stderr)
        return EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
