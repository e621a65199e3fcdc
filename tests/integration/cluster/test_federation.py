"""A federation on a cluster of three nodes and a leaf gives the bits of a federation on one server, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

from fedbus.bus.embedded import EmbeddedBroker
from fedbus.messages import records
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import streams_of

ROUNDS = 3
CLIENTS = {"hub-1": 1.0, "hub-2": 2.0, "eu-1": 3.0, "eu-2": 4.0}
"""Their weights; who is called eu stands behind the leaf."""


@pytest.fixture
def model():
    """Several chunks, and numbers whose sum in floating point would depend on the order."""
    random = np.random.default_rng(7)
    return {"w": random.standard_normal((600, 1000), np.float32), "b": random.standard_normal(1000, np.float32)}


def apps(make_app, started=None, pause_s=0.0):
    """Return {client: app}; each shifts the model by its own step."""
    return {name: make_app(0.1 * weight, weight, pause_s=pause_s, started=started) for name, weight in CLIENTS.items()}


def at(name, hub, leaf):
    """Return the house in which a client lives, and what it says of itself."""
    return (leaf, {"region": "eu"}) if name.startswith("eu") else (hub, {})


async def digest_of_one_server(path, make_house, make_app, model):
    """Return the digest that the same session has on a single server."""
    async with EmbeddedBroker(path) as broker, contextlib.aclosing(make_house(broker.url)) as house:
        await house.operate(combiners=1)
        for name, app in apps(make_app).items():
            await house.client(name, app)
        await house.present(len(CLIENTS))
        result, _, _ = await house.run(model, **SESSION)
        return result.digest


SESSION = {"rounds": ROUNDS, "clients_min": len(CLIENTS), "clients_per_round": len(CLIENTS)}


@contextlib.asynccontextmanager
async def spread(engine, make_house, own_apps):
    """Coordinator, a combiner and two clients at the cluster, a combiner and two clients behind the leaf."""
    async with (
        contextlib.aclosing(make_house(engine.url)) as hub,
        contextlib.aclosing(make_house(engine.leaf.url)) as leaf,
    ):
        await hub.coordinator(replicas=3)
        await hub.combiner("combiner-hub")
        await leaf.combiner("combiner-eu", attributes={"region": "eu"})
        await hub.present(2, "combiners")
        for name, app in own_apps.items():
            house, attributes = at(name, hub, leaf)
            await house.client(name, app, attributes=attributes)
        await hub.present(len(CLIENTS))
        yield hub, leaf


@pytest.mark.slow
async def test_a_cluster_and_a_leaf_give_the_same_bits(engine, tmp_path, make_house, make_app, model):
    """Three rounds over a cluster with a region behind a leaf: the digest of one server, every stream three times, and
    what the region's clients sent was folded in their region.
    """
    expected = await digest_of_one_server(tmp_path / "one", make_house, make_app, model)
    async with spread(engine, make_house, apps(make_app)) as (hub, leaf):
        result, facts, _ = await hub.run(model, within_s=60, **SESSION)
        leaf.check()
        assert result.digest == expected
        streams = await engine.streams()
        assert {info["config"]["num_replicas"] for info in streams.values()} == {3}
        assert len(streams) == len(streams_of(Subjects("default")))
        opened = [fact for fact in facts if isinstance(fact, records.RoundOpened)]
        assert len(opened) == ROUNDS
        region = {name: f"combiner-{name.partition('-')[0]}" for name in CLIENTS}
        assert [dict(fact.clients) for fact in opened] == [region] * ROUNDS


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["leader", "neighbour"])
async def test_the_death_of_a_node_costs_no_round(engine, tmp_path, make_house, make_app, model, eventually, whose):
    """A node is killed in mid-round - the one that leads the journal, or the one that the leaf hangs on: the session
    completes with the same digest on the two that are left.
    """
    expected = await digest_of_one_server(tmp_path / "one", make_house, make_app, model)
    started = asyncio.Event()
    async with spread(engine, make_house, apps(make_app, started, pause_s=0.5)) as (hub, leaf):
        run = asyncio.create_task(hub.run(model, within_s=90, **SESSION))
        await started.wait()
        await engine.nodes[await victim(engine, whose)].kill()
        result, facts, _ = await run
        leaf.check()
        assert result.digest == expected
        assert sum(isinstance(fact, records.RoundClosed) for fact in facts) == ROUNDS


async def victim(engine, whose):
    """Return the node that leads the journal, or the one to which the leaf is connected."""
    if whose == "leader":
        return (await engine.streams())["fb-default-journal"]["cluster"]["leader"]
    log = engine.leaf.log_tail()
    ports = {its._settings.leaf_listen.rpartition(":")[2]: name for name, its in engine.nodes.items()}
    connected = [line for line in log.splitlines() if "Leafnode connection created" in line][-1]
    return next(name for port, name in ports.items() if f":{port} " in connected)
