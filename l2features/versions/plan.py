"""The plan of a version: which part of the data set it has, and how its work and its files are divided.

The plan is written before the work begins. A job that is run again finds the plan and makes the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..core.chunks import ChunkBox, parse_box
from ..core.errors import VersionError
from ..core.geometry import Geometry
from ..core.ids import Ids, as_ids
from ..core.times import iso_text
from ..store.notes import Time
from .folders import Folder
from .manifest import folder_name, version_numbers

FORMAT = 1
"""Format of the plans that this code writes, and the newest format that it reads."""
PLAN = "plan.json"
BLOCK = 8
"""Chunks of a block along each axis; fewer if a block would have more than `UNIT_ROWS` nodes."""
UNIT_ROWS = 1_000_000
"""Maximum nodes of a block, estimated from a sample; a worker needs about 220 bytes of memory per node."""
ROOTS_PER_UNIT = 16
"""Roots that a renewal reads at a time."""
PARTITION_ROWS = 4_000_000
"""Average rows of a partition; at about 65 bytes per row (EM data), a file has 260 MB."""
SAMPLE, SAMPLE_EDGE = 32, 2
"""Number of sampled boxes (in a renewal, of groups of roots) whose nodes are counted to divide the work; and
chunks along a box's edge."""
_Id = Annotated[int, Field(ge=0, lt=1 << 64)]


class Plan(BaseModel):
    """The planned content of a version.

    The work is divided into ``units`` units. In a fresh version, a unit reads the nodes of a cube of chunks
    with ``block`` chunks along each edge. In a renewal, ``made`` lists the roots to add, and a unit reads the
    nodes of up to `ROOTS_PER_UNIT` of them. The files are divided into partitions (ranges of ids). Partition
    i of the roots begins at the id ``root_bounds[i - 1]``, partition i of the nodes at
    ``node_bounds[i - 1]``; partition 0 begins at 0.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    number: int = Field(ge=1)
    timestamp: Time
    base: int | None = None
    dataset: str
    l2cache_id: str
    graph_id: str
    cv_path: str
    box: str
    units: int = Field(ge=0)
    block: int = BLOCK
    root_bounds: tuple[_Id, ...] = ()
    node_bounds: tuple[_Id, ...] = ()
    made: tuple[_Id, ...] = ()
    retired: tuple[_Id, ...] = ()

    def chunk_box(self, geometry: Geometry) -> ChunkBox:
        """Return the chunks of the plan's ``box``. Raises ConfigError if the grid has changed."""
        return parse_box(self.box, geometry.grid)

    def same_work(self, other: Plan) -> bool:
        """Whether two plans make the same version."""
        names = ("timestamp", "base", "dataset", "l2cache_id", "graph_id", "cv_path", "box")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def plan_path(number: int) -> str:
    """Return the path of a version's plan in the folder of all versions."""
    return f"{folder_name(number)}/{PLAN}"


def next_number(folder: Folder) -> int:
    """Return the number of the next version: one more than the highest number with a manifest."""
    return max(version_numbers(folder), default=0) + 1


def read_plan(folder: Folder, number: int) -> Plan | None:
    """Return the plan of a version; None if it has no plan. Raises VersionError."""
    problem = f"is not a plan: delete the folder {folder_name(number)}"
    return folder.read_model(plan_path(number), Plan, FORMAT, problem)


def begin(folder: Folder, wanted: Plan, divide: Callable[[Plan], Plan]) -> Plan:
    """Return the plan of an unfinished run of the same version, or else write and return a new plan.

    ``divide`` completes the new plan. Raises VersionError if the folder of ``wanted.number`` has a
    different version, or files but no plan.
    """
    plan = read_plan(folder, wanted.number)
    if plan is None:
        check_ours(folder, wanted.number)
        plan = divide(wanted)
        if not folder.create(plan_path(plan.number), plan.model_dump_json(indent=1).encode()):
            plan = read_plan(folder, wanted.number)
    if plan is None or not plan.same_work(wanted):
        raise VersionError(_other_work(folder, wanted, plan))
    return plan


def check_ours(folder: Folder, number: int) -> None:
    """Raise VersionError if a version's folder has files but no plan: then no job made the files."""
    for name in folder.names(folder_name(number)):
        if not name.startswith(f".{PLAN}."):  # of a job that was killed, or writes its plan
            raise VersionError(
                f"{folder.url}/{folder_name(number)} has {name!r} but no {PLAN}: expected an empty folder, "
                "or a version's folder"
            )


def bounds_of(samples: Sequence[Ids], partitions: int) -> tuple[int, ...]:
    """Return the first id of each partition but the first, so that partitions have about equally many rows.

    Each array in ``samples`` has the ids of sampled rows, one per row. If many rows have the same id, there
    are fewer partitions.

    >>> bounds_of([as_ids([1, 2, 3, 4])], 2)
    (3,)
    """
    ids = np.sort(np.concatenate([as_ids([]), *samples]))
    if not len(ids):
        return ()
    places = np.arange(1, partitions) * len(ids) // partitions
    return tuple(sorted(set(ids[places].tolist()) - {int(ids[0])}))


def chunk_bounds(box: ChunkBox, geometry: Geometry, partitions: int) -> tuple[int, ...]:
    """Return the first chunk id of each partition but the first, for partitions of equally many chunks."""
    places = np.arange(1, partitions) * len(box) // partitions
    chunks = np.stack(np.unravel_index(places, box.shape), axis=-1) + np.array(box.start)
    return tuple(sorted(set(geometry.layout.chunk_id_array(chunks).tolist())))


def evenly_spread(n: int, count: int) -> Iterable[int]:
    """Return ``count`` evenly spread integers from 0 to n - 1, or all of these if n is smaller."""
    return range(n) if n <= count else (i * n // count for i in range(count))


def _other_work(folder: Folder, wanted: Plan, found: Plan | None) -> str:
    number = wanted.number
    if found is None:
        return f"version {number} in {folder.url} is being deleted: run the command again"
    return (
        f"version {number} in {folder.url} is unfinished, for data set {found.dataset!r} at "
        f"{_shown(found)}: expected {wanted.dataset!r} at {_shown(wanted)}; finish it with its own options, "
        f"or delete it with `l2features versions delete {found.dataset} {number}`"
    )


def _shown(plan: Plan) -> str:
    base = "" if plan.base is None else f" from version {plan.base}"
    return f"{iso_text(plan.timestamp, 'milliseconds')}{base}, chunks {plan.box}"
