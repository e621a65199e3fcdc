"""Events reach those who read them live, each once, in order, without a gap, whatever becomes of a gateway."""

from __future__ import annotations

import asyncio

import aiohttp
from readers import Reader

import fedbus

READERS = 50


async def journal_of(federation, session=None):
    """The ids of all events as they stand in the journal."""
    return [event.id async for event in federation.events(session=session)]


async def read_all(readers, within_s=60):
    """Let readers read to the end."""
    reading = [asyncio.create_task(reader.run()) for reader in readers]
    done, left = await asyncio.wait(reading, timeout=within_s)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert not left, [(reader.path, reader.status, reader.comes, reader.ids[-3:]) for reader in readers]
    for task in done:
        task.result()


async def test_readers_of_a_killed_gateway_go_on_at_another(house, spawn_gateway, make_app, zeros, eventually):
    """Kill -9 of a gateway under 50 readers in the middle of a session: none of them misses an event or gets it twice.

    Half of them read from the beginning; half have heard nothing of the session before it begins.
    """
    await house.operate()
    for name in "ab":
        await house.client(name, make_app(1.0, pause_s=0.1))
    await house.present(2)
    first, first_url = await spawn_gateway("first")
    _, second_url = await spawn_gateway("second")
    async with fedbus.connect(house.url) as federation:
        config = fedbus.SessionConfig(rounds=1)
        await (await federation.start_session(config, model=zeros, name="before")).wait()
        told_before = await journal_of(federation)
        path = "/api/v1/events?kind=RoundClosed&kind=UpdatesRecorded&kind=SessionEnded&kind=SessionStarted"
        late = [Reader([first_url, second_url], path) for _ in range(READERS // 2)]
        early = [Reader([first_url, second_url], "/api/v1/events?from=beginning") for _ in range(READERS // 2)]
        reading = [asyncio.create_task(reader.run()) for reader in (*late, *early)]
        await eventually(lambda: all(reader.last_id == told_before[-1] for reader in (*late, *early)), 30)
        config = fedbus.SessionConfig(rounds=8, clients_min=2)
        session = await federation.start_session(config, model=zeros, name="live")
        async for event in session.events():
            if event.kind == "RoundClosed" and event.data.round == 3:
                first.kill()
        whole = [event async for event in federation.events()]
        last = whole[-1].id
        await eventually(lambda: all(reader.last_id == last for reader in (*late, *early)), 30)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    kinds = ("RoundClosed", "UpdatesRecorded", "SessionEnded", "SessionStarted")
    expected = [event.id for event in whole if event.kind in kinds and event.id not in told_before]
    assert all(reader.comes >= 2 for reader in (*late, *early)), "nobody was cut off"
    assert all(reader.ids == expected for reader in late)
    assert all(reader.ids == [event.id for event in whole] for reader in early)
    assert not any(reader.resets for reader in (*late, *early))


async def test_a_session_is_told_to_its_end_and_then_no_more(house, make_app, zeros):
    """From the beginning, from the middle, and after the end: nothing twice, and 204 for who has all of it."""
    await house.operate()
    await house.client("a", make_app(1.0))
    url = await house.gateway()
    async with fedbus.connect(house.url) as federation:
        for name in ("one", "two"):
            await (await federation.start_session(fedbus.SessionConfig(rounds=2), model=zeros, name=name)).wait()
        ids = await journal_of(federation, "two")
    path = "/api/v1/sessions/two/events"
    whole = Reader([url], f"{path}?from=beginning")
    middle = Reader([url], path, last_id=ids[4])
    by_query = Reader([url], f"{path}?after={ids[-2]}")
    over = Reader([url], path, last_id=ids[-1])
    await read_all([whole, middle, by_query, over])
    assert whole.ids == ids
    assert middle.ids == ids[5:]
    assert by_query.ids == ids[-1:]
    assert (over.status, over.ids) == (204, [])
    async with aiohttp.ClientSession(url) as http:
        accept = {"Accept": "text/event-stream"}
        async with http.get("/api/v1/sessions/three/events", headers=accept) as answer:
            assert answer.status == 404
        async with http.get("/api/v1/events?after=x", headers=accept) as answer:
            assert answer.status == 422
        async with http.get(path, headers=accept | {"Last-Event-ID": "x"}) as answer:
            assert answer.status == 422


async def test_readers_of_a_gateway_that_drains_go_on_at_another(house, make_app, zeros):
    """A gateway that is stopped ends its streams whole; the session goes on to be told where its readers go."""
    await house.operate()
    await house.client("a", make_app(1.0, pause_s=0.05))
    urls = [await house.gateway("first"), await house.gateway("second")]
    async with fedbus.connect(house.url) as federation:
        session = await federation.start_session(fedbus.SessionConfig(rounds=6), model=zeros, name="one")
        readers = [Reader(urls, "/api/v1/sessions/one/events?from=beginning") for _ in range(5)]
        reading = asyncio.create_task(read_all(readers))
        async for event in session.events():
            if event.kind == "RoundClosed" and event.data.round == 2:
                await house.stop("first")
        await reading
        ids = await journal_of(federation, "one")
    assert all(reader.ids == ids for reader in readers)
    assert all(reader.comes >= 2 for reader in readers)
