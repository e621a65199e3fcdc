"""Takes the spans that a role has ended to the bus, some at a time, in nobody's way.

    Outlet --[rest GATHER_S]--> as many as there are, by trace --> ``span.<role>.<name>`` --> stream of newest spans

Plain messages, at most once: what is lost is a bar in a picture. While the bus is away they wait in the outlet, which
drops the oldest. Clients need no other way out than the one they have.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from fedbus.errors import FedbusError
from fedbus.exchange.station import Station
from fedbus.messages.spans import SpanEnded, SpanEvent, SpansEnded
from fedbus.telemetry import Telemetry
from fedbus.telemetry.outlet import EndedSpan, Outlet

log = logging.getLogger("fedbus.exchange")

GATHER_S = 1.0
"""How long spans wait for others to travel with: a message costs its sender as much as ten spans, and with 0.2 s the
fetch, the training and the upload of a client each had their own."""

BATCH_MAX = 256
"""Spans of one message, and of one turn of the loop: 2 ms of packing."""

AWAY_S = 1.0
"""How often it is looked whether the bus is back."""

LAST_S_MAX = 1.0
"""For how long the last spans may hold up a role's end."""


async def carry(station: Station, traces: Telemetry) -> None:
    """Take spans to the bus until cancelled; then what is left. Returns at once where none are wanted there."""
    outlet = traces.outlet
    if outlet is None:
        return
    try:
        while True:
            await outlet.wait()
            await asyncio.sleep(GATHER_S)
            while not station.bus.connected:  # noqa: ASYNC110 - a bus has no event for that
                await asyncio.sleep(AWAY_S)
            while len(outlet):
                await _send(station, outlet)
                await asyncio.sleep(0)
    finally:
        with suppress(FedbusError, TimeoutError):
            async with asyncio.timeout(LAST_S_MAX):
                while len(outlet) and station.bus.connected:
                    await _send(station, outlet)


async def _send(station: Station, outlet: Outlet) -> None:
    """Send the oldest spans, those of each trace together."""
    by_trace: dict[str, list[EndedSpan]] = {}
    for span in outlet.take(BATCH_MAX):
        by_trace.setdefault(span.trace_id, []).append(span)
    for trace_id, spans in by_trace.items():
        body = SpansEnded.model_construct(trace_id=trace_id, spans=tuple(map(_told, spans)), dropped=outlet.dropped)
        headers = {"traceparent": f"00-{trace_id}-{spans[0].span_id}-01"}
        try:
            await station.say(station.subjects.span(station.peer), body, headers)
        except (ValueError, OverflowError) as error:  # what cannot be packed costs a picture, and no role its life
            log.warning("%d spans are not told: %s", len(spans), error)


def _told(span: EndedSpan) -> SpanEnded:
    """Put a span into the words of the bus; its values are bounded already, so they are not checked once more."""
    return SpanEnded.model_construct(
        span_id=span.span_id,
        parent_id=span.parent_id,
        name=span.name,
        span_kind=span.kind,
        start_at=span.start_at,
        end_at=span.end_at,
        error=span.error,
        attributes=span.attributes,
        events=tuple(
            SpanEvent.model_construct(name=event.name, at=event.at, attributes=event.attributes)
            for event in span.events
        ),
        links=span.links,
    )
