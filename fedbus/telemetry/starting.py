"""Sets a role's telemetry up: where its spans and numbers go, as the environment and the command line ask for.

    spans    --> a collector (OTLP)   OTEL_EXPORTER_OTLP_ENDPOINT, ..._TRACES_ENDPOINT, OTEL_TRACES_EXPORTER
             --> the bus              `Wanted.spans_on_bus`
             --> a file               `Wanted.spans_file`
    numbers  --> a collector (OTLP)   OTEL_EXPORTER_OTLP_ENDPOINT, ..._METRICS_ENDPOINT, OTEL_METRICS_EXPORTER
             --> Prometheus           `Wanted.metrics_port`, `Wanted.scrape`

Nothing global is installed: one process may hold several roles, each with a resource of its own.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from fedbus.errors import ConfigError
from fedbus.telemetry.files import file_exporter
from fedbus.telemetry.meters import OFF, Counting, Meters
from fedbus.telemetry.metrics import SPANS_DROPPED
from fedbus.telemetry.names import WORKSPACE
from fedbus.telemetry.outlet import Outlet
from fedbus.telemetry.scrape import Scrape
from fedbus.telemetry.spans import Telemetry
from fedbus.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("fedbus.telemetry")

# Exit may be held up by a collector that does not answer for so long, and not longer.
SHUTDOWN_S_MAX: Final = 3.0

_TRACES, _METRICS = "TRACES", "METRICS"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for beside the environment.

    ``workspace``: stands in the resource. ``metrics_port`` None: no port is listened on; 0: a free one. ``scrape``: the
    numbers are wanted as text (`Tracing.scrape`) without a port, for a role that has a web server.
    """

    workspace: str = ""
    spans_on_bus: bool = False
    spans_file: Path | None = None
    metrics_port: int | None = None
    metrics_listen: str = "127.0.0.1"
    scrape: bool = False


NOTHING: Final = Wanted()


@dataclass(frozen=True, slots=True)
class Tracing:
    """What `setup` has set up: a role's telemetry, and the duty to shut it down.

    ``scrape``: its numbers as text, where they were asked for; ``metrics_port``: that is listened on.
    """

    telemetry: Telemetry
    scrape: Scrape | None = None
    metrics_port: int | None = None
    _providers: tuple[_Stoppable, ...] = field(default=())

    def shutdown(self, timeout_s: float = SHUTDOWN_S_MAX) -> bool:
        """Send what is waiting and stop; return whether that was done within ``timeout_s``. Blocks; idempotent.

        The SDK's own shutdown waits up to 30 s for a collector that does not answer: it runs in a daemon thread, which
        is left behind when the time is up and cannot keep the process.
        """
        if self.scrape is not None:
            self.scrape.close()
        if not self._providers:
            return True
        thread = threading.Thread(target=self._stop, name="fedbus-telemetry-shutdown", daemon=True)
        thread.start()
        thread.join(timeout_s)
        return not thread.is_alive()

    def _stop(self) -> None:
        for provider in self._providers:
            provider.shutdown()


class _Stoppable(Protocol):
    def shutdown(self) -> None: ...


def setup(role: str, instance: str, environ: Mapping[str, str], wanted: Wanted = NOTHING) -> Tracing:
    """Trace and count for this role as the standard environment variables ask for, and as is ``wanted``, or not at all.

    Looks in ``environ`` for OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER (``otlp`` or ``none``),
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and ..._METRICS_ENDPOINT, their PROTOCOL
    (``http/protobuf`` only), and OTEL_SERVICE_NAME (default ``fedbus-<role>``). Headers, certificates, sampling,
    batching and the interval of metrics the SDK reads itself. With OTEL_SDK_DISABLED nothing is traced or counted,
    whatever is wanted.

    Raises `ConfigError` for an exporter or a protocol that we do not speak, and when the exporter is not installed.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Tracing(Telemetry(role, instance))
    spans_out, numbers_out = _asked_for(environ, _TRACES), _asked_for(environ, _METRICS)
    listens = wanted.scrape or wanted.metrics_port is not None
    if not (spans_out or wanted.spans_file is not None or numbers_out or listens):
        outlet = Outlet() if wanted.spans_on_bus else None
        return Tracing(Telemetry(role, instance, _applications(outlet), outlet=outlet))
    resource = _resource(role, instance, environ, wanted.workspace)
    providers: list[_Stoppable] = []
    meters, scrape = OFF, None
    if numbers_out or listens:
        scrape = Scrape() if listens else None
        meters, provider = _meters(role, resource, environ if numbers_out else None, scrape)
        providers.append(provider)
    outlet = Outlet() if wanted.spans_on_bus else None
    tracer = None
    if spans_out or wanted.spans_file is not None:
        tracer = _tracer_provider(resource, environ if spans_out else None, wanted.spans_file, outlet)
        providers.insert(0, tracer)
    elif outlet is not None:
        tracer = _applications(outlet)
    if outlet is not None:
        _count_dropped(meters, outlet)
    port = None
    if scrape is not None and wanted.metrics_port is not None:
        port = scrape.listen(wanted.metrics_listen, wanted.metrics_port)
        log.info("metrics of %s %s: http://%s:%d/metrics", role, instance, _host(wanted.metrics_listen), port)
    return Tracing(
        Telemetry(role, instance, tracer, meters=meters, outlet=outlet), scrape, port, _providers=tuple(providers)
    )


def _applications(outlet: Outlet | None) -> TracerProvider | None:
    """Return the provider of the application around us, if it has one: our spans go there, and to the bus, too."""
    if outlet is None or "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider
    from opentelemetry.trace import get_tracer_provider

    found = get_tracer_provider()
    if not isinstance(found, SdkProvider):
        return None
    found.add_span_processor(outlet)  # type: ignore[arg-type] # as in _tracer_provider
    return found


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _count_dropped(meters: Meters, outlet: Outlet) -> None:
    meters.watch(SPANS_DROPPED, lambda: [(outlet.dropped, {})])


def _tracer_provider(
    resource: Resource, environ: Mapping[str, str] | None, file: Path | None, outlet: Outlet | None
) -> TracerProvider:
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporters = [] if environ is None else [_span_exporter(environ)]
    if file is not None:
        exporters.append(file_exporter(file))
    # Not at exit: that would wait for 30 s where `Tracing.shutdown` waits for three.
    provider = SdkProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    if outlet is not None:
        provider.add_span_processor(outlet)  # type: ignore[arg-type] # it is one by its methods, and imports nothing
    return provider


def _meters(
    role: str, resource: Resource, environ: Mapping[str, str] | None, scrape: Scrape | None
) -> tuple[Meters, _Stoppable]:
    from opentelemetry.sdk.metrics import MeterProvider

    readers = [] if scrape is None else [scrape.reader]
    if environ is not None:
        readers.append(_metric_reader(environ))
    provider = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    return Counting(role, provider), provider


def _resource(role: str, instance: str, environ: Mapping[str, str], workspace: str) -> Resource:
    from opentelemetry.sdk.resources import Resource

    attributes: dict[str, str | int] = {
        "service.name": environ.get("OTEL_SERVICE_NAME") or f"fedbus-{role}",
        "service.namespace": "fedbus",
        "service.instance.id": instance,
        "service.version": __version__,
        "process.pid": os.getpid(),
        "host.name": platform.node(),
    }
    if workspace:
        attributes[WORKSPACE] = workspace
    return Resource.create(attributes)


def _asked_for(environ: Mapping[str, str], what: str) -> bool:
    variable = f"OTEL_{what}_EXPORTER"
    exporter = environ.get(variable, "").strip().lower()
    if exporter not in ("", "otlp", "none"):
        how = "; Prometheus asks at --metrics-port" if exporter == "prometheus" else ""
        raise ConfigError(f"{variable} must be 'otlp' or 'none', but is {exporter!r}{how}")
    # OpenTelemetry's default is to export to localhost; ours is not to, since silence has to cost nothing.
    if exporter == "none" or (exporter == "" and endpoint_of(environ, what) is None):
        return False
    protocol = environ.get(f"OTEL_EXPORTER_OTLP_{what}_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise ConfigError(
            f"{what.lower()} leave by http/protobuf only, but OTEL_EXPORTER_OTLP_PROTOCOL asks for {protocol!r}"
        )
    return True


def endpoint_of(environ: Mapping[str, str], what: str) -> str | None:
    """Return where ``TRACES`` or ``METRICS`` are sent, as the standard has it; None where nothing says so."""
    exact = environ.get(f"OTEL_EXPORTER_OTLP_{what}_ENDPOINT")
    if exact:
        return exact
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return f"{base.rstrip('/')}/v1/{what.lower()}" if base else None


def _span_exporter(environ: Mapping[str, str]) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(_not_installed("traces")) from error
    return OTLPSpanExporter(endpoint=endpoint_of(environ, _TRACES))


def _metric_reader(environ: Mapping[str, str]) -> MetricReader:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ImportError as error:
        raise ConfigError(_not_installed("metrics")) from error
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint_of(environ, _METRICS)))


def _not_installed(what: str) -> str:
    return (
        f"{what} are asked for (OTEL_...), but the exporter is not installed: "
        "pip install opentelemetry-exporter-otlp-proto-http"
    )
