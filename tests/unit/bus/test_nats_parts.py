"""Parts of the NATS bus that need no broker: the window of appends, refusals translated, addresses without secrets."""

from __future__ import annotations

import asyncio

import pytest

from fedbus.bus.nats.connection import without_secrets
from fedbus.bus.nats.jetstream import NoStream, NotReady, raise_refusal
from fedbus.bus.nats.window import Window
from fedbus.errors import BusFull, BusUnavailable, ConfigError, Conflict


async def test_the_window_bounds_bytes_and_messages_and_keeps_order():
    """Never more than its bytes and messages are inside; who waits is admitted in turn; a giant enters alone."""
    window = Window(bytes_max=100, messages_max=3)
    inside, most, order = 0, 0, []

    async def one(number, size):
        nonlocal inside, most
        async with window.enter(size):
            order.append(number)
            inside += 1
            most = max(most, inside)
            assert window._bytes <= 100 or inside == 1
            await asyncio.sleep(0)
            inside -= 1

    sizes = [10, 50, 60, 500, 1, 1, 1, 1, 99, 2] * 5
    await asyncio.gather(*(one(number, size) for number, size in enumerate(sizes)))
    assert order == list(range(50))
    assert most == 3
    assert (window._bytes, window._messages) == (0, 0)


async def test_who_is_cancelled_in_the_window_gives_its_place_back():
    """Cancelled while waiting, at the moment of admission, or inside: the room is free again, the next enters."""
    window = Window(bytes_max=10, messages_max=10)
    entered = []

    async def one(name, until):
        async with window.enter(10):
            entered.append(name)
            await until.wait()

    release = asyncio.Event()
    tasks = [asyncio.create_task(one(name, release)) for name in "abcd"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[0].cancel()
    await asyncio.sleep(0)
    tasks[2].cancel()  # it is being admitted in this very turn
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered[0] == "a"
    assert entered[-1] == "d"
    assert (window._bytes, window._messages, len(window._line)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("code", "err_code", "text", "error"),
    [
        (404, 10059, "stream not found", NoStream),
        (400, 10071, "wrong last sequence: 1", Conflict),
        (400, 10164, "wrong last sequence", Conflict),
        (503, 10077, "maximum bytes exceeded", BusFull),
        (429, 10167, "too many requests", BusFull),
        (500, 10047, "insufficient storage resources available", BusFull),
        (503, 10008, "JetStream system temporarily unavailable", NotReady),
        (409, 10158, "duplicate message id is in process", NotReady),
        (500, 10049, "error creating store for stream", NotReady),
        (500, 10049, "stream name is too long", ConfigError),
        (400, 10065, "subjects overlap with an existing stream", ConfigError),
        (500, 10052, "stream configuration update can not change storage type", ConfigError),
    ],
)
def test_refusals_are_translated(code, err_code, text, error):
    """Each error of JetStream becomes the one that says what to do, with the broker's words in it."""
    with pytest.raises(error, match=text):
        raise_refusal({"error": {"code": code, "err_code": err_code, "description": text}}, "append x")


def test_an_overloaded_broker_is_asked_again_and_then_full():
    """429 is both: retried within the deadline, BusFull beyond it."""
    with pytest.raises(BusFull) as caught:
        raise_refusal({"error": {"code": 429, "err_code": 10167, "description": "too many requests"}}, "append x")
    assert isinstance(caught.value, NotReady)
    assert isinstance(caught.value, BusUnavailable)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://user:pass@host:4222", "nats://host:4222"),
        ("token@host", "nats://host"),
        ("nats://a:1,tls://u:p@b:2", "nats://a:1,tls://b:2"),
    ],
)
def test_addresses_are_shownwithout_secrets(url, shown):
    """User, password and token of a URL appear in no error."""
    assert without_secrets(url) == shown
