"""Pub/Sub messages: edits with new L2 ids, and requests for missing features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.errors import L2FeaturesError
from ..core.geometry import Geometry
from ..core.ids import L2, Ids, as_ids, sorted_unique
from ..core.unpickle import ARRAYS, MAX_BYTES, plain_loads, shown

MESSAGE_IDS = 500
"""Maximum ids of a message of missing ids that we publish.

A message is processed as a whole. Even if each id is in a different chunk, this many ids take minutes, not
hours. Several workers can share the messages of a large request.
"""
EDIT_IDS = MAX_BYTES // 8
"""Maximum ids of an edit: as many as fit into a pickle of `MAX_BYTES`."""
MAX_MISSING_BYTES = 10 << 20
"""Maximum bytes of a message of missing ids: PCGL2Cache publishes all ids of a request in one message."""
_WIRE = np.dtype("<u8")
_EDIT_ATTRIBUTES = ("remesh_priority", "remesh", "user_id")
_PICKLE_END = b"."
_MAX_OPERATION = (1 << 63) - 1


class Kind(StrEnum):
    """Why a message requests features: an edit made the nodes, or their rows are missing."""

    EDIT = "edit"
    MISSING = "missing"


class Priority(StrEnum):
    """Priority of a message; messages of high priority are processed first."""

    HIGH = "high"
    LOW = "low"


_REPORT = "report it to the maintainers of its publisher"


class Reason(StrEnum):
    """Codes of permanent errors.

    Attributes:
        meaning: end of a sentence that begins with "the message" or "the id".
        action: what an operator should do about the dead letter.
    """

    def __new__(cls, code: str, meaning: str = "", action: str = _REPORT) -> Reason:
        reason = str.__new__(cls, code)
        reason._value_, reason.meaning, reason.action = code, meaning, action
        return reason

    meaning: str
    action: str

    TOO_LARGE = "too_large", "has more bytes than any valid message"
    NO_TABLE = "no_table", "has no attribute table_id"
    UNKNOWN_TABLE = (
        "unknown_table",
        "names a table that no data set in the data sets file has",
        "if it is your data set: correct its entry, restart the updater and replay; otherwise, filter the "
        "subscriptions by `attributes.table_id`, and delete the letters",
    )
    BAD_LENGTH = "bad_length", "is not a sequence of uint64 ids"
    BAD_PICKLE = "bad_pickle", "is not a pickle of builtin values and integer arrays"
    BAD_EDIT = "bad_edit", "is not a dictionary with a list named new_lvl2_ids"
    TOO_MANY_IDS = (
        "too_many_ids",
        f"has more than {EDIT_IDS} ids",
        f"run `audit --repair`; {_REPORT}",
    )
    NOT_AN_INTEGER = "not_an_integer", "is not an integer"
    OUT_OF_RANGE = "out_of_range", "is not a uint64"
    OTHER_LAYER = "other_layer", "is not of layer 2"
    OUTSIDE_GRID = "outside_grid", "is in a chunk outside the grid"
    NO_SEGMENT = "no_segment", "is the id of a chunk, with segment 0"
    BAD_NODE = "bad_node", "has invalid children in the graph", "report it to the graph's maintainers"
    UNKNOWN_NODE = (
        "unknown_node",
        "is still not in the graph",
        "if the graph lags, replay later; if the operation was rolled back, delete the letter; otherwise, "
        "correct `graph` in the data sets file, then replay",
    )
    STILL_FAILED = "still_failed", "has failed for too long", "correct what `detail` names, then replay"


class BadMessage(L2FeaturesError):
    """A message with a permanent error."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


class Message(NamedTuple):
    """The payload and the attributes of a Pub/Sub message."""

    data: bytes
    attributes: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class NodeRequest:
    """The L2 ids whose features one message requests.

    Attributes:
        table_id: name of a graph's table or of a data set.
        ids: sorted, unique uint64, not yet checked; `check_ids` checks ids against a data set.
        l2cache_id: features table to update; None for all features tables of the graph.
        refused: the message's values that are not uint64, as text, keyed by reason.
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
        """Whether the message has no ids, valid or refused. PCGL2Cache publishes messages without ids."""
        return not len(self.ids) and not self.refused


def missing_message(ids: Ids, table_id: str, l2_cache_id: str, priority: Priority = Priority.LOW) -> Message:
    """Return a message that requests features of ids; the payload is the ids as little-endian uint64.

    In the message's attributes, ``table_id`` is the data set's name, and ``l2_cache_id`` its features table.
    A message of high priority also has the attribute ``priority``, which PCGL2Cache does not know.

    Raises ValueError if there are no ids.
    """
    ids = as_ids(ids)
    if not len(ids):
        raise ValueError(f"no missing ids for data set {table_id!r}: expected at least one")
    attributes = {"table_id": table_id, "l2_cache_id": l2_cache_id}
    if priority is Priority.HIGH:
        attributes["priority"] = priority.value
    return Message(ids.astype(_WIRE, copy=False).tobytes(), attributes)


def decode(data: bytes, attributes: Mapping[str, str]) -> NodeRequest:
    """Decode a message from an untrusted sender.

    Values among the ids that are not uint64 are returned in ``refused``. Raises BadMessage for any other
    defect.
    """
    if len(data) > MAX_MISSING_BYTES:
        raise BadMessage(
            Reason.TOO_LARGE, f"a message of {len(data)} bytes: expected {MAX_MISSING_BYTES} at most"
        )
    table_id = attributes.get("table_id")
    if not table_id:
        raise BadMessage(
            Reason.NO_TABLE, "the message has no attribute table_id: expected the name of a table"
        )
    if kind_of(data, attributes) is Kind.MISSING:
        return _decode_missing(data, attributes, table_id)
    return _decode_edit(data, attributes, table_id)


def kind_of(data: bytes, attributes: Mapping[str, str]) -> Kind:
    """Return a message's kind, by its attributes if they show it, otherwise by the payload's last byte.

    An edit is a pickle, which ends with a full stop. Any other payload is ids, and an id's last byte is its
    layer. The payload's length decides nothing: an edit of one node has 128 bytes, a multiple of 8.
    """
    if attributes.get("l2_cache_id"):
        return Kind.MISSING
    if any(name in attributes for name in _EDIT_ATTRIBUTES) or data.endswith(_PICKLE_END):
        return Kind.EDIT
    return Kind.MISSING


def _decode_missing(data: bytes, attributes: Mapping[str, str], table_id: str) -> NodeRequest:
    """Decode a message whose payload is the ids of nodes without features.

    The default priority is low, so that a request for a neuron's 100,000 nodes does not delay edits.
    """
    if len(data) % _WIRE.itemsize:
        raise BadMessage(
            Reason.BAD_LENGTH, f"a message of missing ids has {len(data)} bytes: expected 8 per id"
        )
    ids = sorted_unique(np.frombuffer(data, _WIRE).astype(np.uint64))
    high = attributes.get("priority", "").lower() == Priority.HIGH
    priority = Priority.HIGH if high else Priority.LOW
    l2cache_id = attributes.get("l2_cache_id") or None
    return NodeRequest(table_id, ids, Kind.MISSING, priority, l2cache_id=l2cache_id)


def _decode_edit(data: bytes, attributes: Mapping[str, str], table_id: str) -> NodeRequest:
    """Decode an edit. The default priority is high, as in PyChunkedGraph."""
    if len(data) > MAX_BYTES:
        raise BadMessage(Reason.TOO_LARGE, f"an edit of {len(data)} bytes: expected {MAX_BYTES} at most")
    try:
        edit = plain_loads(data, ARRAYS)
    except ValueError as error:
        raise BadMessage(Reason.BAD_PICKLE, f"an edit {error}") from error
    if not isinstance(edit, dict):
        raise BadMessage(Reason.BAD_EDIT, f"an edit is {shown(edit)}: expected a dictionary")
    if "new_lvl2_ids" not in edit:
        raise BadMessage(Reason.BAD_EDIT, "the edit has no new_lvl2_ids: expected a list of ids")
    ids, refused = _ids_among(edit["new_lvl2_ids"])
    operation_id = edit.get("operation_id")
    if type(operation_id) is not int or not 0 < operation_id <= _MAX_OPERATION:
        operation_id = None  # remesh requests have 0
    low = attributes.get("remesh_priority", "").lower() == "false"
    return NodeRequest(
        table_id=table_id,
        ids=ids,
        kind=Kind.EDIT,
        priority=Priority.LOW if low else Priority.HIGH,
        operation_id=operation_id,
        refused=refused,
    )


def _ids_among(values: Any) -> tuple[Ids, dict[Reason, tuple[str, ...]]]:
    """Return a tuple: the values that are uint64, sorted and unique; the others, as text, keyed by reason.

    Raises BadMessage if ``values`` is not a sequence of at most `EDIT_IDS` values.
    """
    if isinstance(values, np.ndarray):
        values = values.ravel()
    elif not isinstance(values, (list, tuple, set, frozenset)):
        raise BadMessage(Reason.BAD_EDIT, f"new_lvl2_ids of an edit is {shown(values)}: expected a list")
    if len(values) > EDIT_IDS:
        raise BadMessage(Reason.TOO_MANY_IDS, f"an edit of {len(values)} ids: expected {EDIT_IDS} at most")
    if isinstance(values, np.ndarray):
        values = values.tolist()
    ids: list[int] = []
    refused: dict[Reason, dict[str, None]] = {}
    for value in values:
        if type(value) is int and 0 <= value < 1 << 64:
            ids.append(value)
        else:
            why = Reason.OUT_OF_RANGE if type(value) is int else Reason.NOT_AN_INTEGER
            refused.setdefault(why, {})[shown(value)] = None
    return sorted_unique(np.array(ids, dtype=np.uint64)), {why: tuple(refused[why]) for why in refused}


def check_ids(ids: Ids, geometry: Geometry) -> tuple[Ids, dict[Reason, Ids]]:
    """Return a tuple: those ids that are valid L2 ids, in the given order; the other ids, keyed by reason."""
    ids, layout = as_ids(ids), geometry.layout
    checks: tuple[tuple[Reason, Callable[[Ids], npt.NDArray[np.bool_]]], ...] = (
        (Reason.OTHER_LAYER, lambda left: layout.layers(left) != L2),
        (Reason.OUTSIDE_GRID, lambda left: ~geometry.is_node(left)),
        (Reason.NO_SEGMENT, lambda left: layout.segments(left) == 0),
    )
    refused: dict[Reason, Ids] = {}
    for reason, is_bad in checks:
        bad = is_bad(ids)
        if bad.any():
            refused[reason], ids = ids[bad], ids[~bad]
    return ids, refused
