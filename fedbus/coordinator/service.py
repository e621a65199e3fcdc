"""Runs the coordinator: reads the journal, listens, lets one machine per session decide, journals, posts.

Everything that happens goes through one inbox. When it is empty, each session that was touched decides: its records are
appended (the coordinator waits for that), then what follows is posted on the boards and acknowledged. So many reports
become one append.

After a start, or when the bus was away, nothing is decided for `SETTLE_S`: everybody is asked to say that they live
first, because a roster that is empty only for lack of time would look like a loss of all combiners.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from fedbus import telemetry
from fedbus.aggregation import Family, find
from fedbus.bus.base import Bus, Message, Payload, Placement, Subscription
from fedbus.bus.patience import patiently
from fedbus.clock import Clock
from fedbus.coordinator.events import (
    Acknowledge,
    Append,
    Appended,
    Catalogue,
    Discard,
    Effect,
    Event,
    PostOrder,
    PostTask,
    Recovered,
    Replayed,
    Reported,
    RosterChanged,
    StartAsked,
    StopAsked,
)
from fedbus.coordinator.machine import Machine
from fedbus.coordinator.roster import Roster
from fedbus.coordinator.state import Phase
from fedbus.crash import Crash, Point, never
from fedbus.errors import BadMessage, BusFull, BusUnavailable, ConfigError, Conflict, FedbusError
from fedbus.exchange.station import Heard, Station
from fedbus.messages import queries, records, reports
from fedbus.messages.commands import StartSession, StopSession
from fedbus.messages.envelope import Body, encode
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Bye, Hello, WhoIsThere
from fedbus.messages.records import Entry, Record
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.store.streams import ensure_streams
from fedbus.telemetry import Span, Telemetry
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.coordinator")

HEARTBEAT_S = 2.0
SETTLE_S = 1.0
"""Silence after a start in which everybody is asked to say that they live: five times the spread of the answers."""

TICK_S = 0.5
"""How often deadlines and the roster are looked at."""

POSTS_MAX = 64
"""Posts under way at once: a post takes a round trip, a thousand clients must not wait for a thousand of them."""

POST_DEADLINE_S = 3.0

FULL_RETRY_S = 1.0
"""How often a full journal is tried again: who makes room wants to see it go on, and the log is to stay short."""

FORGET_S = 600.0
"""How long the boards say that a session has ended, for clients that were away."""


@dataclass(frozen=True, slots=True)
class _Told:
    """Something that happened; ``session`` empty: to the roster."""

    session: str
    event: Event | None


class Coordinator:
    """The coordinator of a workspace."""

    def __init__(
        self,
        bus: Bus,
        *,
        name: str,
        incarnation: str,
        workspace: str,
        clock: Clock,
        workers: Workers,
        replicas: int = 0,
        placement: Placement | None = None,
        traces: Telemetry | None = None,
        crash: Crash = never,
    ) -> None:
        """``replicas`` and ``placement`` are of the workspace's streams; 0 and None leave existing ones as they are."""
        self._replicas, self._placement = replicas, placement
        self._station = Station(bus, workspace, Peer("coordinator", name), incarnation, clock, heartbeat_s=HEARTBEAT_S)
        self._bus = bus
        self._subjects = self._station.subjects
        self._clock = clock
        self._journal = Journal(bus, self._subjects)
        self._models = ModelStore(bus, self._subjects, workers)
        self._traces = traces or Telemetry.off()
        self._crash = crash
        self._roster = Roster()
        self._roster_changed = False
        self._inbox: asyncio.Queue[_Told] = asyncio.Queue()
        self._machines: dict[str, Machine] = {}
        self._ended: dict[str, float] = {}
        self._commands: dict[str, list[int]] = {}
        self._unposted: set[str] = set()
        self._unentered: dict[str, records.ModelPublished] = {}
        self._stray: list[tuple[Peer, str]] = []
        self._settled_at = 0.0
        self._rounds: dict[str, Span] = {}
        self._trace: dict[str, str] = {}
        self._posting = asyncio.Semaphore(POSTS_MAX)

    @property
    def machines(self) -> Mapping[str, Machine]:
        """The sessions under way, to be looked at (simulations check invariants through it)."""
        return self._machines

    async def run(self) -> None:
        """Coordinate until cancelled; then say `Bye`."""
        await self._ensure()
        presence = await self._station.listen(self._subjects.presence())
        reported = await self._station.listen(self._subjects.report())
        asked = await self._station.listen(self._subjects.query())
        try:
            await self._recover()
            async with together() as group:
                for work in (
                    self._station.present(),
                    self._hear_presence(presence),
                    self._hear_reports(reported),
                    self._hear_commands(),
                    self._answer(asked),
                    self._tick(),
                    self._decide(),
                ):
                    group.create_task(work)
        finally:
            with suppress(FedbusError):
                await self._station.leave()
            for subscription in (presence, reported, asked):
                await subscription.close()
            for span in self._rounds.values():
                span.end()

    async def _ensure(self) -> None:
        """Bring the streams to their description, however long the bus takes to be there."""
        await patiently(
            self._bus,
            lambda: ensure_streams(self._bus, self._subjects, replicas=self._replicas, placement=self._placement),
            tries_max=None,
        )

    async def _recover(self) -> None:
        """Read every session's journal; what has ended is only remembered by name, and by its versions' being found."""
        published: dict[str, records.ModelPublished] = {}
        for journalled in await self._journal.read("*"):
            machine = self._machines.setdefault(journalled.session, Machine(journalled.session))
            machine.handle(Replayed(journalled.entry, journalled.sequence), journalled.entry.at)
            for record in journalled.entry.unpack():
                if isinstance(record, records.RoundOpened):
                    self._trace[journalled.session] = record.traceparent
                if isinstance(record, records.SessionStarted | records.ModelPublished):
                    published[machine.state.version] = machine.model()
        entered = await patiently(self._bus, self._models.list, tries_max=None)
        self._unentered = {version: published[version] for version in published.keys() - {m.version for m in entered}}
        for name, machine in list(self._machines.items()):
            if machine.state.phase is Phase.ENDED:
                self._forget_machine(name)
        if self._machines:
            log.info("recovered %d sessions under way: %s", len(self._machines), ", ".join(sorted(self._machines)[:10]))
        self._unposted |= set(self._machines)
        await self._ask_who_is_there()

    async def _ask_who_is_there(self) -> None:
        self._settled_at = self._clock.now() + SETTLE_S
        await self._station.say(self._subjects.whois(), WhoIsThere())

    # --- what comes in ---

    async def _hear_presence(self, presence: Subscription) -> None:
        async for message in presence:
            heard = self._station.read(message)
            try:
                peer = self._subjects.sender(message.subject, "presence", 2, 0)
            except BadMessage as error:
                self._station.refuse(error)
                continue
            if heard is None:
                # Perhaps of a newer release: whatever we say, its own decoder tells it which version we speak.
                await self._station.say(self._subjects.ack(peer), reports.ReportTaken(reports=()))
            elif self._note_presence(peer, heard.envelope.body):
                self._roster_changed = True
                self._inbox.put_nowait(_Told("", None))

    def _note_presence(self, peer: Peer, body: Body) -> bool:
        """Take note of who is there; returns whether that changed."""
        match body:
            case Hello() as hello:
                return self._roster.hello(peer, hello, self._clock.now())
            case Bye() as bye:
                return self._roster.bye(peer, bye)
            case _:
                return False

    async def _hear_reports(self, reported: Subscription) -> None:
        async for heard in self._station.hear(reported):
            self._take_report(heard)

    def _take_report(self, heard: Heard) -> None:
        body = heard.envelope.body
        sender = self._subjects.sender(heard.message.subject, "report", 2, 0)
        self._roster.heard(sender, self._clock.now())
        match body:
            case reports.UpdatesJudged() | reports.ModelStored() | reports.MergeFailed():
                allowed = sender.role == "combiner"
            case reports.Evaluated() | reports.TaskFailed():
                allowed = sender.role == "client"
            case _:
                allowed = False
        if not allowed:
            self._station.refuse(BadMessage(f"{heard.message.subject}: a {sender.role} may not report {body.kind}"))
            return
        assert isinstance(
            body,
            reports.UpdatesJudged | reports.ModelStored | reports.MergeFailed | reports.Evaluated | reports.TaskFailed,
        )
        self._inbox.put_nowait(_Told(body.session, Reported(sender, heard.envelope.id, body)))

    async def _hear_commands(self) -> None:
        """Take commands as they stand in their stream; each is removed when what it asks for is journalled."""
        stream, pattern = self._subjects.stream("command"), self._subjects.command()
        subscription = await patiently(self._bus, lambda: self._bus.follow(stream, pattern), tries_max=None)
        try:
            async for message in subscription:
                heard = self._station.read(message)
                if heard is None:
                    await self._remove_command(message.sequence)
                else:
                    await self._take_command(heard, message)
        finally:
            await subscription.close()

    async def _take_command(self, heard: Heard, message: Message) -> None:
        body = heard.envelope.body
        sender = self._subjects.sender(message.subject, "command", 2, 0)
        event: Event | None = None
        match body:
            case StartSession() if body.session not in self._ended:
                event = StartAsked(body.config, body.blob, body.digest, body.nbytes, sender.name, _refusal(body))
            case StopSession() if body.session in self._machines:
                event = StopAsked(f"{body.reason} ({sender.name})")
            case _:
                pass
        if event is None:
            await self._remove_command(message.sequence)
            return
        assert isinstance(body, StartSession | StopSession)
        self._commands.setdefault(body.session, []).append(message.sequence)
        self._inbox.put_nowait(_Told(body.session, event))

    async def _remove_command(self, sequence: int) -> None:
        with suppress(BusUnavailable):  # it is read again after the next start, and changes nothing then
            await self._bus.delete(self._subjects.stream("command"), sequence)

    async def _tick(self) -> None:
        seen = self._bus.reconnects
        while True:
            await asyncio.sleep(TICK_S)
            now = self._clock.now()
            if not self._bus.connected:
                continue
            if self._bus.reconnects != seen:
                seen = self._bus.reconnects
                log.warning("the bus was away; asking who is there, posting everything again")
                # A broker that was restarted has no board. A post would not find that out: clients that listen on its
                # subject take it, so the broker does not say that nobody does, and each post would wait for an answer.
                await self._ensure()
                self._roster.excuse(now)
                self._unposted |= set(self._machines)
                await self._ask_who_is_there()
            if now >= self._settled_at and self._roster.expire(now):
                self._roster_changed = True
            for name, at in list(self._ended.items()):
                if now > at + FORGET_S and at:
                    self._ended[name] = 0.0
                    await self._clear_boards(name)
            self._inbox.put_nowait(_Told("", None))

    async def _clear_boards(self, session: str) -> None:
        board = self._subjects.stream("board")
        with suppress(BusUnavailable):
            await self._bus.purge(board, self._subjects.task(session=session))
            await self._bus.purge(board, self._subjects.order(session=session))

    # --- deciding ---

    async def _decide(self) -> None:
        while True:
            told = [await self._inbox.get()]
            while not self._inbox.empty():
                told.append(self._inbox.get_nowait())
            now = self._clock.now()
            touched: set[str] = set()
            for one in told:
                if one.event is None:
                    touched |= set(self._machines)
                elif self._machine_for(one):
                    touched.add(one.session)
                    await self._act(one.session, self._machines[one.session].handle(one.event, now))
            if now < self._settled_at:
                continue
            await self._settle(touched)

    def _machine_for(self, told: _Told) -> bool:
        """Whether a session's machine is there to be told.

        A command to start makes one; reports on ended ones are acknowledged.
        """
        if told.session in self._machines:
            return True
        if isinstance(told.event, StartAsked) and told.session not in self._ended:
            self._machines[told.session] = Machine(told.session)
            return True
        if isinstance(told.event, Reported):
            self._stray.append((told.event.sender, told.event.id))
        return False

    async def _settle(self, touched: set[str]) -> None:
        """Let every touched session decide until nothing more becomes true."""
        await self._enter_models()
        if self._roster_changed:
            self._roster_changed = False
            changed = RosterChanged(self._roster.names("client"), self._roster.names("combiner"))
            for name, machine in self._machines.items():
                await self._act(name, machine.handle(changed, self._clock.now()))
            touched |= set(self._machines)
        for name in sorted(self._unposted & set(self._machines)):
            self._unposted.discard(name)
            await self._act(name, self._machines[name].handle(Recovered(), self._clock.now()))
        for name in sorted(touched & set(self._machines)):
            await self._decide_session(name)
        for peer, id_ in self._stray:
            await self._station.say(self._subjects.ack(peer), reports.ReportTaken(reports=(id_,)))
        self._stray.clear()

    async def _decide_session(self, name: str) -> None:
        machine = self._machines[name]
        if machine.state.phase is Phase.NEW:
            machine.handle(
                RosterChanged(self._roster.names("client"), self._roster.names("combiner")), self._clock.now()
            )
        while effects := machine.decide(self._clock.now()):
            await self._act(name, effects)
            machine = self._machines.get(name, machine)
        for sequence in self._commands.pop(name, ()):
            await self._remove_command(sequence)
        if machine.state.phase is Phase.ENDED:
            self._forget_machine(name)

    def _forget_machine(self, name: str) -> None:
        machine = self._machines.pop(name)
        self._ended[name] = self._clock.now()
        self._end_round(name)
        self._trace.pop(name, None)
        log.info("%s: %s: %s", name, machine.state.outcome, machine.state.reason)

    # --- acting ---

    async def _act(self, name: str, effects: list[Effect]) -> None:
        posts: list[tuple[str, Body]] = []
        for effect in effects:
            match effect:
                case Append(decided, expected_last):
                    await self._append(name, decided, expected_last)
                case PostTask(client, task):
                    posts.append((self._subjects.task(client, name), task))
                case PostOrder(combiner, order):
                    posts.append((self._subjects.order(combiner, name), order))
                case Catalogue(model):
                    self._unentered[model.version] = model
                    await self._enter_models()
                case Discard(blob):
                    with suppress(BusUnavailable):  # litter costs room, nothing else
                        await self._models.remove(blob)
                case Acknowledge(receiver, ids):
                    await self._station.say(self._subjects.ack(receiver), reports.ReportTaken(reports=ids))
        if posts:
            await self._post(name, posts)

    async def _enter_models(self) -> None:
        """Enter published versions into the catalogue; what the bus does not take is tried again at the next tick."""
        for version, model in list(self._unentered.items()):
            try:
                await self._models.enter(model)
            except (BusUnavailable, BusFull) as error:
                log.warning("%s is not in the catalogue yet: %s", version, error)
                return
            del self._unentered[version]

    async def _append(self, name: str, decided: tuple[Record, ...], expected_last: int) -> None:
        """Journal records, then act on them. Where another coordinator has written, read again and decide anew."""
        machine = self._machines[name]
        now = self._clock.now()
        entry = Entry.of(now, self._station.incarnation, tuple(self._traced(name, record) for record in decided))
        self._crash(Point.DECIDED)
        try:
            sequence = await self._append_when_there_is_room(name, entry, expected_last)
        except Conflict:
            log.warning("%s: another coordinator has written the journal; reading it again", name)
            await self._reread(name)
            return
        self._crash(Point.JOURNALLED)
        for record in decided:
            _log_record(name, record)
        await self._act(name, machine.handle(Appended(entry, sequence), now))
        self._crash(Point.POSTED)
        for record in decided:
            self._trace_end(name, record)

    async def _append_when_there_is_room(self, name: str, entry: Entry, expected_last: int) -> int:
        """Append; where the broker's store is full, say so and wait: without the journal nothing may go on."""
        while True:
            try:
                return await self._journal.append(name, entry, expected_last)
            except BusFull as error:
                log.error("%s: waiting for room in the journal: %s", name, error)  # noqa: TRY400 - it says all there is
                await asyncio.sleep(FULL_RETRY_S)

    async def _reread(self, name: str) -> None:
        before = self._machines[name]
        # What was asked stays asked: its command is removed once this machine has decided.
        machine = self._machines[name] = Machine(name, start=before.start, stop=before.stop)
        for journalled in await self._journal.read(name):
            machine.handle(Replayed(journalled.entry, journalled.sequence), journalled.entry.at)
        changed = RosterChanged(self._roster.names("client"), self._roster.names("combiner"))
        machine.handle(changed, self._clock.now())
        self._unposted.add(name)
        await asyncio.sleep(TICK_S)

    async def _post(self, name: str, posts: list[tuple[str, Body]]) -> None:
        """Put bodies on the board, many at once; what the bus does not take is posted again later."""
        headers = {"traceparent": trace} if (trace := self._trace.get(name)) else None
        board = self._subjects.stream("board")

        async def post(subject: str, data: Payload) -> None:
            async with self._posting:
                try:
                    await self._bus.append(board, subject, data, headers=headers, deadline_s=POST_DEADLINE_S)
                except (BusUnavailable, BusFull) as error:
                    log.debug("%s: not posted to %s: %s", name, subject, error)
                    self._unposted.add(name)

        async with together() as group:
            for subject, body in posts:
                group.create_task(post(subject, encode(self._station.envelope(body))))

    # --- traces: one per round ---

    def _traced(self, name: str, record: Record) -> Record:
        """Begin a round's span.

        Its context is journalled, so that whoever goes on with the round stays in its trace.
        """
        if not isinstance(record, records.RoundOpened):
            return record
        attributes: dict[str, telemetry.AttributeValue] = {
            telemetry.WORKSPACE: self._subjects.workspace,
            telemetry.SESSION: name,
            telemetry.ROUND: record.round,
            telemetry.ATTEMPT: record.attempt,
            telemetry.MODEL_VERSION: record.version,
            telemetry.STRATEGY: self._machines[name].state.config.strategy,
        }
        self._end_round(name)
        span = self._rounds[name] = self._traces.start_span("round", attributes=attributes)
        self._trace[name] = span.headers.get("traceparent", "")
        return record.model_copy(update={"traceparent": self._trace[name]})

    def _trace_end(self, name: str, record: Record) -> None:
        span = self._rounds.get(name)
        if span is None:
            return
        match record:
            case records.RoundClosed():
                span.set(telemetry.UPDATES, record.counted)
                span.set(telemetry.BYTES, record.bytes_up + record.bytes_down)
                machine = self._machines.get(name)
                if machine is None or machine.state.phase is not Phase.EVALUATING:
                    self._end_round(name)
            case records.RoundFailed():
                span.fail(record.reason)
                self._end_round(name)
            case records.RoundEvaluated():
                self._end_round(name)
            case _:
                span.event(record.kind, self._event_attributes(name, record) if self._traces.enabled else None)

    def _event_attributes(self, name: str, record: Record) -> dict[str, telemetry.AttributeValue]:
        """Say why something became true, and what is waited for from then on."""
        found: dict[str, telemetry.AttributeValue] = {}
        reason = getattr(record, "reason", "")
        if reason:
            found[telemetry.REASON] = reason
        machine = self._machines.get(name)
        for wait in machine.waits() if machine is not None else ():
            found[telemetry.WAIT] = wait.what
        return found

    def _end_round(self, name: str) -> None:
        span = self._rounds.pop(name, None)
        if span is not None:
            span.end()

    # --- answering ---

    async def _answer(self, asked: Subscription) -> None:
        async for message in asked:
            if not message.reply:
                continue
            (what,) = self._subjects.tokens(message.subject, "query", 1)
            answer = encode(self._station.envelope(self._answer_to(what)))
            try:
                # The asker names where to answer: never a subject on which it may not publish but we may.
                self._subjects.check_foreign(message.reply)
                await self._station.send(message.reply, answer)
            except (BadMessage, ConfigError) as error:
                self._station.refuse(BadMessage(f"{message.subject}: the answer cannot be sent: {error}"))

    def _answer_to(self, what: str) -> Body:
        roles = {"clients": "client", "combiners": "combiner", "coordinators": "coordinator"}
        if what in roles:
            return queries.Roster(
                peers=tuple(
                    queries.Seen(
                        role=peer.role,
                        name=peer.name,
                        incarnation=known.hello.incarnation,
                        attributes=known.hello.attributes,
                        version=known.hello.version,
                        doing=known.hello.doing,
                        since_at=known.since_at,
                        seen_at=known.seen_at,
                    )
                    for peer, known in sorted(self._roster.peers.items())
                    if peer.role == roles[what]
                )
            )
        if what == "waits":
            return queries.Waits(
                waits=tuple(w for name in sorted(self._machines) for w in self._machines[name].waits())
            )
        return queries.Refused(reason=f"expected one of {', '.join([*roles, 'waits'])}, got {what[:64]}")


def _refusal(start: StartSession) -> str:
    """Return why a session cannot run; empty if it can."""
    try:
        aggregator = find(start.config.strategy)
        aggregator.parse(start.config.strategy_options)
    except ConfigError as error:
        return str(error)
    if aggregator.family is not Family.LINEAR or aggregator.state_names or aggregator.scalar_names:
        return f"strategy {aggregator.name}: sessions can run linear strategies without server state only, for now"
    return ""


def _log_record(name: str, record: Record) -> None:
    """One line for what became true."""
    match record:
        case records.RoundOpened():
            log.info("%s: round %d: %d clients asked", name, record.round, len(record.clients))
        case records.UpdatesRecorded():
            for refused in record.refused:
                log.warning("%s: round %d: %s refused: %s", name, record.round, refused.client, refused.reason)
        case records.RoundClosing() | records.RoundFailed() | records.ClientsMoved():
            log.info("%s: round %d: %s: %s", name, record.round, record.kind, record.reason)
        case records.ModelPublished():
            log.info("%s: round %d: published %s (%d bytes)", name, record.round, record.version, record.nbytes)
        case records.RoundEvaluated():
            log.info("%s: round %d: %s", name, record.round, record.metrics)
        case _:
            log.debug("%s: %s", name, record.kind)
