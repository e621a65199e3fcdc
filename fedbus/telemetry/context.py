"""Trace context of W3C as it travels in headers: read, checked, written, drawn. Nothing of OpenTelemetry is needed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import NamedTuple

# Level 1 of W3C Trace Context asks for 55 characters; tracestate must be handed on up to 512.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE_CHARS_MAX = 512
SAMPLED = 0x01


class TraceContext(NamedTuple):
    """What a ``traceparent`` says."""

    trace_id: str
    span_id: str
    sampled: bool


def context_of(traceparent: str) -> TraceContext | None:
    """Return what a ``traceparent`` says; None where it is not one."""
    if not _TRACEPARENT.fullmatch(traceparent):
        return None
    return TraceContext(traceparent[3:35], traceparent[36:52], bool(int(traceparent[53:], 16) & SAMPLED))


def is_unsampled(headers: Mapping[str, str] | None) -> bool:
    """Whether it was decided that the trace of these headers is not kept; False where they have none."""
    found = context_of(headers.get("traceparent", "")) if headers else None
    return found is not None and not found.sampled


def unsampled(parent: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return headers of a trace that is not kept: that of ``parent``, or a new one.

    They are needed: without any a role that traces would begin a trace of its own.
    """
    found = context_of(parent.get("traceparent", "")) if parent else None
    trace_id, span_id = (found.trace_id, found.span_id) if found else (_drawn(16), _drawn(8))
    return {"traceparent": f"00-{trace_id}-{span_id}-00"}


def _drawn(size: int) -> str:
    # Zero is not valid; it comes once in 2^64 draws, and costs one trace.
    return secrets.token_hex(size)


def passed_on(parent: Mapping[str, str]) -> dict[str, str]:
    """Return the trace context among a message's headers: a peer's mistake, or its megabyte, is not handed on."""
    traceparent = parent.get("traceparent", "")
    if not _TRACEPARENT.fullmatch(traceparent):
        return {}
    tracestate = parent.get("tracestate", "")
    if not 0 < len(tracestate) <= _TRACESTATE_CHARS_MAX:
        return {"traceparent": traceparent}
    return {"traceparent": traceparent, "tracestate": tracestate}
