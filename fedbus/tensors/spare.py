"""Memory that is written over instead of given back: of a model, of an update, of the round before.

Memory that the system has to find costs a page fault for each 4 KiB, several times what copying into it does. But what
was handed out may still be looked at: an app keeps a model, a socket has not taken a chunk. Whoever looks at an array
(through a view, a memoryview, another framework) holds a reference to it, so it is free when nobody but us has one.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL_BYTES = 2**20
"""Below it memory is not worth keeping: the allocator does."""

_OURS = 2
"""References to an array that only `Spare.take` knows: its variable, and the argument of the count."""


class Spare:
    """At most one array that was used, for whoever needs one of its size next."""

    def __init__(self) -> None:
        self._array: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Return so many bytes of any content, which nobody else looks at."""
        with self._lock:
            array, self._array = self._array, None
        if array is None or array.nbytes != nbytes or sys.getrefcount(array) > _OURS:
            return np.empty(nbytes, np.uint8)
        return array

    def give(self, memory: memoryview[Any] | NDArray[np.uint8]) -> None:
        """Take an array back, or what a memoryview of a whole array is of; others may still look at it."""
        array = memory.obj if isinstance(memory, memoryview) else memory
        if isinstance(array, np.ndarray) and array.base is None and array.nbytes >= SMALL_BYTES:
            with self._lock:
                self._array = array

    def forget(self) -> None:
        """Give back to the system what is kept."""
        with self._lock:
            self._array = None
