"""A gateway over a real broker: it serves, is seen, drains, recovers, changes nothing by mistake, and is not alone."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json

import aiohttp
import pytest

import fedbus
from fedbus.errors import ConfigError
from fedbus.gateway.openapi import document, statuses
from fedbus.gateway.table import OPERATIONS

API = "/api/v1"


@contextlib.asynccontextmanager
async def asking(url):
    """Ask a gateway: ``await ask(method, path, ...)`` gives (status, headers, JSON)."""
    async with aiohttp.ClientSession(url) as http:

        async def ask(method, path, **how):
            async with http.request(method, path, **how) as answer:
                return answer.status, answer.headers, json.loads(await answer.read() or b"null")

        yield ask


async def test_a_gateway_is_seen_and_says_goodbye(house, eventually):
    """It answers, stands in the coordinator's roster beside another one, and leaves it when it is stopped."""
    await house.operate()
    url = await house.gateway("g1")
    await house.gateway("g2")
    async with asking(url) as ask, fedbus.connect(house.url) as federation:
        assert (await ask("GET", "/healthz"))[2]["status"] == "ok"
        await eventually(lambda: names(federation, {"g1", "g2"}))
        status, _, told = await ask("GET", f"{API}/overview")
        assert status == 200 and {peer["name"] for peer in told["gateways"]} == {"g1", "g2"}
        await house.stop("g2")
        await eventually(lambda: names(federation, {"g1"}))


async def names(federation, wanted):
    """Whether these gateways are there, and no others."""
    return {peer.name for peer in await federation.gateways()} == wanted


async def test_a_port_that_is_taken_is_a_usage_error(house):
    """`ConfigError` names host and port: another port has to be chosen."""
    url = await house.gateway("g1")
    port = int(url.rpartition(":")[2])
    with pytest.raises(AssertionError) as died:
        await house.gateway("g2", port=port)
    assert isinstance(died.value.__cause__, ConfigError) and str(port) in str(died.value.__cause__)
    house._roles.pop("g2")


async def test_what_is_not_http_is_a_problem_too(house):
    """Garbage on the line is answered with a problem of 400, and the gateway goes on."""
    url = await house.gateway()
    port = int(url.rpartition(":")[2])
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(garbage)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert b" 400 " in head.splitlines()[0] and b"application/problem+json" in head
        assert json.loads(body)["status"] == 400
    async with asking(url) as ask:
        assert (await ask("GET", "/healthz"))[0] == 200


async def started(house, make_app, zeros, name="s1"):
    """Run a session to its end."""
    await house.client("c1", make_app(1.0))
    await house.present(1)
    await house.run(zeros, name=name, rounds=2)


async def test_bad_input_changes_nothing(house, make_app, zeros):
    """Unknown names, states, settings, sizes, media types, texts: each with its status, and no journal has grown.

    But the audit has: by what was asked to be changed.
    """
    await house.operate()
    url = await house.gateway()
    await started(house, make_app, zeros)
    sized = json.dumps({"model": "s1-1", "config": {"train_config": {"x": "y" * 2**20}}}).encode()
    typed = {"Content-Type": "application/json"}
    cases = [
        ("GET", f"{API}/sessions/nobody", {}, 404, ""),
        ("POST", f"{API}/sessions/nobody/stop", {}, 404, ""),
        ("POST", f"{API}/sessions/nobody/clone", {"json": {}}, 404, ""),
        ("GET", f"{API}/sessions/s1/rounds/99", {}, 404, ""),
        ("GET", f"{API}/clients/nobody", {}, 404, ""),
        ("POST", f"{API}/sessions", {"json": {"model": "nobody-1"}}, 404, ""),
        ("POST", f"{API}/sessions/s1/stop", {}, 409, ""),
        ("POST", f"{API}/sessions", {"json": {"model": "s1-1", "session": "s1"}}, 409, ""),
        ("POST", f"{API}/sessions", {"json": {"model": "s1-1", "config": {"rounds": -1}}}, 422, "body.config.rounds"),
        ("POST", f"{API}/sessions", {"json": {"model": "s1-1", "config": {"patience": 3}}}, 422, "body.config"),
        ("POST", f"{API}/sessions", {"json": {"model": "s1-1", "config": {"strategy": "magic"}}}, 422, None),
        ("POST", f"{API}/sessions", {"json": {}}, 422, "body.model"),
        ("POST", f"{API}/sessions", {"data": io.BytesIO(sized), "headers": typed}, 413, ""),
        ("POST", f"{API}/sessions", {"data": "model=s1-1", "headers": {"Content-Type": "text/plain"}}, 415, ""),
        ("POST", f"{API}/sessions", {"data": '{"model": ', "headers": typed}, 400, ""),
        ("GET", f"{API}/sessions?limit=501", {}, 422, "query.limit"),
        ("GET", f"{API}/sessions?cursor=x", {}, 404, "query.cursor"),
    ]
    async with asking(url) as ask, fedbus.connect(house.url) as federation:
        before = await counts(federation)
        for method, path, how, wanted, field in cases:
            status, headers, problem = await ask(method, path, **how)
            assert (status, problem["status"]) == (wanted, wanted), (method, path, problem)
            assert headers["Content-Type"] == "application/problem+json" and problem["detail"]
            if field is not None:
                assert [error["where"] for error in problem["errors"]] == ([field] if field else []), problem
            if wanted == 409:
                assert problem["state"] == "completed"
        after = await counts(federation)
        told = after.pop("fb-default-audit") - before.pop("fb-default-audit")
        assert after == before
        assert told == sum(method != "GET" for method, *_ in cases)  # what was asked for is written down all the same
    (bound,) = [one["schema"] for one in parameters("listSessions") if one["name"] == "limit"]
    assert bound["maximum"] == 500


async def counts(federation):
    """How much stands in every stream that lasts."""
    usages = (await federation.overview()).streams
    return {name: usage.messages for name, usage in usages.items() if usage.storage.value == "file"}


def parameters(id_):
    """Parameters of an operation as the document tells them."""
    (operation,) = [one for one in OPERATIONS if one.id == id_]
    return document(OPERATIONS)["paths"][operation.path][operation.method.lower()]["parameters"]


async def test_several_gateways_are_one(house, make_app, zeros, eventually):
    """The same key at two gateways starts one session; both tell of it, and refuse another body under the key."""
    await house.operate()
    first, second = await house.gateway("g1"), await house.gateway("g2")
    await started(house, make_app, zeros)
    body, key = {"model": "s1-2", "config": {"rounds": 1}}, {"Idempotency-Key": "k1"}
    async with asking(first) as one, asking(second) as other:
        answers = await asyncio.gather(
            *(ask("POST", f"{API}/sessions", json=body, headers=key) for ask in (one, other, one))
        )
        assert {status for status, _, _ in answers} == {201}
        (name,) = {told["session"] for _, _, told in answers}
        for ask in (one, other):
            await eventually(lambda ask=ask: is_there(ask, name))
        status, _, _ = await other("POST", f"{API}/sessions", json=body | {"config": {"rounds": 2}}, headers=key)
        assert status == 422
        assert [one["session"] for one in (await one("GET", f"{API}/sessions"))[2]["items"]] == [name, "s1"]


async def is_there(ask, name):
    """Whether a gateway knows a session."""
    return (await ask("GET", f"{API}/sessions/{name}"))[0] == 200


async def test_a_gateway_without_its_broker_says_so_and_recovers(house, broker, make_app, zeros, eventually):
    """While the broker is away: not ready, what changes something is refused at once, what is known is told.

    When it is back, the gateway serves on by itself.
    """
    await house.operate()
    url = await house.gateway()
    await started(house, make_app, zeros)
    async with asking(url) as ask:
        await eventually(lambda: is_there(ask, "s1"))
        await broker.stop()
        await eventually(lambda: not house.gateways["gateway"].federation.bus.connected)
        status, headers, told = await ask("GET", "/readyz")
        assert (status, told["status"]) == (503, "not ready") and "broker" in told["reason"] and headers["Retry-After"]
        assert (await ask("GET", "/healthz"))[0] == 200
        status, headers, problem = await ask("POST", f"{API}/sessions", json={"model": "s1-2"})
        assert (status, problem["status"]) == (503, 503) and headers["Retry-After"]
        assert (await ask("GET", f"{API}/sessions"))[2]["items"][0]["session"] == "s1"
        status, _, told = await ask("GET", f"{API}/overview")
        assert (status, told["broker"]["connected"], told["coordinator_answers"]) == (200, False, False)
        await broker.start()
        await eventually(lambda: is_ready(ask))
        status, _, told = await ask("POST", f"{API}/sessions", json={"model": "s1-2", "config": {"rounds": 1}})
        assert status == 201, told


async def is_ready(ask):
    """Whether a gateway is ready."""
    return (await ask("GET", "/readyz"))[0] == 200


async def test_a_gateway_drains(house, eventually):
    """Stopped, it ends live streams by itself, lets a request that runs finish, and takes no more."""
    await house.operate()
    url = await house.gateway()
    gateway = house.gateways["gateway"]
    async with aiohttp.ClientSession(url) as http:
        async with http.get(f"{API}/events", headers={"Accept": "text/event-stream"}) as stream:
            assert stream.status == 200
            reading = asyncio.create_task(stream.content.read())
            await eventually(lambda: gateway._requests == 1)
            await house.stop("gateway")
            assert isinstance(await asyncio.wait_for(reading, 5), bytes)
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get("/healthz")
    assert gateway.unready() == "the gateway is about to end"


async def test_every_operation_answers_only_what_it_declares_to_a_stranger(house):
    """Each operation, asked for names that nobody has, over a workspace with nothing in it, answers as it declares."""
    await house.operate()
    url = await house.gateway()
    async with aiohttp.ClientSession(url) as http:
        for operation in OPERATIONS:
            path = operation.path.replace("{round}", "1")
            for name in ("session", "client", "version", "stage", "name"):
                path = path.replace(f"{{{name}}}", "nobody")
            async with http.request(operation.method, path) as answer:
                declared = {operation.status, *operation.also, *statuses(operation)}
                assert answer.status in declared, (operation.id, answer.status, await answer.text())
                assert answer.status < 500, (operation.id, await answer.text())
