"""A data sets file in a bucket, read over HTTP as from Cloud Storage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from l2features.config import BUCKETS, load_datasets
from l2features.errors import ConfigError

FILES = {
    "good.yml": b"a: {cv_path: 'precomputed://gs://seg', l2cache_id: t, store: 'bigtable://p/i'}",
    "no_store.yml": b"a: {cv_path: 'precomputed://gs://seg', l2cache_id: t}",
    "broken.yml": b"a: [",
    "binary.yml": b"\xff\xfe\x00a",
}


class _Bucket(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _, found, name = self.path.partition("/b/my-bucket/o/")
        content = FILES.get(name.split("?")[0].removeprefix("l2%2F")) if found else None
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    for name in ("BIGTABLE_PROJECT", "BIGTABLE_INSTANCE"):
        monkeypatch.delenv(name, raising=False)
    yield
    server.shutdown()
    server.server_close()


def test_a_file_in_a_bucket() -> None:
    dataset = load_datasets(f"{BUCKETS}my-bucket/l2/good.yml")["a"]
    assert (dataset.store, dataset.cv_path) == ("bigtable://p/i", "precomputed://gs://seg")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://my-bucket/l2/none.yml", "data sets file gs://my-bucket/l2/none.yml: 404"),
        ("gs://other/l2/good.yml", "404"),
        ("gs://my-bucket", "data sets file gs://my-bucket: "),
        ("gs://my-bucket/l2/broken.yml", "data sets file gs://my-bucket/l2/broken.yml: not YAML"),
        ("gs://my-bucket/l2/binary.yml", "not YAML"),
        ("gs://my-bucket/l2/no_store.yml", r"key 'store': expected bigtable://.*, got None"),
    ],
)
def test_one_that_cannot_be_read(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_datasets(url)
