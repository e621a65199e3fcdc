"""Waiting for a bus that is away: the one place where a call is repeated.

`BusUnavailable` says that nothing is known of the outcome and that the same call may be repeated: so whoever makes a
call that may be repeated (idempotent by its id or by its nature) repeats it here. `BusClosed` and every other error end
the waiting at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fedbus.bus.base import Bus
from fedbus.errors import BusUnavailable

log = logging.getLogger("fedbus.bus")

T = TypeVar("T")

PAUSE_S = 0.25
"""Pause between tries: short against a restart of a broker (a second), long against a busy loop."""

TRIES_MAX = 12
"""Tries on a bus that is there but does not answer, for calls that give up.

Each has a deadline of its own of some 10 s.
"""


async def patiently(bus: Bus, call: Callable[[], Awaitable[T]], *, tries_max: int | None = TRIES_MAX) -> T:
    """Repeat a call while the bus is away, without bound.

    On a bus that is there, ``tries_max`` times (None: without bound).
    """
    tries = 0
    while True:
        try:
            return await call()
        except BusUnavailable as error:
            tries += bus.connected
            if tries_max is not None and tries >= tries_max:
                raise
            log.debug("the bus does not answer, trying again: %s", error)
            await asyncio.sleep(PAUSE_S)
