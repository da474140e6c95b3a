"""Small precomputed layers for tests to damage, and a server of them over HTTP or as buckets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from cloudvolume import CloudVolume
from cloudvolume.chunks import encode
from cloudvolume.datasource.precomputed.common import compressed_morton_code
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

from ..config.datasets import Dataset
from ..core.chunks import NO_FILES, FileCounts
from ..core.geometry import Chunk, Geometry
from ..core.ids import IdLayout
from ..ingest.source import open_source
from ..volume import Volume

SHAPE, STEP = (64, 64, 32), (32, 32, 32)
GEOMETRY = Geometry((16.0, 16.0, 40.0), (0, 0, 0), SHAPE, (64, 64, 32), IdLayout({2: 10}))
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 0,
    "hash": "identity",
    "minishard_bits": 1,
    "shard_bits": 1,
    "minishard_index_encoding": "raw",
    "data_encoding": "raw",
}
BUCKET = "a-bucket"


class ChunkLabels(NamedTuple):
    """The labels of a chunk, in Fortran order, and the `FileCounts` of its files."""

    labels: np.ndarray
    files: FileCounts


def cells_of_labels(dtype: Any = np.uint64, seed: int = 0) -> np.ndarray:
    """Return labels of shape `SHAPE`: cubes of 4 x 4 x 4 voxels with random labels, so all files differ."""
    coarse = np.random.default_rng(seed).integers(1, 60, [n // 4 for n in SHAPE])
    return np.asfortranarray(np.kron(coarse, np.ones((4, 4, 4), int)).astype(dtype))


def read_whole(volume: Volume, chunk: Chunk, geometry: Geometry) -> ChunkLabels:
    """Return a chunk's labels as one array, and the `FileCounts` of its files. Raises VolumeError."""
    slabs, files = [], NO_FILES
    for labels, counts in volume.slabs(chunk, geometry):
        slabs.append(labels.copy(order="F") if isinstance(labels, np.ndarray) else labels.voxels())
        files = files.plus(counts)
    return ChunkLabels(np.asfortranarray(np.concatenate(slabs, axis=2)), files)


def make_layer(folder: Path, labels: np.ndarray, sharded: bool = False, **more: Any) -> Path:
    """Write an uncompressed layer; ``more`` overrides keys of its info or sharding."""
    sharding = SHARDING | {name: more.pop(name) for name in SHARDING if name in more}
    values: dict[str, Any] = {
        "num_channels": 1,
        "layer_type": "segmentation",
        "data_type": labels.dtype.name,
        "encoding": "raw",
        "resolution": (16, 16, 40),
        "voxel_offset": (0, 0, 0),
        "volume_size": labels.shape,
        "chunk_size": STEP,
    }
    info = CloudVolume.create_new_info(**values | more)
    path = f"precomputed://file://{folder}"
    volume = CloudVolume(path, info=info, progress=False, compress=False, non_aligned_writes=True)
    if not sharded:
        volume.commit_info()
        volume[:] = labels[..., None]
        return folder
    volume.scale["sharding"] = sharding
    volume.commit_info()
    grid = [-(-n // step) for n, step in zip(labels.shape, volume.chunk_size, strict=True)]
    cells = np.array(list(np.ndindex(*grid)))
    blocks = {}
    for cell, code in zip(cells, compressed_morton_code(cells, grid), strict=True):
        part = labels[tuple(slice(a * n, (a + 1) * n) for a, n in zip(cell, volume.chunk_size, strict=True))]
        block = np.asfortranarray(part)[..., None]
        blocks[int(code)] = encode(block, info["scales"][0]["encoding"], (8, 8, 8))
    for name, data in ShardingSpecification.from_dict(sharding).synthesize_shards(blocks).items():
        (folder / volume.key).mkdir(exist_ok=True)
        (folder / volume.key / name).write_bytes(data)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of a layer's files, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Served:
    """What a server returns: files, error statuses for some names, and a status for missing files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.statuses: dict[str, int] = {}
        self.absent = 404
        self.asked: list[str] = []

    def answer(self, name: str) -> tuple[int, bytes]:
        self.asked.append(name)
        if name in self.statuses:
            return self.statuses[name], b"<Error><Code>Refused</Code></Error>"
        if name in self.files:
            return 200, self.files[name]
        code = "NoSuchKey" if self.absent == 404 else "AccessDenied"
        return self.absent, f"<Error><Code>{code}</Code></Error>".encode()


@contextmanager
def serving(served: Served) -> Iterator[dict[str, str]]:
    """Serve a layer. Yield a dict: "http(s)", "gs" and "s3" are its paths, "host" is the server's URL.

    The "gs" path works only if STORAGE_EMULATOR_HOST is set to the server's URL.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            status, body = served.answer(path.partition("/seg/")[2])
            limits = self.headers.get("Range")
            if limits and status == 200:
                first, last = limits.removeprefix("bytes=").split("-")
                status, body = (
                    (206, body[int(first) : int(last) + 1]) if int(first) < len(body) else (416, b"")
                )
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    try:
        yield {
            "http(s)": f"precomputed://{host}/seg",
            "gs": f"gs://{BUCKET}/seg",
            "s3": f"s3://{host}/{BUCKET}/seg",
            "host": host,
        }
    finally:
        server.shutdown()
        server.server_close()


def edit_info(folder: Path, **changes: Any) -> None:
    """Set keys of a layer's info file: in its first scale if the scale has the key, else at the top level."""
    path = folder / "info"
    info = json.loads(path.read_text())
    for key, value in changes.items():
        target = info["scales"][0] if key in info["scales"][0] else info
        target[key] = value
    path.write_text(json.dumps(info))


def open_volume(dataset: Dataset) -> Volume:
    """Open a data set's segmentation. Raises ConfigError if the segmentation contradicts the graph."""
    with closing(open_source(dataset)) as source:
        return source.volume
