from __future__ import annotations

import subprocess
import sys
import time

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from fedbus import telemetry
from fedbus.telemetry import Kind, metrics, setup
from fedbus.version import __version__


def test_two_roles_make_one_trace_by_headers_alone(collector):
    """Real OTLP/HTTP, decoded: the client's span is the child of the coordinator's, though only headers went across."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url + "/"}
    coordinator = setup("coordinator", "c-1", environ)
    client = setup("client", "site-1", environ)
    with coordinator.telemetry.span("round", attributes={telemetry.ROUND: 3}) as parent:
        sent = dict(parent.headers)
    with client.telemetry.span("train", parent=sent, kind=Kind.CONSUMER) as child:
        child.set(telemetry.BYTES, 4096)
        child.event("stored", {telemetry.CHUNKS: 2})
    assert coordinator.shutdown()
    assert client.shutdown()

    kinds = {(path, kind) for path, kind, _ in collector.requests if path != "/v1/metrics"}
    assert kinds == {("/v1/traces", "application/x-protobuf")}
    decoded = collector.decoded()
    (about_round, round_), (about_train, train) = decoded["round"], decoded["train"]
    assert train.trace_id == round_.trace_id
    assert train.parent_span_id == round_.span_id
    assert round_.parent_span_id == b""
    assert train.kind == WireSpan.SPAN_KIND_CONSUMER
    assert {pair.key: pair.value.int_value for pair in train.attributes} == {"fedbus.bytes": 4096}
    assert [event.name for event in train.events] == ["stored"]
    assert (about_round["service.name"], about_round["service.instance.id"]) == ("fedbus-coordinator", "c-1")
    assert (about_train["service.name"], about_train["service.instance.id"]) == ("fedbus-client", "site-1")
    assert about_train["service.version"] == __version__


def test_numbers_leave_by_otlp_with_unit_and_buckets(collector):
    """Real OTLP/HTTP, decoded: the same metrics that Prometheus reads, under the same resource as the spans."""
    tracing = setup("combiner", "k-1", {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{collector.url}/v1/metrics"})
    meters = tracing.telemetry.meters
    assert not tracing.telemetry.outlet and meters.enabled
    meters.add(metrics.FOLD_BYTES, 4096)
    meters.record(metrics.PUBLISH_DURATION, 3.0, {telemetry.OUTCOME: "stored"})
    meters.watch(metrics.CREDIT, lambda: [(17, {})])
    assert tracing.shutdown()
    found = {metric.name: (about, metric) for about, metric in collector.metrics()}
    assert found.keys() == {"fedbus.fold.io", "fedbus.model.publish.duration", "fedbus.credit.usage"}
    assert {about["service.instance.id"] for about, _ in found.values()} == {"k-1"}
    nbytes = found["fedbus.fold.io"][1]
    assert (nbytes.unit, nbytes.sum.is_monotonic, nbytes.sum.data_points[0].as_int) == ("By", True, 4096)
    (point,) = found["fedbus.model.publish.duration"][1].histogram.data_points
    assert tuple(point.explicit_bounds) == metrics.LONG and (point.count, point.sum) == (1, 3.0)
    assert found["fedbus.credit.usage"][1].gauge.data_points[0].as_int == 17


def test_shutdown_is_bounded_when_the_collector_never_answers(make_collector):
    """A collector that takes the connection and falls silent holds up the exit for the bound, not for half a minute."""
    collector = make_collector(silent=True)
    tracing = setup("client", "site-1", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url})
    tracing.telemetry.start_span("train").end()
    begun = time.monotonic()
    assert not tracing.shutdown(timeout_s=0.3)
    assert 0.2 < time.monotonic() - begun < 2
    assert telemetry.SHUTDOWN_S_MAX <= 3


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        },
    ],
)
def test_silence_imports_nothing(environ):
    """Unless the environment asks for traces, neither the SDK nor the API is imported, and all calls still work."""
    code = f"""
import sys
from fedbus.telemetry import setup
tracing = setup("client", "site-1", {environ!r})
with tracing.telemetry.span("train", attributes={{"a": 1}}) as span:
    span.set("b", 2); span.event("c"); span.fail("d")
assert not tracing.telemetry.enabled
assert span.headers == {{}}
assert tracing.shutdown()
loaded = [name for name in sys.modules if name.startswith(("opentelemetry", "requests", "google"))]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_application_around_us_gets_the_spans():
    """With a provider installed globally and nothing in the environment, spans go to that provider."""
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
from fedbus.telemetry import Telemetry, setup
with setup("client", "site-1", {}).telemetry.span("train"):
    pass
Telemetry.off().start_span("unseen").end()
assert [span.name for span in exporter.get_finished_spans()] == ["train"]
assert exporter.get_finished_spans()[0].instrumentation_scope.name == "fedbus.client"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_api_alone_hands_the_context_on():
    """Where only OpenTelemetry's API is loaded, nothing is recorded and the parent's context is still handed on."""
    code = """
import opentelemetry.trace
from fedbus.telemetry import Telemetry
parent = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
assert Telemetry("client", "site-1").start_span("train", parent=parent).headers == parent
assert Telemetry("client", "site-1").start_span("train").headers == {}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_exit_is_bounded_when_nobody_listens():
    """A collector that isn't there does not keep a process: it ends within the bound, and in good order."""
    code = """
from fedbus.telemetry import setup
tracing = setup("client", "site-1", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
tracing.telemetry.start_span("train").end()
tracing.shutdown(timeout_s=0.5)
"""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (
        time.monotonic() - begun < 8
    )  # the exporter alone would retry for ten seconds, the SDK's exit wait for thirty
