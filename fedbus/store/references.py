"""What needs a version's arrays, read from the journals: nothing that stands here may be removed.

A session that has not ended needs the newest of its versions - as many as clients may still be training on - and
whatever a round or an evaluation asks for now; any session needs its best one. A command to start that nobody has
taken yet needs its model. What stages need stands in the registry's state, where nobody can change it behind a
removal's back.

Reading costs all journals, entry by entry: of most records only a few fields are looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from fedbus.bus.base import Bus, Message
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage
from fedbus.messages import records
from fedbus.messages.commands import StartSession
from fedbus.messages.envelope import decode
from fedbus.messages.records import ModelPublished, Typed
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import entry_of

PAUSE_ENTRIES = 100
"""Entries that are read in one go: some milliseconds."""

_WANTED = frozenset({"SessionStarted", "ModelPublished", "RoundEvaluated", "SessionEnded"})


@dataclass(slots=True)
class SessionVersions:
    """The versions of a session, oldest first, and which of them it needs."""

    session: str
    config: SessionConfig = field(default_factory=SessionConfig)
    versions: list[ModelPublished] = field(default_factory=list)
    ended: bool = False
    best: str = ""
    asked: str = ""
    evaluated: str = ""
    began_with: str = ""
    _best_value: float = 0.0

    def take(self, typed: Typed, at: float) -> None:
        """Take note of a record."""
        if typed.type == "RoundOpened":
            self.asked = str(typed.data.get("blob", ""))
        elif typed.type == "EvaluationOpened":
            self.evaluated = str(typed.data.get("blob", ""))
        elif typed.type in ("RoundClosed", "RoundFailed"):
            self.asked = ""
        if typed.type == "RoundEvaluated":
            self.evaluated = ""
        if typed.type in _WANTED:
            self._take(records.unpacked(typed), at)

    def _take(self, record: records.Record, at: float) -> None:
        match record:
            case records.SessionStarted():
                self.config, self.began_with = record.config, record.blob
                self.ended, self.best = False, ""  # also where a session of this name had ended before
                if record.config.rounds:
                    self.versions = [record.model(self.session, at)]
            case records.ModelPublished():
                self.versions.append(record)
            case records.RoundEvaluated():
                value = self.config.best_value(record.metrics)
                if value is not None and (not self.best or self.config.is_better(value, self._best_value)):
                    self.best, self._best_value = record.version, value
            case records.SessionEnded():
                self.ended = True
            case _:
                pass

    def kept(self, keep_last: int | None) -> Iterator[ModelPublished]:
        """Yield the versions that are not beyond ``keep_last`` and the session's own ``versions_kept``."""
        bounds = [bound for bound in (keep_last, self.config.versions_kept) if bound is not None]
        yield from self.versions[-min(bounds) :] if bounds else self.versions

    def needed(self) -> Iterator[tuple[ModelPublished, str]]:
        """Yield the versions that may not even be removed by name, each with the reason."""
        if not self.ended:
            newest = 2 + self.config.stale_max  # who is behind may still be reading, or sending what it made of, these
            for place, model in enumerate(self.versions[-newest:][::-1]):
                what = "the newest version" if place == 0 else "a version that clients may still be using"
                yield model, f"{what} of session {self.session}, which has not ended"
        for model in self.versions:
            if model.version == self.best:
                yield model, f"the best version of session {self.session}"

    def blobs(self) -> Iterator[tuple[str, str]]:
        """Yield the blobs that a session which has not ended asks clients for, each with the reason."""
        if self.ended:
            return
        for blob, what in (
            (self.asked, "a round of session {} asks for it"),
            (self.evaluated, "an evaluation of session {} asks for it"),
            (self.began_with if not self.config.rounds else "", "session {} evaluates it"),
        ):
            if blob:
                yield blob, what.format(self.session)


@dataclass(slots=True)
class References:
    """What all sessions need: versions by session, and blobs that are in use, each with the reason."""

    sessions: dict[str, SessionVersions] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)

    def needed(self) -> dict[str, str]:
        """Return the blobs that may not be removed, each with the reason."""
        found = dict(self.blobs)
        for session in self.sessions.values():
            for model, why in session.needed():
                found.setdefault(model.blob, why)
            for blob, why in session.blobs():
                found.setdefault(blob, why)
        return found

    def kept(self, keep_last: int | None) -> set[str]:
        """Return the blobs of versions that are not beyond what is kept, needed or not."""
        return {model.blob for session in self.sessions.values() for model in session.kept(keep_last)}


async def read_references(bus: Bus, subjects: Subjects) -> References:
    """Read what all sessions need, and the commands that nobody has taken yet.

    Commands first: what is taken meanwhile stands in the journal by then.
    """
    found, count = References(blobs=await read_commands(bus, subjects)), 0
    async with aclosing(_stored(bus, subjects.stream("journal"), subjects.journal())) as entries:
        async for message in entries:
            (name,) = subjects.tokens(message.subject, "journal", 1)
            session = found.sessions.setdefault(name, SessionVersions(name))
            entry = entry_of(message)
            for typed in entry.records:
                session.take(typed, entry.at)
            count += 1
            if not count % PAUSE_ENTRIES:
                await asyncio.sleep(0)  # whoever reads this may have a lease to renew
    return found


async def read_commands(bus: Bus, subjects: Subjects) -> dict[str, str]:
    """Read which blobs commands need that nobody has taken yet, each with the reason."""
    found: dict[str, str] = {}
    async with aclosing(_stored(bus, subjects.stream("command"), subjects.command())) as commands:
        async for message in commands:
            try:
                body = decode(message.data, message.subject).body
            except BadMessage:
                continue
            if isinstance(body, StartSession):
                found[body.blob] = f"session {body.session} is to start with it"
    return found


async def _stored(bus: Bus, stream: str, pattern: str) -> AsyncGenerator[Message, None]:
    """Yield what stands in a stream now."""
    if not await patiently(bus, lambda: bus.pending(stream, pattern)):
        return
    async with aclosing(until_now(await bus.follow(stream, pattern))) as stored:
        async for message in stored:
            yield message
