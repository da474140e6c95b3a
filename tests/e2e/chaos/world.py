"""Environment of the chaos test: emulators, a segmentation, two graphs, data sets and topics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from l2features.config.datasets import Dataset, load_dataset
from l2features.core.ids import as_ids, row_keys
from l2features.core.times import format_time
from l2features.testing.emulators import Emulator, PubSubEmulator
from l2features.testing.failing_graph_server import FailingGraphServer
from l2features.testing.random_edits import random_edits
from l2features.testing.synthetic import Cell, ProofreadGraph, Segmentation, Spec, graph_meta
from tests.e2e.chaos.messages import Parcel, Target

ROOT = Path(__file__).resolve().parents[3]
PROJECT, INSTANCE = "chaos", "chaos"
STORE = f"bigtable://{PROJECT}/{INSTANCE}"
TABLE, HTTP = "by_table", "by_http"
"""The data sets: one reads its graph's table, the other asks its server."""
TOPICS = ("high", "low", "missing")
"""In order of priority. Production filters one topic of edits by priority; the emulator cannot filter."""
ACK_S = 10
AGE_S = 86_400
"""How long ago the graphs were ingested and the edits began."""
ROWS, PUBLISH_S = 500, 60.0
_TABLES = {name: f"{name}_graph" for name in (TABLE, HTTP)}


class World:
    """All services that the updater uses, started on entry; files are in ``folder``."""

    def __init__(self, folder: Path, spec: Spec, edits: int, names: Sequence[str] = (TABLE, HTTP)) -> None:
        self.folder = folder
        self.segmentation = Segmentation(spec)
        self.geometry = self.segmentation.geometry
        t0 = int(datetime.now(UTC).timestamp()) - AGE_S
        self.t0 = format_time(datetime.fromtimestamp(t0, UTC))
        self.graphs: dict[str, ProofreadGraph] = {}
        self.targets: dict[str, Target] = {}
        for number, name in enumerate(names):
            graph = ProofreadGraph(self.geometry, self.segmentation.objects, (t0 - 60) * 1000)
            after = random_edits(graph, spec.seed + number, (t0 + 60) * 1000)
            done = tuple(islice(after, (edits + number) // len(names)))
            self.graphs[name] = graph
            self.targets[name] = Target(name, _TABLES[name], f"l2cache_{name}", self.geometry, done)
        self._running = ExitStack()

    def __enter__(self) -> World:
        try:
            self._open()
        except BaseException:
            self._running.close()
            raise
        return self

    def _open(self) -> None:
        self.bigtable = self._start(Emulator())
        self.pubsub = self._start(PubSubEmulator())
        self.server = FailingGraphServer()
        self._running.callback(self.server.stop)
        self._write_token()
        self._put = self._make_graphs()
        self._make_topics()

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _start(self, emulator: Any) -> Any:
        self._running.callback(emulator.stop)
        os.environ[emulator.variable] = emulator.host
        return emulator

    def _write_token(self) -> None:
        """Write a dummy token, because cloud-volume requires one for graphene:// paths."""
        secrets = self.folder / "cloudvolume" / "secrets"
        secrets.mkdir(parents=True)
        (secrets / "cave-secret.json").write_text(json.dumps({"token": "0123456789abcdef" * 2}))
        os.environ["CLOUD_VOLUME_DIR"] = str(secrets.parent)

    def _make_graphs(self) -> dict[str, Callable[[Iterable[Cell]], None]]:
        """Write segmentation, unedited graphs and data sets file; return each graph's write function."""
        path = self.segmentation.write(self.folder / "segmentation")
        layers = next(iter(self.graphs.values())).layers
        table = GraphTable(_TABLES[TABLE])
        table.put_meta(graph_meta(self.geometry, _TABLES[TABLE], layers, path))
        served = self.server.add(_TABLES[HTTP], self.geometry, path, layers)
        put: dict[str, Callable[[Iterable[Cell]], None]] = {
            TABLE: table.put,
            HTTP: lambda cells: self.server.put(_TABLES[HTTP], cells),
        }
        for name, graph in self.graphs.items():
            put[name](graph.first)
        sources = {TABLE: (path, f"{STORE}/{_TABLES[TABLE]}"), HTTP: (served, "graphene")}
        datasets = {
            name: {"cv_path": cv_path, "l2cache_id": f"l2cache_{name}", "graph": graph, "store": STORE}
            for name, (cv_path, graph) in sources.items()
            if name in self.graphs
        }
        self.config = self.folder / "datasets.yml"
        self.config.write_text(json.dumps(datasets, indent=1))
        return put

    def _make_topics(self) -> None:
        from google.pubsub_v1 import PublisherClient, SubscriberClient

        self._publisher = PublisherClient()
        self.subscriptions = [f"projects/{PROJECT}/subscriptions/{name}" for name in TOPICS]
        with SubscriberClient() as subscriber:
            for path in self.subscriptions:
                topic = path.replace("/subscriptions/", "/topics/")
                self._publisher.create_topic(name=topic)
                subscriber.create_subscription(name=path, topic=topic, ack_deadline_seconds=ACK_S)

    def dataset(self, name: str) -> Dataset:
        return load_dataset(name, self.config)

    def write_rows(self, target: Target, cells: Iterable[Cell]) -> None:
        """Write an edit's rows to its graph."""
        self._put[target.name](cells)

    def publish(self, parcels: Sequence[Parcel]) -> None:
        by_topic: dict[str, list[dict[str, Any]]] = {}
        for parcel in parcels:
            message = {"data": parcel.message.data, "attributes": dict(parcel.message.attributes)}
            by_topic.setdefault(parcel.topic, []).append(message)
        for topic, messages in by_topic.items():
            self._publisher.publish(
                topic=f"projects/{PROJECT}/topics/{topic}", messages=messages, timeout=PUBLISH_S
            )

    def run(self, job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"beam_jobs.{job}", "--config", str(self.config), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def ingest(self, name: str) -> None:
        done = self.run("ingest", "--dataset", name, "--create", "--timestamp", self.t0, "--workers", "1")
        if done.returncode:
            raise RuntimeError(f"the ingest of {name} ended with status {done.returncode}:\n{done.stderr}")


class GraphTable:
    def __init__(self, name: str) -> None:
        from google.cloud import bigtable
        from google.cloud.bigtable.data import BigtableDataClient

        table = bigtable.Client(project=PROJECT, admin=True).instance(INSTANCE).table(name)
        table.create(column_families={"0": None})
        self._table = BigtableDataClient(project=PROJECT).get_table(INSTANCE, name)

    def put_meta(self, meta: bytes) -> None:
        from google.cloud.bigtable.data import SetCell

        self._table.mutate_row(b"meta", SetCell("0", b"meta", meta, timestamp_micros=0))

    def put(self, cells: Iterable[Cell]) -> None:
        from google.cloud.bigtable.data import SetCell
        from google.cloud.bigtable.data.mutations import RowMutationEntry

        listed = list(cells)
        entries = [
            RowMutationEntry(
                key, [SetCell("0", cell.column.encode(), cell.value, timestamp_micros=1000 * cell.ms)]
            )
            for key, cell in zip(row_keys(as_ids([cell.node for cell in listed])), listed, strict=True)
        ]
        for first in range(0, len(entries), ROWS):
            self._table.bulk_mutate_rows(entries[first : first + ROWS])
