"""Tests of the update's transforms in a stream, and of the job that Dataflow receives."""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing.test_stream import TestStream as Stream
from apache_beam.transforms.window import TimestampedValue

from beam_jobs.dataflow import dataflow_flags
from beam_jobs.update import DATAFLOW_ATTEMPTS
from beam_jobs.update_dataflow import Deliver, stream_to, streaming_flags
from beam_jobs.update_stateful import BatchByKey, CollectByMessage
from beam_jobs.update_transforms import RecordFreshness, acquire_updater, build, release_updater
from l2features.config.datasets import load_datasets
from l2features.core.errors import ConfigError
from l2features.core.geometry import Chunk
from l2features.messages.parts import Delivery
from l2features.pubsub.letter_folder import LetterFolder
from l2features.testing.stores import chunk_rows, lose, open_table
from l2features.updates.apply import MessageResult
from l2features.updates.freshness import read_updates
from l2features.updates.lag_history import read_history
from l2features.updates.ledger import (
    UNREPORTED,
    Entry,
    OpenMessage,
    Plain,
    Report,
    Tally,
    close_account,
    entry_of,
    plain_entry,
    unreported,
)
from l2features.updates.updater import Update
from tests.support.updates import EDIT, edit

SUBSCRIPTIONS = ["projects/my-project/subscriptions/high", "projects/my-project/subscriptions/low"]
TOPIC = "projects/my-project/topics/dead"


def note(element: Any, file: str) -> None:
    """Append an element to a file. Runners pickle functions, so appends to a list would go to a copy."""
    with Path(file).open("a") as out:
        out.write(json.dumps(element) + "\n")


def noted(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


class _Deliveries(beam.PTransform):
    """Bursts of messages, with a moving watermark and a fixed clock."""

    def __init__(self, *bursts: list[Any]) -> None:
        super().__init__()
        self.bursts = bursts

    def expand(self, begin: Any) -> Any:
        stream = Stream()
        for number, burst in enumerate(self.bursts):
            stream.add_elements(burst)
            stream.advance_watermark_to(time.time() + 10 * number)
        return begin | stream.advance_watermark_to_infinity() | Deliver("test")


def run_stream(pipeline: beam.Pipeline) -> None:
    pipeline.run(test_runner_api=False).wait_until_finish()


def new_stream() -> beam.Pipeline:
    """Return a streaming pipeline on a local runner that supports `TestStream`."""
    return beam.Pipeline(BundleBasedDirectRunner(), PipelineOptions(["--streaming"]))


def test_a_stream_settles_every_message_once(config: Path, tmp_path: Path) -> None:
    store, places = open_table(config), (Chunk(0, 0, 0), Chunk(2, 1, 1))
    before = [chunk_rows(store, chunk).features.tobytes() for chunk in places]
    one, two = lose(store, places[0], 3), lose(store, places[1], 2)
    stranger, published = int(one[0]) + 60_000, round(time.time() - 100)

    def message(key: str, data: bytes) -> TimestampedValue:
        return TimestampedValue(PubsubMessage(data, EDIT, key), published)

    both = message("both", edit(one[0], two[0]))
    bursts = [
        [both, message("one", edit(one[1])), message("poison", b"no pickle.")],
        [both, message("unknown", edit(one[2], stranger)), message("nothing", edit())],
        [message("two", edit(*two)), both, message("again", edit(*two))],
    ]
    update = Update(tuple(load_datasets(config).values()), attempts=1)
    pipeline = new_stream()
    done = build(pipeline, _Deliveries(*bursts), update, str(tmp_path / "dead"), streaming=True)
    done | beam.Map(note, str(tmp_path / "results"))
    done | RecordFreshness(update)
    run_stream(pipeline)
    results = [MessageResult(*result) for result in noted(tmp_path / "results")]
    assert sorted((r.key, r.verdict, r.operation_id) for r in results) == [
        ("test/again", "done", 1),
        ("test/both", "done", 1),
        ("test/nothing", "done", 1),
        ("test/one", "done", 1),
        ("test/poison", "dead", None),
        ("test/two", "done", 1),
        ("test/unknown", "dead", 1),
    ]
    assert {r.published for r in results} == {published}
    assert {tuple(r.datasets) for r in results} == {("sample",), ()}
    assert [chunk_rows(store, chunk).features.tobytes() for chunk in places] == before
    letters = {tuple(letter.reasons): letter.ids for _, letter in LetterFolder(tmp_path / "dead").letters()}
    assert letters == {("bad_pickle",): [], ("unknown_node",): [stranger]}
    updates = read_updates(store)
    assert updates
    assert updates.newest_message == datetime.fromtimestamp(published, UTC)
    history = read_history(store)
    assert history
    assert history.dead == {"bad_pickle": 1, "unknown_node": 1}
    own = f"{socket.gethostname()}-{os.getpid()}"
    assert [updater.backlog for updater in updates.updaters if updater.name.startswith(f"{own}-")] == [None]


def test_parts_wait_for_the_watermark_or_a_full_batch(tmp_path: Path) -> None:
    """Check batches that are full, late, or released by the watermark or the stream's end."""
    stream = Stream().advance_watermark_to(100)
    for at, values, then in ((100, "abc", 101), (105, "de", 110), (50, "f", 120)):
        stream.add_elements([TimestampedValue(("k", value), at) for value in values])
        stream.advance_watermark_to(then)
    stream.add_elements([TimestampedValue(("k", "g"), 1_000), TimestampedValue(("l", "h"), 1_000)])
    pipeline = new_stream()
    keyed = pipeline | stream.advance_watermark_to_infinity()
    typed = keyed | beam.Map(tuple).with_output_types(tuple[str, Any])
    typed | BatchByKey(most=3) | beam.Map(note, str(tmp_path / "batches"))
    run_stream(pipeline)
    assert sorted(noted(tmp_path / "batches")) == [
        ["k", ["a", "b", "c"]], ["k", ["d", "e"]], ["k", ["f"]], ["k", ["g"]], ["l", ["h"]]
    ]  # fmt: skip


def entries(parts: int) -> list[Entry]:
    opened = OpenMessage(Delivery("k", b"", {}), frozenset(range(parts)))
    return [opened, *(Report(part, ()) for part in range(parts))]


def test_a_message_is_settled_when_all_of_it_is_reported_in_any_order() -> None:
    for reported in permutations([*entries(3), *entries(3)[:2]]):
        tally, settled = Tally(), []
        for number, entry in enumerate(reported):
            after = tally.add(entry)
            if after.settled and not tally.settled:
                settled.append(number)
            tally = after
        assert len(settled) == 1
        assert close_account(reported[: settled[0] + 1])[0].parts == {0, 1, 2}
        with pytest.raises(ValueError, match="cannot settle"):
            close_account(reported[: settled[0]])
    assert Tally().add(entries(0)[0]).settled
    strange = Tally().add(Report(70, ())).add(entries(1)[0])
    assert not strange.settled
    assert strange.add(Report(0, ())).settled


def test_a_stream_forgets_settled_messages_and_their_repetitions(tmp_path: Path) -> None:
    opened, first, second = entries(2)
    whole = [("a", opened), ("a", second), ("a", first)]
    reported = [[*whole, ("a", second), ("a", opened)], [("a", first)], whole]
    stream, now = Stream(), time.time()
    for number, burst in enumerate(reported):
        at = now + 100_000 * number
        stream.add_elements([TimestampedValue((key, plain_entry(e)), at) for key, e in burst])
        stream.advance_watermark_to(at + 99_000)
    assert collected_of(stream, tmp_path) == [[None, 1, 0]] * 2


def test_a_message_whose_part_is_lost_is_refused_when_the_stream_ends(tmp_path: Path) -> None:
    opened, _, second = entries(2)
    stream = Stream().add_elements([("a", plain_entry(entry)) for entry in (opened, second)])
    assert collected_of(stream, tmp_path) == [[None, 1, 0]]
    lost = close_account([opened, second, *unreported([opened, second])])[1]
    assert (lost.verdict, lost.why) == ("dead", UNREPORTED)


def collected_of(stream: Stream, folder: Path) -> list[Any]:
    """Run `CollectByMessage`; return the part numbers of each message's entries, None for `OpenMessage`."""
    pipeline = new_stream()
    reported = pipeline | stream.advance_watermark_to_infinity()
    collected = reported | beam.Map(tuple).with_output_types(tuple[str, Any]) | CollectByMessage()
    collected | beam.Map(parts_of) | beam.Map(note, str(folder / "results"))
    run_stream(pipeline)
    return noted(folder / "results")


def parts_of(collected: tuple[str, list[Plain]]) -> list[int | None]:
    return [getattr(entry_of(entry), "part", None) for entry in collected[1]]


def test_a_process_shares_one_updater_until_its_last_user_releases_it(config: Path) -> None:
    updates = [Update(tuple(load_datasets(config).values()), attempts=n) for n in (1, 1, 2)]
    first, same, other = map(acquire_updater, updates)
    assert first is same
    assert first is not other
    store = first.store("sample")
    release_updater(updates[0])
    assert acquire_updater(updates[1]).store("sample") is store
    for update_ in (updates[1], updates[0], updates[2]):
        release_updater(update_)
    assert acquire_updater(updates[0]) is not first
    release_updater(updates[0])


def test_the_lag_of_settled_messages_is_a_metric(config: Path) -> None:
    update = Update(tuple(load_datasets(config).values()), attempts=1)
    stranger = edit(int(chunk_rows(open_table(config), Chunk(0, 0, 0)).ids[0]) + 60_000)
    settled = [Delivery(f"{n}", b"", EDIT, published=time.time() - 100) for n in range(2)]
    others = [Delivery("waits", stranger, EDIT, last=False, published=1.0), Delivery("unknown", b"", EDIT)]
    pipeline = beam.Pipeline("FnApiRunner", PipelineOptions([]))
    build(pipeline, beam.Create([*settled, *others]), update)
    result: Any = pipeline.run()
    found = result.metrics().query(MetricsFilter().with_name("lag_ms"))["distributions"]
    assert [metric.result.count for metric in found] == [2]
    assert 100_000 <= found[0].result.min <= found[0].result.max < 160_000


def test_dataflow_receives_the_whole_job(config: Path) -> None:
    given = ["--dry_run=True", "--no_auth", "--project=my-project", "--region=us-east1"]
    flags = streaming_flags(
        [*given, "--temp_location=gs://bucket/temp", "--dataflow_service_options=enable_prime"]
    )
    update = Update(tuple(load_datasets(config).values()), attempts=DATAFLOW_ATTEMPTS)
    runner = "DataflowRunner"
    pipeline = beam.Pipeline(runner, PipelineOptions(dataflow_flags(runner, flags)))
    stream_to(update, SUBSCRIPTIONS, TOPIC)(pipeline)
    job: Any = pipeline.run().job
    cloud = job.options.view_as(GoogleCloudOptions)
    assert cloud.enable_streaming_engine
    assert sorted(cloud.dataflow_service_options) == ["enable_prime", "streaming_mode_at_least_once"]
    assert job.options.view_as(DebugOptions).number_of_worker_harness_threads == 1
    steps = {step.unique_name: step.spec.urn for step in job.proto_pipeline.components.transforms.values()}
    assert steps["Messages/Read my-project high/Read"] == "beam:transform:pubsub_read:v1"
    assert steps["Messages/Read my-project low/Read"] == "beam:transform:pubsub_read:v1"
    assert steps["Group by chunk/Spread"] == "beam:transform:reshuffle:v1"
    assert {
        "Group by chunk/BatchByKey/Batch",
        "Decode messages/Decode",
        "Compute nodes/Compute",
        "Settle messages/Group by message/Collect",
        "Settle messages/Settle",
        "Keep dead letters/Keep",
    } <= steps.keys()
    grouping = {name for name, urn in steps.items() if urn == "beam:transform:group_by_key:v1"}
    assert grouping == {"Group by chunk/Spread/ReshufflePerKey/GroupByKey"}  # fires for each element
    windows = job.proto_pipeline.components.windowing_strategies.values()
    assert {window.window_fn.urn for window in windows} == {"beam:window_fn:global_windows:v1"}


@pytest.mark.parametrize(
    ("paths", "dead_letters", "words"),
    [
        (["projects/my-project/topics/high"], TOPIC, "expected projects/PROJECT/subscriptions/NAME"),
        (["projects/p/subscriptions/high"], TOPIC, "Invalid PubSub project name"),
        (SUBSCRIPTIONS, "folder", "dead letters 'folder': on Dataflow expected a topic"),
    ],
)
def test_a_users_mistake(paths: list[str], dead_letters: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        stream_to(Update(()), paths, dead_letters)
