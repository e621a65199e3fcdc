"""What an owner wants of a client that runs, done at once: pause, resume, leave, withdraw.

It comes from the client's own methods, or from this machine's command line (`fedbus.client.control`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from fedbus.client.warden import Warden
from fedbus.errors import ConfigError, FedbusError
from fedbus.exchange.station import Station
from fedbus.messages import reports
from fedbus.messages.tasks import Task, Train

WANTED = "pause, resume, leave, withdraw SESSION or status"


class Part(Protocol):
    """One client's part in one session."""

    task: Task | None

    @property
    def holds(self) -> bool:
        """Whether there is an update."""
        ...

    @property
    def train(self) -> Train | None:
        """What it trains for, or has."""
        ...

    def let_go(self) -> None:
        """Forget the update; idempotent."""
        ...


class Running(Protocol):
    """What is done with a client that runs."""

    @property
    def station(self) -> Station:
        """Where it speaks."""
        ...

    def doing(self) -> str:
        """What it does."""
        ...

    def sessions(self) -> Sequence[str]:
        """The names of those that it takes part in."""
        ...

    def parts(self, session: str) -> Sequence[tuple[str, Part]]:
        """Its clients in a session."""
        ...

    async def report(self, client: str, body: reports.Withdrawn) -> None:
        """Tell the coordinator, until it has it."""
        ...

    async def settle(self) -> None:
        """Judge all tasks anew, and wait until what follows is done."""
        ...


class Wants:
    """Does what is wanted; returns what was done, as JSON."""

    def __init__(self, running: Running, warden: Warden) -> None:
        self._running = running
        self._warden = warden
        self._owner = warden.owner
        self._door = warden.door

    async def do(self, what: str, session: str = "") -> Mapping[str, Any]:
        """Do ``pause``, ``resume``, ``leave``, ``withdraw`` or ``status``; `ConfigError` for something else."""
        match what:
            case "status":
                return self._owner.status() | {"doing": self._running.doing()}
            case "pause":
                return await self._pause()
            case "resume":
                return await self._resume(session)
            case "leave" if session:
                return await self._leave(session)
            case "leave":
                names = sorted(self._running.sessions())
                dropped = [(await self._leave(name))["dropped"] for name in names]
                return await self._pause() | {"left": names, "dropped": sum(dropped)}
            case "withdraw" if session:
                return await self._withdraw(session)
            case _:
                raise ConfigError(f"expected one of {WANTED}, got {what!r:.40}")

    async def _pause(self) -> dict[str, Any]:
        self._door.shut(but="presence")  # nothing leaves from here on but its farewell
        self._owner.pause()
        await self._running.settle()
        with suppress(FedbusError):
            await self._running.station.leave()
        self._door.shut()
        return self._owner.status()

    async def _resume(self, session: str) -> dict[str, Any]:
        self._owner.resume(session)
        if not self._owner.paused:
            self._door.unshut()
            await self._running.station.hello()
        await self._running.settle()
        return self._owner.status()

    async def _leave(self, session: str) -> dict[str, Any]:
        parts = self._running.parts(session)
        held = sum(part.holds for _, part in parts)
        self._owner.leave(session)
        await self._running.settle()
        for _, part in parts:
            part.let_go()  # also of one that nobody has asked for yet: a former process made it
        return self._owner.status() | {"left": [session], "dropped": held}

    async def _withdraw(self, session: str) -> dict[str, Any]:
        parts = [(client, part.train) for client, part in self._running.parts(session)]
        asked = [(client, train) for client, train in parts if train is not None]
        rounds = {train.round for _, train in asked}
        if rounds:  # written down before it is said: who is killed in between says it when it is back
            self._owner.leave(session, withdrawn=max(rounds))
        for client, train in asked:
            if (body := self._warden.withdrawal(client, session, train)) is not None:
                await self._running.report(client, body)
        return await self._leave(session) | {"rounds": sorted(rounds)}
