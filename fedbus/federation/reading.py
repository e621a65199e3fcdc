"""What is read of all journals at once: sessions, events, what a client gave. A gateway has all this at hand."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from fedbus.errors import ConfigError, NotFound
from fedbus.federation.contributions import Contribution, Contributions, Tally, newest_first
from fedbus.federation.info import SessionEvent, SessionInfo
from fedbus.federation.listing import EventFilter, Order, SessionFilter
from fedbus.messages import records
from fedbus.messages.queries import Seen
from fedbus.store.journal import Journal, Journalled

_ID = re.compile(r"([0-9]{1,15})\.([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """A client that is there (``seen``), or that a journal tells of (``tally``), or both; newest history first."""

    client: str
    seen: Seen | None
    tally: Tally | None
    history: tuple[Contribution, ...] = ()

    @property
    def online(self) -> bool:
        """Whether it is there now."""
        return self.seen is not None


async def sessions_of(journal: Journal) -> list[SessionInfo]:
    """Return all sessions in the order in which they began."""
    found: dict[str, SessionInfo] = {}
    async for journalled in journal.entries():
        for record in journalled.entry.unpack():
            if journalled.session not in found or isinstance(record, records.SessionStarted):
                found[journalled.session] = SessionInfo(journalled.session)
            found[journalled.session].apply(record, journalled.entry.at)
    return list(found.values())


def chosen(
    infos: Iterable[SessionInfo], wanted: SessionFilter, now: float, order: Order, limit: int | None, after: str | None
) -> list[SessionInfo]:
    """Return those that are wanted, in order of their start, behind the one that is named ``after``.

    `NotFound` where there is none of that name among them.
    """
    found = [info for info in infos if wanted.meets(info, now)]
    found.sort(key=lambda info: info.started_at)  # of the same moment: as they stand in the journal
    if order == "newest":
        found.reverse()
    if after is not None:
        names = [info.session for info in found]
        if after not in names:
            raise NotFound(f"session {after}: it is not among those that are listed; begin again without `after`")
        found = found[names.index(after) + 1 :]
    return found if limit is None else found[:limit]


async def events_of(
    journal: Journal, wanted: EventFilter, *, follow: bool, after: str | None
) -> AsyncIterator[SessionEvent]:
    """Yield events as they stand in the journals, and with ``follow`` as they come; ``after``: the id of one."""
    sequence, index = _place(after)
    session = wanted.session or "*"
    source = journal.follow(session, max(1, sequence)) if follow else journal.entries(session)
    try:
        async for journalled in source:
            for event in _events(journalled):
                if (event.sequence, event.index) > (sequence, index) and wanted.meets(event):
                    yield event
    finally:
        await source.aclose()


def _events(journalled: Journalled) -> Iterable[SessionEvent]:
    for index, record in enumerate(journalled.entry.unpack()):
        yield SessionEvent(journalled.session, journalled.sequence, journalled.entry.at, record.kind, record, index)


def _place(after: str | None) -> tuple[int, int]:
    if after is None:
        return 0, -1
    match = _ID.fullmatch(after)
    if match is None:
        raise ConfigError(f"event id: expected <sequence>.<index> as an event has it, got {after[:40]!r}")
    return int(match[1]), int(match[2])


async def client_of(journal: Journal, client: str, seen: Seen | None) -> ClientInfo:
    """Return a client with what it gave; `NotFound` where it is not there, and no journal tells of it."""
    contributions = Contributions()
    async for journalled in journal.entries():
        for record in journalled.entry.unpack():
            contributions.take(journalled.session, record, journalled.entry.at)
    tally = contributions.tallies.get(client)
    if seen is None and tally is None:
        raise NotFound(f"client {client}: it is not there, and no journal tells of it; `fedbus client list`")
    return ClientInfo(client, seen, tally, tuple(newest_first(tally)) if tally else ())
