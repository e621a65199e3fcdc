"""Runs the clients of a process: tasks in; the owner's functions, uploads and reports out.

What belongs to the connection is there once, however many clients there are: one subscription, presence, one outbox,
one reader of the board, one inbox, one model. A client is a name, and per session a machine and the update that it
holds; while it has nothing to do it costs no task, no timer and no message.

One inbox feeds the machines; the owner's functions (`work`) and uploads (`sending`) run as tasks of one group, and what
they learn comes back into the inbox.

With a state (`fedbus.client.state`) a client begins with the updates that a former process of its name has made.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import assert_never

from fedbus.access.signing import OPEN, Signing
from fedbus.bus.base import Bus, Message, Subscription
from fedbus.client.app import ClientApp
from fedbus.client.cards import Card
from fedbus.client.held import Held
from fedbus.client.job import Job, Made, Means
from fedbus.client.keeper import Keeper
from fedbus.client.keepsake import Keepsakes
from fedbus.client.machine import (
    Effect,
    Event,
    Foreign,
    Halted,
    Machine,
    Phase,
    Release,
    Report,
    Settled,
    StartEvaluating,
    StartSending,
    StartTraining,
    StopSending,
    StopWork,
    TaskSeen,
)
from fedbus.client.newest import NewestModel
from fedbus.client.numbers import Numbers
from fedbus.client.owner import NO_WISHES, Wishes
from fedbus.client.sending import Courier, Sending
from fedbus.client.shelf import MEMORY_BYTES_MAX, Shelf
from fedbus.client.state import Found, State
from fedbus.client.wanting import Wants
from fedbus.client.warden import Warden
from fedbus.client.watched import About
from fedbus.client.work import Workshop
from fedbus.clock import Clock
from fedbus.crash import Crash
from fedbus.errors import BadMessage, FedbusError
from fedbus.exchange.outbox import Outbox
from fedbus.exchange.spans import carry
from fedbus.exchange.station import Heard, Station, hash_of
from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.presence import NameIsTaken
from fedbus.messages.reports import ReportTaken
from fedbus.messages.tasks import Evaluate, Task, Train
from fedbus.messages.uploads import UploadState
from fedbus.store.models import ModelStore
from fedbus.store.sealing import GivenKeys
from fedbus.telemetry import Telemetry
from fedbus.together import together
from fedbus.workers import Threads, Workers

log = logging.getLogger("fedbus.client")

HEARTBEAT_S = 5.0
"""How often a process says that it lives: some 200 a second of thousand clients, and known as gone after 28 s."""

REFRESH_S = 30.0
"""How often tasks are read again even if nothing seems to be missed."""

SESSIONS_MAX = 1000
"""Sessions that a client takes part in at once; those that ended are forgotten."""

ENDED_S = 60.0
"""How long it is known that a session has ended: a task that was overtaken on its way must not begin it anew.

No longer, for on a store that was emptied a session of the same name may follow.
"""

TASKS_WAITING_MAX = 10_000
"""Tasks that wait to be looked at, and two more for each client of a crowd; beyond it they are left to the next reading
of the board."""

EVENTS_MAX = 64
"""Events handled before the loop may do something else: a crowd hears thousands of tasks at once."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Who is here and what they work with.

    ``peer``: who says `Hello`: the client itself, or the crowd of ``clients`` that begins at number ``first`` of its
    series. ``workers`` None: threads of its own. ``wishes``: of the owner of its data. ``signing``: with which it
    signs, and knows the workspace's models.
    """

    app: ClientApp
    peer: Peer
    clients: tuple[str, ...]
    workspace: str
    attributes: Mapping[str, str]
    clock: Clock
    traces: Telemetry
    incarnation: str
    workers: Workers | None
    crash: Crash
    first: int = 0
    state: State | None = None
    wishes: Wishes = NO_WISHES
    signing: Signing = OPEN

    @property
    def crowd(self) -> bool:
        """Whether one speaks for many."""
        return self.peer.role == "crowd"


@dataclass(slots=True, eq=False)
class _Session:
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


@dataclass(frozen=True, slots=True)
class _Told:
    """Something for a client's machine of a session; ``since``: when a task came, by the time of the loop."""

    client: str
    session: str
    event: Event
    headers: Mapping[str, str] | None = None
    by: Made | Sending | None = None
    since: float = 0.0


class Hub:
    """One call of `Client.run` or `Crowd.run`: everything that lives as long as it does."""

    def __init__(self, setup: Setup, bus: Bus, newest: NewestModel) -> None:
        self._setup = setup
        name = setup.peer.name
        self._workers: Workers = setup.workers or Threads(2, f"fedbus-{name}")
        self._warden = Warden(setup.wishes, setup.workspace, setup.clock, bus, self._workers, self._about)
        bus = self._bus = self._warden.door.as_bus
        self._station = Station(
            bus,
            setup.workspace,
            setup.peer,
            setup.incarnation,
            setup.clock,
            heartbeat_s=HEARTBEAT_S,
            attributes=setup.attributes,
            members=len(setup.clients) if setup.crowd else 0,
            first=setup.first,
        )
        self._station.doing = self.doing
        self._station.signer = setup.signing.signer
        self._subjects = self._station.subjects
        self._station.policy = lambda: self._warden.owner.digest
        self._outbox = Outbox(self._station)
        # The owner's functions have a thread of their own: two never run at once, and a long training holds nobody up.
        self._thread: Workers = setup.workers or Threads(1, f"fedbus-{name}-app")
        self._spare = newest.spare
        self._shelf = Shelf(MEMORY_BYTES_MAX if setup.crowd else None, newest.spare)
        keys = GivenKeys()
        store = ModelStore(bus, self._subjects, self._workers, keys)
        self._courier = Courier(
            self._station,
            self._workers,
            setup.traces,
            setup.crash,
            self._settled,
            manifest=store.manifest,
            leaving=self._warden.leaving,
        )
        self._keeper = None if setup.state is None else Keeper(setup.state, setup.peer, self._workers)
        self._keepsakes = Keepsakes()
        self._workshop = Workshop(
            setup.app,
            Means(
                store=store,
                keys=keys,
                newest=newest,
                subjects=self._subjects,
                shelf=self._shelf,
                workers=self._workers,
                thread=self._thread,
                traces=setup.traces,
                crash=setup.crash,
                keepsakes=self._keepsakes,
                models=setup.signing.models,
            ),
            self._made,
            self._courier.under_way,
            self._keeper,
        )
        self._inbox: asyncio.Queue[_Told | asyncio.Future[None] | None] = asyncio.Queue()
        self.wants = Wants(self, self._warden)
        self._newest = newest
        self._greeting = asyncio.Event()
        self._greeted = ""
        self._clients: dict[str, dict[str, _Session]] = {name: {} for name in setup.clients}
        self._ended: dict[str, tuple[float, int]] = {}
        self._numbers = Numbers(setup.traces.meters)
        self._doubted = ""

    async def run(self) -> None:
        """Take part until cancelled. Raises `NameTaken` where another process lives under the name."""
        self._numbers.watch(self._bus, self._outbox, self._inbox.qsize)
        try:
            if self._keeper is not None:
                self._adopt(await self._keeper.open())
                self._keepsakes.adopt(self._keeper.keepsakes, self._keeper.settle, self._keeper.end)
            self._warden.open()
            self._greeted, self._warden.owner.changed = self._warden.owner.digest, self._changed
            async with self._listening():
                await self._take_part()
        finally:
            self._numbers.forget()
            self._shelf.close()
            self._warden.close()
            while not self._inbox.empty():
                told = self._inbox.get_nowait()
                if isinstance(told, asyncio.Future):
                    told.cancel()  # who asked for something that comes too late
            if self._keeper is not None:
                self._keeper.close()
            if self._setup.workers is None:
                self._workers.close()
                self._thread.close()

    async def _take_part(self) -> None:
        clients, subjects = self._setup.clients, self._subjects
        boards = [subjects.task(name) for name in clients]
        others = [pattern(Peer("client", name)) for name in clients for pattern in (subjects.down, subjects.ack)]
        if self._setup.crowd:
            others.append(subjects.ack(self._setup.peer))
        heard = await self._station.listen([*boards, *others])
        every_s = REFRESH_S * (1 + (hash_of(self._setup.peer.name) % 100) / 200)  # each process at its own time
        try:
            async with together() as group:
                for work in (
                    self._station.present(),
                    carry(self._station, self._setup.traces),
                    self._outbox.run(),
                    self._hear(heard),
                    self._station.read_board(boards, self._take_from_board, every_s),
                    self._decide(group),
                    self._warden.owner.run(),
                    self._greet(),
                ):
                    group.create_task(work)
                if self._keeper is not None:
                    group.create_task(self._keeper.run())
        finally:
            with suppress(FedbusError):
                await self._station.leave()
            await heard.close()

    def _adopt(self, left: Sequence[Found]) -> None:
        """Begin with what a former process has made and nobody has settled."""
        for client, name, held in left:
            sessions = self._clients.get(client)
            if sessions is None or len(sessions) >= SESSIONS_MAX:
                log.info("%s: the update for %s of a former process is dropped: nobody here sends it", client, name)
                held.leave()
                continue
            machine = Machine(name, held=held.round)
            sessions[name] = _Session(client, machine, {}, held=held)
            self._keepsakes.begin(client, name)
        if left:
            log.info("%s: a former process has left %d updates", self._setup.peer.name, len(left))

    def doing(self) -> str:
        """Say what its clients do, each or all together."""
        if self._doubted:
            return self._doubted
        sessions = [session for part in self._clients.values() for session in part.values()]
        busy = [session for session in sessions if session.machine.phase is not Phase.IDLE]
        if not self._setup.crowd:
            return ", ".join(f"{one.machine.phase.value} for {one.machine.session}" for one in busy) or "idle"
        counts = Counter(f"{one.machine.phase.value} for {one.machine.session}" for one in busy)
        return ", ".join(f"{count} {what}" for what, count in counts.items()) or "idle"

    # --- what comes in ---

    async def _hear(self, heard: Subscription) -> None:
        async for message in heard:
            self._take(message)

    def _take(self, message: Message) -> None:
        """Hand a message on; who may say what is guarded by its subject, so that decides how it is read."""
        found = self._station.read(message)
        if found is None:
            return
        _, _, family, *names = message.subject.split(".")
        body = found.envelope.body
        if family == "task" and isinstance(body, Task):
            if names[0] in self._clients and not self._is_full and self._is_asked(found):
                now = asyncio.get_running_loop().time()
                self._inbox.put_nowait(_Told(names[0], body.session, TaskSeen(body), message.headers, since=now))
        elif family == "down" and isinstance(body, UploadState):
            session = self._clients.get(names[1], {}).get(body.session)
            if session is not None and session.sending is not None:
                session.sending.hear(names[2], body)
        elif family == "ack" and isinstance(body, ReportTaken):
            self._outbox.taken(body)
        elif family == "ack" and isinstance(body, NameIsTaken):
            self._station.heed(body)

    def _is_asked(self, found: Heard) -> bool:
        """Whether a task is the workspace's: its owner's policy goes by what it says, and questions stand in it.

        One that is not is passed over, as if it had been lost: what it says is nobody's word, also of the round.
        """
        posts = self._setup.signing.posts
        if posts is None:
            return True
        try:
            posts.check(found.message.subject, found.envelope)
        except BadMessage as error:
            self._station.refuse(error)
            self._doubted = "passes over tasks that its workspace has not signed"
            return False
        self._doubted = ""
        return True

    @property
    def _is_full(self) -> bool:
        return self._inbox.qsize() >= TASKS_WAITING_MAX + 2 * len(self._clients)

    def _take_from_board(self, message: Message) -> None:
        """Take a task from the board, unless it is what was read there last time: a task is a state."""
        if self._is_full:
            return
        client, name = message.subject.split(".")[3:]
        session = self._clients.get(client, {}).get(name)
        if session is not None:
            # Sequences begin anew when the broker loses the board: so the bytes count too.
            seen, session.seen = session.seen, (message.sequence, hash(bytes(message.data)))
            if seen == session.seen:
                return
        self._take(message)

    def _made(self, made: Made | None) -> None:
        told = None if made is None else _Told(made.job.client, made.job.session, made.event, by=made)
        self._inbox.put_nowait(told)
        if made is not None and self._numbers.wanted:
            self._numbers.made(made)

    def _settled(self, sending: Sending, event: Settled | Foreign) -> None:
        if self._numbers.wanted:
            self._numbers.settled(sending, event, asyncio.get_running_loop().time())
        self._inbox.put_nowait(_Told(sending.client, sending.session, event, by=sending))

    # --- deciding ---

    async def _decide(self, group: asyncio.TaskGroup) -> None:
        handled = 0
        while True:
            told = await self._inbox.get()
            if isinstance(told, asyncio.Future):
                if not told.done():
                    told.set_result(None)
            elif told is not None:
                await self._feed(group, told)
            if self._inbox.empty():
                self._workshop.schedule(group)
            handled += 1
            if handled % EVENTS_MAX == 0:
                await asyncio.sleep(0)

    async def _feed(self, group: asyncio.TaskGroup, told: _Told) -> None:
        event, session = told.event, self._session_of(told)
        if isinstance(told.by, Made):
            if session is None or told.by.job.dropped:
                told.by.leave()
                return
            self._warden.owner.spend(down=told.by.fetched)
        if session is None:
            return
        _note(session, told)
        if isinstance(event, TaskSeen) and await self._is_denied(group, session, event.task):
            return
        if isinstance(event, Foreign):  # of another session of this name: so is what was kept
            self._keepsakes.end(told.client, told.session)
            self._keepsakes.begin(told.client, told.session)
        effects = session.machine.handle(event)
        session.machine.check()
        for effect in effects:
            await self._act(group, session, effect)
        if isinstance(event, TaskSeen) and event.task.state == "ended":
            await self._over(session, event.task)

    def _session_of(self, told: _Told) -> _Session | None:
        """Return what a client has of a session, from its first task on; None of one that it has no part in."""
        sessions, event = self._clients[told.client], told.event
        if told.session in sessions or not isinstance(event, TaskSeen):
            return sessions.get(told.session)
        if event.task.state == "ended":
            self._warden.owner.ended(told.session)
            self._keepsakes.end(told.client, told.session)  # of a former process: it ended while nobody was here
            return None
        if len(sessions) >= SESSIONS_MAX or event.task.revision <= self._ended_at(told.session):
            return None
        session = sessions[told.session] = self._joined(told.client, event.task)
        return session

    async def _over(self, session: _Session, task: Task) -> None:
        """Forget a session that has ended."""
        self._stop_work(session)
        await self._courier.stop(session.sending)
        session.let_go()
        sessions = self._clients[session.client]
        del sessions[task.session]
        self._warden.owner.ended(task.session)
        self._keepsakes.end(session.client, task.session)
        self._ended[task.session] = asyncio.get_running_loop().time(), task.revision
        if not sessions:
            self._spare.forget()  # nothing is expected soon: the newest model is all that stays

    def _joined(self, client: str, task: Task) -> _Session:
        """Return a session that a client has its first task of, in this process."""
        if task.receipt is None:  # nothing of this client ever counted in it: what is kept is of a namesake
            self._keepsakes.end(client, task.session)
        self._keepsakes.begin(client, task.session)
        return _Session(client, Machine(task.session), {})

    def _ended_at(self, session: str) -> int:
        """Return the revision with which a session ended not long ago; -1 where it did not.

        Beyond it there may be more: of a session that was restored from a backup it is not known there that it ended.
        """
        now = asyncio.get_running_loop().time()
        while self._ended and now > next(iter(self._ended.values()))[0] + ENDED_S:
            del self._ended[next(iter(self._ended))]
        return self._ended.get(session, (0.0, -1))[1]

    async def _act(self, group: asyncio.TaskGroup, session: _Session, effect: Effect) -> None:
        match effect:
            case StartTraining(train, work):
                self._warden.owner.spend(begun=(session.machine.session, train.round))
                self._work(session, train, work)
            case StartEvaluating(evaluate):
                self._work(session, evaluate)
            case StopWork():
                self._stop_work(session)
            case StartSending(train):
                assert session.held is not None and session.held.round <= train.round
                session.sending = Sending(session.client, session.machine.session, session.held, train, session.headers)
                self._courier.start(group, session.sending)
            case StopSending():
                await self._courier.stop(session.sending)
                session.sending = None
            case Release():
                self._release(session, effect)
            case Report():
                asked = session.task.evaluate if session.task is not None else None
                body = self._warden.trimmed(effect, answers=asked is not None and bool(asked.queries)).body
                await self._outbox.put(body, session.headers, self._courier.speaking_as(session.client))
            case _:
                assert_never(effect)

    # --- what the owner wants ---

    async def _is_denied(self, group: asyncio.TaskGroup, session: _Session, task: Task) -> bool:
        """Whether the owner does not want a task; then nothing is done for it, and who asked is told why."""
        if task.revision < session.machine.revision:
            return False  # an older one: the machine passes it over
        session.task = task
        newest = self._newest.model
        asked = task.train or task.evaluate
        version = asked.version if asked is not None else ""
        verdict = self._warden.owner.judge(task, here=newest is not None and newest.version == version)
        if verdict.allowed:
            return False
        owner, name = self._warden.owner, task.session
        rest = task.model_copy(update={"state": "rest", "train": None, "evaluate": None, "card": None})
        for event in (TaskSeen(rest), Halted(forget=owner.has_left(name))):
            for effect in session.machine.handle(event):
                await self._act(group, session, effect)
        session.machine.check()
        if owner.has_left(name):
            session.let_go()
            self._keepsakes.end(session.client, name)
        report = self._warden.refusal(session.client, task, verdict)
        if report is not None:
            await self._say_digest()  # first: who hears of the refusal is to know under which decisions it is
            await self._act(group, session, report)
        return True

    def _about(self, client: str, name: str) -> About:
        """Say what is known of something that leaves."""
        session = self._clients.get(client, {}).get(name)
        card = self._warden.owner.cards.get(name)
        version = session.sending.train.version if session is not None and session.sending is not None else ""
        return About(card.purpose if card else "", version, self._warden.norms.get((client, name)))

    def _changed(self) -> None:
        """What was decided may be another: judge all tasks anew, and say so."""
        for client, sessions in self._clients.items():
            for name, session in sessions.items():
                if session.task is not None:
                    self._inbox.put_nowait(_Told(client, name, TaskSeen(session.task)))
        self._greeting.set()

    async def _greet(self) -> None:
        """Say `Hello` when the owner has decided something; runs until cancelled."""
        while True:
            await self._greeting.wait()
            self._greeting.clear()
            await self._say_digest()

    async def _say_digest(self) -> None:
        digest = self._warden.owner.digest
        if digest != self._greeted:
            self._greeted = digest
            await self._station.hello()

    def _listening(self) -> AbstractAsyncContextManager[None]:
        """Take what is said on this machine, where there is a place for it."""
        directory = self._setup.wishes.directory
        if directory is None:
            return nullcontext()
        from fedbus.client.control import listening  # noqa: PLC0415 - sockets as only Unix has them

        return listening(directory, self.wants.do)

    @property
    def cards(self) -> Mapping[str, Card]:
        """The cards of the sessions that are known."""
        return self._warden.owner.cards

    @property
    def station(self) -> Station:
        """Where it speaks."""
        return self._station

    def sessions(self) -> Sequence[str]:
        """The names of all sessions that a client takes part in."""
        return sorted({name for sessions in self._clients.values() for name in sessions})

    def parts(self, session: str) -> Sequence[tuple[str, _Session]]:
        """Clients, each with its part in a session."""
        return [(client, sessions[session]) for client, sessions in self._clients.items() if session in sessions]

    async def report(self, client: str, body: reports.Withdrawn) -> None:
        """Tell the coordinator, until it has it."""
        await self._outbox.put(body, None, self._courier.speaking_as(client))

    async def settle(self) -> None:
        """Judge all tasks anew, and wait until what follows is done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed()
        self._inbox.put_nowait(done)
        await done

    def _work(self, session: _Session, task: Train | Evaluate, work: int = 0) -> None:
        session.job = Job(
            session.client, session.machine.session, task, work, session.headers, since=session.task_since
        )
        self._workshop.add(session.job)

    def _stop_work(self, session: _Session) -> None:
        job, session.job = session.job, None
        if job is not None:
            self._workshop.drop(job)

    def _release(self, session: _Session, release: Release) -> None:
        if session.held is not None and session.held.round == release.round:
            self._keepsakes.settle(session.client, session.machine.session, lost=release.lost)
            session.let_go()
        log.log(
            logging.DEBUG if self._setup.crowd else logging.INFO,
            "%s: %s: the update of round %d %s",
            session.client,
            session.machine.session,
            release.round,
            "counts" if release.counted else f"does not count: {release.reason}",
        )


def _note(session: _Session, told: _Told) -> None:
    """Take note of what came with an event."""
    if told.headers:
        session.headers = told.headers
    if told.since:
        session.task_since = told.since
    if isinstance(told.by, Made):
        session.job = None
        if told.by.held is not None:
            session.let_go()
            session.held = told.by.held
    elif told.by is not None and told.by is session.sending:
        session.sending = None
