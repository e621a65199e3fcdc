"""A token brings its own trust: a machine that knows no authority joins over TLS and over websockets, and no other."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from fedbus.access.authority import Authority
from fedbus.access.certs import Certs
from fedbus.access.joining import Request, join
from fedbus.access.keys import Key
from fedbus.access.renewal import renew
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.embedded.settings import BrokerSettings, BrokerTls
from fedbus.bus.nats import connect
from fedbus.bus.tls import TlsFiles, with_files
from fedbus.errors import BusUnavailable
from fedbus.messages.ids import Peer


async def test_where_certificates_are_asked_for_a_token_is_not_enough(tmp_path, make_ward):
    """By both ways in: without one it is said what is missing and who makes it; with one a machine joins and renews."""
    certs = Certs(tmp_path / "certs")
    ca = certs.init().read_text()
    certs.server("broker")
    certs.client("operator")
    certs.client("site")
    ours, theirs = (TlsFiles(None, *certs.files(name)) for name in ("operator", "site"))
    authority = Authority.open(tmp_path / "keys")
    authority.create_workspace("ward")
    settings = BrokerSettings(
        tls=BrokerTls(*certs.files("broker"), clients_ca=certs.ca), websocket_listen="127.0.0.1:0"
    )
    async with (
        AsyncExitStack() as stack,
        EmbeddedBroker(tmp_path / "store", settings=settings, security=authority.security) as broker,
    ):
        ward = make_ward(with_files(broker.url, ours), authority, "ward", tmp_path, stack, ca)
        await ward.open()
        await ward.register()
        for url in (broker.url, broker.wss_url):
            name = url.partition(":")[0]
            token = replace(await ward.token(), urls=(url,), ca=ca)
            request = Request(token, name, Key.new().seed)
            with pytest.raises(BusUnavailable, match=r"demands a certificate of ours.*fedbus certs client.*--tls-cert"):
                await join(request)
            path = ward.write(await join(request, url=with_files(url, theirs)))
            async with await connect(with_files(url, theirs), name=name, credentials=path) as bus:
                assert (await renew(bus, path)).name == name
        await ward.stop()


async def test_the_certificates_that_are_trusted_come_with_the_token(tmp_path, make_ward, eventually):
    """By both ways in; a token with another authority in it connects to nobody; whoever is expelled is cut off, too."""
    certs = Certs(tmp_path / "certs")
    ca = certs.init().read_text()
    certs.server("broker")
    certificate, key = certs.files("broker")
    other = Certs(tmp_path / "other").init().read_text()
    authority = Authority.open(tmp_path / "keys")
    authority.create_workspace("ward")
    settings = BrokerSettings(tls=BrokerTls(certificate, key), websocket_listen="127.0.0.1:0")
    async with (
        AsyncExitStack() as stack,
        EmbeddedBroker(tmp_path / "store", settings=settings, security=authority.security) as broker,
    ):
        ward = make_ward(broker.url, authority, "ward", tmp_path, stack, ca)
        await ward.open()
        await ward.register()
        for url in (broker.url, broker.wss_url):
            name = url.partition(":")[0]
            token = replace(await ward.token(), urls=(url,), ca=ca)
            path = ward.write(await join(Request(token, name, Key.new().seed)))
            async with await connect(url, name=name, credentials=path) as bus:
                await ward.members.expel(Peer("client", name), by="eve")
                await eventually(lambda bus=bus: not bus.connected)
        with pytest.raises(BusUnavailable):
            await join(Request(replace(token, ca=other), "misled", Key.new().seed))
        await ward.stop()
