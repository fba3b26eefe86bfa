"""Decoded frames in memory."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np


class FrameCache:
    """Decoded, resized frames in memory, up to a byte budget; safe between threads.

    Decoding dominates on few cores, so a small set is decoded once. When the budget is used up
    nothing more is kept: under reshuffled epochs no replacement rule would do better.
    """

    def __init__(self, max_bytes: int):
        self._left, self._kept, self._lock = max_bytes, {}, threading.Lock()

    def get(self, key: Any, make: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """The arrays of a key, made where they are not kept. They are shared: do not write."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        arrays = make()
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if key not in self._kept and size <= self._left:
                self._left -= size
                self._kept[key] = arrays
        return arrays

    def __len__(self) -> int:
        return len(self._kept)
