"""The boards of who takes part: read, followed in memory, and changed by whoever has read the newest.

Each token, member and person is one subject of the stream ``access``, and so are the workspace's bounds. A change is a
function of what stands on a board; it is written behind the sequence of what was read, and where somebody else has
written meanwhile the function is asked again, of what stands there now (`change`). So of two who use the last use of a
token one loses, and a member that was expelled a moment ago is not renewed.

Nothing is removed from a board: what is over says so (a token ``revoked_at``, a person without roles).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import TypeVar

from fedbus.access.names import id_of
from fedbus.bus.base import Bus, Message
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.clock import Clock
from fedbus.errors import BadMessage, BusFull, BusUnavailable, Conflict
from fedbus.messages.access import Member, Person, TokenState, WorkspaceBounds
from fedbus.messages.envelope import Body, Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

log = logging.getLogger("fedbus.access")

Board = TokenState | Member | Person | WorkspaceBounds
BoardT = TypeVar("BoardT", TokenState, Member, Person, WorkspaceBounds)

TRIES_MAX = 100
"""Changes of others that one of ours is decided again for: many use a token with many uses at the same moment."""

PAUSE_S_MAX = 0.05
"""Two that have met wait for different times before they read again."""

LOOK_S = 0.05
"""Between looks at a token that a registrar is about to sign: it takes milliseconds."""

FORGOTTEN_MAX = 64
"""Revisions that make room at once: some 30 KB, for as many decisions."""

BOARDS_MAX = 200_000
"""Of one workspace, kept in memory: some 2 KB each. What is beyond it is not shown, and `change` still works."""


class Boards:
    """The boards of a workspace.

    ``tokens`` by id, ``members`` by role and name, ``people`` by `fedbus.access.names.id_of`: as they stood when
    `follow` or `load` heard of them last. ``caught_up``: set once all that stood there was heard. ``heard``: called
    with each board that is new, after it was taken in.
    """

    def __init__(self, bus: Bus, subjects: Subjects, clock: Clock) -> None:
        self.bus = bus
        self.subjects = subjects
        self.clock = clock
        self.tokens: dict[str, TokenState] = {}
        self.members: dict[Peer, Member] = {}
        self.people: dict[str, Person] = {}
        self.bounds = WorkspaceBounds()
        self.caught_up = asyncio.Event()
        self.heard: list[Callable[[Board], None]] = []
        self._stream = subjects.stream("access")
        self._sequences: dict[str, int] = {}
        self._anew = 0

    # --- in memory ---

    async def follow(self, pattern: str = "") -> None:
        """Keep what is in memory as the stream has it, or only what is of a pattern; runs until cancelled."""
        pattern = pattern or self.subjects.access()
        subscription = await patiently(self.bus, lambda: self.bus.follow(self._stream, pattern), tries_max=None)
        try:
            if not await patiently(self.bus, lambda: self.bus.pending(self._stream, pattern), tries_max=None):
                self.caught_up.set()
            async for message in subscription:
                self._hear(message)
                if not message.pending:
                    self.caught_up.set()
        finally:
            await subscription.close()

    async def load(self) -> None:
        """Read all that stands there now, once. `BusUnavailable`: the workspace has no such stream, or no broker."""
        pattern = self.subjects.access()
        if await patiently(self.bus, lambda: self.bus.pending(self._stream, pattern)):
            subscription = await self.bus.follow(self._stream, pattern)
            async with aclosing(until_now(subscription)) as stored:
                async for message in stored:
                    self._hear(message)
        self.caught_up.set()

    def _hear(self, message: Message) -> None:
        if message.anew != self._anew:  # the stream was lost: what stood there before is gone
            self._anew = message.anew
            for known in (self.tokens, self.members, self.people, self._sequences):
                known.clear()
            self.bounds = WorkspaceBounds()
        try:
            board = self._read(message)
        except BadMessage as error:
            log.warning("a board is passed over: %s", error)
            return
        self._take(message.subject, message.sequence, board)

    def _take(self, subject: str, sequence: int, board: Board) -> None:
        """Take a board in, unless a newer one is known, and tell those who listen."""
        if sequence <= self._sequences.get(subject, 0):
            return
        if subject not in self._sequences and len(self._sequences) >= BOARDS_MAX:
            log.warning("%s is not kept in memory: there are %d boards", subject, BOARDS_MAX)
            return
        self._sequences[subject] = sequence
        match board:
            case TokenState():
                self.tokens[board.id] = board
            case Member():
                self.members[Peer(board.role, board.name)] = board
            case Person():
                self.people[subject.rpartition(".")[2]] = board
            case WorkspaceBounds():
                self.bounds = board
        for hear in self.heard:
            hear(board)

    # --- one board ---

    async def read(self, subject: str, kind: type[BoardT]) -> BoardT | None:
        """Return what stands on a board now, asked of the broker; None where nothing does."""
        return (await self._last(subject, kind))[0]

    async def read_bounds(self) -> WorkspaceBounds:
        """Return what the workspace may use, asked of the broker."""
        return await self.read(self.subjects.access_bounds(), WorkspaceBounds) or WorkspaceBounds()

    async def wait_for_token(
        self, id_: str, fits: Callable[[TokenState], bool], deadline_s: float
    ) -> TokenState | None:
        """Look at a token until it fits, and return it; None where it does not in time."""
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    state = await self.read(self.subjects.access_token(id_), TokenState)
                    if state is not None and fits(state):
                        return state
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return None

    async def change(
        self, subject: str, kind: type[BoardT], decide: Callable[[BoardT | None], BoardT | None]
    ) -> BoardT:
        """Write what ``decide`` makes of what stands on a board, and return it; None of it changes nothing.

        What ``decide`` raises ends the change. Raises `BusFull`, `BusUnavailable`; `Conflict` where others write
        without an end; `BadMessage` where what stands there is of a newer release.
        """
        for _ in range(TRIES_MAX):
            known, behind = await self._last(subject, kind)
            decided = decide(known)
            if decided is None:
                assert known is not None, "of nothing nothing can be left as it is"
                return known
            self._check(subject, decided)
            if await self._written(subject, decided, behind):
                return decided
            await asyncio.sleep(PAUSE_S_MAX * secrets.randbelow(1000) / 1000)
        raise Conflict(f"{subject}: others changed it {TRIES_MAX} times while this waited; try again")

    async def _written(self, subject: str, board: Body, behind: int) -> bool:
        """Append a board; False where somebody else has written first."""
        id_ = f"access-{secrets.token_hex(8)}"
        data = encode(Envelope(id_, self.subjects.workspace, str(getattr(board, "by", ""))[:200], board))
        try:
            sequence = await self._appended(subject, data, behind, id_)
        except BusFull:
            if not await self._make_room():
                raise
            log.warning("the broker's store is full: the history of who takes part made room for a decision")
            return await self._written(subject, board, behind)
        except Conflict:
            # the bus may have been away when ours was stored
            message = await self._asked(subject)
            if message is None or _id(message) != id_:
                return False
            sequence = message.sequence
        assert isinstance(board, Board)
        self._take(subject, sequence, board)
        return True

    async def _appended(self, subject: str, data: bytes, behind: int, id_: str) -> int:
        return await patiently(
            self.bus, lambda: self.bus.append(self._stream, subject, data, expected_last=behind, message_id=id_)
        )

    async def _make_room(self) -> bool:
        """Remove what boards said before; whether there was anything. A full store must not keep anybody in."""
        newest: dict[str, int] = {}
        old: list[int] = []
        async with aclosing(until_now(await self.bus.follow(self._stream, self.subjects.access()))) as stored:
            async for message in stored:
                before = newest.get(message.subject)
                if before is not None and len(old) < FORGOTTEN_MAX:
                    old.append(before)
                newest[message.subject] = message.sequence
        for sequence in old:
            await self.bus.delete(self._stream, sequence)
        return bool(old)

    async def _last(self, subject: str, kind: type[BoardT]) -> tuple[BoardT | None, int]:
        message = await self._asked(subject)
        if message is None:
            return None, 0
        board = self._read(message)
        if not isinstance(board, kind):
            raise BadMessage(f"{subject}: expected {kind.kind}, got {board.kind}")
        self._take(subject, message.sequence, board)
        return board, message.sequence

    async def _asked(self, subject: str) -> Message | None:
        try:
            return await patiently(self.bus, lambda: self.bus.last(self._stream, subject), tries_max=2)
        except BusUnavailable as error:
            raise BusUnavailable(
                f"workspace {self.subjects.workspace}: its members are not to be read; a coordinator of this release "
                f"makes the place for them when it starts: {error}"
            ) from error

    def _read(self, message: Message) -> Board:
        body = decode(message.data, message.subject).body
        if not isinstance(body, Board):
            raise BadMessage(f"{message.subject}: expected a board of who takes part, got {body.kind}")
        self._check(message.subject, body)
        return body

    def _check(self, subject: str, board: Board) -> None:
        """Raise `BadMessage` where a board says that it is another than its subject."""
        match board:
            case TokenState():
                expected = self.subjects.access_token(board.id)
            case Member():
                expected = self.subjects.access_member(Peer(board.role, board.name))
            case Person():
                expected = self.subjects.access_person(id_of(board.name))
            case _:
                expected = self.subjects.access_bounds()
        if subject != expected:
            raise BadMessage(f"{subject}: expected the board of {expected}")


def _id(message: Message) -> str:
    with suppress(BadMessage):
        return decode(message.data, message.subject).id
    return ""
