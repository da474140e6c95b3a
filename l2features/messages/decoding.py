"""Pub/Sub messages: L2 ids that an edit made, or whose features are asked for and not there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.errors import L2FeaturesError
from ..core.geometry import Geometry
from ..core.ids import L2, Ids, as_ids, sorted_unique
from ..core.pickled_arrays import ARRAYS, IntegerArray
from ..core.unpickle import MAX_BYTES, plain_loads, shown

MESSAGE_IDS = 500
"""Most ids of one message. It is worked on and acknowledged as a whole: at worst each id is of another chunk,
and these are minutes of work, which many share, not hours for one."""
EDIT_IDS = MAX_BYTES // 8
"""Most ids of an edit, as many as fit into its pickle."""
MAX_MISSING_BYTES = 10 << 20
"""Most of a message of missing ids: the older server puts all of a request into one."""
_WIRE = np.dtype("<u8")
_EDIT_ATTRIBUTES = ("remesh_priority", "remesh", "user_id")
_PICKLE_END = b"."
_MAX_OPERATION = (1 << 63) - 1


class Kind(StrEnum):
    """Why features are wanted."""

    EDIT = "edit"
    MISSING = "missing"


class Priority(StrEnum):
    """Which messages come first."""

    HIGH = "high"
    LOW = "low"


class Reason(StrEnum):
    """Why a message, or an id of it, can never succeed."""

    TOO_LARGE = "too_large"
    NO_TABLE = "no_table"
    UNKNOWN_TABLE = "unknown_table"
    BAD_LENGTH = "bad_length"
    BAD_PICKLE = "bad_pickle"
    BAD_EDIT = "bad_edit"
    TOO_MANY_IDS = "too_many_ids"
    NOT_AN_INTEGER = "not_an_integer"
    OUT_OF_RANGE = "out_of_range"
    OTHER_LAYER = "other_layer"
    OUTSIDE_GRID = "outside_grid"
    NO_SEGMENT = "no_segment"
    BAD_NODE = "bad_node"
    UNKNOWN_NODE = "unknown_node"
    STILL_FAILED = "still_failed"

    @property
    def meaning(self) -> str:
        """The reason in words, as an end of "the message …" or "the id …"."""
        return _MEANINGS[self]


_MEANINGS: Mapping[Reason, str] = {
    Reason.TOO_LARGE: "has more bytes than any valid message",
    Reason.NO_TABLE: "has no attribute table_id",
    Reason.UNKNOWN_TABLE: "names a table that no data set in the data sets file has",
    Reason.BAD_LENGTH: "is not a sequence of uint64 ids",
    Reason.BAD_PICKLE: "is not a pickle of builtin values and integer arrays",
    Reason.BAD_EDIT: "is not a dictionary with a sequence new_lvl2_ids",
    Reason.TOO_MANY_IDS: f"has more than {EDIT_IDS} ids",
    Reason.NOT_AN_INTEGER: "is not an integer",
    Reason.OUT_OF_RANGE: "is not a uint64",
    Reason.OTHER_LAYER: "is not of layer 2",
    Reason.OUTSIDE_GRID: "is in a chunk outside the grid",
    Reason.NO_SEGMENT: "is the id of a chunk, with segment 0",
    Reason.BAD_NODE: "has invalid children in the graph",
    Reason.UNKNOWN_NODE: "is still not in the graph",
    Reason.STILL_FAILED: "has failed for too long",
}


class BadMessage(L2FeaturesError):
    """A message that can never succeed."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


class Message(NamedTuple):
    """What Pub/Sub carries: the payload and its attributes."""

    data: bytes
    attributes: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class NodeRequest:
    """L2 ids whose features are to be computed, as one message names them.

    ``table_id`` is a graph's table or the name of a data set, ``l2cache_id`` the table of features if only
    that is meant. ``ids`` are sorted and unique; they may still not be of the data set (`check_ids`).
    ``refused`` holds what stood among the ids and is no uint64, in words.
    """

    table_id: str
    ids: Ids
    kind: Kind
    priority: Priority
    operation_id: int | None = None
    l2cache_id: str | None = None
    refused: Mapping[Reason, Sequence[str]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether it asks for nothing: not an error, as the older server publishes such messages."""
        return not len(self.ids) and not self.refused


def missing_message(ids: Ids, table_id: str, l2_cache_id: str, priority: Priority = Priority.LOW) -> Message:
    """The message that asks for the features of ids, in their order: raw little-endian uint64.

    ``table_id`` is the data set's name, ``l2_cache_id`` the table of its features. Only a high priority
    is said in an attribute, which the older service does not know.
    Raises ValueError for no ids: an empty message would be delivered and mean nothing.
    """
    ids = as_ids(ids)
    if not len(ids):
        raise ValueError(f"no ids are missing in data set {table_id!r}: expected at least one")
    attributes = {"table_id": table_id, "l2_cache_id": l2_cache_id}
    if priority is Priority.HIGH:
        attributes["priority"] = priority.value
    return Message(ids.astype(_WIRE, copy=False).tobytes(), attributes)


def message_slices(count: int, size: int = MESSAGE_IDS) -> Iterator[slice]:
    """Which of ``count`` ids each message takes, at most ``size`` of them; none for no ids."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def decode(data: bytes, attributes: Mapping[str, str]) -> NodeRequest:
    """What a message asks for; neither its bytes nor its attributes are trusted.

    Raises BadMessage. Ids that are none do not spoil the others: they are ``refused``.
    """
    if len(data) > MAX_MISSING_BYTES:
        raise BadMessage(
            Reason.TOO_LARGE, f"a message of {len(data)} bytes: expected {MAX_MISSING_BYTES} at most"
        )
    table_id = attributes.get("table_id")
    if not table_id:
        raise BadMessage(
            Reason.NO_TABLE, "a message without the attribute table_id: expected the name of a table"
        )
    if kind_of(data, attributes) is Kind.MISSING:
        return _decode_missing(data, attributes, table_id)
    return _decode_edit(data, attributes, table_id)


def kind_of(data: bytes, attributes: Mapping[str, str]) -> Kind:
    """Of which kind a message is. Its attributes decide.

    The payload does only where they say nothing: the last byte of a pickle is a full stop, that of an id
    is its layer. Its length tells nothing: the pickle of an edit of one node has 128 bytes.
    """
    if attributes.get("l2_cache_id"):
        return Kind.MISSING
    if any(name in attributes for name in _EDIT_ATTRIBUTES) or data.endswith(_PICKLE_END):
        return Kind.EDIT
    return Kind.MISSING


def _decode_missing(data: bytes, attributes: Mapping[str, str], table_id: str) -> NodeRequest:
    """Low priority unless it says otherwise: one request may ask for a whole neuron's 100,000 nodes, and
    the one node that somebody has just edited should not wait behind them."""
    if len(data) % _WIRE.itemsize:
        raise BadMessage(
            Reason.BAD_LENGTH, f"a message of missing ids of {len(data)} bytes: expected 8 for each id"
        )
    high = attributes.get("priority", "").lower() == Priority.HIGH
    return NodeRequest(
        table_id=table_id,
        ids=sorted_unique(np.frombuffer(data, _WIRE).astype(np.uint64)),
        kind=Kind.MISSING,
        priority=Priority.HIGH if high else Priority.LOW,
        l2cache_id=attributes.get("l2_cache_id") or None,
    )


def _decode_edit(data: bytes, attributes: Mapping[str, str], table_id: str) -> NodeRequest:
    """High priority unless it says otherwise, as PyChunkedGraph's default is."""
    if len(data) > MAX_BYTES:
        raise BadMessage(Reason.TOO_LARGE, f"an edit of {len(data)} bytes: expected {MAX_BYTES} at most")
    try:
        edit = plain_loads(data, ARRAYS)
    except ValueError as error:
        reason = str(error)
    else:
        if not isinstance(edit, dict):
            raise BadMessage(Reason.BAD_EDIT, f"an edit is {shown(edit)}: expected a dictionary")
        if "new_lvl2_ids" not in edit:
            raise BadMessage(Reason.BAD_EDIT, "an edit without new_lvl2_ids: expected a list of ids")
        ids, refused = _ids_among(edit["new_lvl2_ids"])
        low = attributes.get("remesh_priority", "").lower() == "false"
        return NodeRequest(
            table_id=table_id,
            ids=ids,
            kind=Kind.EDIT,
            priority=Priority.LOW if low else Priority.HIGH,
            operation_id=_operation_id(edit.get("operation_id")),
            refused=refused,
        )
    raise BadMessage(Reason.BAD_PICKLE, f"an edit {reason}")


def _operation_id(value: Any) -> int | None:
    """The operation; None where it is not said, as 0 in requests to mesh again: the ids count, not it."""
    return value if type(value) is int and 0 < value <= _MAX_OPERATION else None


def _ids_among(values: Any) -> tuple[Ids, dict[Reason, tuple[str, ...]]]:
    """The ids of an edit, sorted and unique, and what is none of them. Raises BadMessage."""
    if isinstance(values, IntegerArray):
        values = values.values
    elif not isinstance(values, (list, tuple, set, frozenset)):
        raise BadMessage(Reason.BAD_EDIT, f"new_lvl2_ids of an edit is {shown(values)}: expected a list")
    if len(values) > EDIT_IDS:
        raise BadMessage(Reason.TOO_MANY_IDS, f"an edit of {len(values)} ids: expected {EDIT_IDS} at most")
    if isinstance(values, np.ndarray):
        values = values.tolist()
    ids: list[int] = []
    refused: dict[Reason, dict[str, None]] = {}
    for value in values:
        if type(value) is not int:
            refused.setdefault(Reason.NOT_AN_INTEGER, {})[shown(value)] = None
        elif not 0 <= value < 1 << 64:
            refused.setdefault(Reason.OUT_OF_RANGE, {})[shown(value)] = None
        else:
            ids.append(value)
    in_words = {why: tuple(words) for why, words in refused.items()}
    return sorted_unique(np.array(ids, dtype=np.uint64)), in_words


def check_ids(ids: Ids, geometry: Geometry) -> tuple[Ids, dict[Reason, Ids]]:
    """The ids that can be L2 nodes of a data set, in their order, and the others by reason."""
    ids, layout = as_ids(ids), geometry.layout
    checks: tuple[tuple[Reason, Callable[[Ids], npt.NDArray[np.bool_]]], ...] = (
        (Reason.OTHER_LAYER, lambda left: layout.layers(left) != L2),
        (Reason.OUTSIDE_GRID, lambda left: ~geometry.in_grid(layout.chunk_coordinates(left))),
        (Reason.NO_SEGMENT, lambda left: layout.segments(left) == 0),
    )
    refused: dict[Reason, Ids] = {}
    for reason, is_bad in checks:
        bad = is_bad(ids)
        if bad.any():
            refused[reason], ids = ids[bad], ids[~bad]
    return ids, refused
