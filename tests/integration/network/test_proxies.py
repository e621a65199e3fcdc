"""Through HTTP proxies: every way of NATS, with and without TLS to the proxy; and each hop that breaks is named."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

import fedbus
from fedbus.access.certs import Certs
from fedbus.bus import tunnel
from fedbus.bus.embedded import BrokerSettings, BrokerTls, EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.bus.proxy import Proxy, ProxyProblem, with_proxy
from fedbus.bus.tls import TlsFiles, with_files
from fedbus.cli.doctor import examine
from fedbus.cli.roles import Place
from fedbus.errors import BusUnavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOPS = ["DNS", "proxy", "TCP", "TLS", "authentication", "permission"]
PAYLOAD = bytes(range(256)) * 2**13
"""2 MiB: more than TLS in TLS, a proxy and two sockets hold between them."""


class Network:
    """A broker that the proxies alone know the name of."""

    def __init__(self, broker, ca, made):
        self.proxies = made
        self.broker = broker
        self.ca = ca

    def url(self, scheme="wss", *, port=0):
        """The broker's address on the other side."""
        port = port or urlsplit(self.broker.wss_url if scheme in ("wss", "ws") else self.broker.url).port
        return with_files(f"{scheme}://{self.proxies.name}:{port}", TlsFiles(self.ca))

    def through(self, which, url):
        """The same, by one of the proxies."""
        return with_proxy(url, getattr(self.proxies, which), self.proxies.ca if which == "secure" else None)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory, proxies):
    """Two proxies, and behind them a broker with TLS and websockets."""
    place = tmp_path_factory.mktemp("network")
    certs = Certs(place / "certs")
    certs.init()
    certs.server("broker", [proxies.name])
    settings = BrokerSettings(tls=BrokerTls(*certs.files("broker")), websocket_listen="127.0.0.1:0")
    async with EmbeddedBroker(place / "store", settings=settings) as broker:
        yield Network(broker, certs.ca, proxies)


@pytest.mark.parametrize("which", ["basic", "secure"])
@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_the_bus_goes_through(network, scheme, which, caplog):
    """By a name that only the proxy knows: megabytes up and down, again after a cut; and nothing says the password."""
    caplog.set_level(logging.DEBUG)
    async with await connect(network.through(which, network.url(scheme)), name="x") as bus:
        heard = await bus.subscribe("large")
        for number in (0, 1):
            assert bus.reconnects == number
            sending = asyncio.create_task(bus.publish("large", PAYLOAD))
            assert bytes((await anext(heard)).data) == PAYLOAD
            await sending
            bus._connection._client.abort()
            async with asyncio.timeout(20):
                while bus.reconnects == number:  # noqa: ASYNC110 - what nats-py tells of it is for the bus
                    await asyncio.sleep(0.02)
    assert not any(secret in caplog.text for secret in network.proxies.secrets)


async def test_a_client_and_a_federation_take_a_proxy(network):
    """`Client(proxy=...)` and `connect(proxy=...)` reach a broker that they could not without."""
    app = fedbus.ClientApp()
    app.train(lambda model, task: None)
    url, proxy = network.url(), network.proxies.basic
    async with fedbus.Client(url, app, name="site-1", credentials="", proxy=proxy) as client:
        assert client._bus.connected
    async with fedbus.connect(url, credentials="", proxy=proxy) as federation:
        assert federation.bus.connected


@pytest.mark.parametrize("which", ["basic", "secure"])
async def test_the_doctor_looks_at_the_proxy_by_itself(network, which):
    """The hop stands between the name and the port; what follows it goes through it, up to the broker itself."""
    checks = await examine(Place(network.through(which, network.url())))
    assert [check.hop for check in checks if check.ok][:6] == HOPS
    told = {check.hop: check.found for check in checks}
    proxy = str(Proxy.of(getattr(network.proxies, which)))
    assert f"{proxy} leads to {network.url().partition('?')[0]}" in told["proxy"]
    assert "the proxy, which looks up broker.test" in told["DNS"]
    assert "certificate of broker.test" in told["TLS"]
    assert not any(secret in f"{checks}" for secret in network.proxies.secrets)


async def test_who_is_not_let_through_is_told_by_whom(network):
    """Each hop by its name, in connecting as in the doctor: no user, a wrong one, no such name, no proxy, no TLS."""
    made, url = network.proxies, network.url()
    wrong = made.basic.replace("anna", "bert")
    for proxy, target, ca, found, what in (
        (made.anonymous, url, None, "asks who we are (407", "USER:PASSWORD@"),
        (wrong, url, None, "does not take this user", "correct"),
        (made.basic, network.url(port=1), None, f"does not reach {made.name}:1 (502", "is the broker there"),
        ("http://127.0.0.1:1", url, None, "cannot be reached", "--proxy none"),
        (f"http://127.0.0.1:{network.broker.port}", url, None, "is no HTTP proxy: it said 'INFO", "port"),
        (made.secure, url, None, "signed by nobody who is trusted here", "--proxy-ca"),
        (made.secure.replace("https", "http"), url, None, "closed the connection", "https://"),
    ):
        with pytest.raises(BusUnavailable) as caught:
            await connect(with_proxy(target, proxy, ca), name="x", deadline_s=0.5)
        told = str(caught.value)
        assert found in told, told
        assert what in told, told
        assert str(Proxy.of(proxy)) in told
        checks = await examine(Place(with_proxy(target, proxy, ca)))
        assert [check.hop for check in checks] == ["DNS", "proxy"]
        assert found in checks[1].found + checks[1].advice
        assert not any(secret in told + str(checks) for secret in network.proxies.secrets)


ANSWERS = {
    b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM\r\n\r\n": "by Negotiate or NTLM",
    b"HTTP/1.0 403 Not \x1b[31mhere\r\n\r\n": "lets nobody through to broker.test:443 (403 Not ?[31mhere)",
    b"HTTP/1.1 504\r\n\r\n": "does not reach broker.test:443 (504 Gateway Timeout)",
    b"HTTP/1.1 405 Method Not Allowed\r\n\r\n": "does not tunnel (405",
    b"HTTP/1.1 100 Continue\r\n\r\n": "does not tunnel (100",
    b"SSH-2.0-OpenSSH\r\n": "is no HTTP proxy: it said 'SSH-2.0-OpenSSH'",
    b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 2**15: "is no HTTP proxy",
    b"HTTP/1.1 20": "closed the connection",
    b"": "closed the connection",
    None: "has no answer for broker.test:443 within 0.1 s",
}


@asynccontextmanager
async def _answering(answer):
    """Something that says this to whoever asks it, and ends; for None it says nothing."""
    never, asked = asyncio.Event(), []

    async def serve(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await never.wait()
        writer.write(answer or b"")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Proxy.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), asked
        never.set()


@pytest.mark.parametrize("answer", ANSWERS)
async def test_whatever_a_proxy_answers_is_understood(answer):
    """Other ways to sign in, refusals, errors, no proxies, endless heads, silence: in words, printable, bounded."""
    async with _answering(answer) as (proxy, asked):
        with pytest.raises(ProxyProblem) as caught:
            await tunnel.dig(proxy, "broker.test", 443, deadline_s=0.1 if answer is None else 20)
    assert ANSWERS[answer] in caught.value.found
    assert len(caught.value.found) < 400
    assert asked == [b"CONNECT broker.test:443 HTTP/1.1\r\nHost: broker.test:443\r\n\r\n"]


async def test_what_comes_behind_the_answer_is_the_brokers():
    """A nats-server speaks first: its words may come with the proxy's, and whoever takes over hears them."""
    async with _answering(b"HTTP/1.1 201 OK\r\nVia: x\r\n\r\nINFO {}\r\n") as (proxy, _):
        reader, writer = await tunnel.streams(proxy, "::1", 4222, deadline_s=20, limit=2**16)
        assert await reader.read() == b"INFO {}\r\n"
        writer.close()


@pytest.mark.parametrize("host", ["x y", "x\r\nEvil: 1", "", "a" * 64 + ".example", "x/y"])
async def test_a_name_that_is_none_never_reaches_the_proxy(host):
    """A cluster tells of its other nodes: what it calls them is looked at before it stands in a line of HTTP."""
    async with _answering(b"HTTP/1.1 200 OK\r\n\r\n") as (proxy, asked):
        with pytest.raises(ProxyProblem, match="no host's name"):
            await tunnel.dig(proxy, host, 443, deadline_s=20)
    assert asked == []
