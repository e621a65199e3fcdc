"""An engine spread out: three nodes of a cluster and a leaf of the region ``eu``, real servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass

import pytest

from fedbus.bus.embedded import BrokerSettings, EmbeddedBroker
from fedbus.bus.nats import connect

DOMAIN = "hub"


@dataclass
class Engine:
    """Nodes by name, the leaf, and where clients connect."""

    nodes: dict[str, EmbeddedBroker]
    leaf: EmbeddedBroker

    @property
    def url(self):
        """All nodes: who loses one goes on with another."""
        return ",".join(node.url for node in self.nodes.values())

    async def streams(self):
        """Return {stream: what JetStream tells of it}, as its API gives it to anybody."""
        async with await connect(self.url, name="looker") as bus:
            names = (await bus._jetstream.api("STREAM.NAMES", None, deadline_s=10, what="names"))["streams"] or []
            return {
                name: await bus._jetstream.api(f"STREAM.INFO.{name}", None, deadline_s=10, what="info")
                for name in names
            }


def free_ports(count):
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def settings_of(names):
    """Return {name: settings} of a cluster whose nodes have a tag each and one in common; it listens for leaves."""
    ports = free_ports(2 * len(names))
    routes = tuple(f"127.0.0.1:{port}" for port in ports[: len(names)])
    return {
        name: BrokerSettings(
            name=name,
            tags=(f"zone:{name}", "any"),
            domain=DOMAIN,
            cluster_name="fed",
            cluster_listen=routes[index],
            routes=routes,
            leaf_listen=f"127.0.0.1:{ports[len(names) + index]}",
        )
        for index, name in enumerate(names)
    }


@pytest.fixture
def described():
    """The settings of three nodes by their names, on ports that are free."""
    return settings_of(["n1", "n2", "n3"])


@pytest.fixture
async def engine(tmp_path):
    """Three nodes, and a leaf that may reach each of them; JetStream answers at all four."""
    described = settings_of(["n1", "n2", "n3"])
    nodes = {name: EmbeddedBroker(tmp_path / name, settings=its) for name, its in described.items()}
    hubs = tuple(its.leaf_listen for its in described.values())
    leaf = EmbeddedBroker(tmp_path / "leaf", settings=BrokerSettings(name="eu", domain=DOMAIN, hubs=hubs))
    brokers = [*nodes.values(), leaf]
    try:
        await asyncio.gather(*(broker.start() for broker in brokers))
        await asyncio.gather(*(broker.wait_for_streams() for broker in brokers))
        yield Engine(nodes, leaf)
    finally:
        await asyncio.gather(*(broker.stop() for broker in brokers))
