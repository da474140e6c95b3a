"""Features of level-2 nodes of chunked graphs: compute, store, serve."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Client", "compute_features"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "Client":
        from .client import Client

        return Client
    if name == "compute_features":
        from .kernel import compute_features

        return compute_features
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
