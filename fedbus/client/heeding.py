"""What the owner of a client's data wants, heeded while it runs: tasks are judged, `Hello` says what was decided.

`fedbus.client.owner` decides; `fedbus.client.wanting` does what is wanted at once, of what is here (`Running`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

from fedbus.client.cards import Card
from fedbus.client.events import Effect, Halted, Report, TaskSeen
from fedbus.client.inbox import Inbox, Told
from fedbus.client.newest import NewestModel
from fedbus.client.owner import Verdict
from fedbus.client.parts import Part, Parts
from fedbus.client.sending import Courier
from fedbus.client.wanting import Wants
from fedbus.client.warden import Warden
from fedbus.client.watched import About
from fedbus.exchange.outbox import Outbox
from fedbus.exchange.station import Station
from fedbus.messages import reports
from fedbus.messages.tasks import Task


class Heeding:
    """Stands between tasks and machines. ``doing``: what its clients do, to be told to their owner."""

    def __init__(
        self,
        warden: Warden,
        station: Station,
        inbox: Inbox,
        parts: Parts,
        outbox: Outbox,
        courier: Courier,
        newest: NewestModel,
        doing: Callable[[], str],
    ) -> None:
        self._warden = warden
        self._owner = warden.owner
        self._station = station
        self._inbox = inbox
        self._parts = parts
        self._outbox = outbox
        self._courier = courier
        self._newest = newest
        self.doing = doing
        self._greeting = asyncio.Event()
        self._greeted = ""
        self.wants = Wants(self, warden)

    def open(self) -> None:
        """Read what was decided before; `ConfigError` where that is impossible."""
        self._warden.open()
        self._greeted, self._owner.changed = self._owner.digest, self._changed

    def listening(self, directory: Path | None) -> AbstractAsyncContextManager[None]:
        """Take what is said on this machine, where there is a place for it."""
        if directory is None:
            return nullcontext()
        from fedbus.client.control import listening  # noqa: PLC0415 - sockets as only Unix has them

        return listening(directory, self.wants.do)

    # --- judging ---

    def denied(self, part: Part, task: Task) -> Verdict | None:
        """Return why the owner does not want a task; None where it may be done, or is of no use any more."""
        if task.revision < part.machine.revision:
            return None  # an older one: the machine passes it over
        part.task = task
        newest, asked = self._newest.model, task.train or task.evaluate
        version = asked.version if asked is not None else ""
        verdict = self._owner.judge(task, here=newest is not None and newest.version == version)
        return None if verdict.allowed else verdict

    def halted(self, part: Part, task: Task) -> list[Effect]:
        """Return what is to be done of a task that is denied: all that is under way stops."""
        rest = task.model_copy(update={"state": "rest", "train": None, "evaluate": None, "card": None})
        halted = Halted(forget=self._owner.has_left(task.session))
        return [effect for event in (TaskSeen(rest), halted) for effect in part.machine.handle(event)]

    async def refusal(self, part: Part, task: Task, verdict: Verdict) -> Report | None:
        """Return what to tell whoever has asked; None where that was told, or is not to be."""
        report = self._warden.refusal(part.client, task, verdict)
        if report is not None:
            await self._say_digest()  # first: who hears of the refusal is to know under which decisions it is
        return report

    def about(self, client: str, session: str) -> About:
        """Say what is known of something that leaves."""
        part, card = self._parts.of(client, session), self._owner.cards.get(session)
        version = part.sending.train.version if part is not None and part.sending is not None else ""
        return About(card.purpose if card else "", version, self._warden.norms.get((client, session)))

    # --- what changes ---

    def _changed(self) -> None:
        """What was decided may be another: judge all tasks anew, and say so."""
        for part in self._parts.all():
            if part.task is not None:
                self._inbox.put(Told(part.client, part.machine.session, TaskSeen(part.task)))
        self._greeting.set()

    async def greet(self) -> None:
        """Say `Hello` when the owner has decided something; runs until cancelled."""
        while True:
            await self._greeting.wait()
            self._greeting.clear()
            await self._say_digest()

    async def _say_digest(self) -> None:
        digest = self._owner.digest
        if digest != self._greeted:
            self._greeted = digest
            await self._station.hello()

    # --- what runs, for `Wants` ---

    @property
    def station(self) -> Station:
        """Where it speaks."""
        return self._station

    @property
    def cards(self) -> Mapping[str, Card]:
        """The cards of the sessions that are known."""
        return self._owner.cards

    def sessions(self) -> Sequence[str]:
        """The names of all sessions that a client takes part in."""
        return self._parts.sessions()

    def parts(self, session: str) -> Sequence[tuple[str, Part]]:
        """Clients, each with its part in a session."""
        return self._parts.of_session(session)

    async def report(self, client: str, body: reports.Withdrawn) -> None:
        """Tell the coordinator, until it has it."""
        await self._outbox.put(body, None, self._courier.speaking_as(client))

    async def settle(self) -> None:
        """Judge all tasks anew, and wait until what follows is done."""
        self._changed()
        await self._inbox.reached()
