"""A subscription in turns: who says much waits behind himself, and what is dropped is told, with who it was."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from fedbus.bus.base import Message
from fedbus.bus.mailbox import MESSAGE_OVERHEAD_BYTES, Mailbox
from fedbus.bus.turns import FLOOD_MIN, STALE_MAX, Room, Turns
from fedbus.errors import BusClosed
from fedbus.testing.loop import run_virtual

ROOM = Room(waiting_max=3, bytes_max=10_000, per_s_max=1_000_000)


def subject(name):
    """Where a client says that it is there."""
    return f"fb.w.presence.client.{name}"


class Line:
    """Turns over a mailbox; a message is a sender and a number."""

    def __init__(self, room=ROOM, **bounds):
        self.box = Mailbox("test", 2**30)
        self.turns = Turns(self.box, "presence", lambda _: room, **bounds)

    def say(self, *said):
        """Let senders say numbers, in this order."""
        for name, number in said:
            if self.box.wants(subject(name)):
                self.box.put(Message(subject(name), str(number).encode()))

    async def heard(self):
        """All that waits, as it is read."""
        await asyncio.sleep(0.1)
        found = []
        while len(self.turns):
            message = await anext(self.turns)
            found.append((message.subject.rpartition(".")[2], int(message.data)))
        return found


def test_one_of_each_in_turn_and_the_newest_of_who_says_too_much():
    """A flood of one stands behind itself; others are heard next, in order; its oldest are gone, and counted."""

    async def main():
        line = Line()
        line.say(*(("evil", number) for number in range(1000)), ("a", 1), ("a", 2), ("b", 1))
        assert await line.heard() == [("evil", 997), ("a", 1), ("b", 1), ("evil", 998), ("a", 2), ("evil", 999)]
        assert (line.turns.dropped, line.turns.waiting_bytes) == (997, 0)
        line.say(("a", 3))
        assert await line.heard() == [("a", 3)]
        line.say(("a", 4), ("b", 5), ("a", 6))
        await asyncio.sleep(0.1)
        assert [bytes(one.data) for one in await line.turns.some(2)] == [b"4", b"5"]
        await line.turns.close()
        assert await line.turns.some(2) == [] and line.box.closed

    run_virtual(main())


def test_where_all_together_have_too_much_whoever_has_most_loses():
    """Whoever speaks and however much is read meanwhile; what is remembered for it stays small."""

    async def main():
        draw, lost, remembered = random.Random(7), 0, 0
        line = Line(Room(50, 2**20, 1_000_000), bytes_max=60 * MESSAGE_OVERHEAD_BYTES)
        turns = line.turns
        lose = turns._lose

        def lose_most(sender, queue):
            nonlocal lost
            assert queue.nbytes == max(one.nbytes for one in turns._queues.values())
            lost += 1
            lose(sender, queue)

        turns._lose = lose_most
        for number in range(6000):
            turns._put(Message(subject(draw.randrange(20)), bytes(draw.randrange(300))))
            for _ in range(draw.randrange(2) if number < 3000 else draw.randrange(3)):
                if len(turns):
                    turns._next()
            remembered = max(remembered, len(turns._most))
        assert lost > 100 and 0 < remembered <= 4 * 60 + STALE_MAX + 1
        assert turns.waiting_bytes == sum(queue.nbytes for queue in turns._queues.values()) <= turns._bytes_max
        await turns.close()

    run_virtual(main())


def test_rooms_are_bounded_by_bytes_by_time_and_together():
    """A message larger than its sender's room, one too many in a second, and one beyond what all may have, go."""

    async def main():
        narrow = Line(Room(10, 3 * MESSAGE_OVERHEAD_BYTES, 4), bytes_max=4 * MESSAGE_OVERHEAD_BYTES)
        narrow.box.put(Message(subject("a"), bytes(3 * MESSAGE_OVERHEAD_BYTES)))
        narrow.say(("a", 1), ("a", 2), ("a", 3))
        assert await narrow.heard() == [("a", 2), ("a", 3)]
        narrow.say(("a", 4), ("a", 5))
        assert await narrow.heard() == [("a", 4)], "four were heard in this second"
        await asyncio.sleep(1)
        narrow.say(("a", 1), ("a", 2), ("b", 1), ("c", 1))
        assert await narrow.heard() == [("a", 2), ("b", 1), ("c", 1)], "who has most makes room for another"
        assert narrow.turns.dropped == 4
        await narrow.turns.close()

    run_virtual(main())


def test_who_floods_is_named_once_a_minute(caplog):
    """With what can be done about it; who lost a few in a busy moment is not."""

    async def main():
        line = Line()
        for _ in range(2):
            line.say(*(("evil", number) for number in range(5 * FLOOD_MIN)), *(("a", number) for number in range(9)))
            await line.heard()
        told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
        assert len(told) == 1 and "client evil says more" in told[0]
        assert "fedbus member suspend evil --role client" in told[0]
        await asyncio.sleep(60)
        line.say(*(("evil", number) for number in range(5 * FLOOD_MIN)))
        await line.heard()
        assert len(caplog.records) == 2
        await line.turns.close()

    run_virtual(main())


def test_it_ends_as_its_source_does():
    """A connection that is closed for good is told to who reads; a subscription that is closed ends."""

    async def main():
        lost, closed = Line(), Line()
        lost.box.fail(BusClosed("gone"))
        with pytest.raises(BusClosed, match="gone"):
            await anext(lost.turns)
        await closed.box.close()
        assert [one async for one in closed.turns] == []
        for line in (lost, closed):
            await line.turns.close()

    run_virtual(main())


async def test_a_reader_gives_way_to_others_while_much_waits():
    """However much waits, others of the loop go on meanwhile."""
    line = Line(Room(100_000, 2**30, 1_000_000))
    line.say(*(("evil", number) for number in range(20_000)))
    others = 0

    async def live():
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    living = asyncio.create_task(live())
    await anext(line.turns)
    before = others
    for _ in range(19_999):
        await anext(line.turns)
    assert others - before > 2
    living.cancel()
    await line.turns.close()
