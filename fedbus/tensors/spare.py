"""Memory that is written over instead of given back: of a model, of an update, of the round before.

Memory that the system has to find costs a page fault for each 4 KiB, several times what copying into it does. But what
was handed out may still be looked at: an app keeps a model, a socket has not taken a chunk. Whoever looks at an array
(through a view, a memoryview, another framework) holds a reference to it, so it is free when nobody but us has one.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL_BYTES = 2**20
"""Below it memory is not worth keeping: the allocator does."""

_OURS = 2
"""References to an array that only `Spare.take` knows: its variable, and the argument of the count."""


class Spare:
    """At most one array that was used, for whoever needs one of its size next; threads may share it."""

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []  # of which pop is atomic

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Return so many bytes of any content, which nobody else looks at."""
        try:
            array = self._kept.pop()
        except IndexError:
            return np.empty(nbytes, np.uint8)
        if array.nbytes != nbytes or sys.getrefcount(array) > _OURS:
            return np.empty(nbytes, np.uint8)
        return array

    def give(self, memory: memoryview[Any] | NDArray[np.uint8]) -> None:
        """Take an array back, or what a memoryview of a whole array is of; others may still look at it."""
        array = memory.obj if isinstance(memory, memoryview) else memory
        if isinstance(array, np.ndarray) and array.base is None and array.nbytes >= SMALL_BYTES:
            self._kept[:] = [array]

    def forget(self) -> None:
        """Give back to the system what is kept."""
        self._kept.clear()
