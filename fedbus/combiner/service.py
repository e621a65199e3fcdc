"""Runs a combiner: orders and uploads in, folds, partials, models and reports out.

One inbox feeds one machine per session; what takes time is the session's work (`fedbus.combiner.work`), and what comes
of it comes back into the inbox. The inbox is emptied some hundred events at a time: first the machines decide, then
senders are told, then the coordinator; verdicts that follow each other closely travel together.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from fedbus import telemetry
from fedbus.access.signing import OPEN, Signing, upload_statement
from fedbus.bus.base import Bus, Message, Subscription
from fedbus.clock import Clock
from fedbus.combiner.budget import Budget
from fedbus.combiner.events import (
    Begun,
    ChunkArrived,
    Effect,
    Event,
    Fold,
    Folded,
    FoldWhole,
    Note,
    OrderSeen,
    Prepare,
    Refold,
    Release,
    Report,
    Reset,
    RoomMade,
    SendPartial,
    StopClosing,
    Store,
    StorePart,
    Tell,
    Ticked,
    Undo,
)
from fedbus.combiner.folder import Folder
from fedbus.combiner.machine import Machine
from fedbus.combiner.slots import ROOM_BYTES, Room
from fedbus.combiner.spans import Spans
from fedbus.combiner.work import Means, Work
from fedbus.crash import Crash, Point, never
from fedbus.errors import BadMessage, BadUpdate, FedbusError
from fedbus.exchange.numbers import watch_bus, watch_outbox
from fedbus.exchange.outbox import Outbox
from fedbus.exchange.spans import carry
from fedbus.exchange.station import Heard, Station
from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Order
from fedbus.messages.uploads import UploadBegin, UploadState
from fedbus.store.models import ModelStore
from fedbus.store.spool import Spool, SpoolFull
from fedbus.telemetry import Telemetry, metrics
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.combiner")

HEARTBEAT_S = 1.0
"""How often a combiner says that it lives: after 5.5 s of silence its work moves to the others."""

CHUNKS_BYTES_MAX = 2 * ROOM_BYTES
"""Most bytes of chunks that wait to be read from the bus: twice what credits allow; the rest is of senders without."""

BEGINS_BYTES_MAX = 64 * 2**20
"""Most bytes of announcements that wait to be read: six thousand updates of 10 KB; who is lost among more repeats."""

INBOX_MAX = 1024
"""Events that wait before nothing more is read from the bus, whose subscriptions then bound what is buffered."""

INBOX_BYTES_MAX = 16 * 2**20
"""Bytes of chunks and of whole updates, in the inbox and on their way to the fold, likewise."""

TURN_EVENTS = 256
"""Events decided in one go before anybody is told: some milliseconds."""

REPORT_S = 0.02
"""Longest that a verdict waits for others to travel with, while more are being made."""

TICK_S = 1.0
REFRESH_S = 15.0
"""How often orders are read again even if nothing seems to be missed."""


class _Told(NamedTuple):
    """Something for a session's machine."""

    session: str
    event: Event
    size: int = 0


@dataclass(slots=True)
class _Session:
    """What a session has in this process."""

    machine: Machine
    work: Work
    spans: Spans


class Combiner:
    """One combiner.

    ``make_spool(session)`` gives the place where updates of a session are kept until their round is closed; it is left
    as it is when the combiner ends, and given back when the session has ended.

    A combiner that was killed may be born again as the same ``incarnation``, so that nobody has to send again what it
    had accepted - but only if ``make_spool`` gives for each session what the former life had there, with all that was
    entered (`fedbus.store.spools` sees to that for files; a `fedbus.store.spool.Memory` is handed on as it is). If any
    of it may be missing, all spools are to be empty and the incarnation a new one. ``life`` counts the processes of one
    incarnation, from 1: their messages must differ. ``left``: the sessions of which something was left, so that it goes
    when nobody wants it any more.

    ``memory_bytes_max``: of this process; a session whose sums do not fit is refused with the reason
    (`fedbus.combiner.budget`). 0: without a limit of ours. ``signing``: whose signatures count here, and with which it
    signs its partials and reports.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        name: str,
        incarnation: str,
        workspace: str,
        clock: Clock,
        workers: Workers,
        make_spool: Callable[[str], Spool],
        traces: Telemetry | None = None,
        crash: Crash = never,
        attributes: Mapping[str, str] | None = None,
        life: int = 1,
        left: Collection[str] = (),
        memory_bytes_max: int = 0,
        signing: Signing = OPEN,
    ) -> None:
        me = Peer("combiner", name)
        self._station = Station(
            bus, workspace, me, incarnation, clock, heartbeat_s=HEARTBEAT_S, attributes=attributes or {}, life=life
        )
        self._station.signer, self._verifier, self._posts = signing.signer, signing.verifier, signing.posts
        self._left = tuple(left)
        self._station.doing = self._doing
        self._subjects = self._station.subjects
        self._clock = clock
        self._make_spool = make_spool
        self._outbox = Outbox(self._station)
        self._traces = traces or Telemetry.off()
        self._crash = crash
        store = ModelStore(bus, self._subjects, workers, signing.seal)
        self._means = Means(self._station, store, workers, self._traces, crash)
        self._room = Room()
        self._budget = Budget(name, memory_bytes_max)
        self._sessions: dict[str, _Session] = {}
        self._inbox: deque[_Told] = deque()
        self._inbox_bytes = 0
        self._wake = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._tells: list[Tell] = []
        self._reports: list[tuple[Report, Mapping[str, str]]] = []
        self._judged: set[str] = set()
        self._reported_at = self._report_at = -REPORT_S
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Take part until cancelled; then say `Bye`."""
        me, name = self._station.peer, self._station.peer.name
        up = await self._station.listen(self._subjects.up(name), pending_bytes_max=BEGINS_BYTES_MAX)
        chunks = await self._station.listen(self._subjects.chunks(name), pending_bytes_max=CHUNKS_BYTES_MAX)
        orders = await self._station.listen(self._subjects.order(name))
        acks = await self._station.listen(self._subjects.ack(me))
        down = await self._station.listen(self._subjects.down(me))
        self._watch()
        try:
            async with together() as group:
                self._group = group
                for former in self._left:
                    self._open(former).machine.resting_since = self._clock.now()
                for work in (
                    self._station.present(),
                    carry(self._station, self._traces),
                    self._outbox.run(),
                    self._hear_orders(orders),
                    self._hear_begins(up),
                    self._hear_chunks(chunks),
                    self._outbox.hear(acks),
                    self._hear_states(down),
                    self._station.read_board(self._subjects.order(name), self._take_order, REFRESH_S),
                    self._tick(),
                    self._decide(),
                ):
                    group.create_task(work)
        finally:
            with suppress(FedbusError):
                await self._station.leave()
            for subscription in (up, chunks, orders, acks, down):
                await subscription.close()
            for session in self._sessions.values():
                session.work.folder.close()

    def _watch(self) -> None:
        """Tell who counts what is under way here."""
        meters, room = self._traces.meters, self._room
        watch_bus(meters, self._station.bus)
        watch_outbox(meters, self._outbox)
        meters.watch(metrics.QUEUE_LENGTH, lambda: [(len(self._inbox), {telemetry.QUEUE: "inbox"})])
        meters.watch(metrics.CREDIT, lambda: [(sum(list(room.held.values())), {})])
        meters.watch(metrics.CREDIT_LIMIT, lambda: [(room.bytes_max, {})])

    def _count(self, verdicts: Iterable[reports.Verdict]) -> None:
        """Count verdicts, together as they are reported."""
        meters, accepted, refused, nbytes = self._traces.meters, 0, 0, 0
        for verdict in verdicts:
            if not verdict.accepted:
                refused += 1
                continue
            accepted += 1
            nbytes += verdict.nbytes
            if verdict.spent is not None:
                meters.record(metrics.UPLOAD_DURATION, verdict.spent.upload_s)
        if accepted:
            meters.add(metrics.FOLDS, accepted, {telemetry.OUTCOME: "accepted"})
            meters.add(metrics.FOLD_BYTES, nbytes)
        if refused:
            meters.add(metrics.FOLDS, refused, {telemetry.OUTCOME: "refused"})

    def _doing(self) -> str:
        full = [name for name, session in self._sessions.items() if session.work.is_full]
        if full:
            return f"waiting until the broker's store has room for {min(full)}"
        folding = [name for name, session in self._sessions.items() if session.machine.phase.value != "idle"]
        return f"folding {', '.join(sorted(folding)[:3])}" if folding else "idle"

    # --- what comes in ---

    async def _hear_orders(self, orders: Subscription) -> None:
        async for message in orders:
            self._take_order(message)

    def _take_order(self, message: Message) -> None:
        heard = self._station.read(message)
        if heard is not None and isinstance(heard.envelope.body, Order) and self._is_ordered(heard):
            self._put(heard.envelope.body.session, OrderSeen(heard.envelope.body, dict(message.headers)))

    def _is_ordered(self, heard: Heard) -> bool:
        """Whether an order is the workspace's: who makes up one may leave out whom he likes, or robustness."""
        if self._posts is None:
            return True
        try:
            self._posts.check(heard.message.subject, heard.envelope)
        except BadMessage as error:
            self._station.refuse(error)
            return False
        return True

    async def _hear_begins(self, up: Subscription) -> None:
        async for message in up:
            await self._may_read.wait()
            heard = self._station.read(message)
            if heard is not None and isinstance(heard.envelope.body, UploadBegin):
                begin = heard.envelope.body
                sender = Peer(*self._subjects.tokens(message.subject, "up", 3)[1:])
                flaw = self._flaw(sender, begin)
                if begin.identity:  # it has done its work, and would be kept as long as the upload
                    begin = begin.model_copy(update={"identity": "", "signature": b""})
                self._put(begin.session, Begun(sender, begin, message.headers, flaw=flaw), len(begin.inline))

    def _flaw(self, sender: Peer, begin: UploadBegin) -> str:
        """Return why the signature of an announcement does not count; '' where it does, or nobody asks for one."""
        if self._verifier is None:
            return ""
        station = self._station
        statement = upload_statement(station.subjects.workspace, sender, station.peer.name, begin)
        try:
            self._verifier.check(sender, statement, begin.identity, begin.signature)
        except BadUpdate as error:
            return str(error)
        return ""

    async def _hear_chunks(self, chunks: Subscription) -> None:
        async for message in chunks:
            await self._may_read.wait()
            try:
                address = self._subjects.address(message.subject)
            except BadMessage as error:
                self._station.refuse(error)
                continue
            self._put(address.session, ChunkArrived(address, message.data), len(message.data))

    async def _hear_states(self, down: Subscription) -> None:
        async for heard in self._station.hear(down):
            if isinstance(heard.envelope.body, UploadState):
                combiner = self._subjects.tokens(heard.message.subject, "down", 3)[2]
                for upload in self._means.sending:
                    if upload.combiner == combiner:
                        upload.hear(heard.envelope.body)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for name in self._sessions:
                self._put(name, Ticked())

    def _put(self, session: str, event: Event, size: int = 0) -> None:
        self._inbox.append(_Told(session, event, size))
        self._inbox_bytes += size
        self._wake.set()
        if self._is_full(1):
            self._may_read.clear()

    def _is_full(self, share: int) -> bool:
        """Whether so much waits that nothing more may be read, or (``share`` 2) half of it."""
        size = self._inbox_bytes + self._means.load.inline_bytes
        return len(self._inbox) * share >= INBOX_MAX or size * share >= INBOX_BYTES_MAX

    # --- deciding ---

    async def _decide(self) -> None:
        """Feed the machines, some events at a time; then tell senders, then report."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._inbox:
                turn = [self._inbox.popleft() for _ in range(min(len(self._inbox), TURN_EVENTS))]
                whole = sum(map(self._feed, turn))
                for name in {told.session for told in turn} & self._sessions.keys():
                    self._sessions[name].machine.check()
                self._inbox_bytes -= sum(told.size for told in turn)
                await self._say()
                for _ in range(whole):
                    self._crash(Point.VERDICT_TOLD)
            if not self._is_full(2):
                self._may_read.set()
            await self._report()

    async def _say(self) -> None:
        """Tell senders how their uploads stand."""
        tells, self._tells = self._tells, []
        me = self._station.peer.name
        for tell in tells:
            receiver, state = tell.receiver, tell.state
            await self._station.say(self._subjects.down(receiver, me), state)
            if state.verdict == "refused":
                level = logging.WARNING if tell.is_news else logging.DEBUG
                log.log(level, "%s: refused round %d of %s %s: %s", state.session, state.round, *receiver, state.reason)

    async def _report(self) -> None:
        """Report what there is; verdicts wait a little for others while a session's work is not done."""
        loop = asyncio.get_running_loop()
        due = self._reported_at + REPORT_S
        if self._judged and loop.time() < due and any(self._sessions[name].work.is_busy for name in self._judged):
            if self._report_at < due:
                self._report_at = due
                loop.call_at(due, self._wake.set)
        elif self._judged:
            self._reported_at = loop.time()
            for name in sorted(self._judged):
                self._act(self._sessions[name], self._sessions[name].machine.flush())
            self._judged.clear()
        taken, self._reports = self._reports, []
        for report, headers in taken:
            if self._traces.meters.enabled and isinstance(report.body, reports.UpdatesJudged):
                self._count(report.body.verdicts)
            await self._outbox.put(report.body, headers)

    def _feed(self, told: _Told) -> bool:
        """Let a session's machine decide, and act on it; returns whether an update was found to be whole."""
        event = told.event
        session = self._sessions.get(told.session)
        if session is None:
            if not isinstance(event, OrderSeen) or event.order.state == "ended":
                return False  # of a session that we have no order for: its sender asks again
            session = self._open(told.session)
        if isinstance(event, OrderSeen) and event.headers:
            session.work.headers = event.headers
        given = self._room.given
        effects = session.machine.handle(event, self._clock.now())
        is_whole = isinstance(event, Folded) and bool(event.digest)
        session.spans.note(event)
        self._act(session, effects)
        if session.machine.verdicts:
            self._judged.add(told.session)
        if self._room.given != given:
            for name in self._room.waiting - {told.session}:
                self._put(name, RoomMade())
        if isinstance(event, OrderSeen) and event.order.state == "ended":
            self._close(told.session)
        return is_whole

    def _open(self, name: str) -> _Session:
        def tell(event: Event) -> None:
            self._put(name, event)

        machine = Machine(name, self._station.peer.name, self._station.incarnation, self._room)
        machine.is_news = self._station.life > 1
        work = Work(name, self._means, Folder(self._make_spool(name), self._crash, name, self._budget), tell)
        spans = Spans(self._traces, self._station, machine)
        work.folded = spans.folded
        session = self._sessions[name] = _Session(machine, work, spans)
        assert self._group is not None
        self._group.create_task(work.run(self._group))
        return session

    def _close(self, name: str) -> None:
        """Forget a session that has ended: its memory and its spool go with it."""
        self._judged.discard(name)
        self._sessions.pop(name).work.put(None)

    def _act(self, session: _Session, effects: list[Effect]) -> None:
        """Do what needs no waiting; what does is noted, in its order."""
        for effect in effects:
            match effect:
                case Fold() | FoldWhole() | Refold() | Undo() | Reset() | Release():
                    session.work.put(effect)
                case Note():
                    self._note(session, effect)
                case Prepare() | Store() | StorePart() | SendPartial():
                    session.work.put(effect)
                case Tell():
                    self._tells.append(effect)
                case Report():
                    self._reports.append((effect, session.work.headers))
                case StopClosing():
                    session.work.stop_closing()
                case _:
                    assert_never(effect)

    def _note(self, session: _Session, note: Note) -> None:
        """Enter a refusal at once: some microseconds, and it must stand before its sender is told."""
        try:
            session.work.folder.note(note)
        except SpoolFull as error:  # told all the same: only if we are killed now is that client waited for
            log.warning("%s: the refusal of %s %s is not entered: %s", note.begin.session, *note.key.sender, error)
