"""The registry of a workspace in its stream: read with its sequence, changed by whoever has read the newest.

A change is a function of the state that was read. It is written behind the sequence of what was read; where somebody
else has written meanwhile the broker says so, and the function is asked again, of what stands there now. So all changes
stand in one line, and what a function has looked up *after* it was given the state holds for as long as nobody changes
the state: that is what keeps a removal and a promotion of the same version apart (docs/decisions/0020).

`change` is exactly-once for its caller: where the bus went away over an append, it looks whether its own was stored.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar

from fedbus.bus.base import Bus, Message
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.clock import Clock, SystemClock
from fedbus.errors import BadMessage, BusFull, BusUnavailable, Conflict
from fedbus.messages.envelope import Envelope, decode, encode, is_envelope
from fedbus.messages.registry import REASON_CHARS_MAX, RegistryState, Stage, VersionNote
from fedbus.messages.subjects import Subjects

log = logging.getLogger("fedbus.store")

T = TypeVar("T")

TRIES_MAX = 200
"""Changes of others that one of ours is decided again for: each is a person's act, or a version that expires."""

PAUSE_S_MAX = 0.05
"""Two that have met wait for different times before they read again."""

LOOK_S = 3.0
"""For the first look at the registry: a workspace that no coordinator of this release has served yet has none."""

STATE_BYTES_MAX = 768 * 1024
"""Of the state as it travels: below what a broker takes in one message, 1 MB. Histories of stages are cut before it
grows larger."""

RESERVED = 4
RESERVE = "a new registry; a store that is full takes its next changes in place of these revisions".ljust(
    REASON_CHARS_MAX
)
"""What the first revisions say: as long as one may be."""

Decide = Callable[[RegistryState], Awaitable[RegistryState | None]]
"""Returns the state as it is to be, or None where nothing is to be changed; what it raises ends the change."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The state as it stands in the stream; ``sequence`` 0: nobody has written any yet."""

    state: RegistryState
    sequence: int


@dataclass(frozen=True, slots=True)
class Revision:
    """A change of the registry, as its history has it."""

    sequence: int
    at: float
    by: str
    what: str


class RegistryStore:
    """The registry of a workspace; ``by``: who changes it."""

    def __init__(self, bus: Bus, subjects: Subjects, by: str, clock: Clock | None = None) -> None:
        self.by = by
        self.clock = clock or SystemClock()
        self._bus = bus
        self._subjects = subjects
        self._stream = subjects.stream("registry")
        self._is_there = False

    # --- the state ---

    async def read(self) -> Registered:
        """Return the state as it is; `BusUnavailable` says so where the workspace has no registry yet.

        `BadMessage`: a newer release has written it, in a form that we do not know. Whoever changed an older one in its
        place would undo what was decided, and let go what that protects. What is no message of ours is passed over.
        """
        subject = self._subjects.registry_state()
        message = await self._asked(lambda deadline_s: self._bus.last(self._stream, subject, deadline_s=deadline_s))
        if message is None:
            return Registered(RegistryState(), 0)
        try:
            return Registered(_state(message), message.sequence)
        except BadMessage as error:
            if is_envelope(message.data):
                raise BadMessage(f"the registry was written by a newer release, upgrade this side: {error}") from error
            log.warning("message %d of the registry is passed over: %s", message.sequence, error)
            return Registered(await self._last_good(), message.sequence)

    async def _last_good(self) -> RegistryState:
        """Return the newest state behind which somebody has written what is none."""
        for message in reversed(await self._messages(1)):
            try:
                return _state(message)
            except BadMessage:
                continue
        return RegistryState()

    async def read_or_none(self) -> RegistryState:
        """Return the state, an empty one where the workspace has no registry yet: nobody has decided anything then."""
        try:
            return (await self.read()).state
        except BusUnavailable:
            if self._is_there or not self._bus.connected:
                raise
            return RegistryState()

    async def change(self, what: str, decide: Decide) -> Registered:
        """Change the state as ``decide`` says; returns it as it stands then. ``what``: the change, in a few words.

        Raises what ``decide`` raises, `BusFull`, `BusUnavailable`.
        """
        for _ in range(TRIES_MAX):
            known = await self.read()
            decided = await decide(known.state)
            if decided is None:
                return known
            fields = {"at": self.clock.now(), "by": self.by, "what": what[:REASON_CHARS_MAX]}
            written = await self._written(decided.model_copy(update=fields), known.sequence)
            if written is not None:
                return written
            await asyncio.sleep(PAUSE_S_MAX * secrets.randbelow(1000) / 1000)
        raise Conflict(f"the registry was changed {TRIES_MAX} times by others while this waited: {what}; try again")

    async def reserve(self) -> None:
        """Write a first state, several times, where there is none: what can be forgotten when the store is full."""
        if (await self.read()).sequence:
            return

        async def decide(state: RegistryState) -> RegistryState | None:
            return state if state.what.strip() in ("", RESERVE.strip()) else None

        for _ in range(RESERVED):
            await self.change(RESERVE, decide)

    async def _written(self, state: RegistryState, behind: int) -> Registered | None:
        """Append a state; None where somebody else has written first."""
        id_ = f"registry-{secrets.token_hex(8)}"
        fitted, data = self._fitted(state, id_)
        subject = self._subjects.registry_state()

        async def append() -> int:
            return await self._bus.append(self._stream, subject, data, expected_last=behind, message_id=id_)

        try:
            return Registered(fitted, await patiently(self._bus, append))
        except BusFull:
            if not await self._forget(behind):
                raise
            log.warning("the broker's store is full: the history of the registry made room for its newest change")
            return await self._written(state, behind)
        except Conflict:
            ours = await self._find(id_, behind)
            return Registered(fitted, ours) if ours else None

    def _fitted(self, state: RegistryState, id_: str) -> tuple[RegistryState, bytes]:
        """Return a state as it travels; where it is too large, without the oldest versions of its stages."""
        while True:
            data = encode(Envelope(id_, self._subjects.workspace, self.by[:200], state))
            longest = max(state.stages.items(), key=lambda item: len(item[1].held), default=None)
            if len(data) <= STATE_BYTES_MAX or longest is None or len(longest[1].held) <= len(longest[1].protected):
                return state, data
            name, stage = longest
            shorter = Stage(held=stage.held[: max(2, len(stage.held) // 2)])
            state = state.model_copy(update={"stages": {**state.stages, name: shorter}})

    async def _find(self, id_: str, behind: int) -> int:
        """Look whether one of the changes behind a sequence is ours; returns its own, 0 where none is.

        The bus may have been away when ours was stored, and others may have written since.
        """
        for message in await self._messages(behind + 1):
            if _id(message) == id_:
                return message.sequence
        return 0

    async def _forget(self, newest: int) -> bool:
        """Remove what was before the newest state; whether there was anything. A full store has to be able to shrink.

        What makes room in it has to be written down here first.
        """
        found = [message.sequence for message in await self._messages(1) if message.sequence < newest]
        for sequence in found:
            await patiently(self._bus, lambda sequence=sequence: self._bus.delete(self._stream, sequence))  # type: ignore[misc]
        return bool(found)

    async def history(self) -> list[Revision]:
        """Return who changed what, oldest first, as far back as it is kept."""
        found = []
        for message in await self._messages(1):
            with suppress(BadMessage):
                state = _state(message)
                found.append(Revision(message.sequence, state.at, state.by, state.what))
        return found

    async def _messages(self, from_sequence: int) -> list[Message]:
        return await self._all(self._subjects.registry_state(), from_sequence)

    # --- notes ---

    async def note(self, version: str) -> str:
        """Return what is noted beside a version, '' where nothing is."""
        subject = self._subjects.registry_note(version)
        message = await self._asked(lambda deadline_s: self._bus.last(self._stream, subject, deadline_s=deadline_s))
        return _note(message).note if message is not None else ""

    async def notes(self) -> dict[str, str]:
        """Return all notes, by version."""
        newest: dict[str, str] = {}
        for message in await self._all(self._subjects.registry_note(), 1):
            try:
                note = _note(message)
            except BadMessage as error:
                log.warning("a note is passed over: %s", error)
            else:
                newest[note.version] = note.note
        return {version: note for version, note in newest.items() if note}

    async def annotate(self, version: str, note: str) -> int:
        """Note something beside a version, in place of what was noted before; returns its sequence."""
        body = VersionNote(version=version, note=note, at=self.clock.now(), by=self.by)
        id_ = f"note-{secrets.token_hex(8)}"
        data = encode(Envelope(id_, self._subjects.workspace, self.by[:200], body))
        subject = self._subjects.registry_note(version)
        await self.read()  # says so at once where there is no registry
        return await patiently(self._bus, lambda: self._bus.append(self._stream, subject, data, message_id=id_))

    # --- the stream ---

    async def _all(self, pattern: str, from_sequence: int) -> list[Message]:
        count = await self._asked(lambda _: self._bus.pending(self._stream, pattern))
        if not count:
            return []
        newest = await self._bus.newest(self._stream, pattern) if "*" not in pattern else None
        if newest is not None and (not newest or newest[-1].sequence < from_sequence):
            return []
        subscription = await self._bus.follow(self._stream, pattern, from_sequence=from_sequence)
        async with aclosing(until_now(subscription)) as stored:
            return [message async for message in stored]

    async def _asked(self, call: Callable[[float], Awaitable[T]]) -> T:
        """Ask the bus; the first time it is found out at once that there is no such stream."""
        if self._is_there:
            return await patiently(self._bus, lambda: call(10.0))
        try:
            async with asyncio.timeout(LOOK_S + 1):
                answer = await call(LOOK_S)
        except (BusUnavailable, TimeoutError) as error:
            if not self._bus.connected:
                raise
            made = "a coordinator of this release makes it when it starts (`fedbus up`, `fedbus coordinator`)"
            raise BusUnavailable(
                f"workspace {self._subjects.workspace} has no registry yet: {made}: {error}"
            ) from error
        self._is_there = True
        return answer


def _state(message: Message) -> RegistryState:
    body = decode(message.data, message.subject).body
    if not isinstance(body, RegistryState):
        raise BadMessage(f"{message.subject}: expected RegistryState, got {body.kind}")
    return body


def _note(message: Message) -> VersionNote:
    body = decode(message.data, message.subject).body
    if not isinstance(body, VersionNote):
        raise BadMessage(f"{message.subject}: expected VersionNote, got {body.kind}")
    return body


def _id(message: Message) -> str:
    try:
        return decode(message.data, message.subject).id
    except BadMessage:
        return ""
