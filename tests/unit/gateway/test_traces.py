"""The trace of a round over REST: read from the bus while somebody looks, and why there is none where there is none."""

from __future__ import annotations

import asyncio

import pytest
from asker import ask, gateway_in
from whole_house import House

from fedbus.errors import BusDenied, BusUnavailable
from fedbus.gateway.spans import AGAIN_S, IDLE_S
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.spans import SpanEnded, SpansEnded
from fedbus.testing.loop import run_virtual

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def put(bus, subjects, span_id, name="train"):
    """Put a span on the bus, as a role does."""
    span = SpanEnded(span_id=span_id, parent_id="", name=name, start_at=1.0, end_at=2.0, error="no data")
    data = encode(Envelope("i", subjects.workspace, "site-1", SpansEnded(trace_id=TRACE, spans=(span,))))
    headers = {"traceparent": f"00-{TRACE}-{span_id}-01"}
    await bus.publish(subjects.span(Peer("client", "site-1")), data, headers)


def test_spans_are_followed_while_somebody_looks():
    """The first question reads what the broker keeps; what comes then is seen at once; when nobody asks it goes."""

    async def scene():
        async with gateway_in(House()) as gateway:
            bus, subjects, book = gateway.federation.bus, gateway.federation.subjects, gateway.spans
            await put(bus, subjects, "1" * 16)
            await asyncio.sleep(1)
            assert book._spans is None, "nobody has asked yet"
            assert [span.span_id for span in await book.of(TRACE)] == ["1" * 16]
            await put(bus, subjects, "2" * 16)
            await asyncio.sleep(1)
            assert [span.span_id for span in await book.of(TRACE)] == ["1" * 16, "2" * 16]
            assert await book.of("f" * 32) == ()
            await asyncio.sleep(IDLE_S + 1)
            assert book._spans is None
            assert len(await book.of(TRACE)) == 2, "and read again when somebody does"

    run_virtual(scene())


def test_an_empty_stream_is_no_wait():
    """Where no role has spans on the bus the answer comes at once."""

    async def scene():
        async with gateway_in(House()) as gateway:
            began = asyncio.get_running_loop().time()
            assert await gateway.spans.of(TRACE) == ()
            assert asyncio.get_running_loop().time() - began < 1

    run_virtual(scene())


def test_a_session_or_round_that_is_not_there_is_404():
    """Unknown session, and a name that is none: problems that say so."""

    async def scene():
        async with gateway_in(House()) as gateway:
            for path in ("/api/v1/sessions/nobody/rounds/1/trace", "/api/v1/sessions/nobody/rounds/newest/trace"):
                answer = await ask(gateway, "GET", path)
                assert answer.status == 404 and "nobody" in answer.json["detail"]

    run_virtual(scene())


def test_a_stream_that_is_not_permitted_costs_nothing_else(monkeypatch):
    """Where the broker lets nobody see spans and the registry, traces are 503 with the reason; all else is told."""
    reason = "Permissions Violation"

    async def scene():
        house = House()
        house.coordinator()
        async with gateway_in(house) as gateway:
            bus, subjects = gateway.federation.bus, gateway.federation.subjects
            denied = {subjects.stream("span"), subjects.stream("registry")}
            for name in ("pending", "usage", "last"):
                call = getattr(bus, name)

                async def refuse(stream, *rest, call=call, **more):
                    if stream in denied:
                        raise BusDenied(reason)
                    return await call(stream, *rest, **more)

                monkeypatch.setattr(bus, name, refuse)
            for _ in range(2):
                with pytest.raises(BusUnavailable, match=reason):
                    await gateway.spans.of(TRACE)
                await asyncio.sleep(AGAIN_S + 1)
            again = house.live(gateway.catalogue.watch())
            await asyncio.sleep(1)
            assert not again.done()
            await house.dismiss(again)
            told = (await ask(gateway, "GET", "/api/v1/overview")).json
            streams = {one["name"] for one in told["broker"]["streams"]}
            assert told["coordinator_answers"] and streams and not streams & denied
            monkeypatch.undo()
            assert await gateway.spans.of(TRACE) == ()

    run_virtual(scene())
