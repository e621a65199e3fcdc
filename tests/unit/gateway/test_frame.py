"""What holds for every request: problems, headers, limits, origins, names, queries, bodies, keys, ETags."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
from typing import Annotated

import pytest
from aiohttp import web
from asker import ask, gateway_in, make_gateway
from pydantic import BaseModel, ConfigDict, Field
from whole_house import House

from fedbus.errors import (
    BadMessage,
    BusClosed,
    BusDenied,
    BusFull,
    BusUnavailable,
    ConfigError,
    Conflict,
    NameTaken,
    NotFound,
    SessionFailed,
)
from fedbus.gateway import sending
from fedbus.gateway.http import application
from fedbus.gateway.operations import API, Operation
from fedbus.gateway.problems import Refused
from fedbus.gateway.server import Runner
from fedbus.gateway.views import Metrics, View
from fedbus.testing.loop import run_virtual


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rounds: Annotated[int, Field(ge=1, le=9)] = 3
    name: tuple[str, ...] = ()


class Given(View):
    rounds: Annotated[int, Field(ge=1, le=9)]
    inner: dict[str, float] = Field(default_factory=dict)


class Optional(View):
    reason: str = "none"


class Echo(View):
    path: dict[str, str] = Field(default_factory=dict)
    rounds: int = 0
    names: tuple[str, ...] = ()
    key: str = ""
    made: str = ""
    metrics: Metrics = Field(default_factory=dict)


RAISED: dict[str, Exception] = {}


async def echo(call):
    """Say what was asked."""
    query = call.query or Wanted()
    return Echo(
        path=dict(call.path),
        rounds=query.rounds,
        names=query.name,
        key=call.key,
        made=call.name_from_key("session"),
        metrics={"loss": float("nan"), "accuracy": 0.5},
    )


async def take(call):
    """Take a body."""
    return Echo(rounds=call.given(Given).rounds, key=call.key, made=call.name_from_key("session")), {"Location": "/x"}


async def take_optional(call):
    """Take a body that may be left out."""
    return Echo(made=call.given(Optional).reason)


async def fail(call):
    """Raise what the test has put there."""
    raise RAISED["now"]


OURS = (
    Operation(
        "echo", "GET", f"{API}/sessions/{{session}}/rounds/{{round}}", "", echo, query=Wanted, answer=Echo, needs=None
    ),
    Operation(
        "take", "POST", f"{API}/sessions", "", take, body=Given, answer=Echo, status=201, idempotent=True, needs=None
    ),
    Operation(
        "stop", "POST", f"{API}/sessions/{{session}}/stop", "", take_optional, body=Optional, answer=Echo, needs=None
    ),
    Operation("fail", "GET", f"{API}/fail", "", fail, answer=Echo, needs=None),
)
ECHO = f"{API}/sessions/s1/rounds/newest"


def asked(method, target, *, listening=None, **how):
    """Ask a gateway that has these operations and nothing else; return its answer."""

    async def scene():
        gateway = make_gateway(House(), **(listening or {}))
        gateway.app = application(gateway, OURS, gateway.listening)
        return await ask(gateway, method, target, **how)

    return run_virtual(scene())


def test_health_and_headers():
    """A gateway that lives says so, and its answer carries what keeps a browser from harm."""

    async def scene():
        async with gateway_in(House()) as gateway:
            return await ask(gateway, "GET", "/healthz")

    answer = run_virtual(scene())
    assert answer.status == 200
    assert answer.json["status"] == "ok"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] == "fedbus"


def test_unknown_address_and_method():
    """What is not there is a problem of 404, what cannot be done with it one of 405 that says what can."""
    nothing = asked("GET", "/api/v1/nothing")
    assert (nothing.status, nothing.headers["Content-Type"]) == (404, "application/problem+json")
    assert nothing.json["instance"].endswith(nothing.headers["X-Request-Id"])
    assert "default-src 'self'" in nothing.headers["Content-Security-Policy"]
    sessions = asked("GET", f"{API}/sessions")
    assert (sessions.status, sessions.headers["Allow"]) == (405, "POST")
    other = asked("DELETE", ECHO)
    assert other.status == 405
    assert set(other.headers["Allow"].split(",")) == {"GET", "HEAD"}


def test_the_request_keeps_its_own_id_where_it_is_one():
    """An id that a proxy gave goes on; one that could forge lines of the log is replaced."""
    assert asked("GET", ECHO, headers={"X-Request-Id": "abc-1.2"}).headers["X-Request-Id"] == "abc-1.2"
    for forged in ("a b", "x" * 65, "é"):
        assert asked("GET", ECHO, headers={"X-Request-Id": forged}).headers["X-Request-Id"] != forged


# --- names, queries ---


@pytest.mark.parametrize("name", ["a.b", "x" * 65, "%2e%2e", "%00", "a%0A", "ä"])
def test_a_name_that_cannot_be_is_not_found(name):
    """Nothing of such a name can exist: 404, and the handler is not asked."""
    assert asked("GET", f"{API}/sessions/{name}/rounds/1").status == 404


@pytest.mark.parametrize("number", ["0x1", "-1", "1.0", "last", "1" * 10])
def test_a_round_is_a_number_or_newest(number):
    """What is neither is 404."""
    assert asked("GET", f"{API}/sessions/s1/rounds/{number}").status == 404
    assert asked("GET", f"{API}/sessions/s1/rounds/007").json["path"] == {"session": "s1", "round": "007"}


def test_a_query_is_checked():
    """Values are read by their type and bounds; what repeats where it may not, or is unknown, is refused by name."""
    assert asked("GET", f"{ECHO}?rounds=9").json["rounds"] == 9
    assert asked("GET", f"{ECHO}?name=a&name=b").json["names"] == ["a", "b"]
    for query, where in (
        ("rounds=10", "query.rounds"),
        ("rounds=x", "query.rounds"),
        ("rounds=1&rounds=2", "query.rounds"),
        ("round=1", "query.round"),
    ):
        answer = asked("GET", f"{ECHO}?{query}")
        assert answer.status == 422
        assert [error["where"] for error in answer.json["errors"]] == [where]
    (error,) = asked("GET", f"{ECHO}?rounds=10").json["errors"]
    assert "9" in error["problem"] and error["got"] == "10"


# --- bodies ---


def test_a_body_is_taken_and_answered_with_its_status():
    """The declared status, and headers that the handler adds."""
    answer = asked("POST", f"{API}/sessions", json={"rounds": 2})
    assert (answer.status, answer.headers["Location"], answer.json["rounds"]) == (201, "/x", 2)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b'{"rounds": NaN}', 400),
        (b"[" * 100_000, 400),
        (b'{"rounds": 1, "inner": ' + b'{"a":' * 80 + b"1" + b"}" * 81, 400),
        (b'{"rounds": "2"}', 422),
        (b'{"rounds": true}', 422),
        (b'{"rounds": 10}', 422),
        (b'{"rounds": 1, "more": 1}', 422),
        (b"[]", 422),
        (b"{}", 422),
    ],
)
def test_a_body_that_is_not_as_it_should_be(body, status):
    """Not JSON: 400; JSON that cannot be meant so: 422, with the field."""
    answer = asked("POST", f"{API}/sessions", body=body, headers={"Content-Type": "application/json"})
    assert answer.status == status
    assert bool(answer.json["errors"]) is (status == 422)
    assert all(error["where"].startswith("body") for error in answer.json["errors"])


def test_a_body_of_another_media_type():
    """A form is not JSON: 415, so that no page can send one without being asked for CORS."""
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"):
        headers = {"Content-Type": media}
        assert asked("POST", f"{API}/sessions", body=b'{"rounds": 1}', headers=headers).status == 415


def test_a_body_that_is_too_large():
    """413, and what the bound is."""
    body = json.dumps({"rounds": 1, "inner": {"a" * 2000: 1.0}}).encode()
    headers = {"Content-Type": "application/json"}
    answer = asked("POST", f"{API}/sessions", body=body, headers=headers, listening={"body_bytes_max": 1000})
    assert answer.status == 413
    assert "1000 bytes" in answer.json["detail"]


def test_a_body_whose_fields_have_defaults_may_be_left_out():
    """An empty request is one with all defaults; one with a field is read."""
    assert asked("POST", f"{API}/sessions/s/stop").json["made"] == "none"
    assert asked("POST", f"{API}/sessions/s/stop", json={"reason": "why"}).json["made"] == "why"


def test_an_idempotency_key_makes_a_name():
    """The same key gives the same name, another one another; a key that is none is refused."""
    names = [
        asked("POST", f"{API}/sessions", json={"rounds": 1}, headers={"Idempotency-Key": key}).json["made"]
        for key in ("k1", "k1", "k2")
    ]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("session-") and len(names[0]) == 20
    assert asked("POST", f"{API}/sessions", json={"rounds": 1}).json["made"] == ""
    for key in ("x" * 256, "a b", ""):
        assert asked("POST", f"{API}/sessions", json={"rounds": 1}, headers={"Idempotency-Key": key}).status == 400


# --- answers ---


def test_what_has_not_changed_is_not_sent_again():
    """An ETag that is sent back, alone, among others, or as *, is answered with 304 and no body."""
    first = asked("GET", ECHO)
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    for known in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
        again = asked("GET", ECHO, headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    assert asked("GET", ECHO, headers={"If-None-Match": '"other"'}).status == 200


def test_numbers_that_json_has_no_word_for_are_null():
    """NaN becomes null, and the document says so."""
    assert asked("GET", ECHO).json["metrics"] == {"loss": None, "accuracy": 0.5}


# --- errors ---


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no such session"), 404),
        (Conflict("it ended", state="completed"), 409),
        (NameTaken("taken"), 409),
        (SessionFailed("refused"), 409),
        (ConfigError("rounds: too many"), 422),
        (BadMessage("bad"), 422),
        (BusUnavailable("away"), 503),
        (BusFull("full"), 503),
        (BusClosed("closed"), 503),
        (BusDenied("denied"), 503),
        (Refused(416, "no such bytes", headers={"Content-Range": "bytes */3"}), 416),
    ],
)
def test_errors_of_fedbus_are_problems(error, status):
    """Each by what the receiver should do; who may ask again is told when."""
    RAISED["now"] = error
    answer = asked("GET", f"{API}/fail")
    assert (answer.status, answer.json["status"], answer.json["detail"]) == (status, status, str(error))
    assert answer.json.get("state") == (error.state if isinstance(error, Conflict) else None)
    assert ("Retry-After" in answer.headers) is (status == 503)
    assert ("Content-Range" in answer.headers) is (status == 416)


def test_an_unforeseen_error_tells_nothing_but_where_to_look(caplog):
    """500, with the id under which the log has the traceback; not a word of what went wrong."""
    RAISED["now"] = KeyError("secret")
    with caplog.at_level(logging.ERROR, "fedbus.gateway"):
        answer = asked("GET", f"{API}/fail")
    assert answer.status == 500
    assert b"secret" not in answer.body
    (record,) = caplog.records
    assert answer.headers["X-Request-Id"] in record.getMessage()
    assert record.exc_info[0] is KeyError


# --- who may ask ---


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8080", True),
        ("https://lab.example", True),
        ("http://evil.example", False),
        ("http://localhost:9999", False),
        ("http://localhost", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_a_foreign_page_changes_nothing(origin, allowed):
    """A request that changes something, from a page elsewhere, is refused unless its origin was allowed."""
    listening = {"cors_origins": ("https://lab.example",)}
    answer = asked("POST", f"{API}/sessions", json={"rounds": 1}, headers={"Origin": origin}, listening=listening)
    assert answer.status == (201 if allowed else 403)


def test_cors_is_off_unless_an_origin_is_allowed():
    """Without it no header lets another page read; with it the one origin may, and is told what it may send."""
    there = {"Origin": "https://lab.example"}
    assert "Access-Control-Allow-Origin" not in asked("GET", ECHO, headers=there).headers
    listening = {"cors_origins": ("https://lab.example",)}
    answer = asked("GET", ECHO, headers=there, listening=listening)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://lab.example"
    assert "Origin" in answer.headers["Vary"]
    other = asked("GET", ECHO, headers={"Origin": "https://other.example"}, listening=listening)
    assert "Access-Control-Allow-Origin" not in other.headers
    ask_first = {"Access-Control-Request-Method": "POST"}
    allowed = asked("OPTIONS", f"{API}/sessions", headers=there | ask_first, listening=listening)
    assert allowed.status == 204
    assert "Idempotency-Key" in allowed.headers["Access-Control-Allow-Headers"]
    assert asked("OPTIONS", f"{API}/sessions", headers=there | ask_first).status == 403


@pytest.mark.parametrize(
    ("host", "here", "everywhere"),
    [
        ("localhost:8080", True, True),
        ("LOCALHOST.", True, True),
        ("page.localhost", True, True),
        ("127.9.9.9:1", True, True),
        ("[::1]:8080", True, True),
        ("lab.example", True, True),
        ("lab.example:99", True, True),
        ("port.example:99", True, True),
        ("port.example:98", False, False),
        ("10.0.0.7:8080", False, True),
        ("[fe80::1]", False, True),
        ("gateway:8080", False, True),
        ("evil.example:8080", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("lab.example.evil.example", False, False),
        ("localhost@evil.example", False, False),
        ("", False, False),
    ],
)
def test_a_page_cannot_reach_a_gateway_under_a_name_of_its_own(host, here, everywhere):
    """What is sent to a name that is not the gateway's is refused, also where the page's origin is the same."""
    headers = {"Host": host, "Origin": f"http://{host}"}
    for where, taken in (("127.0.0.1", here), ("0.0.0.0", everywhere)):
        listening = {"host": where, "hosts": ("Lab.example", "port.example:99")}
        told = asked("GET", ECHO, headers=headers, listening=listening)
        changed = asked("POST", f"{API}/sessions", json={"rounds": 1}, headers=headers, listening=listening)
        assert told.status == (200 if taken else 421)
        assert changed.status in ((201, 403) if taken else (421,))
    assert asked("GET", ECHO, headers={"Host": host}, listening={"hosts": ("*",)}).status == 200


def test_one_address_cannot_ask_for_everything():
    """Beyond its burst an address is told when to come back; another address is answered meanwhile."""

    async def scene():
        gateway = make_gateway(House(), rate_per_s=0.5, burst=3)
        gateway.app = application(gateway, OURS, gateway.listening)
        first = [await ask(gateway, "GET", ECHO, remote="10.0.0.1") for _ in range(4)]
        return first, await ask(gateway, "GET", ECHO, remote="10.0.0.2")

    first, other = run_virtual(scene())
    assert [answer.status for answer in first] == [200, 200, 200, 429]
    assert first[-1].headers["Retry-After"] == "2"
    assert other.status == 200


# --- what is sent and what comes, piece by piece ---


@contextlib.asynccontextmanager
async def served(operations=OURS, **listening):
    """A server with these operations, on a socket; gives what sends bytes to it, and returns what comes back."""
    gateway = make_gateway(House(), **listening)
    runner = Runner(application(gateway, operations, gateway.listening), gateway.listening)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def talk(data):
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(data)
        found = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while some := await asyncio.wait_for(reader.read(2**16), 1):
                found += some
        writer.close()
        return found

    try:
        yield talk
    finally:
        await runner.cleanup()


def of(method, path, *headers, body=b""):
    """A request as it travels; the connection ends behind it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def halfway(call):
    """Answer a part, then fail as the test says."""
    response = web.StreamResponse()
    await response.prepare(call.request)
    await response.write(b"half of it")
    await asyncio.sleep(0)
    raise RAISED["now"]


@pytest.mark.parametrize("error", [BusUnavailable("the broker is away"), KeyError("x"), Refused(409, "no")])
async def test_an_answer_that_breaks_off_is_not_taken_for_whole(error):
    """What fails behind the first byte ends the connection: no problem stands in the middle, and no end of chunks."""
    RAISED["now"] = error
    path = f"{API}/sessions/s1/export"
    operations = (
        Operation("halfway", "GET", f"{API}/sessions/{{session}}/export", "", halfway, media="text/csv", needs=None),
    )
    async with served(operations) as talk:
        told = await talk(of("GET", path))
        assert (await talk(of("GET", "/docs"))).startswith(b"HTTP/1.1 200")
    _, _, body = told.partition(b"\r\n\r\n")
    assert body in (b"", b"a\r\nhalf of it\r\n")


async def test_what_is_packed_is_refused():
    """A packed body is not unpacked, however it is packed: 415, before anybody knows how large it would become."""
    packed = gzip.compress(b'{"rounds": 2, "inner": {"a": 1.0}}')
    json_of_it = "Content-Type: application/json"
    async with served() as talk:
        for coding, body in (("gzip", packed), ("gzip", b"no gzip at all"), ("br", b"x"), ("DEFLATE", b"x")):
            told = await talk(of("POST", f"{API}/sessions", json_of_it, f"Content-Encoding: {coding}", body=body))
            assert told.startswith(b"HTTP/1.1 415") and b"Accept-Encoding: identity" in told
        plain = await talk(
            of("POST", f"{API}/sessions", json_of_it, "Content-Encoding: identity", body=b'{"rounds":2}')
        )
        assert plain.startswith(b"HTTP/1.1 201")


async def test_headers_without_utf8_are_refused_as_others():
    """Bytes in a header that are no UTF-8 change no status: a problem names what it can."""
    async with served() as talk:
        body = b'{"rounds": 2}'
        foreign = of("POST", f"{API}/sessions", "Content-Type: application/json", "Origin: http://\xff.x", body=body)
        assert (await talk(foreign)).startswith(b"HTTP/1.1 403")
        host = of("GET", ECHO).replace(b"Host: localhost", b"Host: \xff")
        assert (await talk(host)).startswith(b"HTTP/1.1 4")
        assert (await talk(of("POST", ECHO, "Expect: \xff"))).startswith(b"HTTP/1.1 400")


async def test_who_takes_nothing_is_cut_off(monkeypatch):
    """A reader whose line takes nothing for a while loses it, so that its answer ends."""
    monkeypatch.setattr(sending, "WRITE_S_MAX", 0.1)
    ended = asyncio.Event()

    async def endless(call):
        """Answer without an end."""
        response = web.StreamResponse()
        await response.prepare(call.request)
        try:
            while True:
                await sending.send(call.request, response, bytes(2**20))
        finally:
            ended.set()

    gateway = make_gateway(House())
    operations = (Operation("endless", "GET", f"{API}/endless", "", endless, media="text/csv", needs=None),)
    runner = Runner(application(gateway, operations, gateway.listening), gateway.listening)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _, writer = await asyncio.open_connection(*runner.addresses[0], limit=1024)
    writer.write(of("GET", f"{API}/endless"))
    async with asyncio.timeout(30):
        await ended.wait()
        while gateway._requests:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    writer.close()
    await runner.cleanup()
