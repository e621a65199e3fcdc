"""Servers that encrypt what they tell each other, and let in nobody whom their authority has not signed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fedbus.access.certs import Certs
from fedbus.bus.base import Storage, StreamSpec
from fedbus.bus.embedded import BrokerSettings, BrokerTls, EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.bus.tls import TlsFiles, with_files
from fedbus.errors import BusUnavailable


def _signed(directory, name="node"):
    certs = Certs(directory)
    certs.init()
    certs.server(name)
    return certs, BrokerTls(*certs.files(name), certs.ca)


async def test_a_cluster_and_its_leaf_speak_tls_among_each_other(tmp_path, described):
    """A stream of three replicas is made and read through the leaf, all encrypted; a stranger's leaf stays alone."""
    certs, between = _signed(tmp_path / "ours")
    clients = BrokerTls(between.certificate, between.key)
    described = {name: replace(its, tls=clients, neighbours_tls=between) for name, its in described.items()}
    hubs = tuple(its.leaf_listen for its in described.values())
    _, strange = _signed(tmp_path / "theirs")
    brokers = [EmbeddedBroker(tmp_path / name, settings=its) for name, its in described.items()]
    for name, tls in (("eu", between), ("stranger", strange)):
        settings = BrokerSettings(name=name, domain="hub", hubs=hubs, tls=clients, neighbours_tls=tls)
        brokers.append(EmbeddedBroker(tmp_path / name, settings=settings))
    *inside, stranger = brokers
    try:
        await asyncio.gather(*(broker.start() for broker in brokers))
        await asyncio.gather(*(broker.wait_for_streams() for broker in inside))
        trust = TlsFiles(certs.ca)
        async with await connect(with_files(inside[-1].url, trust), name="x") as bus:
            await bus.ensure(StreamSpec("journal", ("journal.>",), Storage.FILE, replicas=3))
            assert await bus.append("journal", "journal.s", b"kept") == 1
        async with await connect(with_files(inside[0].url, trust), name="y") as bus:
            assert bytes((await bus.last("journal", "journal.s")).data) == b"kept"
        with pytest.raises(BusUnavailable):
            await stranger.wait_for_streams(2.0)
    finally:
        await asyncio.gather(*(broker.stop() for broker in brokers))
