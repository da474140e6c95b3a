"""Random merges and splits of objects in a synthetic graph. Half of them start in the same few chunks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from ..core.ids import Ids
from .synthetic import Edit, ProofreadGraph

MOST_CHUNKS = 3
"""Maximum number of chunks in which one edit makes new nodes."""
HOT_CHUNKS = 20
"""Number of chunks in which half of the edits are made."""
STEP_MS = 1_000
"""Milliseconds between two edits."""


def random_edits(graph: ProofreadGraph, seed: int, after_ms: int) -> Iterator[Edit]:
    """Yield edits forever, one second apart, beginning one second after ``after_ms`` (since 1970).

    Each edit starts from the graph that the previous edit made.
    """
    random = np.random.default_rng(seed)
    chunks = graph.chunk_ids
    hot = random.permutation(chunks)[:HOT_CHUNKS]
    for ms in itertools.count(after_ms + STEP_MS, STEP_MS):
        edit = None
        while edit is None:
            chunk_id = int(random.choice(hot if random.random() < 0.5 else chunks))
            with suppress(ValueError):
                edit = random_edit(graph, random, chunk_id, ms)
        yield edit


def random_edit(graph: ProofreadGraph, random: np.random.Generator, chunk_id: int, ms: int) -> Edit:
    """Merge or split random objects of ``graph``, and return the edit.

    The edit makes 1 to 6 nodes, in the chunk ``chunk_id`` and in up to two other chunks. Raises ValueError if
    nothing in ``chunk_id`` can be merged or split.
    """
    nodes = graph.valid(chunk_id)
    divisible = [node for node in nodes if len(graph.children[node]) > 1]
    several = len({graph.roots[node] for node in nodes}) > 1
    if not divisible and not several:
        raise ValueError(f"chunk {chunk_id}: nothing to merge or split")
    if several and (not divisible or random.random() < 0.5):
        return graph.merge(_pairs(graph, random, nodes), ms)
    return graph.split(_parts(graph, random, int(random.choice(divisible))), ms)


def _pairs(graph: ProofreadGraph, random: np.random.Generator, nodes: list[int]) -> list[tuple[int, int]]:
    """Choose two objects to merge; return a pair of nodes per chunk. The first pair is from ``nodes``."""
    one = int(random.choice(nodes))
    other = int(random.choice([node for node in nodes if graph.roots[node] != graph.roots[one]]))
    sides = [{graph.chunk_id(n): n for n in sorted(graph.nodes[graph.roots[node]])} for node in (one, other)]
    common = sorted((set(sides[0]) & set(sides[1])) - {graph.chunk_id(one)})
    more = random.permutation(common)[: random.integers(0, MOST_CHUNKS)].tolist() if common else []
    return [(one, other), *((sides[0][chunk_id], sides[1][chunk_id]) for chunk_id in more)]


def _parts(graph: ProofreadGraph, random: np.random.Generator, node: int) -> dict[int, tuple[Ids, Ids]]:
    """Divide ``node`` and up to two other nodes of its object; return the two sets of supervoxels of each."""
    others = {
        graph.chunk_id(n): n
        for n in sorted(graph.nodes[graph.roots[node]])
        if len(graph.children[n]) > 1 and graph.chunk_id(n) != graph.chunk_id(node)
    }
    more = random.permutation(sorted(others))[: random.integers(0, MOST_CHUNKS)].tolist() if others else []
    parts = {}
    for one in (node, *(others[chunk_id] for chunk_id in more)):
        supervoxels = random.permutation(graph.children[one])
        at = int(random.integers(1, len(supervoxels)))
        parts[one] = supervoxels[:at], supervoxels[at:]
    return parts
