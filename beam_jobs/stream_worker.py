"""A worker of the updater: a process that runs the update's pipeline on one batch of messages after another.

Batches come from the supervisor (`beam_jobs.stream`) through a pipe; what became of each message goes back,
and then that all of it is durable, rows and dead letters.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import apache_beam as beam

from l2features import kernel as features
from l2features.core.errors import L2FeaturesError
from l2features.messages.parts import Delivery
from l2features.store.bigtable import decoded
from l2features.updates.lending import give_back, lend
from l2features.updates.updater import Update

from .pipeline import plain_message
from .prepared import PreparedPipeline
from .update_transforms import KeepDeadLetters, build
from .worker import END, ERROR, NEXT, Report, TellProgress


@dataclass(frozen=True)
class Setup:
    """What a worker is told first: how messages are applied, and where dead letters go."""

    update: Update
    dead_letters: str


def work(fd: int) -> None:
    """Body of a worker process; ``fd`` is its end of the pipe."""
    from threadpoolctl import threadpool_limits

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    pipe = Connection(fd)
    with suppress(EOFError, ConnectionError):  # the supervisor is gone
        setup: Setup = pipe.recv()
        features.warm_up()
        decoded.warm_up()
        lend(setup.update)  # so that stores and volumes stay open from one batch to the next
        try:
            with threadpool_limits(1):
                prepared = PreparedPipeline(partial(_add, setup, fd))
                pipe.send((NEXT, None))
                while True:
                    _run(prepared, pipe.recv(), pipe)
        finally:
            give_back(setup.update)


def _add(setup: Setup, fd: int, pipeline: Any, messages: beam.PTransform) -> None:
    done = build(pipeline, messages, setup.update, KeepDeadLetters(setup.dead_letters))
    _ = done.reports | "Progress" >> TellProgress(fd)
    _ = done.results | "Report" >> Report(fd)


def _run(prepared: PreparedPipeline, deliveries: list[Delivery], pipe: Connection) -> None:
    """Run a batch; all results are told before its end."""
    try:
        prepared.run(deliveries)
    except L2FeaturesError as error:
        pipe.send((ERROR, plain_message(error)))
    except (EOFError, ConnectionError):
        raise
    except Exception:
        pipe.send((ERROR, traceback.format_exc()))
    else:
        pipe.send((END, None))
