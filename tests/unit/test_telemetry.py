from __future__ import annotations

import asyncio
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fedbus import telemetry
from fedbus.errors import ConfigError
from fedbus.telemetry import Kind, Telemetry, setup
from fedbus.telemetry.starting import endpoint_of

PARENT = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}


@pytest.fixture
def spans():
    """A provider that keeps what ends, and where it keeps it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def test_off_hands_the_context_on():
    """A role that doesn't trace passes its parent's context on unchanged, so the trace does not tear at it."""
    parent = PARENT | {"tracestate": "vendor=1", "Nats-Msg-Id": "x"}
    with Telemetry.off().span("fold", parent=parent) as span:
        assert span.headers == PARENT | {"tracestate": "vendor=1"}


def test_off_costs_next_to_nothing():
    """A silent span takes a few microseconds at most, far below the work of handling one message."""
    off = Telemetry.off()
    best = min(_seconds_for(off, 2_000) for _ in range(5))
    assert best / 2_000 < 20e-6


def _seconds_for(off, times):
    begun = time.perf_counter()
    for _ in range(times):
        off.start_span("fold").end()
    return time.perf_counter() - begun


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "garbage",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        PARENT["traceparent"] + "-more",
        PARENT["traceparent"] + "\n",
        "ff" + PARENT["traceparent"][2:],
        "0" * 1_000_000,
    ],
)
def test_a_peers_bad_context_is_dropped(spans, traceparent):
    """An invalid traceparent begins a new trace where we trace, and is not handed on where we don't."""
    provider, exporter = spans
    parent = {"traceparent": traceparent, "tracestate": "vendor=1"}
    assert Telemetry.off().start_span("fold", parent=parent).headers == {}
    Telemetry("combiner", "k-1", provider).start_span("fold", parent=parent).end()
    assert exporter.get_finished_spans()[0].parent is None


def test_a_long_tracestate_is_dropped_alone():
    """Beyond 512 characters tracestate goes, as W3C allows; the trace stays whole."""
    span = Telemetry.off().start_span("fold", parent=PARENT | {"tracestate": "a=" + "b" * 600})
    assert span.headers == PARENT


def test_traceparent_is_valid_in_both_levels_of_w3c(spans):
    """Of the flags only the sampled bit is sent, even where parent and SDK carry the random bit of level 2."""
    provider, _ = spans
    live = Telemetry("client", "site-1", provider)
    form = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")
    for parent in (None, {"traceparent": PARENT["traceparent"][:-2] + "03"}):
        span = live.start_span("train", parent=parent)
        assert form.fullmatch(span.headers["traceparent"])
        assert span._span.get_span_context().trace_flags == 3  # otherwise this test could not fail
        span.end()


def test_an_unsampled_parent_stays_unsampled(spans):
    """A parent with flags 00 is followed: nothing is exported, and the children are told so."""
    provider, exporter = spans
    span = Telemetry("client", "site-1", provider).start_span(
        "train", parent={"traceparent": PARENT["traceparent"][:-1] + "0"}
    )
    span.set("a", 1)
    span.event("b")
    span.fail("c")
    span.end()
    assert span.headers["traceparent"].startswith(PARENT["traceparent"][:35])
    assert span.headers["traceparent"].endswith("-00")
    assert exporter.get_finished_spans() == ()


def test_an_exception_fails_the_span_and_goes_on(spans):
    """The block's exception is re-raised; the span ends with its class and its text."""
    provider, exporter = spans
    with pytest.raises(ValueError, match="too big"), Telemetry("client", "s", provider).span("train"):
        raise ValueError("too big")
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code.name == "ERROR"
    assert span.status.description == "ValueError: too big"
    assert span.attributes["error.type"] == "ValueError"


async def test_a_cancellation_is_no_failure(spans):
    """A cancelled block ends its span with an event, and without an error."""
    provider, exporter = spans

    async def work():
        with Telemetry("client", "s", provider).span("train"):
            await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code.name == "UNSET"
    assert [event.name for event in span.events] == ["cancelled"]


async def test_nothing_leaks_between_tasks(spans):
    """Spans open at the same time, in a task, its child task and a thread, are no parents unless they are named."""
    provider, exporter = spans
    live = Telemetry("combiner", "k-1", provider)

    async def inner(name):
        with live.span(name):
            await asyncio.sleep(0)

    with live.span("outer"), ThreadPoolExecutor(1) as pool:
        await asyncio.gather(inner("a"), inner("b"))
        await asyncio.get_running_loop().run_in_executor(pool, lambda: live.start_span("thread").end())
    finished = exporter.get_finished_spans()
    assert {span.name for span in finished} == {"outer", "a", "b", "thread"}
    assert all(span.parent is None for span in finished)
    assert len({span.context.trace_id for span in finished}) == 4


def test_a_span_ends_once(spans):
    """Ending twice, and touching an ended span, is harmless; the first reason of a failure stays."""
    provider, exporter = spans
    span = Telemetry("client", "s", provider).start_span("train", attributes={"a": 1}, kind=Kind.PRODUCER)
    span.fail("first")
    span.fail("second")
    span.end()
    span.end()
    span.set("late", 1)
    span.event("late")
    (finished,) = exporter.get_finished_spans()
    assert finished.status.description == "first"
    assert dict(finished.attributes) == {"a": 1}
    assert finished.events == ()


def test_every_kind_is_known_to_opentelemetry(spans):
    """Each of our kinds arrives as the kind of that name."""
    provider, exporter = spans
    for kind in Kind:
        Telemetry("client", "s", provider).start_span("x", kind=kind).end()
    assert [span.kind.name for span in exporter.get_finished_spans()] == [kind.value for kind in Kind]


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
    ],
)
def test_what_we_do_not_speak_is_refused(environ):
    """An exporter or protocol of another kind is a ConfigError, not silence."""
    with pytest.raises(ConfigError, match="OTEL_"):
        setup("client", "site-1", environ)


def test_missing_exporter_is_named(monkeypatch):
    """Traces asked for without the exporter package: the error says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match="pip install"):
        setup("client", "site-1", {"OTEL_TRACES_EXPORTER": "otlp"})


def test_endpoints_follow_the_standard():
    """A traces endpoint is taken as it is; a general one gets /v1/traces; the more specific wins."""
    general, exact = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    assert endpoint_of({general: "http://h:1"}, "TRACES") == "http://h:1/v1/traces"
    assert endpoint_of({general: "http://h:1/base/"}, "TRACES") == "http://h:1/base/v1/traces"
    assert endpoint_of({general: "http://h:1", exact: "http://x:2/t"}, "TRACES") == "http://x:2/t"
    assert endpoint_of({}, "TRACES") is None
    assert endpoint_of({general: "http://h:1"}, "METRICS") == "http://h:1/v1/metrics"


def test_every_attribute_is_documented():
    """Each attribute's name stands in docs/reference/telemetry.md."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "telemetry.md").read_text()
    names = [
        value
        for name, value in vars(telemetry).items()
        if name.isupper() and isinstance(value, str) and not name.startswith("_")
    ]
    assert len(names) > 20
    assert [name for name in names if f"`{name}`" not in page] == []
