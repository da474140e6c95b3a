"""Stores of features, one implementation per URL scheme."""

from __future__ import annotations

from .base import DONE, FAILED, ChunkRecord, Coverage, Meta, Store, open_store

__all__ = ["DONE", "FAILED", "ChunkRecord", "Coverage", "Meta", "Store", "open_store"]
