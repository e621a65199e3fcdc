"""Spans on their way out of a role: the bounded queue to the bus, and lines of OTLP JSON in a file."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from fedbus.errors import ConfigError
from fedbus.telemetry import Kind, Telemetry, Wanted, setup
from fedbus.telemetry.outlet import EVENTS_MAX, ITEMS_MAX, TEXT_CHARS_MAX, Outlet


def with_sdk(outlet):
    """A role whose spans are those of OpenTelemetry's SDK, as beside a collector or a file."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(outlet)
    return Telemetry("client", "site-1", provider, outlet=outlet)


def alone(outlet):
    """A role whose spans are our own, for the bus alone."""
    return Telemetry("client", "site-1", outlet=outlet)


@pytest.fixture(params=[with_sdk, alone])
def traced(request):
    """A role whose spans go to an outlet: one way or the other, they say the same."""
    return request.param


def test_a_span_is_told_as_it_was(traced):
    """Ids, parent, times, attributes, events, links and why it failed."""
    outlet = Outlet()
    traces = traced(outlet)
    other = traces.start_span("fold update")
    with traces.span("round") as above:
        span = traces.start_span(
            "merge",
            parent=above.headers,
            attributes={"a": 1, "b": ["x", "y"]},
            kind=Kind.PRODUCER,
            links=[other.headers],
        )
        span.event("RoundOpened", {"fedbus.wait": "for 3"})
        span.fail("no room")
        span.end()
    told, top = outlet.take(10)
    _, trace_id, span_id, _ = span.headers["traceparent"].split("-")
    assert (told.trace_id, told.span_id, told.parent_id) == (trace_id, span_id, top.span_id)
    assert (told.name, told.kind, told.error) == ("merge", "producer", "no room")
    assert told.attributes == {"a": 1, "b": ["x", "y"]}
    assert [(event.name, event.attributes) for event in told.events] == [("RoundOpened", {"fedbus.wait": "for 3"})]
    assert told.links == ("-".join(other.headers["traceparent"].split("-")[1:3]),)
    assert top.start_at <= told.start_at <= told.events[0].at <= told.end_at <= top.end_at
    assert (top.parent_id, top.error) == ("", "")


def test_what_is_told_is_bounded(traced):
    """Long texts are cut, of many events the first and the last are told, as a round's end says how it went."""
    outlet = Outlet()
    span = traced(outlet).start_span("x" * 5000, attributes={"long": "y" * 5000, "many": ["z"] * 100})
    for number in range(EVENTS_MAX + 20):
        span.event(f"event {number}")
    span.fail("w" * 5000)
    span.end()
    (told,) = outlet.take(1)
    assert len(told.name) == len(told.error) == len(told.attributes["long"]) == TEXT_CHARS_MAX
    assert len(told.attributes["many"]) == ITEMS_MAX
    names = [event.name for event in told.events]
    assert len(names) == EVENTS_MAX and names[0] == "event 0" and names[-1] == f"event {EVENTS_MAX + 19}"


def test_of_too_many_the_oldest_are_dropped_and_counted(traced):
    """Nobody waits for the bus, and memory is bounded while it is away."""
    outlet = Outlet(spans_max=3)
    traces = traced(outlet)
    for number in range(5):
        traces.start_span(f"span {number}").end()
    assert len(outlet) == 3 and outlet.dropped == 2
    assert [told.name for told in outlet.take(10)] == ["span 2", "span 3", "span 4"]
    assert outlet.take(10) == []


def test_an_unsampled_span_costs_nothing_and_is_not_told(traced):
    """What the coordinator has not sampled nobody makes a span of; the flag is handed on as it came."""
    outlet = Outlet()
    traces = traced(outlet)
    silent = traces.start_span("round", sampled=False)
    version, trace_id, span_id, flags = silent.headers["traceparent"].split("-")
    assert (version, len(trace_id), len(span_id), flags) == ("00", 32, 16, "00")
    with traces.span("train", parent=silent.headers) as below:
        assert below.headers == silent.headers
    assert len(outlet) == 0 and not hasattr(below, "_span")


def test_for_a_round_that_nobody_traces_nothing_is_put_on_the_bus():
    """Messages without a trace, of a coordinator that has none: no client begins one of its own that nobody finds."""
    outlet = Outlet()
    with alone(outlet).span("train", parent={}) as span:
        assert span.headers == {}
    assert len(outlet) == 0


def test_an_applications_own_spans_are_not_told():
    """Where our spans go through the provider of an application around us, only ours are taken from there."""
    outlet = Outlet()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(outlet)
    provider.get_tracer("hospital.records").start_span("patient 7").end()
    Telemetry("client", "site-1", provider).start_span("train").end()
    assert [span.name for span in outlet.take(5)] == ["train"]


def test_an_ended_span_stays_as_it_is(traced):
    """A second end, and what is said behind it, changes nothing; the first reason of a failure stays."""
    outlet = Outlet()
    span = traced(outlet).start_span("train")
    span.fail("first")
    span.fail("second")
    span.end()
    span.end()
    span.set("late", 1)
    span.event("late")
    (told,) = outlet.take(5)
    assert (told.error, told.attributes, told.events) == ("first", {}, ())


async def test_who_takes_is_woken_from_any_thread(traced):
    """Spans end in the thread of the owner's functions too; the loop hears of the first."""
    outlet = Outlet()
    traces = traced(outlet)
    for end in (
        lambda: threading.Thread(target=lambda: traces.start_span("elsewhere").end()).start(),
        lambda: traces.start_span("here").end(),
    ):
        waiting = asyncio.ensure_future(outlet.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        end()
        await asyncio.wait_for(waiting, 5)
        assert len(outlet.take(5)) == 1
    traces.start_span("before").end()
    await asyncio.wait_for(outlet.wait(), 5)


def test_a_file_holds_otlp(tmp_path):
    """Each line is an export request that protobuf's own JSON reader takes, with hexadecimal ids made base64 for it."""
    file = tmp_path / "spans.jsonl"
    tracing = setup("combiner", "k-1", {}, Wanted(workspace="lab", spans_file=file))
    traces = tracing.telemetry
    with traces.span("round") as above, traces.span("merge", parent=above.headers, kind=Kind.CONSUMER) as span:
        span.set("fedbus.bytes", 2**40)
        span.set("ratio", float("nan"))
        span.set("yes", True)
        span.set("names", ["a", "b"])
        span.event("stored", {"fedbus.chunks": 2})
        span.link(above.headers)
        span.fail("no room")
    assert tracing.shutdown()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    spans = [span for line in lines for scope in line["resourceSpans"][0]["scopeSpans"] for span in scope["spans"]]
    merge, top = spans
    assert (merge["traceId"], merge["parentSpanId"]) == (top["traceId"], top["spanId"])
    assert merge["traceId"] == above.headers["traceparent"].split("-")[1]
    request = json_format.ParseDict(_without_ids(lines[0]), ExportTraceServiceRequest())
    decoded = request.resource_spans[0].scope_spans[0].spans[0]
    found = {pair.key: pair.value for pair in decoded.attributes}
    assert found["fedbus.bytes"].int_value == 2**40 and found["yes"].bool_value is True
    assert found["ratio"].double_value != found["ratio"].double_value
    assert [one.string_value for one in found["names"].array_value.values] == ["a", "b"]
    assert (decoded.name, decoded.kind, decoded.status.message) == ("merge", 5, "no room")
    about = {pair.key: pair.value for pair in request.resource_spans[0].resource.attributes}
    assert about["service.instance.id"].string_value == "k-1" and about["fedbus.workspace"].string_value == "lab"


def _without_ids(value):
    """OTLP writes ids in hexadecimal where protobuf's JSON has base64: the one deviation of its specification."""
    if isinstance(value, dict):
        return {key: _without_ids(one) for key, one in value.items() if not key.endswith(("Id", "ID"))}
    return [_without_ids(one) for one in value] if isinstance(value, list) else value


def test_a_file_that_cannot_be_is_an_error(tmp_path):
    """Said at the start, with the option."""
    with pytest.raises(ConfigError, match="--spans-file"):
        setup("combiner", "k-1", {}, Wanted(spans_file=tmp_path / "no" / "spans.jsonl"))
