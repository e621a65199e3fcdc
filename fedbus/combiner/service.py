"""Runs a combiner: orders and uploads in, folds, partials, models and reports out.

One inbox feeds one machine per session; what takes time (folding, fetching, storing) is done by one worker per session,
in the order in which the machine asked for it, and comes back into the inbox. A partial is made in that order too, so
that everything that was to be undone before it is undone; only its sending runs beside the worker, and is given up
before anything else is folded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeGuard, assert_never

from fedbus import telemetry
from fedbus.bus.base import Bus, Message, Subscription
from fedbus.clock import Clock
from fedbus.combiner.events import (
    Begun,
    ChunkArrived,
    Effect,
    Event,
    Fold,
    Folded,
    Key,
    OrderSeen,
    PartialSent,
    Prepare,
    PrepareFailed,
    Report,
    Reset,
    SendPartial,
    StopPartial,
    Store,
    Stored,
    StoreFailed,
    Tell,
    Ticked,
    Undo,
)
from fedbus.combiner.folder import Folder, Partial
from fedbus.combiner.machine import Machine
from fedbus.crash import Crash, Point, never
from fedbus.errors import BadMessage, BusClosed, FedbusError
from fedbus.exchange.outbox import Outbox
from fedbus.exchange.station import Heard, Station
from fedbus.exchange.upload.service import Parcel, Upload
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Order
from fedbus.messages.uploads import UploadBegin, UploadState
from fedbus.store.models import ModelStore
from fedbus.store.spool import Spool
from fedbus.telemetry import Kind, Span, Telemetry
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.combiner")

HEARTBEAT_S = 1.0
"""How often a combiner says that it lives: after 5.5 s of silence its work moves to the others."""

PENDING_BYTES_MAX = 256 * 2**20
"""Most bytes that wait to be read from the bus.

Credits keep it far below; it bounds what senders without credit can do.
"""

JOBS_MAX = 32
"""Chunks folded in one go in the worker thread: a hop costs some 50 us, a chunk of 512 KiB some 300."""

INBOX_MAX = 1024
"""Events that wait before nothing more is read from the bus, whose subscriptions then bound what is buffered."""

TICK_S = 1.0
REFRESH_S = 15.0
"""How often orders are read again even if nothing seems to be missed."""


@dataclass(frozen=True, slots=True)
class _Told:
    """Something for a session's machine."""

    session: str
    event: Event
    headers: dict[str, str] = field(default_factory=dict)


Job = Prepare | Fold | Undo | Reset | Store | SendPartial


@dataclass(slots=True)
class _Session:
    """What a session has in this process."""

    machine: Machine
    folder: Folder
    jobs: asyncio.Queue[Job | None] = field(default_factory=asyncio.Queue)
    wanted: SendPartial | None = None
    partial: asyncio.Task[None] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    spans: dict[Key, Span] = field(default_factory=dict)
    begun: dict[Key, Begun] = field(default_factory=dict)


class Combiner:
    """One combiner.

    ``make_spool(session)`` gives the place where updates of a session are kept until their round is closed.
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
    ) -> None:
        self._station = Station(bus, workspace, Peer("combiner", name), incarnation, clock, heartbeat_s=HEARTBEAT_S)
        self._station.doing = self._doing
        self._bus = bus
        self._subjects = self._station.subjects
        self._clock = clock
        self._workers = workers
        self._make_spool = make_spool
        self._store = ModelStore(bus, self._subjects, workers)
        self._outbox = Outbox(self._station)
        self._traces = traces or Telemetry.off()
        self._crash = crash
        self._inbox: asyncio.Queue[_Told] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._sessions: dict[str, _Session] = {}
        self._uploads: list[Upload] = []
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Take part until cancelled; then say `Bye`."""
        me, name = self._station.peer, self._station.peer.name
        up = await self._station.listen(self._subjects.up(name), pending_bytes_max=PENDING_BYTES_MAX // 8)
        chunks = await self._station.listen(self._subjects.chunks(name), pending_bytes_max=PENDING_BYTES_MAX)
        orders = await self._station.listen(self._subjects.order(name))
        acks = await self._station.listen(self._subjects.ack(me))
        down = await self._station.listen(self._subjects.down(me))
        try:
            async with together() as group:
                self._group = group
                for work in (
                    self._station.present(),
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
                session.folder.reset()

    def _doing(self) -> str:
        folding = [name for name, session in self._sessions.items() if session.machine.phase.value != "idle"]
        return f"folding {', '.join(sorted(folding)[:3])}" if folding else "idle"

    # --- what comes in ---

    async def _hear_orders(self, orders: Subscription) -> None:
        async for message in orders:
            self._take_order(message)

    def _take_order(self, message: Message) -> None:
        heard = self._station.read(message)
        if heard is not None and isinstance(heard.envelope.body, Order):
            self._put(heard.envelope.body.session, OrderSeen(heard.envelope.body), dict(message.headers))

    async def _hear_begins(self, up: Subscription) -> None:
        async for heard in self._station.hear(up):
            await self._room.wait()
            self._take_begin(heard)

    def _take_begin(self, heard: Heard) -> None:
        body = heard.envelope.body
        if isinstance(body, UploadBegin):
            sender = self._subjects.sender(heard.message.subject, "up", 3, 1)
            headers = dict(heard.message.headers)
            self._put(body.session, Begun(sender, body, headers), headers)

    async def _hear_chunks(self, chunks: Subscription) -> None:
        async for message in chunks:
            try:
                address = self._subjects.address(message.subject)
            except BadMessage as error:
                self._station.refuse(error)
                continue
            await self._room.wait()
            self._put(address.session, ChunkArrived(address, message.data))

    async def _hear_states(self, down: Subscription) -> None:
        async for heard in self._station.hear(down):
            if isinstance(heard.envelope.body, UploadState):
                combiner = self._subjects.tokens(heard.message.subject, "down", 3)[2]
                for upload in self._uploads:
                    if upload.combiner == combiner:
                        upload.hear(heard.envelope.body)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for name in self._sessions:
                self._put(name, Ticked())

    def _put(self, session: str, event: Event, headers: dict[str, str] | None = None) -> None:
        self._inbox.put_nowait(_Told(session, event, headers or {}))
        if self._inbox.qsize() >= INBOX_MAX:
            self._room.clear()

    # --- deciding ---

    async def _decide(self) -> None:
        """Feed the machines; flush their verdicts when the inbox is empty, so that many travel together."""
        touched: set[str] = set()
        while True:
            told = await self._inbox.get()
            if self._inbox.qsize() < INBOX_MAX // 2:
                self._room.set()
            await self._feed(told)
            touched.add(told.session)
            if self._inbox.empty():
                for name in sorted(touched):
                    if name in self._sessions:
                        await self._act(self._sessions[name], self._sessions[name].machine.flush())
                touched.clear()

    async def _feed(self, told: _Told) -> None:
        session = self._sessions.get(told.session)
        if session is None:
            if not isinstance(told.event, OrderSeen) or told.event.order.state == "ended":
                return  # of a session that we have no order for: its sender asks again
            session = self._open(told.session)
        if isinstance(told.event, OrderSeen) and told.headers:
            session.headers = told.headers
        effects = session.machine.handle(told.event, self._clock.now())
        session.machine.check()
        if isinstance(told.event, Folded) and told.event.digest:
            self._crash(Point.UPDATE_FOLDED)
        self._trace(session, told)
        await self._act(session, effects)
        if isinstance(told.event, Folded) and told.event.digest:
            self._crash(Point.VERDICT_TOLD)
        if isinstance(told.event, OrderSeen) and told.event.order.state == "ended":
            self._close(told.session)

    def _open(self, name: str) -> _Session:
        machine = Machine(name, self._station.peer.name, self._station.incarnation)
        session = self._sessions[name] = _Session(machine, Folder(self._make_spool(name)))
        assert self._group is not None
        self._group.create_task(self._work(name, session))
        return session

    def _close(self, name: str) -> None:
        """Forget a session that has ended: its memory and its spool go with it."""
        self._sessions.pop(name).jobs.put_nowait(None)

    def _trace(self, session: _Session, told: _Told) -> None:
        """Span each update from its announcement to its verdict, under the sender's own span."""
        event = told.event
        if not self._traces.enabled:
            return
        if isinstance(event, Begun):
            session.begun[Key(event.sender, event.begin.round, event.begin.attempt)] = event
        if session.begun and not isinstance(event, ChunkArrived | Ticked):
            # An upload may begin later than it was announced: when the round is prepared, or the order is here.
            machine = session.machine
            for key in [key for key in session.begun if key in machine.uploads and key not in session.spans]:
                session.spans[key] = self._fold_span(told.session, session.begun[key])
            early = {Key(e.sender, e.begin.round, e.begin.attempt) for e in machine.early.values()}
            session.begun = {key: one for key, one in session.begun.items() if key in early}
        for key in [k for k in session.spans if self._is_over(session, k)]:
            span = session.spans.pop(key)
            upload = session.machine.uploads.get(key)
            if upload is not None:
                span.set(telemetry.VERDICT, upload.standing.value)
                if upload.reason:
                    span.fail(upload.reason)
            span.end()

    def _fold_span(self, session: str, event: Begun) -> Span:
        sender, begin, me = event.sender, event.begin, self._station.peer.name
        partial = sender.role == "combiner"
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: session,
            telemetry.ROUND: begin.round,
            telemetry.ATTEMPT: begin.attempt,
            telemetry.COMBINER if partial else telemetry.CLIENT: sender.name,
            telemetry.BYTES: begin.nbytes,
            telemetry.CHUNKS: begin.chunks,
            **telemetry.messaging("fold", "process", self._subjects.up(me, sender), me, begin.chunks),
        }
        name = "fold partial" if partial else "fold update"
        return self._traces.start_span(name, parent=event.headers, attributes=attributes, kind=Kind.CONSUMER)

    def _is_over(self, session: _Session, key: Key) -> bool:
        upload = session.machine.uploads.get(key)
        return upload is None or upload.standing.value in ("accepted", "refused")

    async def _act(self, session: _Session, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Prepare() | Fold() | Undo() | Reset() | Store():
                    session.jobs.put_nowait(effect)
                case SendPartial():
                    session.wanted = effect
                    session.jobs.put_nowait(effect)
                case Tell(receiver, state):
                    await self._station.say(self._subjects.down(receiver, self._station.peer.name), state)
                    if state.verdict == "refused":
                        log.warning(
                            "%s: refused round %d of %s %s: %s", state.session, state.round, *receiver, state.reason
                        )
                case Report(body):
                    await self._outbox.put(body, session.headers)
                case StopPartial():
                    session.wanted = None
                    if session.partial is not None:
                        session.partial.cancel()
                        session.partial = None
                case _:
                    assert_never(effect)

    # --- working ---

    async def _work(self, name: str, session: _Session) -> None:
        """Do a session's jobs in their order, consecutive folds in one hop to the thread; None is the end of it."""
        jobs: list[Job | None] = []
        while True:
            if not jobs:
                jobs.append(await session.jobs.get())
            while len(jobs) < JOBS_MAX and not session.jobs.empty():
                jobs.append(session.jobs.get_nowait())
            quick = list(takewhile(_is_quick, jobs))
            del jobs[: len(quick)]
            for event in await self._workers.run(session.folder.do, quick) if quick else ():
                self._put(name, event)
            if not jobs:
                continue
            job = jobs.pop(0)
            if job is None:
                await self._workers.run(session.folder.reset)
                return
            await self._do(name, session, job)

    async def _do(self, name: str, session: _Session, job: Job) -> None:
        """Do a job that needs the bus."""
        match job:
            case Prepare():
                await self._prepare(name, session, job)
            case Store():
                await self._store_model(name, session, job)
            case SendPartial() if job is session.wanted:
                assert self._group is not None
                partial = await self._workers.run(session.folder.partial)
                if job is session.wanted:  # and was not given up while the partial was made
                    session.partial = self._group.create_task(self._send_partial(session, job.order, partial))
            case SendPartial() | Fold() | Undo() | Reset():
                pass  # a partial that was given up while it stood in line; the others are done in the thread

    async def _prepare(self, name: str, session: _Session, job: Prepare) -> None:
        order = job.order
        try:
            manifest = await self._store.manifest(order.blob)
            self._put(name, await self._workers.run(session.folder.prepare, order, manifest))
        except BusClosed:
            raise  # terminal: the role ends, nobody retries
        except FedbusError as error:
            log.warning("%s: round %d cannot be prepared: %s", name, order.round, error)
            self._put(name, PrepareFailed(order.round, str(error)))

    async def _store_model(self, name: str, session: _Session, job: Store) -> None:
        """Make the new model chunk by chunk, and store it: chunks, then the manifest."""
        order, folder = job.order, session.folder
        merge = order.merge
        assert merge is not None
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: name,
            telemetry.ROUND: order.round,
            telemetry.ATTEMPT: merge.attempt,
            telemetry.COMBINER: self._station.peer.name,
            telemetry.WEIGHT: merge.weight_sum,
        }
        with self._traces.span("merge", parent=session.headers, attributes=attributes) as span:
            try:
                making = await self._workers.run(folder.finish, order)
                for first in range(0, making.layout.count, JOBS_MAX):
                    stop = min(first + JOBS_MAX, making.layout.count)
                    bases = [
                        (await self._store.chunk(order.blob, i)).data for i in range(first, stop) if making.reads_base
                    ]
                    pieces = await self._workers.run(making.chunks, first, stop, bases)
                    ready = dict(zip(range(first, stop), pieces, strict=True))
                    await self._store.put_chunks(merge.publish, ready, ready.__getitem__)
                manifest = await self._workers.run(making.manifest)
                span.set(telemetry.BYTES, manifest.spec.nbytes)
                self._crash(Point.MODEL_CHUNKS_STORED)
                await self._store.put_manifest(merge.publish, manifest)
            except BusClosed:
                raise
            except (FedbusError, MemoryError, OSError) as error:
                span.fail(str(error))
                log.warning("%s: round %d: the model could not be stored: %s", name, order.round, error)
                await self._store.discard(merge.publish)
                self._put(name, StoreFailed(merge.attempt, str(error) or type(error).__name__))
            else:
                self._crash(Point.MODEL_STORED)
                self._put(name, Stored(merge.attempt, manifest.digest, manifest.spec.nbytes))

    async def _send_partial(self, session: _Session, order: Order, partial: Partial) -> None:
        merge = order.merge
        assert merge is not None
        name, me = order.session, self._station.peer
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.SESSION: name,
            telemetry.ROUND: order.round,
            telemetry.ATTEMPT: merge.attempt,
            telemetry.COMBINER: me.name,
            telemetry.UPDATES: len(merge.counted),
            **telemetry.messaging("send", "send", self._subjects.up(merge.root, me), me.name, 0),
        }
        with self._traces.span(
            "send partial", parent=session.headers, attributes=attributes, kind=Kind.PRODUCER
        ) as span:
            begin = UploadBegin(
                session=name,
                round=order.round,
                attempt=merge.attempt,
                spec=partial.spec,
                digest=partial.digest,
                nbytes=partial.nbytes,
                chunks=len(partial.digests),
                weight=1.0,
            )
            span.set(telemetry.BYTES, begin.nbytes)
            span.set(telemetry.CHUNKS, begin.chunks)
            span.set(telemetry.MESSAGING_BATCH_COUNT, begin.chunks)
            parcel = Parcel(begin, partial.chunk, partial.digests)
            self._crash(Point.PARTIAL_MADE)
            upload = Upload(self._station, merge.root, parcel, span.headers or session.headers)
            self._uploads.append(upload)
            try:
                outcome = await upload.run()
            finally:
                self._uploads.remove(upload)
            span.set(telemetry.RETRANSMITTED, outcome.resent)
            span.set(telemetry.VERDICT, "accepted" if outcome.accepted else "refused")
            if not outcome.accepted:
                span.fail(outcome.reason)
        self._crash(Point.PARTIAL_SENT)
        self._put(name, PartialSent(merge.attempt, outcome.accepted, outcome.reason))


def _is_quick(job: Job | None) -> TypeGuard[Fold | Undo | Reset]:
    """Whether a job is done in the thread, without the bus."""
    return isinstance(job, Fold | Undo | Reset)
