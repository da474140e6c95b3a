"""``l2features sample`` and ``l2features sample-edit``: a synthetic data set, and edits of its graph."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import numpy as np

from ..config.datasets import Dataset
from ..config.reach import check_bigtable, check_pubsub
from ..core.errors import GraphError
from ..core.geometry import Triple
from ..local.progress import progress_bar
from .shared_options import TripleType, json_option, with_dataset


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
    help="Also write a graph to this table, bigtable://project/instance/table, and put the store "
    "into the same instance.",
)
@click.option(
    "--topics",
    metavar="PROJECT",
    help="Also create Pub/Sub topics for edits and missing ids in this project.",
)
def sample(directory: Path, grid: Triple, chunk_size: Triple, graph: str | None, topics: str | None) -> None:
    """Write a sample data set to DIRECTORY.

    The sample consists of a precomputed segmentation of tubes and sheets, and of a data sets file. The
    segmentation has a voxel offset and partial edge chunks. The data sets file names a SQLite store in
    DIRECTORY. With --graph, the segmentation consists of supervoxels, the store is in Bigtable, and
    `l2features sample-edit` edits the graph. Existing files are kept.

    \b
    Example:
      l2features sample sample
      l2features sample big --grid 4,4,4 --chunk-size 256,256,128
      l2features sample proofread --graph bigtable://local/local/sample --topics local
    """
    from ..local.sample.folder import is_sample, segmentation_path
    from ..local.sample.initial_graph import make_graph
    from ..local.sample.segmentation_files import Sample, make_sample
    from ..local.sample.topics import TopicError, make_topics

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
        with progress_bar(int(np.prod(grid)), "chunk", "sample", delay=0.01) as bar:
            config = make_sample(directory, shape, bar.update)
        click.echo(f"wrote {config}")
    if graph is not None:
        made = make_graph(shape, segmentation_path(directory.resolve()))
        click.echo(f"wrote the graph {graph}" if made else f"the graph {graph} exists already")
    if topics is not None:
        make_topics(topics)
        click.echo(f"topics and subscriptions of project {topics} exist")
    click.echo(f"next: {_ingest_command(directory, graph is not None)}")


def _ingest_command(directory: Path, has_graph: bool) -> str:
    from ..local.sample.graph_table import TIMESTAMP
    from ..local.sample.segmentation_files import NAME

    config = shlex.quote(str(directory.resolve() / "datasets.yml"))
    time = f' --timestamp "{TIMESTAMP}"' if has_graph else ""
    return f"l2features ingest {NAME} --config {config} --create{time}"


@click.command()
@with_dataset
@click.option("--merge", "kind", flag_value="merge", default="merge", help="Merge two objects (default).")
@click.option("--split", "kind", flag_value="split", help="Split an object in two.")
@click.option(
    "--topic",
    metavar="PATH",
    help="Topic of the edit, projects/PROJECT/topics/NAME.  "
    "[default: pychunkedgraph, of the graph's project]",
)
@json_option
def sample_edit(dataset: Dataset, kind: str, topic: str | None, as_json: bool) -> None:
    """Merge two objects of DATASET, or split one object, and publish the edit.

    Writes the new nodes and roots to the graph's table and publishes PyChunkedGraph's message, so that an
    updater computes the new nodes. DATASET must be a sample with a graph.

    \b
    Example:
      l2features sample-edit sample --config stack/datasets.yml
      l2features sample-edit sample --split
    """
    from ..local.sample.edit import edit_sample
    from .report import json_text

    edit, path = edit_sample(dataset, kind, topic)
    if as_json:
        keys = ("operation_id", "new_l2_ids", "new_root_ids", "old_root_ids")
        click.echo(json_text({key: getattr(edit, key) for key in keys}))
        return
    click.echo(f"operation id: {edit.operation_id}")
    for label in ("old_root_ids", "new_root_ids", "new_l2_ids"):
        ids = " ".join(map(str, getattr(edit, label)))
        click.echo(f"{label.replace('_', ' ').replace('l2', 'L2')}: {ids}")
    click.echo(f"{kind} published to: {path}")
