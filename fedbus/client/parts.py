"""What each client of a process has of each session: a machine, the update that it holds, what is being done.

A client is a name, and a part in each session: while it has nothing to do it costs no task, no timer and no message.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedbus.client.held import Held
from fedbus.client.job import Job
from fedbus.client.machine import Machine, Phase
from fedbus.client.sending import Sending
from fedbus.messages.tasks import Task, Train

SESSIONS_MAX = 1000
"""Sessions that a client takes part in at once; those that ended are forgotten."""

ENDED_S = 60.0
"""How long it is known that a session has ended: a task that was overtaken on its way must not begin it anew.

No longer, for on a store that was emptied a session of the same name may follow.
"""


@dataclass(slots=True, eq=False)
class Part:
    """What a client has of a session; ``seen``: what was last read of its task on the board. ``task``: the newest.

    ``task_since``: when its newest task came, by the time of the loop.
    """

    client: str
    machine: Machine
    headers: Mapping[str, str]
    job: Job | None = None
    held: Held | None = None
    sending: Sending | None = None
    seen: tuple[int, int] = (0, 0)
    task_since: float = 0.0
    task: Task | None = None

    @property
    def holds(self) -> bool:
        """Whether there is an update."""
        return self.held is not None

    @property
    def train(self) -> Train | None:
        """What it trains for, or has."""
        return self.machine.train or (self.task.train if self.task is not None else None)

    def let_go(self) -> None:
        """Forget the held update; idempotent."""
        held, self.held = self.held, None
        if held is not None:
            held.leave()


class Parts:
    """The parts of all clients of a process, and which sessions have just ended."""

    def __init__(self, clients: Iterable[str]) -> None:
        self._clients: dict[str, dict[str, Part]] = {name: {} for name in clients}
        self._ended: dict[str, tuple[float, int]] = {}

    def __contains__(self, client: object) -> bool:
        return client in self._clients

    def of(self, client: str, session: str) -> Part | None:
        """Return a client's part in a session; None where it has none."""
        return self._clients.get(client, {}).get(session)

    def has_room(self, client: str) -> bool:
        """Whether a client may have a part in one session more."""
        return len(self._clients[client]) < SESSIONS_MAX

    def begin(self, part: Part) -> Part:
        """Take a part in; returns it."""
        self._clients[part.client][part.machine.session] = part
        return part

    def end(self, part: Part, revision: int) -> bool:
        """Forget a part, for its session has ended with this revision; returns whether its client has no other."""
        parts, session = self._clients[part.client], part.machine.session
        del parts[session]
        self._ended[session] = asyncio.get_running_loop().time(), revision
        return not parts

    def ended_at(self, session: str) -> int:
        """Return the revision with which a session ended not long ago; -1 where it did not.

        Beyond it there may be more: of a session that was restored from a backup it is not known there that it ended.
        """
        now = asyncio.get_running_loop().time()
        while self._ended and now > next(iter(self._ended.values()))[0] + ENDED_S:
            del self._ended[next(iter(self._ended))]
        return self._ended.get(session, (0.0, -1))[1]

    def all(self) -> list[Part]:
        """Return all parts."""
        return [part for parts in self._clients.values() for part in parts.values()]

    def sessions(self) -> Sequence[str]:
        """Return the names of all sessions that a client takes part in."""
        return sorted({name for parts in self._clients.values() for name in parts})

    def of_session(self, session: str) -> Sequence[tuple[str, Part]]:
        """Return clients, each with its part in a session."""
        return [(client, parts[session]) for client, parts in self._clients.items() if session in parts]

    def doing(self, *, each: bool) -> str:
        """Say what clients do, ``each`` by itself or all together."""
        busy = [part for part in self.all() if part.machine.phase is not Phase.IDLE]
        if each:
            return ", ".join(f"{one.machine.phase.value} for {one.machine.session}" for one in busy) or "idle"
        counts = Counter(f"{one.machine.phase.value} for {one.machine.session}" for one in busy)
        return ", ".join(f"{count} {what}" for what, count in counts.items()) or "idle"
