"""Feeds the machines of all clients with what they are told, one after the other, and does what they decide.

The owner's functions (`work`) and uploads (`sending`) run as tasks of one group, and what they learn comes back into
the inbox.
"""

from __future__ import annotations

import asyncio
import logging
from typing import assert_never

from fedbus.client.events import (
    Effect,
    Foreign,
    Release,
    Report,
    StartEvaluating,
    StartSending,
    StartTraining,
    StopSending,
    StopWork,
    TaskSeen,
)
from fedbus.client.heeding import Heeding
from fedbus.client.inbox import Inbox, Told
from fedbus.client.job import Job, Made
from fedbus.client.keepsake import Keepsakes
from fedbus.client.machine import Machine
from fedbus.client.parts import Part, Parts
from fedbus.client.sending import Courier, Sending
from fedbus.client.warden import Warden
from fedbus.client.work import Workshop
from fedbus.exchange.outbox import Outbox
from fedbus.messages.tasks import Evaluate, Task, Train
from fedbus.tensors.spare import Spare

log = logging.getLogger("fedbus.client")

EVENTS_MAX = 64
"""Events handled before the loop may do something else: a crowd hears thousands of tasks at once."""


class Deciding:
    """Decides for all clients of a process. ``spare``: memory that is let go when a client has nothing to expect.

    ``each``: whether each update is worth a line in the log; of a crowd it is not.
    """

    def __init__(
        self,
        inbox: Inbox,
        parts: Parts,
        heeding: Heeding,
        warden: Warden,
        *,
        workshop: Workshop,
        courier: Courier,
        outbox: Outbox,
        keepsakes: Keepsakes,
        spare: Spare,
        each: bool,
    ) -> None:
        self._inbox = inbox
        self._parts = parts
        self._heeding = heeding
        self._warden = warden
        self._workshop = workshop
        self._courier = courier
        self._outbox = outbox
        self._keepsakes = keepsakes
        self._spare = spare
        self._level = logging.INFO if each else logging.DEBUG

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Decide, as there is something new; runs until cancelled."""
        handled = 0
        while True:
            told = await self._inbox.take()
            if told is not None:
                await self._feed(group, told)
            if not len(self._inbox):
                self._workshop.schedule(group)
            handled += 1
            if handled % EVENTS_MAX == 0:
                await asyncio.sleep(0)

    async def _feed(self, group: asyncio.TaskGroup, told: Told) -> None:
        event, part = told.event, self._part_of(told)
        if isinstance(told.by, Made):
            if part is None or told.by.job.dropped:
                told.by.leave()
                return
            self._warden.owner.spend(down=told.by.fetched)
        if part is None:
            return
        _note(part, told)
        if isinstance(event, TaskSeen) and await self._is_denied(group, part, event.task):
            return
        if isinstance(event, Foreign):  # of another session of this name: so is what was kept
            self._keepsakes.end(told.client, told.session)
            self._keepsakes.begin(told.client, told.session)
        effects = part.machine.handle(event)
        part.machine.check()
        for effect in effects:
            await self._act(group, part, effect)
        if isinstance(event, TaskSeen) and event.task.state == "ended":
            await self._over(part, event.task)

    async def _is_denied(self, group: asyncio.TaskGroup, part: Part, task: Task) -> bool:
        """Whether the owner does not want a task; then nothing is done for it, and who asked is told why."""
        verdict = self._heeding.denied(part, task)
        if verdict is None:
            return False
        for effect in self._heeding.halted(part, task):
            await self._act(group, part, effect)
        part.machine.check()
        if self._warden.owner.has_left(task.session):
            part.let_go()
            self._keepsakes.end(part.client, task.session)
        report = await self._heeding.refusal(part, task, verdict)
        if report is not None:
            await self._act(group, part, report)
        return True

    # --- sessions come and go ---

    def _part_of(self, told: Told) -> Part | None:
        """Return what a client has of a session, from its first task on; None of one that it has no part in."""
        part, event = self._parts.of(told.client, told.session), told.event
        if part is not None or not isinstance(event, TaskSeen):
            return part
        if event.task.state == "ended":
            self._warden.owner.ended(told.session)
            self._keepsakes.end(told.client, told.session)  # of a former process: it ended while nobody was here
            return None
        if not self._parts.has_room(told.client) or event.task.revision <= self._parts.ended_at(told.session):
            return None
        return self._parts.begin(self._joined(told.client, event.task))

    def _joined(self, client: str, task: Task) -> Part:
        """Return a client's part in a session that it has its first task of, in this process."""
        if task.receipt is None:  # nothing of this client ever counted in it: what is kept is of a namesake
            self._keepsakes.end(client, task.session)
        self._keepsakes.begin(client, task.session)
        return Part(client, Machine(task.session), {})

    async def _over(self, part: Part, task: Task) -> None:
        """Forget a session that has ended."""
        self._stop_work(part)
        await self._courier.stop(part.sending)
        part.let_go()
        is_idle = self._parts.end(part, task.revision)
        self._warden.owner.ended(task.session)
        self._keepsakes.end(part.client, task.session)
        if is_idle:
            self._spare.forget()  # nothing is expected soon: the newest model is all that stays

    # --- acting ---

    async def _act(self, group: asyncio.TaskGroup, part: Part, effect: Effect) -> None:
        match effect:
            case StartTraining(train, work):
                self._warden.owner.spend(begun=(part.machine.session, train.round))
                self._work(part, train, work)
            case StartEvaluating(evaluate):
                self._work(part, evaluate)
            case StopWork():
                self._stop_work(part)
            case StartSending(train):
                assert part.held is not None and part.held.round <= train.round
                part.sending = Sending(part.client, part.machine.session, part.held, train, part.headers)
                self._courier.start(group, part.sending)
            case StopSending():
                await self._courier.stop(part.sending)
                part.sending = None
            case Release():
                self._release(part, effect)
            case Report():
                asked = part.task.evaluate if part.task is not None else None
                body = self._warden.trimmed(effect, answers=asked is not None and bool(asked.queries)).body
                await self._outbox.put(body, part.headers, self._courier.speaking_as(part.client))
            case _:
                assert_never(effect)

    def _work(self, part: Part, task: Train | Evaluate, work: int = 0) -> None:
        part.job = Job(part.client, part.machine.session, task, work, part.headers, since=part.task_since)
        self._workshop.add(part.job)

    def _stop_work(self, part: Part) -> None:
        job, part.job = part.job, None
        if job is not None:
            self._workshop.drop(job)

    def _release(self, part: Part, release: Release) -> None:
        if part.held is not None and part.held.round == release.round:
            self._keepsakes.settle(part.client, part.machine.session, lost=release.lost)
            part.let_go()
        log.log(
            self._level,
            "%s: %s: the update of round %d %s",
            part.client,
            part.machine.session,
            release.round,
            "counts" if release.counted else f"does not count: {release.reason}",
        )


def _note(part: Part, told: Told) -> None:
    """Take note of what came with an event."""
    if told.headers:
        part.headers = told.headers
    if told.since:
        part.task_since = told.since
    if isinstance(told.by, Made):
        part.job = None
        if told.by.held is not None:
            part.let_go()
            part.held = told.by.held
    elif told.by is not None and told.by is part.sending:
        part.sending = None
