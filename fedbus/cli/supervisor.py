"""Keeps processes alive: one that ends is started again, after a pause that doubles with each short life.

start --ends--> pause (PAUSE_S, doubled up to PAUSE_S_MAX; anew after LONG_LIFE_S) --> start
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from fedbus.errors import FedbusError

log = logging.getLogger("fedbus.cli")

PAUSE_S = 0.1
"""Before the first new start: a role that was killed is missed by others at once."""

PAUSE_S_MAX = 10.0
"""A role that cannot live (a full disk) does not take the machine with it."""

LONG_LIFE_S = 30.0
"""Who lived so long did not fail at its start."""


class Kept(Protocol):
    """A process that can be kept alive."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    async def wait(self) -> str:
        """Wait for its end; returns how it ended, in words."""
        ...

    async def stop(self) -> None:
        """End it; idempotent."""
        ...


class Supervisor:
    """Processes by name; ``changed`` is called when one of them has a new pid."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.pids: dict[str, int] = {}
        self.starts: dict[str, int] = {}
        self.ends: dict[str, str] = {}
        self._changed = changed

    async def keep(self, name: str, start: Callable[[], Awaitable[Kept]]) -> None:
        """Start a process, and again whenever it ends, until cancelled; then stop it."""
        pause_s = PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                how = await self._live(name, start)
            except (FedbusError, OSError) as error:
                how = f"not started: {error}"
            self.ends[name] = how
            if loop.time() - began >= LONG_LIFE_S:
                pause_s = PAUSE_S
            log.warning("%s ended (%s); starting it again in %.1f s", name, how, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_S_MAX, 2 * pause_s)

    async def _live(self, name: str, start: Callable[[], Awaitable[Kept]]) -> str:
        running = await start()
        try:
            self.pids[name] = running.pid
            self.starts[name] = self.starts.get(name, 0) + 1
            if self.starts[name] > 1:
                log.info("%s is back, process %d", name, running.pid)
            self._changed()
            return await running.wait()
        finally:
            await running.stop()
