"""Where ended spans wait until somebody takes them to the bus: bounded, and never in anybody's way.

    span ends (any thread) --offer--> [ at most SPANS_WAITING_MAX, the oldest is dropped ] --take--> `exchange.spans`

What it costs to end a span is an append to a deque; spans are made into words only when they are taken. Who takes them
is woken once, when there is something again.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace import Span as SdkSpan

SPANS_WAITING_MAX: Final = 4096
"""Spans that wait for the bus: five rounds of 200 clients, some 4 MB; while it is away the oldest of more are lost."""

TEXT_CHARS_MAX: Final = 1000
"""Of an attribute, a reason, a name."""

EVENTS_MAX: Final = 64
"""Events of one span: of more the first and the last, since a round's end tells how it went."""

ITEMS_MAX: Final = 64
"""Attributes of a span or an event, items of an attribute, and links of a span."""

NUMBER_MAX: Final = 2**63
"""A number from here on, and one that is none, travels as a text."""

Value = bool | int | float | str | list[str]
Told = dict[str, Value]


class EndedEvent(NamedTuple):
    """Something that happened within a span; ``at`` in seconds since the epoch."""

    name: str
    at: float
    attributes: Told


class EndedSpan(NamedTuple):
    """A span as it is told: ids in hexadecimal, ``parent_id`` empty where there is none, times since the epoch.

    ``error``: why it failed, empty where it did not. ``links``: ``<trace id>-<span id>`` of each.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start_at: float
    end_at: float
    error: str
    attributes: Told
    events: tuple[EndedEvent, ...] = ()
    links: tuple[str, ...] = ()


class Outlet:
    """The spans of one role on their way to the bus; it may be a span processor of OpenTelemetry's SDK."""

    def __init__(self, spans_max: int = SPANS_WAITING_MAX) -> None:
        self.dropped = 0
        self._spans: deque[ReadableSpan | EndedSpan] = deque()
        self._spans_max = spans_max
        self._lock = threading.Lock()
        self._wake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def __len__(self) -> int:
        return len(self._spans)

    # --- as a span processor ---

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Nothing: a span is told of when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span of the SDK's that has ended; those of an application around us are not ours to tell."""
        scope = span.instrumentation_scope
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if scope is not None and scope.name.startswith("fedbus."):
            self.put(span)

    def put(self, span: ReadableSpan | EndedSpan) -> None:
        """Take a span that has ended, from any thread; of too many the oldest goes."""
        with self._lock:
            first = not self._spans
            if len(self._spans) >= self._spans_max:
                self._spans.popleft()
                self.dropped += 1
            self._spans.append(span)
            wake = self._wake
        if first and wake is not None:
            _wake(*wake)

    def _on_ending(self, span: SdkSpan) -> None:
        """As `on_start`: the SDK calls it before a span ends."""

    def shutdown(self) -> None:
        """What waits goes with the process."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - as the SDK calls it
        """Nothing is to be waited for: who takes spans does so by itself."""
        return True

    # --- as what the loop takes from ---

    async def wait(self) -> None:
        """Wait until there is something; one coroutine at a time."""
        event = asyncio.Event()
        with self._lock:
            if self._spans:
                return
            self._wake = (asyncio.get_running_loop(), event)
        try:
            await event.wait()
        finally:
            with self._lock:
                self._wake = None

    def take(self, count: int) -> list[EndedSpan]:
        """Return the oldest, at most so many."""
        with self._lock:
            taken = [self._spans.popleft() for _ in range(min(count, len(self._spans)))]
        return [span if isinstance(span, EndedSpan) else told(span) for span in taken]


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    try:
        is_here = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_here = False
    if is_here:
        event.set()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(event.set)


def told(span: ReadableSpan) -> EndedSpan:
    """Put an ended span into words of ours."""
    context, status = span.context, span.status
    assert context is not None
    failed = status.status_code.name == "ERROR"
    events = list(span.events)
    if len(events) > EVENTS_MAX:
        events = events[: EVENTS_MAX // 2] + events[-EVENTS_MAX // 2 :]
    return EndedSpan(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent is not None else "",
        name=text_of(span.name),
        kind=span.kind.name.lower(),
        start_at=(span.start_time or 0) / 1e9,
        end_at=(span.end_time or 0) / 1e9,
        error=text_of(status.description or "failed") if failed else "",
        attributes=bounded(span.attributes),
        events=tuple(EndedEvent(one.name, one.timestamp / 1e9, bounded(one.attributes)) for one in events),
        links=tuple(f"{one.context.trace_id:032x}-{one.context.span_id:016x}" for one in span.links[:ITEMS_MAX]),
    )


def bounded(attributes: Mapping[str, object] | None) -> Told:
    """Return attributes within the bounds of what is told."""
    if not attributes:
        return {}
    items = attributes.items() if len(attributes) <= ITEMS_MAX else list(attributes.items())[:ITEMS_MAX]
    return {key: _value(value) for key, value in items}


def _value(value: object) -> Value:
    if isinstance(value, list | tuple):
        return [text_of(item) for item in value[:ITEMS_MAX]]
    if isinstance(value, bool) or (isinstance(value, int | float) and -NUMBER_MAX < value < NUMBER_MAX):
        return value
    return text_of(value)


def text_of(value: object) -> str:
    """Return something as a text that can travel: bounded, and without the halves of characters that files' names hold.

    An error that names a file whose name is not UTF-8 has them; packing them for the bus would fail.
    """
    text = str(value)[:TEXT_CHARS_MAX]
    return text if text.isascii() else text.encode(errors="replace").decode()
