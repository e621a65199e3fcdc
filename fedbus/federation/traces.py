"""The trace of a round, put together from the spans that roles have put on the bus.

The broker keeps the newest spans of the workspace, of all roles; those of one trace are found by their headers, and
only those are unpacked. A role that has no `--spans bus`, or a round that is no longer among the newest, is not in it:
for more than a glance there are collectors.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fedbus.bus.base import Bus, Message
from fedbus.bus.patience import patiently
from fedbus.bus.stored import until_now
from fedbus.errors import BadMessage
from fedbus.messages.envelope import decode
from fedbus.messages.spans import SpansEnded
from fedbus.messages.subjects import Subjects
from fedbus.telemetry import context_of

log = logging.getLogger("fedbus")

HELD_BYTES_MAX = 64 * 2**20
"""Of spans that are held here: twice what the broker keeps."""

ROUND_SPAN = "round"
"""The span of the coordinator above all others."""


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """Something that happened within a span; ``at`` in seconds since the epoch."""

    name: str
    at: float
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """One span. ``parent_id`` empty: the root. ``role`` of a crowd's is client. Times in seconds since the epoch."""

    span_id: str
    parent_id: str
    name: str
    role: str
    instance: str
    kind: str
    start_at: float
    end_at: float
    error: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    events: tuple[TraceEvent, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(self.end_at - self.start_at, 0.0)


@dataclass(frozen=True, slots=True)
class RoundTrace:
    """The spans of a round that are known, by their start; ``complete``: that of the round itself has ended."""

    trace_id: str
    session: str
    round: int
    spans: tuple[TraceSpan, ...]

    @property
    def complete(self) -> bool:
        """Whether the span of the round has ended: what others do for it has, too, but for what is on its way."""
        return any(span.name == ROUND_SPAN and not span.parent_id for span in self.spans)

    def tree(self) -> list[tuple[int, TraceSpan]]:
        """Return each span with its depth, children behind their parents, by start."""
        known = {span.span_id for span in self.spans}
        below: dict[str, list[TraceSpan]] = {}
        for span in self.spans:
            below.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
        found: list[tuple[int, TraceSpan]] = []
        waiting = [(0, span) for span in reversed(below.get("", ()))]
        while waiting:
            depth, span = waiting.pop()
            found.append((depth, span))
            waiting += [(depth + 1, child) for child in reversed(below.pop(span.span_id, []))]
        return found


class Spans:
    """Spans by trace, as they came: of more than may be held the oldest trace goes."""

    def __init__(self, subjects: Subjects, bytes_max: int = HELD_BYTES_MAX) -> None:
        self._subjects = subjects
        self._bytes_max = bytes_max
        self._bytes = 0
        self._traces: OrderedDict[str, list[Message]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._traces)

    def take(self, message: Message) -> None:
        """Keep a message; one without a trace in its header is nobody's."""
        context = context_of(message.headers.get("traceparent", ""))
        if context is None:
            return
        self._traces.setdefault(context.trace_id, []).append(message)
        self._bytes += len(message.data)
        while self._bytes > self._bytes_max:
            _, dropped = self._traces.popitem(last=False)
            self._bytes -= sum(len(one.data) for one in dropped)

    def clear(self) -> None:
        """Forget all."""
        self._traces.clear()
        self._bytes = 0

    def of(self, trace_id: str) -> tuple[TraceSpan, ...]:
        """Return the spans of a trace, by start."""
        found = {span.span_id: span for message in self._traces.get(trace_id, ()) for span in self._unpacked(message)}
        return tuple(sorted(found.values(), key=lambda span: (span.start_at, span.span_id)))

    def _unpacked(self, message: Message) -> Iterable[TraceSpan]:
        try:
            role, instance = self._subjects.sender(message.subject, "span", 2, 0)
            body = decode(message.data, message.subject).body
        except BadMessage as error:
            log.debug("spans are passed over: %s", error)
            return
        if not isinstance(body, SpansEnded):
            return
        for span in body.spans:
            yield TraceSpan(
                span.span_id,
                span.parent_id,
                span.name,
                "client" if role == "crowd" else role,
                instance,
                span.span_kind,
                span.start_at,
                span.end_at,
                span.error,
                dict(span.attributes),
                tuple(TraceEvent(event.name, event.at, dict(event.attributes)) for event in span.events),
                tuple(span.links),
            )


async def spans_of(bus: Bus, subjects: Subjects, trace_id: str) -> tuple[TraceSpan, ...]:
    """Return what the broker has of a trace now; reads all spans that it keeps, up to 32 MiB."""
    stream, pattern = subjects.stream("span"), subjects.span()
    if not await patiently(bus, lambda: bus.pending(stream, pattern)):
        return ()
    found = Spans(subjects)
    async with aclosing(until_now(await bus.follow(stream, pattern))) as stored:
        async for message in stored:
            context = context_of(message.headers.get("traceparent", ""))
            if context is not None and context.trace_id == trace_id:
                found.take(message)
    return found.of(trace_id)


def why_not(session: str, round_: int, *, traced: bool) -> str:
    """Return why there are no spans of a round, and how to get some."""
    if not traced:
        return (
            f"session {session}: round {round_} was not traced: its coordinator has no --spans bus, or rounds came "
            "faster than are traced (--trace-rounds)"
        )
    return (
        f"session {session}: no spans of round {round_} are known: the broker keeps the newest of roles that run with "
        "--spans bus, in memory; a collector (OTEL_EXPORTER_OTLP_ENDPOINT) keeps all"
    )
