"""What only the leader does: lets one machine per session decide, journals, posts, acknowledges.

Everything that happens goes through one inbox (`fedbus.coordinator.inbox`). When it is empty, each session that was
touched decides: its records are appended (the coordinator waits for that), then what follows is posted on the boards
and acknowledged. So many reports become one append. What no decision waits for is done beside (`chores`).

Whether the lease is valid is asked just before an append, each post and each acknowledgement. Where it is not, nothing
is lost: what is not appended waits, what is not posted is posted again, what is not acknowledged is said again.

A session whose entry finds no room in the broker's store keeps it, is tried again, and says among its waits that it
waits; it hears no reports meanwhile, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial

from fedbus.access.envelopes import PostSigner
from fedbus.access.signing import ModelSigner
from fedbus.clock import Clock
from fedbus.coordinator.chores import Chores
from fedbus.coordinator.deeds import Deeds
from fedbus.coordinator.events import (
    Acknowledge,
    Append,
    Appended,
    Catalogue,
    Discard,
    Effect,
    Event,
    Expire,
    NotPosted,
    PostOrder,
    PostTask,
    ReadAgain,
    Recovered,
    Reported,
    StartAsked,
)
from fedbus.coordinator.hearing import Hearing
from fedbus.coordinator.inbox import Inbox, Told
from fedbus.coordinator.known import Known
from fedbus.coordinator.leading import Leading
from fedbus.coordinator.lines import log_record
from fedbus.coordinator.loads import tell_loads
from fedbus.coordinator.machine import Machine
from fedbus.coordinator.numbers import Numbers
from fedbus.coordinator.posting import Post, Poster
from fedbus.coordinator.roster import Roster
from fedbus.coordinator.rounds import RoundTraces
from fedbus.coordinator.sessions import Sessions
from fedbus.coordinator.state import Phase
from fedbus.coordinator.strays import Strays
from fedbus.crash import Crash, Point
from fedbus.errors import BusFull, Conflict
from fedbus.exchange.station import Station
from fedbus.messages import records, reports
from fedbus.messages.ids import Peer
from fedbus.messages.queries import Wait
from fedbus.messages.records import Entry
from fedbus.store.journal import Journal

log = logging.getLogger("fedbus.coordinator")

FULL_RETRY_S = 1.0
"""How often a full journal is tried again: who makes room wants to see it go on, and the log is to stay short."""

REREAD_PAUSE_S = 0.5
"""Before deciding again where somebody else has written: two that both believe to lead take turns, not races."""


@dataclass(slots=True)
class _Held:
    """An entry for which there is no room in the journal."""

    append: Append
    since_at: float
    again_at: float
    reason: str


class Deciding:
    """The leader's work.

    ``settled_at``: until then (by the loop's clock) nobody's absence is believed. ``restore``: called when a journal
    has lost what is known of it here. ``sessions_max``: how many may run at once, 0: any number.
    """

    def __init__(
        self,
        station: Station,
        sessions: Sessions,
        journal: Journal,
        *,
        inbox: Inbox,
        hearing: Hearing,
        roster: Roster,
        leading: Leading,
        chores: Chores,
        rounds: RoundTraces,
        numbers: Numbers,
        crash: Crash,
        restore: Callable[[], Awaitable[Collection[str]]],
        key_of: Callable[[str], bytes],
        signer: ModelSigner | None = None,
        post_signer: PostSigner | None = None,
        deeds: Deeds,
        sessions_max: Callable[[], int] = lambda: 0,
    ) -> None:
        self.settled_at = 0.0
        self._restore = restore
        self._sessions_max = sessions_max
        self._station = station
        self._subjects = station.subjects
        self._sessions = sessions
        self._machines = sessions.machines
        self._journal = journal
        self._inbox = inbox
        self._hearing = hearing
        self._roster = roster
        self._leading = leading
        self._clock: Clock = leading.time
        self._chores = chores
        self._poster = Poster(station, lambda: leading.valid_s, key_of, signer, post_signer)
        self._rounds = rounds
        self._numbers = numbers
        self._deeds = deeds
        self._crash = crash
        self._strays = Strays(station.bus, station.subjects)
        self._commands: dict[str, list[int]] = {}
        self._unposted: dict[str, NotPosted] = {}
        self._held: dict[str, _Held] = {}
        self._recovered: set[str] = set()
        self._ended: dict[str, Machine] = {}
        self._stale: set[str] = set()
        self._loads_changed = False
        self._appending = ""

    def begin(self) -> None:
        """Take over: the machines know what the journal says; what was told to somebody else is told again."""
        self._strays.clear()
        for noted in (self._commands, self._unposted, self._held, self._stale):
            noted.clear()
        self._inbox.clear()
        self._stale |= self._sessions.broken
        self._appending = ""
        changed, now = self._roster.changed(), self._clock.now()
        for machine in self._machines.values():
            machine.forget()
            machine.handle(changed, now)  # what follows of it is posted with all the rest
        self._hearing.roster_changed = False
        self.repost()
        self._loads_changed = True
        self._inbox.tick()

    def repost(self) -> None:
        """Post everything again: the boards are not what they should be, or nobody knows whether they are."""
        self._recovered |= set(self._machines)
        self._ended = self._sessions.recent(self._clock.now())
        self._inbox.tick()

    def tick(self) -> None:
        """Say that time has passed."""
        self._loads_changed = self._loads_changed or len(self._machines) > 1
        self._inbox.tick()

    def overtaken(self, session: str) -> None:
        """Hear that the journal has an entry of a session that is not known."""
        if session != self._appending and self._sessions.is_overtaken(session):
            self._stale.add(session)
            self._inbox.tick()

    def waits(self) -> list[Wait]:
        """Return what waits: each session, by name."""
        return [wait for name in sorted(self._machines) for wait in self._waits_of(name)]

    def _waits_of(self, name: str) -> Iterable[Wait]:
        machine, held = self._machines[name], self._held.get(name)
        of_session = machine.waits(self._clock.now())
        if held is None:
            return of_session
        full = Wait(
            session=name,
            round=of_session[0].round if of_session else 0,
            what=f"waiting for room in the broker's store: {held.reason}"[:2000],
            since_at=held.since_at,
            until_at=held.again_at,
            then="it is tried again",
        )
        return [full, *of_session]

    async def run(self) -> None:
        """Decide, as there is something new; runs until cancelled."""
        await self._hearing.take_kept()
        while True:
            told, ticked = await self._inbox.take()
            await self._leading.until_valid()
            now = self._clock.now()
            touched: set[str] = set(self._machines) if ticked else set()
            for one in told:
                if self._is_for_machine(one):
                    assert one.event is not None
                    touched.add(one.session)
                    event = self._bounded(one.session, one.event)
                    await self._act(one.session, self._machines[one.session].handle(event, now))
            if asyncio.get_running_loop().time() >= self.settled_at:
                await self._settle(touched, again=ticked)

    def _is_for_machine(self, told: Told) -> bool:
        """Whether a session's machine is there to be told. A command to start makes one."""
        name, event = told.session, told.event
        if told.command:
            self._commands.setdefault(name, []).append(told.command)
        if name in self._machines:
            return not (name in self._held and isinstance(event, Reported))
        if isinstance(event, StartAsked) and name not in self._sessions.ended:
            machine = self._machines[name] = Machine(name)
            machine.handle(self._roster.changed(), self._clock.now())
            self._loads_changed = True
            return True
        if isinstance(event, Reported):
            self._strays.add(name, (event.sender, event.id), ended=name in self._sessions.ended)
        self._forget_commands(name)
        return False

    def _bounded(self, name: str, event: Event) -> Event:
        """Return what a machine is told: the start of a session more than may run at once is told as refused."""
        most = self._sessions_max()
        if not most or not isinstance(event, StartAsked) or event.refusal:
            return event
        others = [machine for other, machine in self._machines.items() if other != name and not machine.is_refused]
        if len(others) < most:
            return event
        return replace(event, refusal=f"{len(others)} sessions run, and the workspace's bound is {most} at once")

    async def _settle(self, touched: set[str], *, again: bool) -> None:
        """Let every touched session decide until nothing more becomes true. ``again``: time has passed."""
        touched |= await self._read_again()
        await self._tell_roster(touched)
        now = self._clock.now()
        for name in sorted(self._recovered & set(self._machines)):
            self._recovered.discard(name)
            self._unposted.pop(name, None)
            await self._act(name, self._machines[name].handle(Recovered(), now))
        ended, self._ended = self._ended, {}
        for name, machine in ended.items():
            machine.handle(self._roster.changed(), now)
            await self._act(name, machine.handle(Recovered(), now))
        for name in sorted(self._unposted) if again else ():
            left = self._unposted.pop(name)
            if name in self._machines:
                await self._act(name, self._machines[name].handle(left, now))
        for name in sorted(touched & set(self._machines)):
            await self._decide(name)
        for peer, ids in self._strays.useless():
            await self._acknowledge(peer, ids)

    async def _tell_roster(self, touched: set[str]) -> None:
        if not self._hearing.roster_changed:
            return
        self._hearing.roster_changed = False
        changed, now = self._roster.changed(), self._clock.now()
        for name, machine in list(self._machines.items()):
            effects = machine.handle(changed, now)
            if name not in self._recovered:
                await self._act(name, effects)
        touched |= set(self._machines)

    async def _decide(self, name: str) -> None:
        if self._loads_changed:
            self._loads_changed = False
            tell_loads(self._machines, self._clock.now())
        if name in self._held and not await self._is_written(name):
            return
        machine = self._machines[name]
        while self._leading.valid and name not in self._held and (effects := machine.decide(self._clock.now())):
            await self._act(name, effects)
            machine = self._machines.get(name, machine)
        if not self._leading.valid or name in self._held:
            return
        self._forget_commands(name)
        if machine.state.phase is Phase.ENDED:
            self._end(name)

    def _forget_commands(self, name: str) -> None:
        for sequence in self._commands.pop(name, ()):
            self._chores.forget(sequence)

    def _end(self, name: str) -> None:
        machine = self._sessions.end(name, self._clock.now())
        self._chores.ended(name)
        self._loads_changed = True
        log.info("%s: %s: %s", name, machine.state.outcome, machine.state.reason)

    # --- acting ---

    async def _act(self, name: str, effects: list[Effect]) -> None:  # noqa: C901 - one case an effect, nothing nested
        posts: list[Post] = []
        for effect in effects:
            match effect:
                case Append():
                    await self._append(name, effect)
                case PostTask() | PostOrder():
                    posts.append(effect)
                case Catalogue(model):
                    self._chores.enter(model)
                case Discard(blob):
                    self._chores.discard(blob)
                case Expire(model):
                    self._chores.expire(model)
                case Acknowledge(receiver, ids):
                    await self._acknowledge(receiver, ids)
                case ReadAgain():
                    self._strays.doubt(name)
        if posts:
            left = await self._poster.post(name, posts, partial(self._rounds.headers, name))
            if left is not None:
                before = self._unposted.get(name, left)
                self._unposted[name] = NotPosted(
                    before.clients | left.clients, before.combiners | left.combiners
                )  # fmt: skip

    async def _acknowledge(self, receiver: Peer, ids: Iterable[str]) -> None:
        if self._leading.valid:
            await self._station.say(self._subjects.ack(receiver), reports.ReportTaken(reports=tuple(ids)))

    async def _append(self, name: str, append: Append) -> None:
        """Journal records, then act on them. Where another coordinator has written, read again and decide anew."""
        append = Append(self._rounds.begun(self._machines[name], append.records), append.expected_last)
        await self._write(name, append)

    async def _write(self, name: str, append: Append) -> bool:
        """Write an entry, and do what follows; False where there is no room for it yet."""
        machine, decided = self._machines[name], append.records
        await self._leading.until_valid()
        now = self._clock.now()
        entry = Entry.of(now, self._station.incarnation, decided, self._leading.term)
        self._crash(Point.DECIDED)
        self._appending = name
        try:
            sequence = await self._journal.append(name, entry, append.expected_last)
        except Conflict:
            log.warning("%s: another coordinator has written the journal; reading it again", name)
            self._held.pop(name, None)
            self._rounds.given_up(name)
            await self.reread(name)
            await asyncio.sleep(REREAD_PAUSE_S)
            return False
        except BusFull as error:
            self._hold(name, append, str(error))
            return False
        finally:
            self._appending = ""
        self._sessions.copies.keep(name, sequence, self._journal.written)  # what is heard of it may never come
        self._held.pop(name, None)
        self._crash(Point.JOURNALLED)
        await self._written(name, machine, Appended(decided, now, sequence))
        return True

    async def _written(self, name: str, machine: Machine, appended: Appended) -> None:
        decided, start = appended.records, machine.known.start
        for record in decided:
            log_record(name, record)
            self._deeds.journalled(name, record, start.by if start is not None else machine.state.by)
        if len(self._machines) > 1 and not all(isinstance(record, records.UpdatesRecorded) for record in decided):
            self._loads_changed = True
        self._rounds.changed_to_next(name, decided)
        effects = machine.handle(appended, appended.at)
        if self._sessions.is_overtaken(name):
            self._stale.add(name)
        await self._act(name, effects)
        self._crash(Point.POSTED)
        self._rounds.journalled(machine, decided)
        self._numbers.noted(machine, decided, appended.at)

    # --- no room ---

    def _hold(self, name: str, append: Append, reason: str) -> None:
        now = self._clock.now()
        held = self._held.get(name)
        if held is None:
            log.error("%s: waiting for room in the journal: %s", name, reason)
        self._held[name] = _Held(append, held.since_at if held else now, now + FULL_RETRY_S, reason)

    async def _is_written(self, name: str) -> bool:
        """Try to write what was held, when it is time to."""
        held = self._held[name]
        if self._clock.now() < held.again_at or not self._leading.valid:
            return False
        return await self._write(name, held.append)

    # --- reading again ---

    async def _read_again(self) -> set[str]:
        """Read the journals of sessions that are behind; returns their names."""
        for name in await self._strays.look({name: machine.state.sequence for name, machine in self._machines.items()}):
            self._stale.add(name)
        stale, self._stale = self._stale, set()
        for name in sorted(stale):
            await self.reread(name)
        return stale

    async def reread(self, name: str, *, lost: bool = False) -> None:
        """Read a session's journal from its beginning; what was reported comes again.

        ``lost``: what it has lost is lost here, too, or was written again: take it as it is.
        """
        machine = self._machines.get(name)
        before, known = (machine.known, machine.state.sequence) if machine else (Known(), 0)
        entries = await self._journal.read(name)
        if (entries[-1].sequence if entries else 0) < known and not lost:
            log.error("%s: its journal has lost entries up to %d; they are known here still", name, known)
            if name not in await self._restore():
                await self.reread(name, lost=True)
            return
        if known and not entries:
            log.error("%s: its journal is gone, and there is no copy of it here: fedbus restore DIR", name)
            self._sessions.lost(name)
            return
        self._sessions.read(name, entries)
        # One that led before us may have had an entry on its way, of a time that we could not know of.
        self._roster.shift(self._leading.time.reach(self._sessions.last_at))
        self._held.pop(name, None)
        if name in self._machines:
            machine = self._machines[name]
            # What was asked stays asked: its command is removed once this machine has decided.
            machine.known.start, machine.known.stop = before.start, before.stop
            machine.handle(self._roster.changed(), self._clock.now())
            self._recovered.add(name)
