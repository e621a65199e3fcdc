"""The one door to OpenTelemetry: spans, numbers and log lines of a role, which tell of rounds together.

In: a role, its instance, and the environment that the command line read. Out: spans, which other roles continue from
`Span.headers` (W3C ``traceparent``), and which end in a collector, on the bus or in a file; numbers for Prometheus or a
collector; lines of the log that name their trace.

It promises that nothing of OpenTelemetry is imported, and a span or a number costs less than a microsecond, until
somebody asks for them: the standard environment variables (`setup`), a provider handed in, or an application around us
that has OpenTelemetry loaded. Even then a role that does not trace hands its parent's context on, so the trace does not
tear.

It leaves to others what to trace and count: what there is, is listed in ``docs/reference/telemetry.md``.

    names     attributes                     outlet    where spans wait to be put on the bus
    context   ``traceparent``, sampling      files     spans as lines of OTLP JSON
    spans     `Telemetry`, `Span`            metrics   the table of metrics
    starting  `setup`                        meters    who counts, if anybody does
    logs      lines for people, or as JSON   scrape    what Prometheus asks for
"""

from __future__ import annotations

from fedbus.telemetry.context import context_of, is_unsampled, unsampled
from fedbus.telemetry.meters import Meters
from fedbus.telemetry.names import (
    ATTEMPT,
    BYTES,
    CHUNKS,
    CLIENT,
    CODEC,
    COMBINER,
    DIRECTION,
    ERROR_TYPE,
    HTTP_METHOD,
    HTTP_ROUTE,
    HTTP_STATUS,
    MESSAGING_BATCH_COUNT,
    MESSAGING_CLIENT_ID,
    MESSAGING_DESTINATION,
    MESSAGING_OPERATION,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    MODEL_VERSION,
    OUTCOME,
    PHASE,
    QUEUE,
    REASON,
    RETRANSMITTED,
    ROLE,
    ROUND,
    SESSION,
    STAGE,
    STATUS,
    STRATEGY,
    STREAM,
    UPDATES,
    UPDATES_TARGET,
    VERDICT,
    WAIT,
    WEIGHT,
    WORKSPACE,
    Attributes,
    AttributeValue,
    messaging,
)
from fedbus.telemetry.spans import Kind, Span, Telemetry
from fedbus.telemetry.starting import SHUTDOWN_S_MAX, Tracing, Wanted, setup

__all__ = [
    "ATTEMPT",
    "BYTES",
    "CHUNKS",
    "CLIENT",
    "CODEC",
    "COMBINER",
    "DIRECTION",
    "ERROR_TYPE",
    "HTTP_METHOD",
    "HTTP_ROUTE",
    "HTTP_STATUS",
    "MESSAGING_BATCH_COUNT",
    "MESSAGING_CLIENT_ID",
    "MESSAGING_DESTINATION",
    "MESSAGING_OPERATION",
    "MESSAGING_OPERATION_TYPE",
    "MESSAGING_SYSTEM",
    "MODEL_VERSION",
    "OUTCOME",
    "PHASE",
    "QUEUE",
    "REASON",
    "RETRANSMITTED",
    "ROLE",
    "ROUND",
    "SESSION",
    "SHUTDOWN_S_MAX",
    "STAGE",
    "STATUS",
    "STRATEGY",
    "STREAM",
    "UPDATES",
    "UPDATES_TARGET",
    "VERDICT",
    "WAIT",
    "WEIGHT",
    "WORKSPACE",
    "AttributeValue",
    "Attributes",
    "Kind",
    "Meters",
    "Span",
    "Telemetry",
    "Tracing",
    "Wanted",
    "context_of",
    "is_unsampled",
    "messaging",
    "setup",
    "unsampled",
]
