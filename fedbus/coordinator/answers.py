"""Answers questions from the coordinator's memory: who is there, what waits."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fedbus.bus.base import Message, Subscription
from fedbus.coordinator.roster import Roster
from fedbus.errors import BadMessage, ConfigError
from fedbus.exchange.station import Station
from fedbus.messages import queries
from fedbus.messages.envelope import Body, encode

log = logging.getLogger("fedbus.coordinator")

ROLES = {
    "clients": ("client", "crowd"),
    "combiners": ("combiner",),
    "coordinators": ("coordinator",),
    "gateways": ("gateway",),
}
"""What may be asked for, and which roles it shows: a crowd is one answer, whoever asks expands it."""

AllWaits = Callable[[], list[queries.Wait]]
"""What waits now."""

Now = Callable[[], float]
"""What time it is for the coordinators, in seconds since the epoch: an answer says it, for its moments are by it."""


async def answer(station: Station, asked: Subscription, roster: Roster, waits: AllWaits, now: Now) -> None:
    """Answer every question that comes; runs until cancelled."""
    async for message in asked:
        if message.reply:
            await _answer(station, message, roster, waits, now)


async def _answer(station: Station, message: Message, roster: Roster, waits: AllWaits, now: Now) -> None:
    (what,) = station.subjects.tokens(message.subject, "query", 1)
    answered = encode(station.envelope(_answer_to(what, roster, waits, now())))
    try:
        # The asker names where to answer: never a subject on which it may not publish but we may.
        station.subjects.check_inbox(message.reply)
        await station.send(message.reply, answered)
    except (BadMessage, ConfigError) as error:
        station.refuse(BadMessage(f"{message.subject}: the answer cannot be sent: {error}"))


def _answer_to(what: str, roster: Roster, waits: AllWaits, at: float) -> Body:
    if what in ROLES:
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
                    members=known.hello.members,
                    first=known.hello.first,
                    archive=known.hello.archive,
                )
                for peer, known in sorted(roster.peers.items(), key=lambda item: item[0])
                if peer.role in ROLES[what]
            ),
            at=at,
        )
    if what == "waits":
        return queries.Waits(waits=tuple(waits()), at=at)
    return queries.Refused(reason=f"expected one of {', '.join([*ROLES, 'waits'])}, got {what[:64]}")
