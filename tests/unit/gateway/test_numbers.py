"""What a gateway counts of its requests: few lines for each route, and every status that was answered."""

from __future__ import annotations

import pytest
from asker import ask, gateway_in
from whole_house import House

from fedbus.gateway.numbers import Numbers
from fedbus.gateway.table import OPERATIONS
from fedbus.telemetry import metrics
from fedbus.telemetry.meters import Counting
from fedbus.telemetry.scrape import Scrape
from fedbus.testing.loop import run_virtual

BYTES_MAX = 150_000
"""Of an answer to Prometheus, each quarter of a minute: of all routes, each with a few statuses."""


@pytest.fixture(name="scrape")
def fixture_scrape():
    """What Prometheus asks."""
    return Scrape()


def counting(scrape):
    """Meters that are read by it."""
    from opentelemetry.sdk.metrics import MeterProvider

    return Counting("gateway", MeterProvider([scrape.reader]))


def test_requests_are_counted_by_route_and_by_what_was_answered(scrape):
    """Durations by route; a status that is answered twice is one line that says 2."""

    async def scene():
        async with gateway_in(House()) as gateway:
            gateway.traces.meters = counting(scrape)
            gateway.numbers = Numbers(gateway)
            for session in ("a", "b"):
                assert (await ask(gateway, "GET", f"/api/v1/sessions/{session}")).status == 404
            assert (await ask(gateway, "GET", "/healthz")).status == 200

    run_virtual(scene())
    told = scrape.text().decode()
    route = 'http_request_method="GET",http_route="/api/v1/sessions/{session}"'
    answered = 'http_request_method="GET",http_response_status_code="404",http_route="/api/v1/sessions/{session}"'
    assert f"http_server_request_duration_seconds_count{{{route}}} 2.0" in told
    assert f"fedbus_requests_total{{{answered}}} 2.0" in told
    assert 'http_response_status_code="200",http_route="/healthz"} 1.0' in told
    timed = [line for line in told.splitlines() if line.startswith("http_server") and "session" in line]
    assert len(timed) == len(metrics.HTTP) + 3 and "status" not in "".join(timed)


def test_all_routes_are_a_small_answer(scrape):
    """Whoever has opened each page, and been refused, has not made each question of Prometheus's a large one."""
    meters = counting(scrape)
    for one in OPERATIONS:
        about = {"http.request.method": one.method, "http.route": one.path}
        meters.record(metrics.REQUEST_DURATION, 0.01, about)
        for status in (200, 304, 404):
            meters.add(metrics.REQUESTS, 1, {**about, "http.response.status_code": status})
    assert len(scrape.text()) < BYTES_MAX
