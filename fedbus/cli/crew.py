"""The worker processes of a simulation: each a crowd of virtual clients, started again once when it dies.

A series ``sim`` of 1,000 clients in two workers is ``sim-0 .. sim-499`` and ``sim-500 .. sim-999``: who is where shows
in no name, so it changes no seed and no result. A worker that is started again is the same clients: they find their
tasks on the board, as real clients do that come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fedbus.access import known
from fedbus.cli.identities import of_clients
from fedbus.cli.processes import Process
from fedbus.cli.roles import Place
from fedbus.errors import FedbusError

log = logging.getLogger("fedbus.cli")

LIVES = 2
"""One accident (a kill for memory, a stray signal) costs a training; whoever dies again would go on dying."""

PAUSE_S = 0.5
"""Before the second life, so that what took the first one (no memory left) has passed."""


@dataclass(frozen=True, slots=True)
class Share:
    """The clients of one worker: ``count`` of them, from number ``first`` on."""

    first: int
    count: int

    def text(self, series: str) -> str:
        """Return who they are, for people."""
        last = self.first + self.count - 1
        return f"{series}-{self.first}" if self.count == 1 else f"{series}-{self.first} .. {series}-{last}"


def shares(clients: int, workers: int) -> list[Share]:
    """Share clients out over workers in order of their numbers, as evenly as can be."""
    cuts = [clients * index // workers for index in range(workers + 1)]
    return [Share(first, end - first) for first, end in pairwise(cuts) if end > first]


class Crew:
    """The workers of one simulation. ``pids``: ``worker-1`` and so on to process ids, while they live."""

    def __init__(self, target: str, series: str, clients: int, workers: int, log_level: str) -> None:
        self.pids: dict[str, int] = {}
        self.shares = shares(clients, workers) if workers else []
        self._target = target
        self._series = series
        self._log_level = log_level

    def works(self, place: Place) -> Iterator[Coroutine[Any, Any, None]]:
        """Yield a coroutine for each worker that keeps it until cancelled.

        `FedbusError` says whose second life has ended too, and how.
        """
        for index, share in enumerate(self.shares):
            yield self._keep(place, f"worker-{index + 1}", share)

    async def _keep(self, place: Place, name: str, share: Share) -> None:
        who = f"{name} ({share.text(self._series)})"
        how = await self._live(place, name, share)
        for _ in range(LIVES - 1):
            log.warning("%s ended (%s); starting it again, once", who, how)
            await asyncio.sleep(PAUSE_S)
            how = await self._live(place, name, share)
        raise FedbusError(f"{who} ended for the second time ({how}): see its lines above")

    async def _live(self, place: Place, name: str, share: Share) -> str:
        """Run a worker to its end; returns how it ended."""
        # by the environment: an address may hold a password, and everybody on the machine sees a command line
        env = {"FEDBUS_URL": place.url, "FEDBUS_WORKSPACE": place.workspace, "FEDBUS_HOME": str(known.home_dir())}
        if credentials := of_clients(place.credentials):
            env["FEDBUS_CREDENTIALS"] = credentials
        arguments = [self._target, self._series, str(share.first), str(share.count), self._log_level]
        process = await Process.start(arguments, env=env, module="fedbus.cli.worker")
        self.pids[name] = process.pid
        try:
            return await process.wait()
        finally:
            del self.pids[name]
            await process.stop()
