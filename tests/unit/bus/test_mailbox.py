"""A mailbox is bounded, loses no wake-up, and says when it drops."""

from __future__ import annotations

import asyncio
import logging

import pytest

from fedbus.bus.base import Message
from fedbus.bus.mailbox import Mailbox
from fedbus.errors import BusClosed


def _message(size=744, number=0):
    return Message("x", bytes(size), sequence=number)


async def test_the_newest_are_dropped_and_logged_once_per_burst(caplog):
    """Beyond its bytes new messages are refused; one line when that begins, one with the count when it ends."""
    box = Mailbox("box", 3000)
    with caplog.at_level(logging.WARNING, "fedbus.bus"):
        taken = [box.put(_message(number=i)) for i in range(10)]
        assert taken == [True, True, True] + [False] * 7
        assert len(caplog.records) == 1
        assert [(await anext(box)).sequence for _ in range(3)] == [0, 1, 2]
    assert box.dropped == 7
    assert ["too slow" in r.message for r in caplog.records] == [True, False]
    assert "7 messages were dropped" in caplog.records[1].message
    assert box.put(_message())


async def test_an_empty_mailbox_takes_a_message_of_any_size():
    """A message larger than the limit can still be received, alone."""
    box = Mailbox("box", 10)
    assert box.put(_message(10_000))
    assert not box.put(_message(0))
    assert len((await anext(box)).data) == 10_000


async def test_a_cancelled_reader_takes_nothing_with_it():
    """A reader cancelled in the moment of an arrival passes the news to the next one."""
    box = Mailbox("box", 10_000)
    first, second = (asyncio.ensure_future(anext(box)) for _ in range(2))
    await asyncio.sleep(0)
    box.put(_message(number=1))
    first.cancel()
    assert (await second).sequence == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_closing_tells_its_bus_once_even_after_a_failure():
    """A subscription that the broker refused is still given back to its bus, once."""
    told = []

    async def on_close(box):
        told.append(box)

    box = Mailbox("box", 1, on_close)
    box.fail(BusClosed("gone"))
    await box.close()
    await box.close()
    assert told == [box]


async def test_every_waiting_reader_hears_of_the_end():
    """Closing ends all waiting iterations; failing raises in all of them, and again in later ones."""
    closed, failed = Mailbox("closed", 1), Mailbox("failed", 1)
    waits = [asyncio.ensure_future(anext(box)) for box in (closed, closed, failed, failed)]
    await asyncio.sleep(0)
    await closed.close()
    failed.fail(BusClosed("gone"))
    ends = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(end) for end in ends] == [StopAsyncIteration] * 2 + [BusClosed] * 2
    assert not failed.put(_message())
    with pytest.raises(BusClosed, match="gone"):
        await anext(failed)
