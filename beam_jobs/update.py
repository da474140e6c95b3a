"""Compute the L2 nodes that messages name, and write their features to the store.

The graph sends a message for each edit; the HTTP API sends messages that name requested ids without rows.
With --subscriptions, messages come from Pub/Sub until the job is stopped. With --messages, they come from
files: NAME.bin is a payload and NAME.json its attributes; a NAME.json alone is a dead letter. Nodes whose
rows exist are skipped, so messages may be applied again.

examples:
  python -m beam_jobs.update --config datasets.yml --messages recorded/ --dead_letters dead/
  python -m beam_jobs.update --config datasets.yml --dead_letters projects/my/topics/dead \\
      --subscriptions projects/my/subscriptions/edits-high,projects/my/subscriptions/edits-low
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from l2features.config.datasets import read_datasets
from l2features.config.reach import check_pubsub
from l2features.core.errors import EXIT_FAILED, ConfigError
from l2features.jobs.job_command import compile_kernel
from l2features.jobs.job_options import CONFIG_HELP, LOCAL, add_switch
from l2features.local.updater_run import Supervisor
from l2features.messages.outcomes import Fate, Verdict
from l2features.pubsub.dead_letters import open_dead_letters
from l2features.pubsub.letter_topic import LetterTopic
from l2features.pubsub.recorded import find_messages, read_message
from l2features.pubsub.subscription import Subscription, SubscriptionError
from l2features.store.bigtable import decoded
from l2features.updates.apply import apply_batch
from l2features.updates.opened import read_geometries
from l2features.updates.updater import Update

from . import command
from .dataflow import is_dataflow, labels, update_job_name
from .options import booleans_of

# Apache Beam is imported only where it is used, as the worker processes import this module.
ALWAYS_ON = ("streaming", "enable_streaming_engine")
"""Beam options that Dataflow's runner turns on for a job that reads subscriptions."""
REPLAY_ATTEMPTS, STREAM_ATTEMPTS, DATAFLOW_ATTEMPTS = 3, 6, 6
"""Defaults of --attempts. On Dataflow, the 6 attempts at a call take 16 s, and the whole batch waits."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the job's own options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--messages", metavar="FOLDER|FILE", help="apply recorded messages once")
    what.add_argument(
        "--subscriptions",
        metavar="PATH[,PATH…]",
        help="apply the messages of projects/PROJECT/subscriptions/NAME, most urgent subscription first, "
        "until SIGTERM or Ctrl-C; on Dataflow, until the job is drained",
    )
    parser.add_argument("--config", help=CONFIG_HELP)
    parser.add_argument(
        "--dead_letters",
        metavar="FOLDER|TOPIC",
        help="where messages with a permanent error go: a folder, or projects/PROJECT/topics/NAME; required "
        "with --subscriptions; by default, --messages only reports them",
    )
    add_switch(parser, "--recompute", "also compute nodes whose rows exist")
    parser.add_argument(
        "--attempts",
        type=int,
        help="maximum attempts for nodes that are missing from the graph and, with --messages or on "
        "Dataflow, for transient errors. After the last attempt, --messages reports a failure, and Dataflow "
        "repeats the batch for a day. "
        f"Default: {REPLAY_ATTEMPTS} for --messages, {STREAM_ATTEMPTS} for --subscriptions, "
        f"{DATAFLOW_ATTEMPTS} on Dataflow",
    )
    parser.add_argument(
        "--workers", type=int, help="worker processes for --subscriptions; default: one per core"
    )
    parser.add_argument(
        "--ready_file",
        type=Path,
        help="with --subscriptions, file to create when the first worker is ready; removed at the start",
    )


def _problem(args: argparse.Namespace, flags: list[str]) -> str:
    """Return what is wrong with the options, or "". ``flags`` are Beam's flags, as given."""
    if not args.messages and not args.subscriptions:
        return "--messages FOLDER or FILE, or --subscriptions PATH[,PATH…], is required"
    if args.subscriptions and not args.dead_letters:
        return "--dead_letters FOLDER or TOPIC is required with --subscriptions"
    for name in ALWAYS_ON if args.subscriptions else ():
        if booleans_of(flags)[0].get(name) is False:
            return f"--{name}=false: always on for a job with --subscriptions: leave it out"
    return ""


parse = partial(command.parse, "update", __doc__, add_options, problem=_problem)


def replay(args: argparse.Namespace, flags: list[str]) -> int:
    """Apply recorded messages, and return the exit status. Raises L2FeaturesError."""
    update = _update(args, args.attempts or REPLAY_ATTEMPTS)
    files = find_messages(Path(args.messages))
    if args.dead_letters:
        _check_topic(args.dead_letters)
    compile_kernel()
    letters = args.dead_letters or ""
    counts: dict[str, int] | None
    if args.runner == LOCAL:
        counts = total = Counter[str]()
        keep = closing(open_dead_letters(letters)) if letters else nullcontext()
        with keep as kept, closing(update.open()) as updater:
            for result in apply_batch(updater, map(read_message, files), kept):
                total += result.counters()
            updater.end_rewrites()
    else:
        from .update_transforms import ReadRecorded, build

        counted = replace(update, counted=True)
        add = partial(build, messages=ReadRecorded(files), update=counted, dead_letters=letters)
        counts = command.run_on(args.runner, flags, add, command.waiting(args))
    return 0 if counts is None else report(counts, bool(args.dead_letters))


def stream(args: argparse.Namespace) -> int:
    """Apply the messages of subscriptions on this machine, until a signal. Raises L2FeaturesError."""
    subscriptions = [Subscription(path) for path in dict.fromkeys(args.subscriptions.split(","))]
    update = _update(args, attempts=1, located=True)
    check_pubsub(subscriptions[0].path, SubscriptionError)
    with closing(open_dead_letters(args.dead_letters)) as letters:
        letters.check()
    compile_kernel()
    decoded.warm_up()
    n_workers = args.workers or len(os.sched_getaffinity(0))
    attempts = args.attempts or STREAM_ATTEMPTS
    Supervisor(update, args.dead_letters, subscriptions, n_workers, attempts, args.ready_file).run()
    return 0


def stream_on(args: argparse.Namespace, flags: list[str]) -> int:
    """Apply the messages of subscriptions on Dataflow, and return the exit status. Raises L2FeaturesError."""
    if not is_dataflow(args.runner):
        raise ConfigError(f"runner {args.runner}: with --subscriptions expected {LOCAL} or DataflowRunner")
    from .update_dataflow import stream_to, streaming_flags

    update = _update(args, args.attempts or DATAFLOW_ATTEMPTS, located=True)
    subscriptions = args.subscriptions.split(",")
    add = stream_to(update, subscriptions, args.dead_letters)
    _check_topic(args.dead_letters)
    named = [update_job_name(subscriptions), *labels("update"), *streaming_flags(flags)]
    command.run_on(args.runner, named, add, command.waiting(args))
    return 0


def _check_topic(dead_letters: str) -> None:
    """Raise DeadLetterError if dead letters go to a topic that is missing.

    A folder may be missing: it is created for the first letter.
    """
    with closing(open_dead_letters(dead_letters)) as letters:
        if isinstance(letters, LetterTopic):
            letters.check()


def _update(args: argparse.Namespace, attempts: int, located: bool = False) -> Update:
    """Return the settings for applying messages.

    With ``located``, the settings include each data set's geometry, so that workers need not read it.
    """
    datasets = read_datasets(args.config)
    for problem in datasets.errors:
        print(f"error: {problem}; messages for this data set are refused", file=sys.stderr)
    usable = tuple(datasets.usable.values())
    return Update(usable, args.recompute, attempts, geometries=read_geometries(usable) if located else ())


def report(counts: Mapping[str, int], kept: bool) -> int:
    """Print the counters of a replay; return the exit status. ``kept``: whether dead letters were written."""
    messages = {verdict: counts.get(f"messages_{verdict}", 0) for verdict in Verdict}
    ids = ", ".join(f"{counts.get(f'ids_{fate}', 0)} {fate}" for fate in Fate)
    print(f"{messages[Verdict.DONE]} of {sum(messages.values())} messages done; ids: {ids}")
    if messages[Verdict.DEAD]:
        where = "written as dead letters" if kept else "not kept: pass --dead_letters to keep them"
        print(f"error: {messages[Verdict.DEAD]} messages refused, {where}", file=sys.stderr)
    if messages[Verdict.RETRY]:
        failed = messages[Verdict.RETRY]
        print(f"error: {failed} messages failed: the same command retries them", file=sys.stderr)
    return 0 if messages[Verdict.DONE] == sum(messages.values()) else EXIT_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 1 if messages failed or were refused, 2 for a usage error."""
    args, flags = parse(argv)
    if args.messages:
        return command.exit_status(lambda: replay(args, flags), "stopped: run the command again to continue")
    if args.runner != LOCAL:
        return command.exit_status(lambda: stream_on(args, flags), "stopped: nothing was started")
    return command.exit_status(lambda: stream(args), "stopped: unfinished messages will be redelivered")


if __name__ == "__main__":
    sys.exit(main())
