"""Time as a value that is handed in, so that tests and simulations own it.

``Clock.now()`` is wall time in seconds since the epoch: deadlines are kept in it because they must survive a process.
Sleeping is ``asyncio.sleep`` on whatever loop runs; a simulation runs a loop of virtual time (`fedbus.testing.loop`).
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of wall time."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Seconds since the epoch, from the operating system."""
        return time.time()
