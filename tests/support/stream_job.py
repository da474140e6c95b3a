"""Run the update's streaming pipeline on a job service, with messages from a file.

    python -m tests.support.stream_job DATASETS MESSAGES DEAD_LETTERS FLAG…

Beam's local job service has no unbounded source. So the messages are created at once, each with its time,
and then the watermark goes to the end of time, as it does in a drained job.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.transforms.window import TimestampedValue

from beam_jobs import command
from beam_jobs.update_dataflow import REPEAT_S, Deliver
from beam_jobs.update_transforms import RecordFreshness, build
from l2features.config.datasets import load_datasets
from l2features.updates.opened import read_geometries
from l2features.updates.updater import Update
from tests.support.updates import EDIT

SOURCE = "test"


def messages(file: Path) -> list[TimestampedValue]:
    """Return messages from lines of [message id, payload in hexadecimal, publication time]."""
    lines = map(json.loads, file.read_text().splitlines())
    return [TimestampedValue(PubsubMessage(bytes.fromhex(data), EDIT, key), at) for key, data, at in lines]


class _Read(beam.PTransform):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def expand(self, begin: Any) -> Any:
        made = begin | beam.Create(messages(self.file))
        timed = made | beam.Map(lambda message: message)  # sent by value: workers do not have this module
        return timed | Deliver(SOURCE)


def main(config: str, file: str, dead_letters: str, *flags: str) -> int:
    """Run the job, print its counters, and return the exit status."""
    datasets = tuple(load_datasets(config).values())
    geometries = read_geometries(datasets)
    update = Update(datasets, attempts=2, repeat_s=REPEAT_S, counted=True, geometries=geometries)

    def add(pipeline: Any) -> object:
        done = build(pipeline, _Read(Path(file)), update, dead_letters, streaming=True)
        return done | "Record freshness" >> RecordFreshness(update)

    def run() -> int:
        print(json.dumps(command.run_on("PortableRunner", ["--streaming", *flags], add)))
        return 0

    return command.exit_status(run, "stopped")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
