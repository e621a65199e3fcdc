"""What Prometheus asks for: the numbers of a role as text, and a port of its own where the role has no web server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedbus.errors import ConfigError

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from opentelemetry.sdk.metrics.export import MetricReader
    from prometheus_client import CollectorRegistry, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of `Scrape.text`."""


class Scrape:
    """The numbers of one role. Each has a registry of its own: one process may hold several roles."""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.prometheus import PrometheusMetricReader
            from prometheus_client import CollectorRegistry
        except ImportError as error:
            raise ConfigError(
                "metrics for Prometheus are asked for, but what makes them is not installed: "
                "pip install 'fedbus[server]'"
            ) from error
        lock = threading.Lock()

        class OneAtATime(CollectorRegistry):
            """The reader hands over what it has collected by a queue: of two who ask at once, one would get it all."""

            def collect(self) -> Iterator[Metric]:
                with lock:
                    return iter(list(super().collect()))

        self._registry: CollectorRegistry = OneAtATime(auto_describe=False)
        self.reader: MetricReader = PrometheusMetricReader(registry=self._registry, scope_info_enabled=False)
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def text(self) -> bytes:
        """Return the numbers as they are now, in Prometheus's text format; call it from any thread."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def listen(self, host: str, port: int) -> int:
        """Answer ``GET /metrics`` in a thread; returns the port. `ConfigError` where it cannot listen there."""
        from prometheus_client import start_http_server

        try:
            self._server, self._thread = start_http_server(port, host, self._registry)
        except (OSError, OverflowError) as error:  # the latter: of several roles the last has a port beyond all
            why = error.strerror if isinstance(error, OSError) else ""
            raise ConfigError(f"metrics: cannot listen on {host} port {port}: {why or error}") from error
        return int(self._server.server_port)

    def close(self) -> None:
        """Answer no more; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            if self._thread is not None:
                self._thread.join()
