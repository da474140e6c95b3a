"""An in-process API over a small table and a graph of known roots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from l2features.core.ids import Ids, sorted_unique
from l2features.store.base import Meta, Store, open_store
from tests.support.api_app import TABLE, client_of, need_no_token
from tests.support.known_roots import GEOMETRY, KnownGraph, features_in_chunks

ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"


@dataclass
class NeuronApi:
    """A test client, and the API's store and graph. ``published`` lists the ids that the API published."""

    client: FlaskClient
    store: Store
    graph: KnownGraph
    published: list[int] = field(default_factory=list)

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(f"{TABLE}/{path}", headers=headers)

    def post(self, path: str, **content: Any) -> Any:
        return self.client.post(f"{TABLE}/{path}", **content)

    def summaries(self, roots: Any, query: str = "", **headers: str) -> Any:
        return self.post(f"roots/summary{query}", json={"root_ids": roots}, headers=headers)


def neuron_api(
    folder: Path, monkeypatch: pytest.MonkeyPatch, roots: Mapping[int, Ids], **settings: Any
) -> NeuronApi:
    """Return the API of a data set ``sample`` with all nodes of these roots."""
    url = f"sqlite://{folder}/l2cache.db"
    store = open_store(url, "l2cache_sample")
    store.create(Meta("known", "precomputed://file:///nowhere", "2026-11-21 00:27:44", GEOMETRY))
    store.write(features_in_chunks(sorted_unique(np.concatenate(list(roots.values())))))
    entry = {"cv_path": "precomputed://file:///nowhere", "l2cache_id": "l2cache_sample", "store": url}
    config = folder / "datasets.yml"
    config.write_text(json.dumps({"sample": {**entry, "graph": "bigtable://p/i/t"}}))
    graph = KnownGraph(roots)
    need_no_token(monkeypatch)
    monkeypatch.setattr("api.served_datasets.open_graph", lambda *_: graph)
    client = client_of(config, **settings)
    api = NeuronApi(client, store, graph)

    def publish(dataset: str, table: str, ids: Ids) -> int:
        assert (dataset, table) == ("sample", "l2cache_sample")
        api.published += ids.tolist()
        return len(ids)

    monkeypatch.setattr(client.application.extensions["l2cache"].missing, "publish", publish)
    return api
