"""Divide items into batches of a limited size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Yield items in batches of at most ``most`` in total size. A larger item becomes a batch by itself."""
    batch: list[T] = []
    room = most
    for item in items:
        if batch and size(item) > room:
            yield batch
            batch, room = [], most
        batch.append(item)
        room -= size(item)
    if batch:
        yield batch
