"""What comes in to a coordinator: words of presence, reports, commands. Each is checked, and goes into the inbox.

A standby hears presence as the leader does, and keeps the reports of the last seconds as they came: whoever takes over
goes on with them at once, instead of waiting until they are said again. Commands are read by the leader alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from fedbus.bus.base import Message, Subscription
from fedbus.bus.patience import patiently
from fedbus.coordinator.believing import Believing
from fedbus.coordinator.chores import Chores
from fedbus.coordinator.deeds import Deeds
from fedbus.coordinator.events import Report, Reported, StartAsked, StopAsked
from fedbus.coordinator.inbox import Inbox, Told
from fedbus.coordinator.roster import Roster
from fedbus.errors import BadMessage, ConfigError
from fedbus.exchange.station import Heard, Station
from fedbus.messages import reports
from fedbus.messages.commands import StartSession, StopSession, author_of
from fedbus.messages.envelope import Body
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Bye, Hello
from fedbus.messages.registry import IMPORTED
from fedbus.planning import plan_of

log = logging.getLogger("fedbus.coordinator")

KEPT_S = 10.0
"""How long a standby keeps a report: a little longer than the longest pause before its sender repeats it."""

KEPT_BYTES_MAX = 64 * 2**20
"""Most bytes of the reports that a standby keeps; older ones are said again to whoever leads."""

SLICE_BYTES = 64 * 1024
"""Of these, so many are taken before the loop may do something else: some 70 reports that are signed, 5 ms."""


class Hearing:
    """Listens, and tells the inbox. ``may_start``, ``may_stop``: whether a command for a session is of any use.

    ``leads``: whether reports are for us. ``rival``: called when another coordinator is heard of anew.
    ``deeds``: where commands are written down. ``believing``: whose word counts.
    """

    def __init__(
        self,
        station: Station,
        roster: Roster,
        inbox: Inbox,
        chores: Chores,
        *,
        may_start: Callable[[str], bool],
        may_stop: Callable[[str], bool],
        leads: Callable[[], bool],
        rival: Callable[[Peer, Hello], None],
        deeds: Deeds,
        believing: Believing,
    ) -> None:
        self._station = station
        self._roster = roster
        self._inbox = inbox
        self._chores = chores
        self._may_start = may_start
        self._may_stop = may_stop
        self._leads = leads
        self._rival = rival
        self._deeds = deeds
        self._believing = believing
        self._kept: OrderedDict[int, tuple[float, Message]] = OrderedDict()
        self._kept_bytes = 0
        self.roster_changed = False

    # --- presence ---

    async def presence(self, presence: Subscription) -> None:
        """Hear who is there; runs until cancelled."""
        async for message in presence:
            heard = self._station.read(message)
            try:
                peer = self._station.subjects.sender(message.subject, "presence", 2, 0)
                changed = heard is not None and self._note_presence(peer, heard.envelope.body, heard.envelope.id)
            except BadMessage as error:
                self._station.refuse(error)
                continue
            if heard is None:
                # Perhaps of a newer release: whatever we say, its own decoder tells it which version we speak.
                await self._station.say(self._station.subjects.ack(peer), reports.ReportTaken(reports=()))
            elif changed:
                self.roster_changed = True
                self._inbox.tick()
            if self._roster.taken:
                await self._tell_taken()

    async def _tell_taken(self) -> None:
        """Tell those that live under a name that is another's; a standby leaves it to the leader."""
        taken = list(self._roster.taken)
        self._roster.taken.clear()
        for peer, told in taken:
            if self._leads():
                log.warning("%s %s: two processes under one name; told %s to end", *peer, told.incarnation)
                await self._station.say(self._station.subjects.ack(peer), told)

    def _note_presence(self, peer: Peer, body: Body, id_: str) -> bool:
        """Take note of who is there; returns whether that changed."""
        match body:
            case Hello() as hello:
                if peer.role == "coordinator" and hello.incarnation != self._station.incarnation:
                    self._rival(peer, hello)
                return self._roster.hello(peer, hello, self._station.clock.now(), id_)
            case Bye() as bye:
                return self._roster.bye(peer, bye, self._station.clock.now())
            case _:
                return False

    # --- reports ---

    async def reports(self, reported: Subscription) -> None:
        """Hear what combiners and clients report; runs until cancelled."""
        async for message in reported:
            if self._leads():
                self._take_report(message)
            else:
                self._keep_report(message)

    def _keep_report(self, message: Message) -> None:
        now = asyncio.get_running_loop().time()
        said = hash((message.subject, bytes(message.data)))  # what is said again has the same bytes: once is enough
        if self._kept.pop(said, None) is None:
            self._kept_bytes += len(message.data)
        self._kept[said] = now, message
        while self._kept and (self._oldest_at < now - KEPT_S or self._kept_bytes > KEPT_BYTES_MAX):
            self._kept_bytes -= len(self._kept.popitem(last=False)[1][1].data)
        try:
            sender = self._station.subjects.sender(message.subject, "report", 2, 0)
        except BadMessage as error:
            self._station.refuse(error)
        else:
            self._roster.heard(sender, self._station.clock.now())

    @property
    def _oldest_at(self) -> float:
        return next(iter(self._kept.values()))[0]

    async def take_kept(self) -> None:
        """Take the reports of the last seconds: from now on they are for us.

        Those of ten thousand take a second, for their signatures: the lease is renewed in between, or it was for
        nothing.
        """
        since = asyncio.get_running_loop().time() - KEPT_S
        kept, self._kept, self._kept_bytes = self._kept, OrderedDict(), 0
        nbytes = 0
        for at, message in kept.values():
            if at >= since:
                self._take_report(message)
                nbytes += len(message.data)
            if nbytes >= SLICE_BYTES:
                nbytes = 0
                await asyncio.sleep(0)

    def _take_report(self, message: Message) -> None:
        heard = self._station.read(message)
        if heard is None:
            return
        body = heard.envelope.body
        sender = self._station.subjects.sender(heard.message.subject, "report", 2, 0)
        self._roster.heard(sender, self._station.clock.now())
        match body:
            case reports.UpdatesJudged() | reports.ModelStored() | reports.MergeFailed():
                allowed = sender.role == "combiner"
            case reports.Evaluated() | reports.TaskFailed() | reports.Withdrawn():
                allowed = sender.role == "client"
            case _:
                allowed = False
        if not allowed:
            subject = heard.message.subject
            self._station.refuse(BadMessage(f"{subject}: a {sender.role} may not report {body.kind}"))
            return
        assert isinstance(body, Report)
        report = self._believing.report(sender, heard, body)
        if report is not None:
            self._inbox.put(Told(body.session, Reported(sender, heard.envelope.id, report)))

    # --- commands ---

    async def commands(self) -> None:
        """Take commands as they stand in their stream; each is removed when what it asks for is journalled."""
        bus, subjects = self._station.bus, self._station.subjects
        stream, pattern = subjects.stream("command"), subjects.command()
        subscription = await patiently(bus, lambda: bus.follow(stream, pattern), tries_max=None)
        try:
            async for message in subscription:
                heard = self._station.read(message)
                told = self._told_of(heard, message) if heard is not None else None
                if told is not None:
                    self._inbox.put(told)
                else:
                    self._chores.forget(message.sequence)
        finally:
            await subscription.close()

    def _told_of(self, heard: Heard, message: Message) -> Told | None:
        """Return what a command asks for; None where it is of no use (any more)."""
        body = heard.envelope.body
        sender = self._station.subjects.sender(message.subject, "command", 2, 0)
        flaw = self._believing.flaw(sender, heard)
        match body:
            case StartSession() if self._may_start(body.session):
                asked = asked_by(author_of(sender, body), body)
                if flaw:  # whoever has asked waits for an answer, and the audit tells of it
                    asked = replace(asked, refusal=f"{author_of(sender, body)} has not asked for it: {flaw}")
                return Told(body.session, asked, message.sequence)
            case StopSession() if flaw:
                self._station.refuse(BadMessage(f"{message.subject}: session {body.session} is not stopped: {flaw}"))
                self._deeds.refused(sender, body, flaw)
                return None
            case StopSession() if self._may_stop(body.session):
                self._deeds.stop_asked(sender, body)
                return Told(body.session, StopAsked(f"{body.reason} ({author_of(sender, body)})"), message.sequence)
            case StartSession() | StopSession():
                self._deeds.of_no_use(sender, body)
                return None
            case _:
                return None


def asked_by(who: str, start: StartSession) -> StartAsked:
    """Return what a command asks for: with its plan, or with the reason for which it cannot run."""
    asked = StartAsked(start.config, start.blob, start.digest, start.nbytes, who, base=start.base)
    if start.session == IMPORTED:
        return replace(asked, refusal=f"{IMPORTED!r} stands for versions that were brought in; choose another name")
    try:
        return replace(asked, plan=plan_of(start.config))
    except ConfigError as error:
        return replace(asked, refusal=str(error))
