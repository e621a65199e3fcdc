"""What holds for every request: problems, headers, limits, origins, names, queries, bodies."""

from __future__ import annotations

from asker import ask, gateway_in
from whole_house import House

from fedbus.testing.loop import run_virtual


def asked(method, target, *, listening=None, **how):
    """Ask a gateway that has nothing; return its answer."""

    async def scene():
        async with gateway_in(House(), **(listening or {})) as gateway:
            return await ask(gateway, method, target, **how)

    return run_virtual(scene())


def test_health_and_headers():
    """A gateway that lives says so, and its answer carries what keeps a browser from harm."""
    answer = asked("GET", "/healthz")
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["ETag"].startswith('W/"')


def test_unknown_address_and_method():
    """What is not there is a problem of 404, what cannot be done with it one of 405 that says what can."""
    nothing = asked("GET", "/api/v1/nothing")
    assert (nothing.status, nothing.headers["Content-Type"]) == (404, "application/problem+json")
    assert nothing.json["instance"].endswith(nothing.headers["X-Request-Id"])
    other = asked("DELETE", "/healthz")
    assert other.status == 405
    assert set(other.headers["Allow"].split(",")) == {"GET", "HEAD"}
