"""Spans with explicit parents, which end wherever the work does.

A parent is always named; no current span is kept for others to find, so nothing leaks from one asyncio task into
another, and a span may begin in one callback and end in another. (What log lines say of their span:
`fedbus.telemetry.logs`.)

A parent that is not sampled is followed without a span: its context is handed on, and that is all it costs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from fedbus.telemetry.context import SAMPLED, context_of, is_unsampled, passed_on, unsampled
from fedbus.telemetry.logs import about
from fedbus.telemetry.meters import OFF as NO_METERS
from fedbus.telemetry.meters import Meters
from fedbus.telemetry.names import ERROR_TYPE, Attributes, AttributeValue
from fedbus.telemetry.recorded import RecordedSpan
from fedbus.version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Tracer, TracerProvider
    from opentelemetry.trace import Span as OtelSpan

    from fedbus.telemetry.outlet import Outlet


class Kind(Enum):
    """What a span is to the messages around it, in OpenTelemetry's words."""

    INTERNAL = "INTERNAL"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"


class Span(Protocol):
    """A piece of work with a beginning and an end; whoever starts it by `Telemetry.start_span` ends it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that make spans elsewhere its children; empty when there is no trace. Do not change them."""
        ...

    def set(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        ...

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Note that something happened now."""
        ...

    def link(self, headers: Mapping[str, str]) -> None:
        """Name another span that this work is about and that is not its parent; one that is not sampled is none."""
        ...

    def fail(self, reason: str) -> None:
        """Mark the work as failed; the first reason stays."""
        ...

    def end(self) -> None:
        """End the span now; idempotent."""
        ...


class Telemetry:
    """Spans, and numbers, of one role.

    ``tracer_provider`` may be any provider of OpenTelemetry's API. Without one, spans go to the provider of the
    application around us if it has OpenTelemetry loaded by now, and nowhere otherwise. ``outlet``: where spans wait to
    be put on the bus; without a provider spans of our own end there (`fedbus.telemetry.recorded`), a provider has to be
    given it as a span processor. ``meters`` count, or do nothing.
    """

    def __init__(
        self,
        role: str,
        instance: str,
        tracer_provider: TracerProvider | None = None,
        *,
        meters: Meters = NO_METERS,
        outlet: Outlet | None = None,
    ) -> None:
        self.role = role
        self.instance = instance
        self.meters = meters
        self.outlet = outlet
        self._records = outlet is not None and tracer_provider is None
        self._tracer = None if self._records else _tracer(role, tracer_provider)

    @classmethod
    def off(cls) -> Telemetry:
        """Spans that go nowhere, whatever the application around us does."""
        telemetry = cls.__new__(cls)
        telemetry.role = telemetry.instance = ""
        telemetry.meters = NO_METERS
        telemetry.outlet = None
        telemetry._records, telemetry._tracer = False, None  # noqa: SLF001 - its own class
        return telemetry

    @property
    def enabled(self) -> bool:
        """Whether spans may go anywhere; ask it before computing a costly attribute."""
        return self._records or self._tracer is not None

    def start_span(
        self,
        name: str,
        *,
        parent: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
        kind: Kind = Kind.INTERNAL,
        links: Sequence[Mapping[str, str]] = (),
        sampled: bool = True,
    ) -> Span:
        """Start a span that the caller ends.

        ``parent`` are a received message's headers or another span's; without a valid ``traceparent`` in them the span
        begins a new trace, unless it is not to be ``sampled``. Names are few and fixed: what varies is an attribute.
        ``links``: headers of other spans that it is about.
        """
        if not self.enabled:
            return _OFF if not parent else _SilentSpan(passed_on(parent))
        if not sampled:
            return _SilentSpan(unsampled(parent))
        if is_unsampled(parent):
            return _SilentSpan(passed_on(parent or {}))
        if self._tracer is None:
            assert self.outlet is not None
            if parent is not None and context_of(parent.get("traceparent", "")) is None:
                return _OFF  # nobody traces the round: on the bus it would be found by nobody
            return RecordedSpan(self.outlet, name, parent or {}, attributes, kind.value.lower(), links)
        return _start(self._tracer, name, parent or {}, attributes, kind, links)

    @contextmanager
    def span(
        self,
        name: str,
        *,
        parent: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
        kind: Kind = Kind.INTERNAL,
        links: Sequence[Mapping[str, str]] = (),
    ) -> Iterator[Span]:
        """Span a ``with`` block; an exception marks it as failed and goes on, a cancellation is an event."""
        span = self.start_span(name, parent=parent, attributes=attributes, kind=kind, links=links)
        try:
            if not isinstance(span, _SilentSpan):
                with about(span.headers, attributes):
                    yield span
            else:
                yield span
        except Exception as error:
            span.set(ERROR_TYPE, type(error).__qualname__)
            span.fail(f"{type(error).__qualname__}: {error}")
            raise
        except BaseException:
            # Cancelled or interrupted: somebody's decision, not a failure of this work.
            span.event("cancelled")
            raise
        finally:
            span.end()


class _SilentSpan:
    """A span that goes nowhere but hands its parent's context on."""

    __slots__ = ("headers",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def set(self, key: str, value: AttributeValue) -> None:
        pass

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        pass

    def link(self, headers: Mapping[str, str]) -> None:
        pass

    def fail(self, reason: str) -> None:
        pass

    def end(self) -> None:
        pass


_OFF: Final = _SilentSpan({})


class _LiveSpan:
    """A span of OpenTelemetry's, narrowed to what the roles need."""

    __slots__ = ("_failed", "_span", "headers")

    def __init__(self, span: OtelSpan, headers: Mapping[str, str]) -> None:
        self._span = span
        self._failed = False
        self.headers = headers

    def set(self, key: str, value: AttributeValue) -> None:
        if self._span.is_recording():
            self._span.set_attribute(key, value)

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        if self._span.is_recording():
            self._span.add_event(name, attributes)

    def link(self, headers: Mapping[str, str]) -> None:
        if self._span.is_recording():
            for link in _links([headers]):
                self._span.add_link(link.context)

    def fail(self, reason: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        if self._span.is_recording() and not self._failed:
            self._failed = True
            self._span.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        # A second end makes the SDK warn.
        if self._span.is_recording():
            self._span.end()


def _tracer(role: str, provider: TracerProvider | None) -> Tracer | None:
    if provider is None:
        if "opentelemetry.trace" not in sys.modules:
            return None
        from opentelemetry.trace import get_tracer_provider

        provider = get_tracer_provider()
    return provider.get_tracer(f"fedbus.{role}", __version__)


def _start(
    tracer: Tracer,
    name: str,
    parent: Mapping[str, str],
    attributes: Attributes | None,
    kind: Kind,
    links: Sequence[Mapping[str, str]],
) -> Span:
    from opentelemetry.trace import SpanKind

    span = tracer.start_span(
        name,
        context=_context(parent),
        kind=SpanKind[kind.value],
        attributes=attributes,
        links=_links(links) if links else None,
    )
    return _LiveSpan(span, _headers(span))


def _links(links: Sequence[Mapping[str, str]]) -> list[Link]:
    from opentelemetry.trace import Link, SpanContext, TraceFlags

    found = [context_of(headers.get("traceparent", "")) for headers in links]
    return [
        Link(SpanContext(int(one.trace_id, 16), int(one.span_id, 16), is_remote=True, trace_flags=TraceFlags(SAMPLED)))
        for one in found
        if one is not None and one.sampled
    ]


def _context(parent: Mapping[str, str]) -> Context:
    """Return a context that holds the remote parent and nothing of the surroundings; an invalid parent is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(passed_on(parent), context=Context())


def _headers(span: OtelSpan) -> dict[str, str]:
    """Write W3C Trace Context.

    Of the flags only *sampled* is written. The SDK would send 03: bit 1 says that the trace id is random, which is
    defined in level 2 (a candidate) and has to be 0 in level 1 (the recommendation); 0 is valid in both, it promises
    nothing about the id.
    """
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    flags = context.trace_flags & SAMPLED
    headers = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return headers
