"""What is measured, started and ended: the operator's side over an embedded broker, and clients in processes of theirs.

Nothing of a run stays: the data lies in a temporary place, and so do the keys and credentials of a secured one. Beside
a secured broker an open one stands idle, for the plain messages that a run is compared with: it lets none pass.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fedbus.access import known
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.cli.benches.meter import Meter
from fedbus.cli.processes import Process
from fedbus.cli.roles import Place
from fedbus.cli.up import Up
from fedbus.errors import FedbusError
from fedbus.federation.service import Federation, connect

T = TypeVar("T")

CLIENTS_S_MAX = 120.0
"""For all clients to come: a process with clients needs a second to import, and 20 ms for each of them."""

LOOK_S = 0.1

REAL_CLIENTS_MAX = 100
"""Up to here each client has a connection of its own unless it is said otherwise, above they come as crowds."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part. ``held``: they wait at gates, see `fedbus.cli.benches.gates`; ``first``: number of the first.

    ``secured``: everybody has an identity, and what is asked for is signed and sealed, as `fedbus up` does it.
    """

    clients: int
    processes: int = 2
    combiners: int = 1
    crowd: bool = False
    held: bool = False
    first: int = 0
    secured: bool = False


class Rig:
    """A federation that runs."""

    def __init__(self, up: Up, federation: Federation, cast: Cast, plain_url: str) -> None:
        self.federation = federation
        self.plain_url = plain_url
        """Where plain messages may be sent: the same broker, or where that is secured an open one beside it."""
        self._up = up
        self._cast = cast
        self._children: list[Process] = []
        self._starts = dict(up.supervisor.starts)

    @property
    def url(self) -> str:
        """Where the broker is."""
        return self._up.place.url

    @property
    def pids(self) -> dict[str, int]:
        """All processes but this one, by name."""
        clients = {f"clients-{number}": child.pid for number, child in enumerate(self._children, 1)}
        return {**self._up.supervisor.pids, **clients}

    @property
    def meter(self) -> Meter:
        """A meter of these processes."""
        return Meter(self.pids)

    async def start_clients(self) -> None:
        """Start the clients, and wait until all are there, so that their start is in no figure."""
        cast = self._cast
        first, end = cast.first, cast.first + cast.clients
        words = [word for word, wanted in (("crowd", cast.crowd), ("held", cast.held)) if wanted]
        for index in range(cast.processes):
            count = (end - first) // (cast.processes - index)
            env = {"FEDBUS_URL": self.url, "FEDBUS_HOME": str(known.home_dir())}
            self._children.append(
                await Process.start([str(first), str(count), *words], env=env, module="fedbus.cli.benches.echoes")
            )
            first += count
        await self.guard(self._everybody())

    async def _everybody(self) -> None:
        end = time.monotonic() + CLIENTS_S_MAX
        while (there := len(await self.federation.clients())) < self._cast.clients:
            if time.monotonic() > end:
                raise FedbusError(f"{there} of {self._cast.clients} clients came within {CLIENTS_S_MAX:g} s")
            await asyncio.sleep(LOOK_S)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something that hangs, or is worth nothing, when a process ends; FedbusError as soon as one does."""
        watch = [asyncio.create_task(child.wait()) for child in self._children]
        watch.append(asyncio.create_task(self._fallen()))
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({*watch, working}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                fallen = watch[-1].result() if watch[-1].done() else "a process with clients"
                raise FedbusError(f"{fallen} ended before the benchmark did: see its lines above")
            return working.result()
        finally:
            for task in (*watch, working):
                task.cancel()
            await asyncio.wait([*watch, working])

    async def _fallen(self) -> str:
        """Return the first role of the server that had to be started again."""
        while True:
            for name, starts in self._up.supervisor.starts.items():
                if starts > self._starts.get(name, 1):
                    return name
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """End the clients."""
        await asyncio.gather(*(child.stop() for child in self._children))


@asynccontextmanager
async def rig(cast: Cast) -> AsyncIterator[Rig]:
    """Have a federation inside the block; its clients come with `Rig.start_clients`."""
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedbus-bench-")))
        stack.enter_context(_home(place / "home"))
        keys = place / "keys" if cast.secured else None
        up = Up(Place(""), place, keys=keys, combiners=cast.combiners, log_level="error", quiet=True)
        await stack.enter_async_context(up.running())
        federation = await stack.enter_async_context(connect(up.place.url, credentials=up.place.credentials))
        plain_url = up.place.url
        if cast.secured:
            plain_url = (await stack.enter_async_context(EmbeddedBroker(place / "plain"))).url
        running = Rig(up, federation, cast, plain_url)
        stack.push_async_callback(running.close)
        yield running


@contextmanager
def _home(directory: Path) -> Iterator[None]:
    """Remember inside the block who we are where it goes with the run, and look nowhere else."""
    before = known.home_dir()
    known.use_home(directory)
    try:
        yield
    finally:
        known.use_home(before)
