"""The commands of the sample: make it, edit it, and run all that serves it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from tqdm import tqdm

from ..config.reach import check_bigtable, check_pubsub
from ..core.errors import GraphError
from ..core.geometry import Triple
from .options import TripleType, config_option, json_option, user_errors

if TYPE_CHECKING:
    from ..local.sample.segmentation_files import Sample

PORT = click.IntRange(1, 65_535)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--grid", type=TripleType(1), default="4,3,3", show_default=True, help="Chunks along each axis."
)
@click.option(
    "--chunk-size", type=TripleType(4, 1024), default="64,64,32", show_default=True, help="Voxels of a chunk."
)
@click.option(
    "--graph",
    metavar="URL",
    help="Make a graph of its own too, in this table: bigtable://project/instance/table; the store is in the "
    "same instance.",
)
@click.option(
    "--topics",
    metavar="PROJECT",
    help="Make the Pub/Sub topics of edits and missing ids too, of this project.",
)
@user_errors
def sample(directory: Path, grid: Triple, chunk_size: Triple, graph: str | None, topics: str | None) -> None:
    """Write a sample data set to DIRECTORY.

    It is a segmentation of tubes and sheets (precomputed, on disk, with a voxel offset and partial edge
    chunks) and a data sets file that names a SQLite store beside it. With --graph it is one of supervoxels,
    and a graph that `l2features sample-edit` edits; what is there of it already stays as it is.

    \b
    Example:
      l2features sample sample
      l2features sample big --grid 4,4,4 --chunk-size 256,256,128
      l2features sample proofread --graph bigtable://local/local/sample --topics local
    """
    from ..local.sample.folder import is_sample
    from ..local.sample.segmentation_files import Sample, make_sample
    from ..local.sample.topics import TopicError

    shape = Sample(grid, chunk_size, graph=graph)
    if graph is not None:
        check_bigtable(graph, GraphError)
    if topics is not None:
        check_pubsub(f"project {topics!r}", TopicError)
    if is_sample(directory, shape):
        click.echo(f"{directory}: this sample exists already")
        if graph is None:
            return
    else:
        with tqdm(total=int(np.prod(grid)), unit="chunk", desc="sample", delay=0.01) as bar:
            config = make_sample(directory, shape, bar.update)
        click.echo(f"wrote {config}")
    if graph is not None:
        _make_graph(shape, directory)
    if topics is not None:
        from ..local.sample.topics import make_topics

        make_topics(topics)
        click.echo(f"topics and subscriptions of project {topics} are there")
    click.echo(f"next: {_ingest(directory, graph is not None)}")


def _ingest(directory: Path, has_graph: bool) -> str:
    """What computes a sample."""
    from ..local.sample.graph_table import TIMESTAMP
    from ..local.sample.segmentation_files import NAME

    config = shlex.quote(str(directory.resolve() / "datasets.yml"))
    time = f' --timestamp "{TIMESTAMP}"' if has_graph else ""
    return f"python -m beam_jobs.ingest --config {config} --dataset {NAME} --create{time}"


def _make_graph(shape: Sample, directory: Path) -> None:
    from ..local.sample.folder import segmentation_path
    from ..local.sample.graph_table import make_graph

    made = make_graph(shape, segmentation_path(directory.resolve()))
    click.echo(f"{'wrote' if made else 'there is'} the graph {shape.graph}{'' if made else ' already'}")


@click.command()
@click.argument("dataset")
@click.option(
    "--merge", "kind", flag_value="merge", default="merge", help="Two objects become one (default)."
)
@click.option("--split", "kind", flag_value="split", help="One object becomes two.")
@click.option(
    "--topic",
    metavar="PATH",
    help="projects/PROJECT/topics/NAME.  [default: pychunkedgraph, of the graph's project]",
)
@config_option
@json_option
@user_errors
def sample_edit(dataset: str, kind: str, topic: str | None, config: str | None, as_json: bool) -> None:
    """Merge or split two objects of DATASET, a sample's own graph, and publish the edit.

    The nodes and roots that it makes are written into the graph's table, and the message is one of
    PyChunkedGraph, so that an updater computes the new nodes. Any other graph is refused.

    \b
    Example:
      l2features sample-edit sample --config stack/datasets.yml
      l2features sample-edit sample --split
    """
    from ..config.datasets import load_dataset
    from ..local.sample.edit import edit_sample
    from .report import json_text

    edit, path = edit_sample(load_dataset(dataset, config), kind, topic)
    if as_json:
        keys = ("operation_id", "new_l2_ids", "new_root_ids", "old_root_ids")
        click.echo(json_text({key: getattr(edit, key) for key in keys}))
        return
    click.echo(f"operation id: {edit.operation_id}")
    for label, ids in (
        ("old root ids", edit.old_root_ids),
        ("new root ids", edit.new_root_ids),
        ("new L2 ids", edit.new_l2_ids),
    ):
        click.echo(f"{label}: {' '.join(map(str, ids))}")
    click.echo(f"{kind} published to: {path}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="l2features-stack")
@click.option("--api-port", type=PORT, help="Port of the HTTP API.  [default: a free one]")
@click.option("--bigtable-port", type=PORT, help="Port of the Bigtable emulator.  [default: a free one]")
@click.option("--pubsub-port", type=PORT, help="Port of the Pub/Sub emulator.  [default: a free one]")
@user_errors
def up(folder: Path, api_port: int | None, bigtable_port: int | None, pubsub_port: int | None) -> None:
    """Run all on this machine, until Ctrl-C: emulators, a sample with a graph, the updater and the HTTP API.

    Needs the emulators of Bigtable and Pub/Sub of a Google Cloud SDK, and no Docker. All it writes is below
    FOLDER, which is new, empty, or that of an earlier one; the emulators keep nothing when they end, so that
    each start begins with the graph unedited.

    \b
    Example:
      l2features up
      l2features up stack --api-port 4100
    """
    from ..local.up import run

    ports = {"api": api_port, "bigtable": bigtable_port, "pubsub": pubsub_port}
    status = run(folder, {name: port for name, port in ports.items() if port})
    if status:
        raise SystemExit(status)
