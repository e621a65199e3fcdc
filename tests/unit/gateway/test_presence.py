"""What the gateway knows of who is there: asked once a second while somebody looks, and never waited for long."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from asker import ask, gateway_in, make_gateway
from whole_house import House

from fedbus.bus.memory import MemoryBus
from fedbus.cli.top import Watch
from fedbus.clock import Clock
from fedbus.errors import NameTaken
from fedbus.federation.service import Federation
from fedbus.gateway.presence import Presence, doings
from fedbus.messages.presence import TOLD_MAX
from fedbus.messages.queries import Seen
from fedbus.store.archivist import ArchivistState
from fedbus.testing.loop import run_virtual
from fedbus.together import together

API = "/api/v1"


class Counted(MemoryBus):
    """A bus that counts what it asks the coordinator."""

    asked = 0

    async def request(self, subject, data, **how):
        self.asked += ".query." in subject
        return await super().request(subject, data, **how)


def house_of(*, coordinator=True):
    """A house with a coordinator and a combiner, or with nobody."""
    house = House()
    if coordinator:
        house.coordinator()
        house.combiner()
    return house


async def looked(house, look):
    """Look at who is there, with a bus that counts; returns what ``look(presence)`` does, and the bus."""
    bus = Counted(house.broker, "gw")
    clock: Clock = house.clock
    async with Federation(bus, name="gw", clock=clock) as federation:
        presence = Presence(federation, clock)
        running = house.live(presence.run())
        try:
            return await look(presence), bus
        finally:
            await house.dismiss(running)


def test_many_looks_are_one_question():
    """A hundred that look at once, and again within the second, cost one round of questions; without a look none."""

    async def scene():
        house = house_of()
        await house.settle()

        async def look(presence):
            await asyncio.sleep(30)
            before = presence._federation.bus.asked
            first = await asyncio.gather(*(presence.look() for _ in range(100)))
            await asyncio.sleep(0.5)
            again = await presence.look()
            once = presence._federation.bus.asked
            await asyncio.sleep(1.0)
            later = await presence.look()
            return before, first, again, once, later, presence._federation.bus.asked

        (before, first, again, once, later, twice), _ = await looked(house, look)
        assert (before, once, twice) == (0, 5, 10)
        assert all(known is again for known in first)
        assert later.at > again.at
        assert [peer.name for peer in again.combiners] == ["k0"]
        assert (again.answers, again.leader) == (True, "co")

    run_virtual(scene())


def test_a_coordinator_that_is_away_makes_nobody_wait():
    """The first that looks waits two seconds, others not at all; what was known before is told as old."""

    async def scene():
        house = House()
        coordinator = house.coordinator()
        house.combiner()
        await house.settle()

        async def look(presence):
            known = await presence.look()
            await house.dismiss(coordinator)
            await asyncio.sleep(2)
            loop, took = asyncio.get_running_loop(), []
            for _ in range(4):
                began = loop.time()
                last = await presence.look()
                took.append(loop.time() - began)
                await asyncio.sleep(2.5)
            house.coordinator("co2")
            await house.settle()
            await presence.look()
            await asyncio.sleep(2)
            return known, last, took, await presence.look()

        (known, last, took, back), _ = await looked(house, look)
        assert known.answers and not last.answers
        assert [peer.name for peer in last.combiners] == ["k0"] == [peer.name for peer in known.combiners]
        assert last.at == known.at
        assert took[0] <= 2.1 and took[1:] == [0, 0, 0]
        assert back.answers and back.leader == "co2"

    run_virtual(scene())


def seen(doing, members=0):
    """A client, or a crowd of so many."""
    return Seen(
        role="crowd" if members else "client",
        name="c",
        incarnation="c-1",
        doing=doing,
        since_at=0,
        seen_at=0,
        members=members,
    )


def test_how_many_do_what():
    """By the first word of what a client says; a crowd says how many of its members, the others have nothing to do."""
    found = doings(
        [
            seen("training for s1"),
            seen("sending for s1, training for s2"),
            seen("idle"),
            seen(""),
            seen("5 training for s1, 2 sending for s1", members=10),
            seen("idle", members=4),
            seen("99999999999 lying for s1, 9 lying for s1", members=3),
        ]
    )
    assert found == {"idle": 9, "training": 6, "sending": 3, "lying": 3}


def test_the_overview_tells_who_is_there_and_what_waits():
    """Peers with who leads, the broker's streams, and a session that waits for clients; lists tell the same."""

    async def scene():
        house = house_of()
        await house.settle()
        async with gateway_in(house, jaeger_url="http://jaeger.example") as gateway:
            federation = gateway.federation
            from whole_house import MODEL

            from fedbus.config.session import SessionConfig

            await federation.start_session(SessionConfig(clients_min=2), model=MODEL, name="s1")
            await asyncio.sleep(3)
            told = (await ask(gateway, "GET", f"{API}/overview")).json
            lists = [
                (await ask(gateway, "GET", f"{API}/{what}")).json for what in ("waits", "combiners", "coordinators")
            ]
            return told, lists

    told, (waits, combiners, coordinators) = run_virtual(scene())
    assert (told["coordinator_answers"], told["workspace"], told["clients"]) == (True, "default", 0)
    assert [(peer["name"], peer["leads"]) for peer in told["coordinators"]] == [("co", True)]
    assert [peer["name"] for peer in told["gateways"]] == ["gw"]
    assert told["broker"]["connected"] and told["broker"]["server"] == "memory"
    streams = {stream["name"]: stream for stream in told["broker"]["streams"]}
    assert streams["fb-default-journal"]["messages"] == 1 and streams["fb-default-board"]["storage"] == "memory"
    assert told["jaeger_url"] == "http://jaeger.example"
    assert told["sessions"] == {"waiting": 1}
    (wait,) = told["waits"]
    assert (wait["session"], wait["missing"]) == ("s1", 2)
    assert waits["items"] == told["waits"]
    assert combiners["items"] == told["combiners"] and coordinators["items"] == told["coordinators"]


def test_without_a_coordinator_the_overview_says_so_and_lists_are_not_empty_but_unknown():
    """The overview answers, with `coordinator_answers` false; a list that nobody can tell is a 503 that says why."""

    async def scene():
        async with gateway_in(House()) as gateway:
            told = await ask(gateway, "GET", f"{API}/overview")
            return told, [await ask(gateway, "GET", f"{API}/{what}") for what in ("waits", "combiners", "coordinators")]

    told, lists = run_virtual(scene())
    assert told.status == 200 and told.json["coordinator_answers"] is False
    assert {answer.status for answer in lists} == {503}
    assert all("coordinator" in answer.json["detail"] and answer.headers["Retry-After"] for answer in lists)


def test_waits_come_by_pages():
    """Each wait once, what ends first before the rest."""

    async def scene():
        house = house_of()
        await house.settle()
        async with gateway_in(house) as gateway:
            from whole_house import MODEL

            from fedbus.config.session import SessionConfig

            for number in range(5):
                config = SessionConfig(clients_min=2, gather_deadline_s=1000 - 100 * number)
                await gateway.federation.start_session(config, model=MODEL, name=f"s{number}")
            await asyncio.sleep(3)
            found, cursor = [], ""
            while cursor is not None:
                page = (await ask(gateway, "GET", f"{API}/waits?limit=2{cursor and f'&cursor={cursor}'}")).json
                found += [wait["session"] for wait in page["items"]]
                cursor = page["next"]
            return found

    assert run_virtual(scene()) == ["s4", "s3", "s2", "s1", "s0"]


async def all_of(gateway):
    """Let a gateway be there, until one of its parts ends it."""
    async with asyncio.timeout(60), together() as group:
        for part in gateway._parts():
            group.create_task(part)


def test_of_two_gateways_of_one_name_the_later_ends():
    """It is told by the coordinator, and says so; the first goes on answering."""

    async def scene():
        house = house_of()
        async with gateway_in(house, "gw") as first:
            later = make_gateway(house, "gw", incarnation="gw-2")
            async with later.federation:
                with pytest.raises(NameTaken, match="gateway gw: another process takes part under this name since"):
                    await all_of(later)
            await later.station.leave()
            await house.settle()
            assert (await ask(first, "GET", f"{API}/overview")).status == 200
            assert not [task for task in house.tasks if task.done() and task.exception()]

    run_virtual(scene())


def test_a_gateways_store_is_known_over_the_bus():
    """What its archivist says travels with its heartbeat, bounded, to the one who looks from a terminal."""

    async def scene():
        house = house_of()
        refused = {f"s-{i}": "x" * 1000 for i in range(50)}
        state = ArchivistState("s3://b/m", archived=3, waiting=2, waiting_bytes=9, since_at=5.0, refused=refused)
        async with gateway_in(house) as gateway, house.federation() as federation:
            watch = Watch(federation, house.clock)
            async with watch.watching():
                assert (await watch.look()).overview.archive is None
                gateway.archivist = SimpleNamespace(state=state)
                await gateway.station.hello()
                await house.settle()
                told = (await watch.look()).overview.archive
        assert (told.store, told.archived, told.waiting, told.waiting_bytes, told.since_at) == (
            "s3://b/m",
            3,
            2,
            9,
            5.0,
        )
        assert (told.error, told.error_at, len(told.refused)) == ("", None, TOLD_MAX)

    run_virtual(scene())
