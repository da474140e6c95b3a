"""A worker of a local run: a process that runs the pipeline of a job on Beam's in-process runner.

Its chunks come from the supervisor (`beam_jobs.local`), one at a time, through a pipe; so does what became of
them go back.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import apache_beam as beam

from l2features.core.errors import L2FeaturesError
from l2features.core.geometry import Chunk

from .options import pipeline_options
from .pipeline import plain_message

NEXT, PROGRESS, RESULT, END, ERROR = "next", "progress", "result", "end", "error"
"""What a worker says; the answer to `NEXT` is a chunk, or None when there is nothing more to do."""
PROGRESS_S = 1.0
"""That there is progress is said no more often."""


class _PullFn(beam.DoFn):
    """Yields chunks as the supervisor hands them out. ``fd`` is the worker's end of the pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def process(self, _: Any) -> Iterator[Chunk]:
        pipe = Connection(os.dup(self.fd))
        while True:
            pipe.send((NEXT, None))
            chunk = pipe.recv()
            if chunk is None:
                break
            yield Chunk(*chunk)
        pipe.close()


class _PipeFn(beam.DoFn):
    """What speaks to the supervisor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def setup(self) -> None:
        self.pipe = Connection(os.dup(self.fd))

    def teardown(self) -> None:
        self.pipe.close()


class _ReportFn(_PipeFn):
    def process(self, result: Any) -> None:
        self.pipe.send((RESULT, tuple(result)))


class _ProgressFn(_PipeFn):
    said = float("-inf")

    def process(self, _: Any) -> None:
        now = time.monotonic()
        if now > self.said + PROGRESS_S:
            self.said = now
            self.pipe.send((PROGRESS, None))


@dataclass
class PullChunks(beam.PTransform):
    """Nothing to the chunks that the supervisor hands out."""

    fd: int

    def expand(self, begin: Any) -> Any:
        return begin | "Worker" >> beam.Create([None]) | "Pull" >> beam.ParDo(_PullFn(self.fd))


@dataclass
class Report(beam.PTransform):
    """Results, NamedTuples, to the supervisor, as (`RESULT`, fields)."""

    fd: int

    def expand(self, results: Any) -> Any:
        return results | "Tell" >> beam.ParDo(_ReportFn(self.fd))


@dataclass
class TellProgress(beam.PTransform):
    """Anything to nothing; the supervisor is told, now and then, that there is some."""

    fd: int

    def expand(self, elements: Any) -> Any:
        return elements | "Tell progress" >> beam.ParDo(_ProgressFn(self.fd))


def work(fd: int) -> None:
    """Body of a worker process: ``fd`` is its end of the pipe, by which it is also told what to do."""
    from threadpoolctl import threadpool_limits

    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    pipe = Connection(fd)
    try:
        job, flags = pipe.recv()
        with threadpool_limits(1):
            pipeline = beam.Pipeline("FnApiRunner", options=pipeline_options(flags))
            for number, results in enumerate(job.build(pipeline, PullChunks(fd))):
                _ = results | f"Report {number}" >> Report(fd)
            pipeline.run().wait_until_finish()
        pipe.send((END, None))
    except (EOFError, ConnectionError):
        return  # the supervisor is gone
    except L2FeaturesError as error:
        _tell(pipe, plain_message(error))
    except Exception:
        _tell(pipe, traceback.format_exc())


def _tell(pipe: Connection, error: str) -> None:
    with suppress(ConnectionError):
        pipe.send((ERROR, error))
