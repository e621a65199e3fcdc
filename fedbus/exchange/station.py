"""A role's place on the bus: who it is, that it lives, what it says, what it hears.

`say` sends a plain message at most once: while the bus is away it is lost, as any plain message may be, and whoever
needs it to arrive repeats it. `hear` turns a subscription into envelopes and drops, with a log line, what is not one: a
stranger's garbage must not end a role. `present` keeps saying `Hello`.

A crowd has one station for all of its clients: one `Hello`, one reader of the board. `Station.speaking_as` is what it
says in the name of one of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import count

from fedbus.access.envelopes import Signer, signed_by
from fedbus.bus.base import Bus, Message, Payload, Subscription
from fedbus.bus.patience import patiently
from fedbus.bus.patterns import matcher
from fedbus.clock import Clock
from fedbus.errors import BadMessage, BusDenied, BusFull, BusUnavailable, NameTaken
from fedbus.messages.access import BoardAsked, BoardFound
from fedbus.messages.envelope import Body, Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Archiving, Bye, Hello, NameIsTaken, WhoIsThere
from fedbus.messages.subjects import Subjects
from fedbus.together import together
from fedbus.version import __version__

log = logging.getLogger("fedbus")

ASKING = ("client",)
"""Roles whose board the coordinator reads for them."""

BOARD_S_MAX = 10.0
"""For its answer; who gets none asks again soon."""

RECONNECT_POLL_S = 1.0
"""How often a role looks whether the bus came back, to fetch again what it may have missed."""

PENDING_BYTES_MAX = 64 * 2**20
"""Most bytes of a subscription that wait to be read: control messages are small, thousands of clients speak at once."""

BOARD_PATTERNS_MAX = 250
"""Patterns of one reading of the board: a client in a few sessions stays within the 1,000 messages of one answer."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An envelope with where it came from."""

    message: Message
    envelope: Envelope


class Station:
    """One role of one process. ``members``, ``first``: of a crowd, which clients it is (`presence.members_of`).

    ``life``: the how manieth process of its incarnation it is; the ids of their messages differ. ``signer``: with which
    it signs what it uploads and reports, where its workspace is secured.
    """

    def __init__(
        self,
        bus: Bus,
        workspace: str,
        peer: Peer,
        incarnation: str,
        clock: Clock,
        *,
        heartbeat_s: float,
        attributes: Mapping[str, str] | None = None,
        members: int = 0,
        first: int = 0,
        life: int = 1,
    ) -> None:
        self.bus = bus
        self.subjects = Subjects(workspace)
        self.peer = peer
        self.incarnation = incarnation
        self.life = life
        self.source = incarnation if life == 1 else f"{incarnation}.{life}"
        self.clock = clock
        self.doing: Callable[[], str] = lambda: ""
        self.archiving: Callable[[], Archiving | None] = lambda: None
        self.policy: Callable[[], str] = lambda: ""
        self.signer: Signer | None = None
        self._heartbeat_s = heartbeat_s
        self._attributes = dict(attributes or {})
        self._members = members
        self._first = first
        self._ids = count(1)
        self.own = self
        self.greeted = 0
        self._bad = 0

    def speaking_as(self, peer: Peer) -> Station:
        """Return this place under another name: all but who speaks is shared."""
        other = copy(self)
        other.peer = peer
        return other

    def envelope(self, body: Body, id_: str = "") -> Envelope:
        """Wrap a body; ``id_`` where a repeat must carry the same."""
        return Envelope(id_ or f"{self.source}-{next(self._ids)}", self.subjects.workspace, self.peer.name, body)

    async def say(self, subject: str, body: Body, headers: Mapping[str, str] | None = None, id_: str = "") -> None:
        """Send a plain message, at most once."""
        await self.send(subject, encode(self.envelope(body, id_)), headers)

    async def vouch(self, subject: str, body: Body, headers: Mapping[str, str] | None = None, id_: str = "") -> None:
        """Send a plain message, at most once, signed where the workspace is secured."""
        envelope = self.envelope(body, id_)
        if self.signer is not None:
            envelope = signed_by(self.signer, subject, envelope)
        await self.send(subject, encode(envelope), headers)

    async def send(self, subject: str, data: Payload, headers: Mapping[str, str] | None = None) -> None:
        """Send plain bytes, at most once."""
        try:
            await self.bus.publish(subject, data, headers)
        except BusUnavailable as error:
            log.debug("%s: not sent to %s: %s", self.peer.name, subject, error)
        except BusFull as error:  # more than one message may carry: saying it again would not help
            log.warning("%s: not sent to %s: %s", self.peer.name, subject, error)

    async def listen(self, pattern: str | Sequence[str], *, pending_bytes_max: int = PENDING_BYTES_MAX) -> Subscription:
        """Subscribe to a pattern, or to several as one, however long the bus takes to be there."""
        return await patiently(
            self.bus, lambda: self.bus.subscribe(pattern, pending_bytes_max=pending_bytes_max), tries_max=None
        )

    def read(self, message: Message) -> Heard | None:
        """Decode a message; None, and a log line, where it is not one of ours."""
        try:
            self.subjects.check(message.subject)  # names of peers are taken from it
            envelope = decode(message.data, message.subject)
        except BadMessage as error:
            self.refuse(error)
            return None
        if envelope.workspace != self.subjects.workspace:
            ours, theirs = self.subjects.workspace, envelope.workspace
            self.refuse(BadMessage(f"{message.subject}: expected workspace {ours}, got {theirs}"))
            return None
        return Heard(message, envelope)

    def heed(self, told: NameIsTaken) -> None:
        """Raise `NameTaken` where it is we who are meant: another process lives under our name."""
        if told.incarnation == self.incarnation:
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(max(0.0, min(told.since_at, 2.0**35))))
            raise NameTaken(
                f"{self.peer.role} {self.peer.name}: another process takes part under this name since {since}; stop "
                f"one of the two, or give it another name"
            )

    def refuse(self, error: BadMessage) -> None:
        """Log a bad message.

        After the first hundred only each hundredth, so that a flood of them does not become one of lines.
        """
        self._bad += 1
        if self._bad <= 100 or self._bad % 100 == 0:
            log.warning("%s %s refused a message (%d so far): %s", *self.peer, self._bad, error)

    async def hear(self, subscription: Subscription) -> AsyncIterator[Heard]:
        """Every valid envelope of a subscription."""
        async for message in subscription:
            heard = self.read(message)
            if heard is not None:
                yield heard

    async def present(self) -> None:
        """Say `Hello` now, at every heartbeat, when the bus comes back, and when asked; runs until cancelled."""
        asked = await self.listen(self.subjects.whois())
        try:
            async with together() as group:
                group.create_task(self._beat())
                group.create_task(self._answer(asked))
        finally:
            await asked.close()

    async def _beat(self) -> None:
        while True:
            await self.hello()
            await self._rest(self._heartbeat_s, self.bus.reconnects)

    async def greet_again(self) -> None:
        """Say `Hello` if the bus came back since this was last called: before a large message, not behind it.

        On a line that is cut before that message is through, no later `Hello` would ever arrive.
        """
        own = self.own  # a crowd says it once, in its own name, whoever of its clients is sending
        if own.greeted != own.bus.reconnects:
            own.greeted = own.bus.reconnects
            await own.hello()

    async def _rest(self, seconds: float, seen: int) -> None:
        """Sleep, but no longer than until the bus came back once more than ``seen`` times."""
        while seconds > 0 and self.bus.reconnects == seen:
            pause = min(seconds, RECONNECT_POLL_S)
            await asyncio.sleep(pause)
            seconds -= pause

    async def read_board(self, pattern: str | Sequence[str], take: Callable[[Message], None], every_s: float) -> None:
        """Hand on what stands on the board now, after each reconnect, and every so often; runs until cancelled.

        Whoever also subscribes to the pattern, or to the several, misses nothing for longer than ``every_s``, whatever
        was lost.
        """
        patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        while True:
            seen, pause_s = self.bus.reconnects, every_s
            try:
                for at in range(0, len(patterns), BOARD_PATTERNS_MAX):
                    await self._read_board(patterns[at : at + BOARD_PATTERNS_MAX], take)
            except (BusUnavailable, BusFull, BusDenied) as error:
                # denied: who was shut out may be let in again, and goes on then
                log.debug("%s: the board was not read: %s", self.peer.name, error)
                pause_s = RECONNECT_POLL_S
            await self._rest(pause_s, seen)

    async def _read_board(self, patterns: Sequence[str], take: Callable[[Message], None]) -> None:
        """Read what stands under patterns, in two halves where that is more than one answer holds."""
        try:
            if self.bus.member == self.peer and self.peer.role in ASKING:
                found = await self._ask_for_board()
            else:
                found = await self.bus.newest(self.subjects.stream("board"), patterns)
        except BusFull:
            if len(patterns) == 1:
                raise
            middle = len(patterns) // 2
            await self._read_board(patterns[:middle], take)
            await self._read_board(patterns[middle:], take)
            return
        for message in found:
            take(message)

    async def _ask_for_board(self) -> list[Message]:
        """Ask the coordinator: the broker lets nobody read a board who may not see what others are to do."""
        own, found, after = matcher(self.subjects.task(self.peer.name)), list[Message](), 0
        while True:
            data = encode(self.envelope(BoardAsked(after=after)))
            message = await self.bus.request(self.subjects.board(self.peer), data, deadline_s=BOARD_S_MAX)
            heard = self.read(message)
            if heard is None or not isinstance(heard.envelope.body, BoardFound):
                return found
            tasks, more = heard.envelope.body.tasks, heard.envelope.body.more
            found += [Message(subject, data, sequence=sequence) for subject, data, sequence in tasks if own(subject)]
            if not more or not tasks or tasks[-1][2] <= after:
                return found
            after = tasks[-1][2]

    async def _answer(self, asked: Subscription) -> None:
        async for heard in self.hear(asked):
            if isinstance(heard.envelope.body, WhoIsThere):
                # Spread by name, not by chance: the same for a seed, and different for each of thousands.
                share = (hash_of(self.peer.name) % 1000) / 1000
                await asyncio.sleep(min(heard.envelope.body.spread_s, self._heartbeat_s) * share)
                await self.hello()

    async def hello(self) -> None:
        """Say that we are here, and what we do."""
        hello = Hello(
            incarnation=self.incarnation,
            heartbeat_s=self._heartbeat_s,
            attributes=self._attributes,
            version=__version__,
            doing=self.doing()[:200],
            members=self._members,
            first=self._first,
            archive=self.archiving(),
            policy=self.policy(),
        )
        await self.say(self.subjects.presence(self.peer), hello)

    async def leave(self) -> None:
        """Say `Bye`."""
        if self.bus.connected:
            await self.say(self.subjects.presence(self.peer), Bye(incarnation=self.incarnation))


def hash_of(text: str) -> int:
    """Return a small number that is the same for a text in every process."""
    return sum((i + 1) * byte for i, byte in enumerate(text.encode()))
