"""Read neurons: summaries, nodes, graphs and skeletons of roots, from a cache or computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..core.batches import batched
from ..core.futures import Beside, SharedCalls
from ..core.ids import Ids, as_ids, sorted_unique, to_bytes
from ..core.rows import Rows
from ..core.schema import NAMES
from ..graph.base import Graph, Pairs, RootHistory
from ..query.reader import Answer, Reader, Status
from ..store.rewrites import read_generation
from .kept import BASIS_BYTES, GRAPH_SUMMARY, SUMMARY, KeptRoots, ResultKind
from .kept_graph import KeptGraph
from .neuron_summary import GRAPH_SUMMARIES, SUMMARIES, summarize
from .neuron_summary import with_graph as with_measures_of_graphs
from .node_graph import NeuronGraph
from .root_summaries import NOT_A_ROOT, UNKNOWN, Collected, RootError, RootStatus, Summaries, too_large

if TYPE_CHECKING:
    from .skeleton import Skeleton

MOST_NODES = 1_000_000
ROOTS, IDS = 100, 4_000_000
"""Maximum roots that are looked up at once, and maximum L2 ids of these roots."""
NODES, READ_NODES = 200_000, 50_000
"""Maximum nodes of several roots that are summarized together, and maximum nodes of one read of the store."""
BESIDE = 8
"""Number of threads in which a reader reads edges or writes results while it reads rows."""
T = TypeVar("T")
Wait = Callable[[], None]


class NeuronReader:
    """Reads the roots of one data set. Threads may share a reader.

    Summaries without missing nodes are cached, and so are L2 ids and edges if they never change. The cache is
    in memory (``cache_bytes``) and, with ``keep``, also in the table. Histories depend on the time and are
    not cached.

    Args:
        reader: reads the data set's rows.
        graph: the data set's graph.
        keep: also write results to the table. Results in the table are read in any case.
        most_nodes: maximum number of L2 nodes of a root.
        cache_bytes: size of the LRU cache in memory.

    A method for one root reads the root's L2 ids, unless the caller passes them as ``ids``.

    All methods raise StoreError and GraphError; for transient errors, StoreUnavailable and GraphUnavailable.
    RootError means that an id is unknown, is not a root, or has more than ``most_nodes`` nodes.
    """

    def __init__(
        self,
        reader: Reader,
        graph: Graph,
        keep: bool = False,
        most_nodes: int = MOST_NODES,
        cache_bytes: int = 64_000_000,
    ) -> None:
        self.reader, self.source, self.most_nodes = reader, graph, most_nodes
        self._kept = KeptRoots(reader.store, reader.store.name, keep, cache_bytes)
        self._roots = KeptGraph(graph, reader.geometry, self._kept)
        self._calls, self._beside = SharedCalls(), Beside(BESIDE)
        self._not_a_root = f"{NOT_A_ROOT}: expected {graph.expected_root}"
        self._cached: bytes | None = None

    # ------------------------------------------------------------------ many roots
    def summaries(self, roots: Ids, *, with_graph: bool = False) -> Summaries:
        """Return the status and the summary of each root; ``with_graph`` adds the measures of the L2 graph.

        Memory does not grow with the number of nodes, except for the ids of nodes without features.
        """
        roots, generation = as_ids(roots), self.generation()

        def read() -> Summaries:
            return self._read_summaries(roots, with_graph, generation)

        if not generation:
            return read()
        key = "summaries", generation, with_graph, roots.tobytes()
        return self._share(key, read, lambda found: bool((found.status == RootStatus.READY).all()))

    def _read_summaries(self, roots: Ids, with_graph: bool, generation: bytes | None) -> Summaries:
        out = Collected(sorted_unique(roots), GRAPH_SUMMARIES if with_graph else SUMMARIES)
        is_root = self.source.is_root(self.reader.geometry, out.roots)
        out.refuse(RootStatus.NOT_A_ROOT, dict.fromkeys(out.roots[~is_root].tolist(), self._not_a_root))
        left = out.roots[is_root]
        kind = GRAPH_SUMMARY if with_graph else SUMMARY
        if self.source.permanent and generation:
            left = self._take_kept(out, kind, dict.fromkeys(left.tolist(), generation))
        for ids, wait_until_kept in self._groups(left, out):
            bases = self._bases(generation, ids)
            if bases and not self.source.permanent:
                ids = {root: ids[root] for root in self._take_kept(out, kind, bases).tolist()}
            if ids:
                self._summarize(out, ids, bases, wait_until_kept)
        return out.result(roots)

    def histories(self, roots: Ids) -> dict[int, RootHistory]:
        """Return when each root was made and retired, as the graph has it now. Leaves out unknown roots."""
        return self.source.histories(self.reader.geometry, as_ids(roots))

    def histories_of(self, found: Summaries) -> dict[int, RootHistory]:
        """Return the `histories` of the roots that have a summary."""
        roots = np.unique(found.roots[found.summarized])
        return self.histories(roots) if len(roots) else {}

    def generation(self) -> bytes | None:
        """Return the table's generation; None while rows are being replaced.

        The generation changes whenever rows are replaced. The row cache is cleared if the generation is new.
        """
        generation, cache = read_generation(self.reader.store), self.reader.cache
        if generation is not None and generation != self._cached:
            if cache is not None:
                cache.clear()
            self._cached = generation
        return generation

    def _bases(self, generation: bytes | None, ids: Mapping[int, Ids]) -> dict[int, bytes]:
        """Return the basis of each root: 16 bytes that change when cached results of the root are outdated.

        If the L2 ids of roots never change, the basis is the table's generation. Otherwise, it is a digest of
        the generation and the root's L2 ids. While rows are being replaced, the result is empty.
        """
        if generation is None:
            return {}
        if self.source.permanent:
            return dict.fromkeys(ids, generation)
        return {
            root: blake2b(generation + to_bytes(nodes), digest_size=BASIS_BYTES).digest()
            for root, nodes in ids.items()
        }

    def _take_kept(self, out: Collected, kind: ResultKind, bases: Mapping[int, bytes]) -> Ids:
        """Put cached summaries into ``out``; return the roots without one.

        ``bases`` are those of `_bases`. A summary cached with another basis is outdated and not used.
        """
        roots = as_ids(list(bases))
        found = self._kept.get(kind, roots, bases=bases).arrays
        joined = b"".join(array.tobytes() for array in found.values())  # np.concatenate merges dtypes, slowly
        out.put(as_ids(list(found)), np.frombuffer(joined, kind.dtype)["summary"])
        return np.setdiff1d(roots, as_ids(list(found)), assume_unique=True)

    def _summarize(
        self, out: Collected, ids: Mapping[int, Ids], bases: Mapping[int, bytes], before_keeping: Wait
    ) -> None:
        """Compute the summaries of roots from their L2 ids, and put them into ``out``.

        Then calls ``before_keeping``, which waits until the L2 ids are cached. Last, caches the summaries
        without missing nodes; if ``bases`` is empty, caches none.
        """
        roots, starts = as_ids(list(ids)), np.cumsum([0, *map(len, ids.values())])
        nodes = np.concatenate(list(ids.values()))
        reader = self.reader if bases else replace(self.reader, cache=None)
        with_graph = out.dtype == GRAPH_SUMMARIES
        if with_graph:
            answer, (edges, malformed) = self._read_with(reader, nodes, partial(self._roots.edges, ids))
        else:
            answer = _read(reader, nodes)
        found = {SUMMARY: summarize(answer.rows, answer.status, starts, self.reader.geometry)}
        if with_graph:
            if malformed:
                out.refuse(RootStatus.UNKNOWN, malformed)
                if edges:
                    self._summarize(out, {root: ids[root] for root in edges}, bases, before_keeping)
                return
            graphs = self._graphs(ids, edges, answer, starts)
            found[GRAPH_SUMMARY] = with_measures_of_graphs(found[SUMMARY], graphs)
        out.put(roots, next(reversed(found.values())))
        out.missing.append(answer.missing)
        before_keeping()
        self._keep_complete(found, ids, bases)
        odd = np.unique(np.searchsorted(starts, np.flatnonzero(answer.status == Status.NOT_L2), "right") - 1)
        out.reasons |= dict.fromkeys(roots[odd].tolist(), "nodes outside the grid of this data set")

    def _keep_complete(
        self, found: Mapping[ResultKind, np.ndarray], roots: Iterable[int], bases: Mapping[int, bytes]
    ) -> None:
        """Cache summaries without missing nodes, each with its root's basis; none if ``bases`` is empty."""
        results = dict[ResultKind, dict[int, np.ndarray]]()
        for kind, summary in found.items() if bases else ():
            items = np.zeros((len(summary), 1), dtype=kind.dtype)
            items["summary"][:, 0] = summary
            items["basis"][:, 0] = np.array([bases[root] for root in roots], items["basis"].dtype)
            complete = (summary["n_missing"] == 0).tolist()
            results[kind] = {root: items[i] for i, root in enumerate(roots) if complete[i]}
        self._kept.put_all(results)

    def _groups(self, roots: Ids, out: Collected) -> Iterator[tuple[dict[int, Ids], Wait]]:
        """Yield tuples: the L2 ids of a group of roots, by root; a function that waits until they are cached.

        A group has up to `NODES` nodes, or one root. Its L2 ids are cached in a thread while the caller works
        on the group. To limit memory, large roots come last and are looked up a few at a time. Roots whose
        nodes cannot be returned are not yielded; ``out`` gets the reason.
        """
        few, larger = max(1, IDS // self.most_nodes), list[int]()
        for first in range(0, len(roots), ROOTS):
            batch = roots[first : first + ROOTS]
            most = self.most_nodes if len(batch) <= few else min(self.most_nodes, IDS // len(batch))
            nodes, new = self._roots.find_nodes(batch, most)
            keep = partial(self._roots.keep_nodes, new)
            wait_until_kept = self._beside.start(keep) if new else keep
            out.refuse(RootStatus.UNKNOWN, nodes.errors)
            if most == self.most_nodes:
                out.too_large(nodes.too_large, most)
            else:
                larger += nodes.too_large
            for group in batched(nodes.l2_ids.items(), lambda item: len(item[1]), NODES):
                yield dict(group), wait_until_kept
            wait_until_kept()  # or L2 ids would pile up
        for first in range(0, len(larger), few):
            yield from self._groups(as_ids(larger[first : first + few]), out)

    # ------------------------------------------------------------------ one root
    def nodes(
        self,
        root: int,
        names: Sequence[str] = NAMES,
        with_reasons: bool = False,
        *,
        ids: Ids | None = None,
    ) -> Answer:
        """Return the rows and status of a root's nodes, in the order of their ids. Raises RootError.

        ``names`` and ``with_reasons`` are those of `Reader.read`.
        """
        return _read(self.reader, self.l2_ids(root) if ids is None else ids, names, with_reasons)

    def edges(self, root: int, *, ids: Ids | None = None) -> tuple[Ids, Pairs]:
        """Return a tuple: the L2 ids of a root, (n,); the edges between them, (m, 2). Raises RootError."""
        ids = self.l2_ids(root) if ids is None else ids
        return ids, ids[self._edges_of(root, ids)]

    def graph(self, root: int, *, ids: Ids | None = None) -> NeuronGraph:
        """Return a root's L2 graph, with all attributes of its nodes. Raises RootError."""
        nodes = self.l2_ids(root) if ids is None else ids

        def read() -> NeuronGraph:
            return self._read_graph(self.reader, root, nodes)[1]

        return self._share(("graph", root), read, lambda graph: not len(graph.missing))

    def kept(self, kind: ResultKind, root: int) -> bytes | None:
        """Return the bytes that `kept_bytes` cached for a root, without reading the root's L2 ids.

        Returns None if no bytes are cached, or if rows are being replaced. Always returns None for a graph
        that is not ``permanent``, such as ``flat``, because its roots may get more L2 ids when further chunks
        are ingested.
        """
        generation = self.generation() if self.source.permanent else None
        if generation is None:
            return None
        found = self._kept.get(kind, as_ids([root]), bases={root: generation}).arrays
        return found[root][BASIS_BYTES:].tobytes() if found else None

    def kept_bytes(
        self, kind: ResultKind, root: int, make: Callable[[NeuronGraph], bytes], *, ids: Ids | None = None
    ) -> tuple[bytes, Ids, bool]:
        """Return a tuple: the bytes that ``make`` made; the missing nodes; whether the bytes are cached now.

        The bytes are read from the cache, or else made and cached. They are not cached if nodes are missing
        or rows are being replaced. Raises RootError.
        """
        nodes = self.l2_ids(root) if ids is None else ids
        bases = self._bases(self.generation(), {root: nodes})
        if found := self._kept.get(kind, as_ids(list(bases)), bases=bases).arrays:
            return found[root][BASIS_BYTES:].tobytes(), as_ids([]), True
        reader = self.reader if bases else replace(self.reader, cache=None)
        answer, graph = self._read_graph(reader, root, nodes)
        made = make(graph)
        keep = bool(bases) and not len(answer.missing)
        if keep:
            self._kept.put(kind, {root: np.frombuffer(bases[root] + made, kind.dtype)})
        return made, answer.missing, keep

    def skeleton(self, root: int, **parameters: Any) -> Skeleton:
        """Return a root's skeleton; the parameters are those of `skeleton.skeletonize`. Raises RootError."""
        from .skeleton import skeletonize

        return skeletonize(self.graph(root), **parameters)

    def l2_ids(self, root: int) -> Ids:
        """Return the L2 ids of a root. Raises RootError."""
        roots = as_ids([root])
        if not self.source.is_root(self.reader.geometry, roots)[0]:
            raise RootError(root, RootStatus.NOT_A_ROOT, self._not_a_root)
        nodes = self._share(
            ("l2_ids", root),
            lambda: self._roots.nodes(roots, self.most_nodes),
            lambda found: root in found.l2_ids,
        )
        if root in nodes.l2_ids:
            return nodes.l2_ids[root]
        if root in nodes.too_large:
            size = nodes.too_large[root]
            raise RootError(root, RootStatus.TOO_LARGE, too_large(size, self.most_nodes), size)
        raise RootError(root, RootStatus.UNKNOWN, nodes.errors.get(root, UNKNOWN))

    def _edges_of(self, root: int, ids: Ids, rows: Rows | None = None) -> np.ndarray:
        """Return the edges of one root, (m, 2) indices into ``ids``. Raises RootError if malformed."""
        found, malformed = self._share(("edges", root), lambda: self._roots.edges({root: ids}, rows))
        if malformed:
            raise RootError(root, RootStatus.UNKNOWN, malformed[root])
        return found[root]

    def _read_graph(self, reader: Reader, root: int, nodes: Ids) -> tuple[Answer, NeuronGraph]:
        """Return a tuple: the rows of a root's nodes; the root's L2 graph. Raises RootError."""
        answer, edges = self._read_with(reader, nodes, partial(self._edges_of, root, nodes))
        return answer, self._graphs({root: nodes}, {root: edges}, answer, np.array([0, len(nodes)]))[0]

    def _read_with(
        self, reader: Reader, nodes: Ids, read_edges: Callable[[Rows | None], T]
    ) -> tuple[Answer, T]:
        """Return a tuple: the rows of nodes; what ``read_edges`` returns.

        Both are read at the same time, unless the graph needs the rows to find edges. All columns are read,
        which is faster in Bigtable than reading some. If both reads fail, the error of the rows is raised.
        """
        if self.source.edges_need_rows:
            answer = _read(reader, nodes)
            return answer, read_edges(answer.rows)
        edges = self._beside.start(lambda: read_edges(None))
        return _read(reader, nodes), edges()

    def _share(self, key: Hashable, call: Callable[[], T], usable: Callable[[T], bool] = lambda _: True) -> T:
        """Return the result of ``call``, or a ``usable`` result of a call in progress with the same key."""
        return self._calls.run(key, call, usable) if self.source.permanent else call()

    def _graphs(
        self, ids: Mapping[int, Ids], edges: Mapping[int, np.ndarray], answer: Answer, starts: np.ndarray
    ) -> list[NeuronGraph]:
        """Return the L2 graph of each root; in ``answer``, the nodes of root i begin at ``starts[i]``."""
        geometry = self.reader.geometry
        parts = [slice(a, b) for a, b in pairwise(starts.tolist())]
        return [
            NeuronGraph(root, nodes, edges[root].astype(np.int64), answer.rows[p], answer.status[p], geometry)
            for (root, nodes), p in zip(ids.items(), parts, strict=True)
        ]


def _read(reader: Reader, ids: Ids, names: Sequence[str] = NAMES, with_reasons: bool = False) -> Answer:
    """Return the rows and status of ids, in reads of up to `READ_NODES`."""
    if len(ids) <= READ_NODES:
        return reader.read(ids, names, with_reasons)
    rows, status, reasons = Rows.empty(ids), np.zeros(len(ids), dtype=np.int8), dict[int, str]()
    for first in range(0, len(ids), READ_NODES):
        part = slice(first, first + READ_NODES)
        answer = reader.read(ids[part], names, with_reasons)
        rows.features[part], rows.present[part], status[part] = (
            answer.rows.features,
            answer.rows.present,
            answer.status,
        )
        reasons |= answer.reasons
    return Answer(rows, status, reasons)
