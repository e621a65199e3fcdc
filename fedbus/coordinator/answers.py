"""Answers questions from the coordinator's memory: who is there, what waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from fedbus.bus.base import Message, Subscription
from fedbus.coordinator.roster import Roster
from fedbus.errors import BadMessage, BusFull, BusUnavailable, ConfigError
from fedbus.exchange.station import Station
from fedbus.messages import queries
from fedbus.messages.access import BoardAsked, BoardFound
from fedbus.messages.envelope import Body, decode, encode
from fedbus.together import together

log = logging.getLogger("fedbus.coordinator")

SHOWN_AT_ONCE = 16
"""Boards that are read at once: clients ask when they come, and all of them when a connection is made again."""

PAGE_BYTES, TASK_BYTES = 4096, 400
"""Room for what stands around all tasks of an answer, and around each: its subject, and what msgpack adds."""

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


async def show_board(station: Station, asked: Subscription) -> None:
    """Show every client that asks what stands on the board for it, and nothing else; runs until cancelled.

    Several at once, or one read that the broker keeps waiting would hold up everybody.
    """
    room = asyncio.Semaphore(SHOWN_AT_ONCE)

    async def show(message: Message) -> None:
        try:
            await _show(station, message)
        finally:
            room.release()

    async with together() as group:
        async for message in asked:
            if message.reply:
                await room.acquire()
                group.create_task(show(message))


async def _show(station: Station, message: Message) -> None:
    try:
        asker = station.subjects.sender(message.subject, "board", 2, 0)
        station.subjects.check_inbox(message.reply, asker)
        question = decode(message.data, message.subject).body
        after = question.after if isinstance(question, BoardAsked) else 0
        board, pattern = station.subjects.stream("board"), station.subjects.task(asker.name)
        found = await station.bus.newest(board, pattern) if asker.role == "client" else []
        await station.send(message.reply, encode(station.envelope(_page(found, after, station.bus.payload_max))))
    except (BadMessage, ConfigError) as error:
        station.refuse(BadMessage(f"{message.subject}: the board cannot be shown: {error}"))
    except (BusUnavailable, BusFull) as error:
        log.debug("%s: the board was not shown: %s", message.subject, error)


def _page(found: Iterable[Message], after: int, payload_max: int) -> BoardFound:
    """Return as much of a board as one message holds, and one task at least."""
    tasks: list[tuple[str, bytes, int]] = []
    left = payload_max - PAGE_BYTES
    for one in found:
        if one.sequence <= after:
            continue
        left -= len(one.data) + TASK_BYTES
        if tasks and left < 0:
            return BoardFound(tasks=tuple(tasks), more=True)
        tasks.append((one.subject, bytes(one.data), one.sequence))
    return BoardFound(tasks=tuple(tasks))


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
