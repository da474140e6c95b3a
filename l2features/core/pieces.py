"""Byte strings in one, without an object for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Pieces(NamedTuple):
    """Byte strings: number ``i`` is ``data[starts[i] : ends[i]]``."""

    data: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[bytes]) -> Pieces:
        """Return some byte strings, one after the other."""
        ends = np.cumsum(np.fromiter(map(len, parts), dtype=np.int64, count=len(parts)))
        return cls(b"".join(parts), np.concatenate([[0], ends[:-1]])[: len(parts)], ends)

    @classmethod
    def joined(cls, many: Sequence[Pieces]) -> Pieces:
        """Return the byte strings of all, in order."""
        before = np.cumsum([0, *(len(some.data) for some in many)]).tolist()
        none = [np.empty(0, dtype=np.int64)]
        starts, ends = (
            np.concatenate([*none, *(array + shift for array, shift in zip(arrays, before, strict=False))])
            for arrays in ([some.starts for some in many], [some.ends for some in many])
        )
        return cls(b"".join(some.data for some in many), starts, ends)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return self.ends - self.starts

    def parts(self) -> list[bytes]:
        """Return each byte string."""
        data = self.data
        return [data[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]
