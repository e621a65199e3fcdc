"""What the clients of a process are told, in the order in which it came: tasks, what was made, what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from fedbus.client.events import Event
from fedbus.client.job import Made
from fedbus.client.sending import Sending

TASKS_WAITING_MAX = 10_000
"""Tasks that wait to be looked at, and two more for each client of a crowd; beyond it they are left to the next reading
of the board."""


@dataclass(frozen=True, slots=True)
class Told:
    """Something for a client's machine of a session; ``since``: when a task came, by the time of the loop."""

    client: str
    session: str
    event: Event
    headers: Mapping[str, str] | None = None
    by: Made | Sending | None = None
    since: float = 0.0


class Inbox:
    """A line of these; None in it: a place for work became free."""

    def __init__(self, clients: int) -> None:
        self._queue: asyncio.Queue[Told | asyncio.Future[None] | None] = asyncio.Queue()
        self._tasks_max_more = 2 * clients

    def __len__(self) -> int:
        return self._queue.qsize()

    @property
    def is_full(self) -> bool:
        """Whether no more tasks are taken."""
        return len(self) >= TASKS_WAITING_MAX + self._tasks_max_more

    def put(self, told: Told | None) -> None:
        """Tell something."""
        self._queue.put_nowait(told)

    async def reached(self) -> None:
        """Wait until all that is in it now was taken in, and acted on."""
        mark: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(mark)
        await mark

    async def take(self) -> Told | None:
        """Return what is next."""
        told = await self._queue.get()
        if not isinstance(told, asyncio.Future):
            return told
        if not told.done():
            told.set_result(None)
        return None

    def close(self) -> None:
        """Let nobody wait any more: who asked for something asked too late."""
        while not self._queue.empty():
            told = self._queue.get_nowait()
            if isinstance(told, asyncio.Future):
                told.cancel()
