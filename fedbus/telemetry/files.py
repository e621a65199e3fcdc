"""Spans as a file: one line of OTLP JSON for each batch, which collectors and Jaeger read, and so do people.

The file is appended to. Written is in the SDK's own thread; a disk that is full costs spans and a line of the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedbus.errors import ConfigError
from fedbus.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("fedbus.telemetry")

_KINDS = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
_STATUS = {"UNSET": 0, "OK": 1, "ERROR": 2}


def file_exporter(path: Path) -> SpanExporter:
    """Return what appends spans to a file; `ConfigError` where it cannot be written."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    try:
        file = path.open("ab")
    except OSError as error:
        raise ConfigError(f"--spans-file {path}: {error.strerror or error}") from error

    class Exporter(SpanExporter):
        failed = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            try:
                file.write(line_of(spans))
                file.flush()
            except (OSError, ValueError) as error:
                if not self.failed:
                    log.warning("spans are not written to %s any more: %s", path, error)
                self.failed = True
                return SpanExportResult.FAILURE
            self.failed = False
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            file.close()

    return Exporter()


def line_of(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans of one role as a line: an ``ExportTraceServiceRequest`` in OTLP's JSON."""
    resource = spans[0].resource
    by_scope: dict[str, list[dict[str, Any]]] = {}
    for span in spans:
        scope = span.instrumentation_scope
        by_scope.setdefault(scope.name if scope is not None else "", []).append(_span(span))
    request = {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource.attributes)},
                "scopeSpans": [
                    {"scope": {"name": name, "version": __version__}, "spans": of} for name, of in by_scope.items()
                ],
            }
        ]
    }
    return json.dumps(request, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _span(span: ReadableSpan) -> dict[str, Any]:
    assert span.context is not None
    found: dict[str, Any] = {
        "traceId": f"{span.context.trace_id:032x}",
        "spanId": f"{span.context.span_id:016x}",
        "name": span.name,
        "kind": _KINDS[span.kind.name],
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _attributes(span.attributes),
    }
    if span.parent is not None:
        found["parentSpanId"] = f"{span.parent.span_id:016x}"
    if span.events:
        found["events"] = [
            {"name": one.name, "timeUnixNano": str(one.timestamp), "attributes": _attributes(one.attributes)}
            for one in span.events
        ]
    if span.links:
        found["links"] = [
            {"traceId": f"{one.context.trace_id:032x}", "spanId": f"{one.context.span_id:016x}"} for one in span.links
        ]
    status: dict[str, Any] = {"code": _STATUS[span.status.status_code.name]}
    if span.status.description:
        status["message"] = span.status.description
    found["status"] = status
    return found


def _attributes(attributes: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - the SDK's own mappings, of any value
    return [{"key": key, "value": _value(value)} for key, value in (attributes or {}).items()]


def _value(value: object) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            # JSON has no NaN; protobuf's mapping writes these as texts
            finite = value == value and abs(value) != float("inf")  # noqa: PLR0124 - NaN is not itself
            return {"doubleValue": value if finite else _infinite(value)}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case _:
            return {"stringValue": str(value)}


def _infinite(value: float) -> str:
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")  # noqa: PLR0124 - as above
