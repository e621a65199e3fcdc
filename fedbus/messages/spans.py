"""Spans that have ended, on their way to whoever shows traces: a role puts its own on the bus, some at a time.

All of one message are of one trace, which stands in its header ``traceparent`` too: who looks for one trace need not
unpack the others.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, Number, Said

SPANS_MAX = 512
"""Spans of one message."""

Text = Annotated[str, Said, Field(max_length=1000)]
Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Value = bool | int | float | Text | Annotated[list[Text], Field(max_length=64)]
Values = Annotated[dict[Text, Value], Field(max_length=64)]


class SpanEvent(Body):
    """Something that happened within a span; ``at``: seconds since the epoch."""

    name: Text
    at: Number
    attributes: Values = {}


class SpanEnded(Body):
    """One span; ``parent_id`` empty: a root. ``error``: why it failed. ``links``: ``<trace id>-<span id>`` of each."""

    span_id: Hex16
    parent_id: Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")] = ""
    name: Text
    span_kind: Text = "internal"
    start_at: Number
    end_at: Number
    error: Text = ""
    attributes: Values = {}
    events: Annotated[tuple[SpanEvent, ...], Field(max_length=64)] = ()
    links: Annotated[tuple[Text, ...], Field(max_length=64)] = ()


class SpansEnded(Body):
    """Spans of one trace, of the role that the subject names; ``dropped``: how many it could not keep, so far."""

    trace_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    spans: Annotated[tuple[SpanEnded, ...], Field(max_length=SPANS_MAX)]
    dropped: Count = 0
