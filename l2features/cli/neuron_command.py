"""``l2features neuron``: the summary of one root, and its skeleton."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..client.client import SKELETON_FILES
from ..config.datasets import Dataset
from ..core.errors import L2FeaturesError
from ..core.ids import as_ids
from .output import check_file, new_file
from .shared_options import json_option, max_nodes_option, with_dataset

if TYPE_CHECKING:
    from ..neurons.neuron_reader import NeuronReader


@click.command()
@with_dataset
@click.argument("root")
@click.option(
    "--no-graph", is_flag=True, help="Leave out the measures of the L2 graph, such as cable length."
)
@click.option(
    "--skeleton",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"Also write the skeleton to this file, {' or '.join(SKELETON_FILES)}, in nm.",
)
@max_nodes_option
@json_option
def neuron(
    dataset: Dataset, root: str, no_graph: bool, skeleton: Path | None, max_nodes: int, as_json: bool
) -> None:
    """Print volume, area and cable length of ROOT.

    Volume and area are sums over the root's L2 nodes. Cable length is measured along the root's skeleton.
    For a data set without a graph, ROOT is a segment. Complete results are cached in the table.

    \b
    Example:
      l2features neuron sample 5 --config sample/datasets.yml
      l2features neuron sample 5 --skeleton neuron.swc --config sample/datasets.yml
    """
    from ..neurons.root_answers import root_objects
    from .neuron_report import neuron_card, problems
    from .report import json_text
    from .root_ids import root_id
    from .table_output import open_neurons

    number = root_id(root)
    if skeleton is not None:
        check_file(skeleton, *SKELETON_FILES)
    with open_neurons(dataset, max_nodes) as reader:
        roots = as_ids([number])
        found = reader.summaries(roots, with_graph=not no_graph)
        objects = root_objects(found, reader.histories_of(found))
        if as_json:
            click.echo(json_text(objects))
        if lines := problems(objects):
            raise L2FeaturesError(lines[0] + _if_a_node(reader, number))
        if not as_json:
            click.echo(neuron_card(number, dataset.name, objects[str(number)]), nl=False)
        if skeleton is not None:
            _write_skeleton(reader, dataset, number, skeleton)


def _if_a_node(reader: NeuronReader, number: int) -> str:
    """Return a hint that ``number`` is an L2 id, with its root; an empty string if it is no L2 id."""
    from datetime import UTC, datetime

    geometry, ids = reader.reader.geometry, as_ids([number])
    if not geometry.is_node(ids)[0]:
        return ""
    root = int(reader.source.roots_of(geometry, ids, datetime.now(UTC))[0])
    return f"; it is the id of an L2 node, {f'of root {root}' if root else 'which has no root now'}"


def _write_skeleton(reader: NeuronReader, dataset: Dataset, root: int, file: Path) -> None:
    from ..neurons.skeleton_files import skeleton_file
    from ..query.provenance import provenance

    skeleton = reader.skeleton(root)
    about = provenance(dataset, reader.reader.store.meta())
    with new_file(file) as part:
        part.write_bytes(skeleton_file(skeleton, SKELETON_FILES[file.suffix], about))
    click.echo(f"wrote {len(skeleton)} vertices to {file}", err=True)
