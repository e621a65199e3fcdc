"""Spans on their way over the bus, and put together again: some at a time, in nobody's way, bounded everywhere."""

from __future__ import annotations

import asyncio

import pytest

from fedbus.bus.base import Message
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.errors import BusFull
from fedbus.exchange.spans import BATCH_MAX, GATHER_S, carry
from fedbus.exchange.station import Station
from fedbus.federation.traces import RoundTrace, Spans, spans_of, why_not
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.spans import SpanEnded, SpansEnded
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import SPANS_BYTES_MAX, ensure_streams
from fedbus.telemetry import Telemetry
from fedbus.telemetry.outlet import Outlet
from fedbus.testing.loop import VirtualClock, run_virtual

OURS = Subjects("default")


class Scene:
    """A broker, a client with spans, and a reader."""

    def __init__(self):
        self.broker = MemoryBroker()
        self.bus, self.reader = MemoryBus(self.broker, "site-1"), MemoryBus(self.broker, "reader")
        self.outlet = Outlet()
        self.traces = Telemetry("client", "site-1", outlet=self.outlet)

    async def begin(self):
        """Streams are there, and spans are carried."""
        await ensure_streams(self.reader, OURS)
        peer = Peer("client", "site-1")
        station = Station(self.bus, "default", peer, "i", VirtualClock(), heartbeat_s=5.0)
        self.carrying = asyncio.ensure_future(carry(station, self.traces))
        await asyncio.sleep(0)

    async def end(self):
        """The role ends: what is left goes with it."""
        self.carrying.cancel()
        await asyncio.gather(self.carrying, return_exceptions=True)
        await asyncio.sleep(1)

    async def count(self):
        """Messages of spans that the broker has."""
        return await self.reader.pending(OURS.stream("span"), OURS.span())


def test_spans_of_a_trace_travel_together_and_are_found_again():
    """Two traces are two messages; of the one that is asked for all spans come back as they were, by start."""

    async def main():
        scene = Scene()
        await scene.begin()
        with scene.traces.span("round", attributes={"fedbus.round": 3}) as above:
            for name in ("fetch model", "train"):
                with scene.traces.span(name, parent=above.headers) as span:
                    span.event("seen", {"a": 1})
        scene.traces.start_span("other").end()
        await asyncio.sleep(GATHER_S + 0.1)
        assert await scene.count() == 2, "one message a trace, though four spans ended"
        trace_id = above.headers["traceparent"].split("-")[1]
        spans = await spans_of(scene.reader, OURS, trace_id)
        trace = RoundTrace(trace_id, "s", 3, spans)
        assert trace.complete and [(depth, span.name) for depth, span in trace.tree()] == [
            (0, "round"), (1, "fetch model"), (1, "train"),
        ]  # fmt: skip
        assert {(span.role, span.instance) for span in spans} == {("client", "site-1")}
        assert spans[0].attributes == {"fedbus.round": 3} and spans[1].events[0].attributes == {"a": 1}
        assert await spans_of(scene.reader, OURS, "f" * 32) == ()
        await scene.end()

    run_virtual(main())


def test_what_ends_while_the_bus_is_away_waits():
    """Nothing is sent into a line that is cut; when it is back everything comes, in messages of bounded size."""

    async def main():
        scene = Scene()
        await scene.begin()
        scene.broker.partition("site-1")
        with scene.traces.span("round") as above:
            for _ in range(BATCH_MAX + 10):
                scene.traces.start_span("train", parent=above.headers).end()
        await asyncio.sleep(5)
        assert len(scene.outlet) == BATCH_MAX + 11 and await scene.count() == 0
        scene.broker.heal("site-1")
        await asyncio.sleep(5)
        assert len(scene.outlet) == 0 and await scene.count() == 2
        await scene.end()

    run_virtual(main())


def test_the_last_spans_leave_with_their_role():
    """What ended just before a role is cancelled is sent at its end, and a bus that is away does not hold it up."""

    async def main():
        scene = Scene()
        await scene.begin()
        scene.traces.start_span("upload").end()
        await scene.end()
        assert await scene.count() == 1
        away = Scene()
        await away.begin()
        away.broker.down()
        away.traces.start_span("upload").end()
        began = asyncio.get_running_loop().time()
        away.carrying.cancel()
        await asyncio.gather(away.carrying, return_exceptions=True)
        assert asyncio.get_running_loop().time() - began < 2

    run_virtual(main())


def test_a_role_without_spans_carries_none():
    """It returns at once: nothing runs for it."""

    async def main():
        bus = MemoryBus(MemoryBroker(), "k")
        station = Station(bus, "default", Peer("combiner", "k"), "i", VirtualClock(), heartbeat_s=5.0)
        await asyncio.wait_for(carry(station, Telemetry.off()), 1)

    run_virtual(main())


def message(trace_id, span_id, data=b"", subject=None):
    """A message of spans as a reader gets it."""
    span = SpanEnded(span_id=span_id, name="train", start_at=1.0, end_at=2.0)
    body = SpansEnded(trace_id=trace_id, spans=(span,))
    return Message(
        subject or OURS.span(Peer("crowd", "many")),
        data or encode(Envelope("i", "default", "many", body)),
        {"traceparent": f"00-{trace_id}-{span_id}-01"},
    )


def test_what_is_held_is_bounded_and_garbage_is_passed_over():
    """Of more than fits the oldest trace goes; what is no message of spans, or has no trace, is nobody's."""
    one = message("a" * 32, "1" * 16)
    spans = Spans(OURS, bytes_max=3 * len(one.data))
    for index, trace in enumerate("abcd"):
        spans.take(message(trace * 32, f"{index + 1:016x}"))
    assert len(spans) == 3 and spans.of("a" * 32) == () and [one.role for one in spans.of("d" * 32)] == ["client"]
    spans = Spans(OURS)
    spans.take(message("a" * 32, "1" * 16))
    spans.take(message("a" * 32, "1" * 16))  # said twice
    spans.take(message("a" * 32, "2" * 16, data=b"garbage"))
    spans.take(message("a" * 32, "3" * 16, subject="fb.default.span.client.bad name"))
    assert [one.span_id for one in spans.of("a" * 32)] == ["1" * 16]
    spans.clear()
    assert len(spans) == 0


def test_why_there_are_none_is_said():
    """Not traced, or not any more: what to do is different."""
    assert "--spans bus" in why_not("s", 3, traced=True) and "newest" in why_not("s", 3, traced=True)
    assert "--trace-rounds" in why_not("s", 3, traced=False)


def test_a_broker_without_memory_for_spans_does_without(caplog):
    """A federation goes on where the stream of spans cannot be made; for any other stream it is an error."""

    class Small:
        """A bus whose broker has room for little."""

        made = ()

        async def ensure(self, spec):
            """As a broker whose memory is given away."""
            if spec.bytes_max == SPANS_BYTES_MAX or spec.name in self.refused:
                raise BusFull("insufficient memory resources available")
            self.made = (*self.made, spec.name)

    async def main():
        bus = Small()
        bus.refused = ()
        await ensure_streams(bus, OURS)
        assert OURS.stream("journal") in bus.made and OURS.stream("span") not in bus.made
        bus.refused = (OURS.stream("board"),)
        with pytest.raises(BusFull):
            await ensure_streams(bus, OURS)

    run_virtual(main())
    assert "spans are not kept on the bus" in caplog.text


@pytest.mark.parametrize(
    "what", ["\udcff", 2**70, -(2**63) - 1, float("nan"), float("inf"), ["\udcff"], {1: "\udcff"}, None]
)
def test_no_word_of_a_span_ends_a_role(what):
    """Half a character, as in names of files that are not UTF-8, or a number that is too large, is told otherwise."""

    async def main():
        scene = Scene()
        await scene.begin()
        span = scene.traces.start_span("train", parent={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
        span.set("what", what)
        span.event("said", {"what": what})
        span.fail(f"cannot read {what}")
        span.end()
        await asyncio.sleep(3 * GATHER_S)
        assert not scene.carrying.done() and await scene.count() == 1
        (message,) = await scene.reader.newest(OURS.stream("span"), OURS.span())
        (told,) = decode(message.data, message.subject).body.spans
        assert told.error.startswith("cannot read ") and isinstance(told.attributes["what"], str | list)
        await scene.end()

    run_virtual(main())


def test_what_cannot_be_packed_costs_a_picture(monkeypatch, caplog):
    """Whatever is wrong with a span, who carries it goes on to the next."""

    async def main():
        scene = Scene()
        await scene.begin()
        for number in range(2):
            monkeypatch.setattr("fedbus.telemetry.recorded.text_of", (lambda _: "\udcff") if not number else str)
            scene.traces.start_span("x", parent={"traceparent": f"00-{'a' * 31}{number}-{'b' * 16}-01"}).end()
            await asyncio.sleep(3 * GATHER_S)
        assert await scene.count() == 1
        await scene.end()

    run_virtual(main())
    assert "1 spans are not told" in caplog.text
