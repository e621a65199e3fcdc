"""Shows each client that asks what stands on the board for it, and nothing else: for the broker lets none read others'.

    board.client.NAME --> turns: one question of each client --> batches --> one reading of the board --> an answer each

Ten thousand clients ask at once when a broker comes back. Reading the board for each by itself takes most of the time,
of us and of the broker. So whatever waits is read together, and the more wait, the larger are the batches: nobody waits
for a batch to fill.
"""

from __future__ import annotations

import logging
from asyncio import Semaphore
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedbus.bus.base import Message
from fedbus.bus.turns import Turns
from fedbus.errors import BadMessage, BusDenied, BusFull, BusUnavailable, ConfigError
from fedbus.exchange.station import BOARD_PATTERNS_MAX, Station
from fedbus.messages.access import BoardAsked, BoardFound
from fedbus.messages.envelope import decode, encode
from fedbus.together import together

log = logging.getLogger("fedbus.coordinator")

READS_MAX = 4
"""Batches that are read at once: one that the broker keeps waiting does not hold up the others."""

READ_S_MAX = 5.0
"""For one reading; who is not answered asks again."""

PAGE_BYTES, TASK_BYTES = 4096, 400
"""Room for what stands around all tasks of an answer, and around each: its subject, and what msgpack adds."""


@dataclass(frozen=True, slots=True)
class Question:
    """What client ``name`` asks: tasks behind sequence ``after``, to be answered at ``reply``."""

    name: str
    after: int
    reply: str


async def show_board(station: Station, asked: Turns) -> None:
    """Answer all that ask; runs until cancelled, or the end of the questions."""
    room = Semaphore(READS_MAX)

    async def show(questions: Sequence[Question]) -> None:
        try:
            await _show(station, questions)
        finally:
            room.release()

    async with together() as group:
        while True:
            await room.acquire()
            messages = await asked.some(BOARD_PATTERNS_MAX)
            if not messages:
                return
            group.create_task(show([found for one in messages if (found := _read(station, one)) is not None]))


def _read(station: Station, message: Message) -> Question | None:
    """Return what is asked; None where it is nothing that can be answered."""
    if not message.reply:
        return None
    try:
        asker = station.subjects.sender(message.subject, "board", 2, 0)
        station.subjects.check_inbox(message.reply, asker)
        body = decode(message.data, message.subject).body
    except BadMessage as error:
        station.refuse(BadMessage(f"{message.subject}: the board cannot be shown: {error}"))
        return None
    after = body.after if isinstance(body, BoardAsked) else 0
    return Question(asker.name if asker.role == "client" else "", after, message.reply)


async def _show(station: Station, questions: Sequence[Question]) -> None:
    try:
        found = await _found(station, sorted({one.name for one in questions if one.name}))
    except (BusUnavailable, BusDenied, BusFull) as error:
        log.debug("the board was not shown to %d clients: %s", len(questions), error)
        return
    for one in questions:
        page = _page(found.get(one.name, ()), one.after, station.bus.payload_max)
        try:
            await station.send(one.reply, encode(station.envelope(page)))
        except ConfigError as error:
            station.refuse(BadMessage(f"{one.name}: the board cannot be shown: {error}"))


async def _found(station: Station, names: Sequence[str]) -> Mapping[str, list[Message]]:
    """Return what stands on the board, by client; in two halves where that is more than one answer holds."""
    subjects = station.subjects
    if not names:
        return {}
    try:
        messages = await station.bus.newest(
            subjects.stream("board"), [subjects.task(name) for name in names], deadline_s=READ_S_MAX
        )
    except BusFull as error:
        if len(names) == 1:  # nobody else is to go without an answer for that
            log.warning("the board is not shown to client %s: %s", names[0], error)
            return {}
        middle = len(names) // 2
        return {**await _found(station, names[:middle]), **await _found(station, names[middle:])}
    found: dict[str, list[Message]] = {}
    for message in messages:
        client, _ = subjects.tokens(message.subject, "task", 2)
        found.setdefault(client, []).append(message)
    return found


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
