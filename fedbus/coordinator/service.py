"""Runs a coordinator: it follows the journal and the presence of everybody, and leads, or stands by.

Any number of coordinators may run. One of them holds the lease (`fedbus.coordinator.leading`) and does what only a
leader does (`fedbus.coordinator.deciding`): decide, journal, post, acknowledge, answer. The others know the same as it
does, from the same journal and the same words of presence, so whoever takes over goes on at once.

After a start, or when the bus was away, nothing is decided for `SETTLE_S`: everybody is asked to say that they live
first, because a roster that is empty only for lack of time would look like a loss of all combiners. A standby has had
this time long before it leads.

What a former leader had on its way may come late, and on the boards the newest word counts, whoever it is from. It
cannot be told apart there, and need not be: the former leader's `Hello` comes behind it, on the same connection. So
when a coordinator is heard of that led before, or anew, everything is posted again; and whoever comes back as another
incarnation is told its task again (`Machine`), whatever it has read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from math import inf

from fedbus.access.audit import Audit
from fedbus.access.members import Members
from fedbus.access.signing import OPEN, Signing
from fedbus.bus.base import Bus, Message, Placement, Subscription
from fedbus.bus.patience import patiently
from fedbus.clock import Clock
from fedbus.coordinator.answers import answer
from fedbus.coordinator.believing import Believing
from fedbus.coordinator.chores import Chores
from fedbus.coordinator.countersigning import Countersigning
from fedbus.coordinator.deciding import FULL_RETRY_S, Deciding
from fedbus.coordinator.deeds import Deeds
from fedbus.coordinator.events import ModelMissing
from fedbus.coordinator.hearing import Hearing
from fedbus.coordinator.inbox import Inbox, Told
from fedbus.coordinator.leading import Leading
from fedbus.coordinator.listening import Listening
from fedbus.coordinator.machine import Machine
from fedbus.coordinator.numbers import Numbers
from fedbus.coordinator.recovery import missing_models, put_back
from fedbus.coordinator.roster import Roster
from fedbus.coordinator.rounds import RoundTraces, Sampling
from fedbus.coordinator.sessions import Sessions
from fedbus.coordinator.showing import show_board
from fedbus.crash import Crash, never
from fedbus.errors import BusFull, BusUnavailable, FedbusError
from fedbus.exchange.numbers import watch_bus
from fedbus.exchange.spans import carry
from fedbus.exchange.station import Station
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Hello, WhoIsThere
from fedbus.messages.records import RESTORED
from fedbus.store.journal import Journal, mark_of
from fedbus.store.models import ModelStore
from fedbus.store.registry import RegistryStore
from fedbus.store.streams import ensure_streams
from fedbus.telemetry import Telemetry
from fedbus.together import together
from fedbus.workers import Workers

log = logging.getLogger("fedbus.coordinator")

HEARTBEAT_S = 2.0
SETTLE_S = 1.0
"""Silence after a start in which everybody is asked to say that they live: five times the spread of the answers."""

LOOK_S = 5.0
"""How often a version that the broker has lost is looked for: whoever restores it wants to see the session go on."""

TICK_S = 0.5
"""How often deadlines and the roster are looked at, and what was not posted is posted again."""

RIVAL_SILENT_S = 3.5 * HEARTBEAT_S
"""A coordinator that was not heard for so long may have stood still with something on its way."""


class Coordinator:
    """A coordinator of a workspace."""

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
        sampling: Sampling | None = None,
        signing: Signing = OPEN,
        ears: Bus | None = None,
    ) -> None:
        """``replicas`` and ``placement`` are of the workspace's streams; 0 and None leave existing ones as they are.

        ``sampling``: how much is traced, where traces go anywhere. ``signing``: with which it signs models, tasks and
        orders, opens what is sealed, and knows whose reports and commands count. ``ears``: another connection, by which
        it hears what clients say: however much that is, what it asks of the broker does not wait behind it.
        """
        self._ears = bus if ears is None else ears
        me = Peer("coordinator", name)
        self._replicas, self._placement = replicas, placement
        self._bus = bus
        self._station = Station(bus, workspace, me, incarnation, clock, heartbeat_s=HEARTBEAT_S)
        self._subjects = self._station.subjects
        self._leading = Leading(bus, self._subjects, name, incarnation, clock)
        self._station.clock = self._leading.time
        self._station.doing = self._doing
        self._journal = Journal(bus, self._subjects)
        self._models = ModelStore(bus, self._subjects, workers, signing.seal)
        registry = RegistryStore(bus, self._subjects, f"coordinator/{name}", clock)
        self._chores = Chores(bus, self._subjects, self._models, registry, self._is_used, signing.model_signer)
        self._countersigning = Countersigning(bus, self._subjects, self._journal, self._chores)
        self._traces = traces or Telemetry.off()
        self._rounds = RoundTraces(self._traces, workspace, sampling)
        self._numbers = Numbers(self._traces.meters)
        self._listening = Listening(self._station, self._traces.meters, self._ears)
        self._sessions = Sessions(self._subjects, self._rounds)
        self._roster = Roster()
        self._inbox = Inbox()
        audit = None if signing.signer is None else Audit(bus, self._subjects, me, clock)
        self._deeds = Deeds(audit, name)
        self._bounds = Members(bus, self._subjects, clock)
        self._is_bounded = signing.signer is not None
        self._hearing = Hearing(
            self._station,
            self._roster,
            self._inbox,
            self._chores,
            may_start=lambda session: session not in self._sessions.ended,
            may_stop=lambda session: session in self._sessions.machines,
            leads=lambda: self._reigns,
            rival=self._heard_rival,
            deeds=self._deeds,
            believing=Believing(self._station, signing.verifier, self._numbers.refused),
        )
        self._deciding = Deciding(
            self._station,
            self._sessions,
            self._journal,
            inbox=self._inbox,
            hearing=self._hearing,
            roster=self._roster,
            leading=self._leading,
            chores=self._chores,
            rounds=self._rounds,
            numbers=self._numbers,
            crash=crash,
            restore=self._restore,
            key_of=self._models.key_of,
            signer=signing.model_signer,
            post_signer=signing.post_signer,
            deeds=self._deeds,
            sessions_max=lambda: self._bounds.bounds.sessions_max,
        )
        self._reigns = False
        self._restoring = asyncio.Lock()
        self._has_read = asyncio.Event()

    @property
    def machines(self) -> Mapping[str, Machine]:
        """The sessions under way, to be looked at; a standby's are as its copy of the journal says."""
        return self._sessions.machines

    @property
    def leads(self) -> bool:
        """Whether it leads now, and its lease is valid."""
        return self._reigns and self._leading.valid

    @property
    def sessions(self) -> Sessions:
        """What is known of the journal; ``sessions.copies`` are its entries as they were stored."""
        return self._sessions

    async def run(self) -> None:
        """Coordinate, or stand by, until cancelled; then give the lease back and say `Bye`."""
        self._numbers.watch(leads=lambda: self._reigns, inbox=lambda: len(self._inbox))
        watch_bus(self._traces.meters, self._bus)
        await self._ensure()
        presence = await self._listening.presence()
        reported = await self._listening.reports()
        try:
            await self._ask_who_is_there()
            async with together() as group:
                for work in (
                    self._station.present(),
                    carry(self._station, self._traces),
                    self._hearing.presence(presence),
                    self._hearing.reports(reported),
                    self._deeds.run(),
                    self._follow(),
                    self._tick(),
                    self._lead(),
                ):
                    group.create_task(work)
                if self._is_bounded:
                    group.create_task(self._bounds.follow_bounds())
        finally:
            with suppress(FedbusError):
                await self._leading.leave()
                await self._chores.finish()
                await self._deeds.finish()
                await self._station.leave()
            for subscription in (presence, reported):
                await subscription.close()
            self._rounds.close()

    def _is_used(self, blob: str) -> bool:
        """Whether a session that makes no version of its own asks clients for a blob."""
        return any(not one.state.config.rounds and one.state.blob == blob for one in self.machines.values())

    def _doing(self) -> str:
        if not self._reigns:
            return "stands by"
        return f"leads {len(self._sessions.machines)} sessions (term {self._leading.term})"

    async def _ensure(self) -> None:
        """Bring the streams to their description, however long the bus takes to be there."""
        await patiently(
            self._bus,
            lambda: ensure_streams(self._bus, self._subjects, replicas=self._replicas, placement=self._placement),
            tries_max=None,
        )

    # --- what leader and standby do alike ---

    async def _follow(self) -> None:
        """Follow the journal of all sessions."""
        there = await self._journal_holds()
        stream, pattern = self._subjects.stream("journal"), self._subjects.journal()
        follow = await patiently(self._bus, lambda: self._bus.follow(stream, pattern), tries_max=None)
        try:
            if not there:
                self._has_read.set()
            async for message in follow:
                if self._reigns:
                    name = self._sessions.hear(message)
                    if name:
                        self._deciding.overtaken(name)
                else:
                    self._sessions.follow(message)
                if mark_of(message.data) == RESTORED:
                    await self._copy_again(message)
                if not message.pending:
                    self._has_read.set()
                self._numbers.lag = message.pending
        finally:
            await follow.close()

    async def _copy_again(self, message: Message) -> None:
        """Keep a journal as it is that was written again just now; versions that came with it are signed."""
        (name,) = self._subjects.tokens(message.subject, "journal", 1)
        self._countersigning.restored(name)
        if name in self._sessions.machines:
            there = await self._journal.messages(name)
            self._sessions.copies.refill(name, [(one.sequence, one.data) for one in there])

    async def _journal_holds(self) -> int:
        stream, pattern = self._subjects.stream("journal"), self._subjects.journal()
        return await patiently(self._bus, lambda: self._bus.pending(stream, pattern), tries_max=None)

    async def _ask_who_is_there(self) -> None:
        self._deciding.settled_at = asyncio.get_running_loop().time() + SETTLE_S
        await self._station.say(self._subjects.whois(), WhoIsThere())

    async def _tick(self) -> None:
        seen = self._times_away
        while True:
            await asyncio.sleep(TICK_S)
            if self._numbers.wanted:
                waits = self._deciding.waits if self._reigns else list
                self._numbers.look(self._roster, waits, self._station.clock.now())
            if not (self._bus.connected and self._ears.connected):
                continue
            if self._times_away != seen:
                seen = self._times_away
                await self._came_back()
            settled = asyncio.get_running_loop().time() >= self._deciding.settled_at
            if settled and self._roster.expire(self._station.clock.now()):
                self._hearing.roster_changed = True
            if self._reigns:
                self._chores.tick()
                self._deciding.tick()

    @property
    def _times_away(self) -> int:
        """How often the bus, or what was said to us, was away."""
        return self._bus.reconnects + (0 if self._ears is self._bus else self._ears.reconnects)

    async def _came_back(self) -> None:
        """The bus was away: whoever was not heard could not be, and boards may be gone.

        A broker that was restarted has no board. A post would not find that out: clients that listen on its subject
        take it, so the broker does not say that nobody does, and each post would wait for an answer.
        """
        log.warning("the bus was away; asking who is there, posting everything again")
        self._deciding.settled_at = inf
        await self._ensure()
        if not await self._journal_holds():
            self._has_read.set()
        self._roster.excuse(self._station.clock.now())
        if self._reigns:
            await self._restore()
            self._deciding.repost()
        await self._ask_who_is_there()

    async def _restore(self) -> Collection[str]:
        """Give the journal back what it has lost, where the broker came back without it; returns of which sessions."""
        async with self._restoring:
            changed: list[str] | None = None
            while changed is None:
                try:
                    changed = await put_back(self._journal, self._bus, self._subjects, self._sessions.copies)
                except BusFull as error:
                    log.error("waiting for room to write the journal again: %s", error)  # noqa: TRY400 - it says all
                    await asyncio.sleep(FULL_RETRY_S)
            for name in changed:
                await self._deciding.reread(name, lost=True)
            return changed

    async def _finish_restoring(self) -> None:
        """Write to the end what a former leader, or we ourselves, began to write again, where it is known here."""
        if any(machine.state.held for machine in self.machines.values()):
            await self._restore()

    async def _look_for_models(self) -> None:
        """Say which sessions' newest version the broker has lost.

        It is looked when the bus was away, when a client could not fetch one, and while one is missing.
        """
        seen, missing = -1, dict[str, str]()
        while True:
            doubted = {name: blob for name, machine in self.machines.items() if (blob := machine.known.missing[0])}
            if self._bus.connected and (missing or doubted or self._bus.reconnects != seen):
                before, looked = missing | doubted, self._bus.reconnects
                with suppress(BusUnavailable):
                    missing = await missing_models(self._models, self.machines)
                    seen = looked
                now = self._station.clock.now()
                for name, blob in (before | missing).items():
                    self._inbox.put(Told(name, ModelMissing(blob, now if name in missing else 0.0)))
            await asyncio.sleep(LOOK_S if missing else TICK_S)

    def _heard_rival(self, peer: Peer, hello: Hello) -> None:
        """Hear another coordinator; where it may have had something on its way, everything is posted again."""
        known = self._roster.peers.get(peer)
        still = (
            known is None
            or known.hello.incarnation != hello.incarnation
            or self._station.clock.now() > known.seen_at + RIVAL_SILENT_S
        )
        led = hello.incarnation in self._leading.deposed
        self._leading.deposed.pop(hello.incarnation, None)
        if self._reigns and (still or led):
            self._deciding.repost()

    # --- the leader ---

    async def _lead(self) -> None:
        """Lead whenever the lease is ours; what is known of the journal then is all of it."""
        await self._has_read.wait()
        self._leading.outranked(self._sessions.term)
        async with together() as group:
            group.create_task(self._leading.run())
            while True:
                term = await self._leading.begun()
                reign = group.create_task(self._reign())
                await self._leading.over(term)
                reign.cancel()
                await asyncio.wait([reign])

    async def _reign(self) -> None:
        asked = await self._station.listen(self._subjects.query())
        boards = await self._listening.boards()
        try:
            self._begin()
            async with together() as group:
                for work in (
                    self._deciding.run(),
                    self._hearing.commands(),
                    self._chores.run(),
                    self._enter_versions(),
                    self._countersigning.run(),
                    self._look_for_models(),
                    self._finish_restoring(),
                    self._answer(asked),
                    show_board(self._station, boards),
                ):
                    group.create_task(work)
        finally:
            self._reigns = False
            self._sessions.stand_by()
            self._rounds.stand_by()
            await asked.close()
            await boards.close()

    def _begin(self) -> None:
        self._reigns = True
        jump_s = self._leading.time.adopt(self._sessions.last_at, under_way=bool(self._sessions.machines))
        if abs(jump_s) > 0.001:
            log.info("time goes on from the former leader's: %+.3f s from this machine's", jump_s)
            self._roster.shift(jump_s)
        for name in self._sessions.ended:
            self._chores.ended(name)
        self._deciding.begin()
        if self._sessions.machines:
            names = ", ".join(sorted(self._sessions.machines)[:10])
            log.info("goes on with %d sessions: %s", len(self._sessions.machines), names)

    async def _answer(self, asked: Subscription) -> None:
        await answer(self._station, asked, self._roster, self._deciding.waits, self._station.clock.now)

    async def _enter_versions(self) -> None:
        """Enter versions that a former leader published and did not live to enter."""
        published = dict(self._sessions.published)
        if published:
            entered = await patiently(self._bus, self._models.list, tries_max=None)
            for version in published.keys() - {model.version for model in entered}:
                self._chores.enter(published[version])
            for version in published:
                self._sessions.published.pop(version, None)
