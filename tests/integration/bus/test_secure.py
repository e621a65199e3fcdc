"""The bus over TLS and over websockets: the whole contract, what breaks on the way, and what is refused in words."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from fedbus.access.certs import Certs
from fedbus.bus.base import Storage, StreamSpec
from fedbus.bus.embedded import BrokerSettings, BrokerTls, EmbeddedBroker
from fedbus.bus.nats import Identity, connect
from fedbus.bus.tls import TlsFiles, with_files
from fedbus.cli.encrypting import Encryption, renewing
from fedbus.errors import BrokerFailed, BusUnavailable, ConfigError
from fedbus.testing.bus import check_bus
from fedbus.testing.proxy import Proxy

NAMES = ("tls", "wss")


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """An authority, a server's certificate for this machine, a client's, and an expired one."""
    made = Certs(tmp_path_factory.mktemp("certs"))
    made.init()
    made.server("broker", ["broker.example"])
    made.client("site-1")
    Certs(made.directory, now=lambda: datetime.now(UTC) - timedelta(days=9)).server("expired", days=2)
    made.server("elsewhere", ["elsewhere.example"], local=False)
    return made


def _files(certs, name="broker", *, asks=False):
    certificate, key = certs.files(name)
    return BrokerTls(certificate, key, certs.ca if asks else None)


@asynccontextmanager
async def broker_with(certs, store, **changes):
    """A broker with TLS, and websockets on a port of their own."""
    settings = BrokerSettings(tls=_files(certs, **changes), websocket_listen="127.0.0.1:0")
    async with EmbeddedBroker(store, settings=settings) as broker:
        yield broker


def _url(broker, name, files):
    return with_files(broker.url if name == "tls" else broker.wss_url, files)


@pytest.mark.parametrize("name", NAMES)
async def test_the_contract_of_a_bus_is_kept(certs, tmp_path, name):
    """All that a bus promises, it promises over TLS and over websockets."""

    @asynccontextmanager
    async def make():
        async with broker_with(certs, tmp_path / "store") as broker:
            url = _url(broker, name, TlsFiles(certs.ca))

            async def fresh(who):
                return await connect(url, name=who)

            yield fresh

    await check_bus(make)


@pytest.mark.parametrize("name", NAMES)
async def test_large_payloads_survive_a_line_that_is_cut(certs, tmp_path, name):
    """Chunks of megabytes, and what is small, are stored once and read whole, though the line is reset meanwhile."""
    async with broker_with(certs, tmp_path) as broker, _behind_proxy(broker, name, certs) as (proxy, url):
        bus = await connect(url, name="x")
        spec = StreamSpec("journal", ("journal.>",), Storage.MEMORY)
        await bus.ensure(spec)
        sizes = [3 * 2**20 + 7, 1, 0, 2**16 - 1, 2**16, 125, 126, bus.payload_max, 2**18 + 1]
        for at, size in enumerate(sizes):
            appending = asyncio.create_task(bus.append("journal", "journal.s", bytes([at]) * size, message_id=str(at)))
            if at in (0, 7):
                await asyncio.sleep(0)
                proxy.reset()
            await appending
        follow = await bus.follow("journal", ">")
        for at, size in enumerate(sizes):
            if at == 7:
                proxy.reset()
            assert bytes((await anext(follow)).data) == bytes([at]) * size
        assert bus.reconnects >= 2
        await bus.close()


@asynccontextmanager
async def _behind_proxy(broker, name, certs, **lines):
    port = broker.port if name == "tls" else int(broker.wss_url.rpartition(":")[2])
    async with Proxy("127.0.0.1", port, **lines) as proxy:
        yield proxy, with_files(f"{name}://127.0.0.1:{proxy.port}", TlsFiles(certs.ca))


@pytest.mark.parametrize("name", NAMES)
async def test_a_line_that_stands_still_is_felt(certs, tmp_path, name):
    """Nothing hides below: what the line does not take waits where senders see it; a close then ends in time."""
    async with broker_with(certs, tmp_path) as broker, _behind_proxy(broker, name, certs) as (proxy, url):
        bus = await connect(url, name="x")
        proxy.blackhole()
        sending = asyncio.create_task(_flood(bus))
        link = bus._connection._client.link
        seen = -1
        while link.sent_bytes != seen:  # until nobody takes any more
            seen = link.sent_bytes
            await asyncio.sleep(0.1)
        assert not sending.done()
        secure = link.transport
        below = secure._ssl_protocol._transport.get_write_buffer_size() + secure.get_write_buffer_size()
        assert below <= 2 * 2**16 + 2**13  # one slice, and what TLS adds to it
        assert bus._connection.waiting_bytes > 0
        sending.cancel()
        async with asyncio.timeout(8):
            await bus.close()


async def _flood(bus):
    for _ in range(1000):
        await bus.publish("x", bytes(2**20))


@pytest.mark.parametrize("name", NAMES)
async def test_a_broker_that_dies_is_found_again(certs, tmp_path, name):
    """After kill -9 the same ports come back, and subscriptions with them; the last words before closing arrive."""
    async with broker_with(certs, tmp_path) as broker:
        url = _url(broker, name, TlsFiles(certs.ca))
        bus, other = await connect(url, name="x"), await connect(url, name="y")
        inbox = await bus.subscribe("x")
        await broker.kill()
        await broker.start()
        assert _url(broker, name, TlsFiles(certs.ca)) == url
        async with asyncio.timeout(20):
            while not (bus.reconnects and other.reconnects):  # noqa: ASYNC110 - the state of others
                await asyncio.sleep(0.01)
        await other.publish("x", bytes(300_000))
        await other.publish("x", b"last words")
        await other.close()
        assert [len((await anext(inbox)).data) for _ in range(2)] == [300_000, 10]
        await bus.close()


async def test_a_renewed_certificate_is_taken_while_the_broker_runs(certs, tmp_path):
    """After `reload` new connections see the new certificate, over websockets too, and those that are open go on."""
    given = tmp_path / "given.pem", tmp_path / "given-key.pem"
    for source, target in zip(certs.files("elsewhere"), given, strict=True):
        shutil.copy(source, target)
    settings = BrokerSettings(tls=BrokerTls(*given), websocket_listen="127.0.0.1:0")
    async with EmbeddedBroker(tmp_path / "store", settings=settings) as broker:
        url = with_files(broker.wss_url, TlsFiles(certs.ca))
        assert "came one for other names" in await _why(url)
        for source, target in zip(certs.files("broker"), given, strict=True):
            shutil.copy(source, target)
        broker.reload()
        async with asyncio.timeout(10):
            while True:
                try:
                    bus = await connect(url, name="x")
                    break
                except BusUnavailable:
                    await asyncio.sleep(0.05)
        broker.reload()
        await bus.publish("x", b"")
        await asyncio.sleep(0.2)
        assert bus.connected and not bus.reconnects
        await bus.close()


async def test_the_brokers_of_up_take_a_renewed_certificate(certs, tmp_path, monkeypatch, caplog):
    """When both files fit together again every broker is told, once; of half of a pair none is."""
    monkeypatch.setattr("fedbus.cli.encrypting.LOOK_S", 0.01)
    given = tmp_path / "given.pem", tmp_path / "given-key.pem"
    for source, target in zip(certs.files("elsewhere"), given, strict=True):
        shutil.copy(source, target)
    told = asyncio.Queue()
    brokers = [SimpleNamespace(reload=lambda number=number: told.put_nowait(number)) for number in (1, 2)]
    looks = asyncio.create_task(renewing(Encryption(*given, ca=""), brokers))
    await asyncio.sleep(0.1)  # it has seen the old ones
    async with asyncio.timeout(10):
        for number, (source, target) in enumerate(zip(certs.files("broker"), given, strict=True)):
            shutil.copy(source, target)
            while not number and "the old one stays" not in caplog.text:  # noqa: ASYNC110 - it looks when it looks
                await asyncio.sleep(0.01)
            assert told.empty()
        assert [await told.get(), await told.get()] == [1, 2]
    looks.cancel()
    assert told.empty()


# ---- what is refused, and how it is said


async def _why(url, **kwargs):
    with pytest.raises((BusUnavailable, ConfigError)) as refused:
        await connect(url, name="x", deadline_s=8, **kwargs)
    return str(refused.value)


@pytest.mark.parametrize("name", NAMES)
async def test_an_unknown_authority_is_refused_at_once(certs, tmp_path, name):
    """Without the CA's file the system's authorities are trusted, which do not know ours: said with what to do."""
    async with broker_with(certs, tmp_path) as broker:
        async with asyncio.timeout(4):
            why = await _why(broker.url if name == "tls" else broker.wss_url)
    assert "signed by nobody who is trusted here" in why
    assert "--ca" in why


@pytest.mark.parametrize("name", NAMES)
async def test_a_wrong_name_is_refused(certs, tmp_path, name):
    """A certificate for another host is no certificate for this one; both names' story is told."""
    async with broker_with(certs, tmp_path, name="elsewhere") as broker:
        why = await _why(_url(broker, name, TlsFiles(certs.ca)))
    assert "expected a certificate for 127.0.0.1, came one for other names" in why


async def test_an_expired_certificate_is_refused_by_all(certs, tmp_path):
    """Clients say that it is not valid any more, and so does whoever starts a broker with it."""
    certificate, key = certs.files("expired")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(_reader, writer):
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with asyncio.timeout(10):
        with pytest.raises(BrokerFailed, match="its certificate is not valid any more"):
            await EmbeddedBroker(tmp_path, settings=BrokerSettings(tls=_files(certs, "expired"))).start()
    async with server:
        why = await _why(with_files(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}", TlsFiles(certs.ca)))
    assert "its certificate is not valid any more (certificate has expired)" in why
    assert "clock" in why


async def test_ports_for_something_else_are_told_apart(certs, tmp_path):
    """TLS to a port without, websockets to NATS, NATS to a websocket's: each says what came, and what to write."""
    trust = TlsFiles(certs.ca)
    async with EmbeddedBroker(tmp_path / "plain") as plain:
        assert "nothing is sent in the clear" in await _why(with_files(f"tls://127.0.0.1:{plain.port}", trust))
        assert "is this the port for TLS?" in await _why(with_files(f"wss://127.0.0.1:{plain.port}", trust))
        assert "this port is asked by nats:// or tls://" in await _why(f"ws://127.0.0.1:{plain.port}")
    async with broker_with(certs, tmp_path / "secure") as broker:
        assert "this port wants TLS: write wss://" in await _why(broker.wss_url.replace("wss:", "ws:"))
        assert "signed by nobody who is trusted here" in await _why(broker.url.replace("tls:", "nats:"))


async def test_a_broker_that_offers_no_tls_any_more_is_not_believed(tmp_path):
    """Whoever sits on the line may take TLS out of the broker's first line: nothing is sent to him."""
    heard = bytearray()

    async def serve(reader, writer):
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1048576}\r\n')
        heard.extend(await reader.read(-1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        why = await _why(f"tls://user:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert "the broker offers none" in why
    assert "secret" not in why
    assert bytes(heard) == b""


@pytest.mark.parametrize("name", NAMES)
async def test_a_broker_may_ask_clients_for_certificates(certs, tmp_path, name):
    """Whoever shows a certificate of the broker's CA is let in; nobody else is, and is told why."""
    certificate, key = certs.files("site-1")
    async with broker_with(certs, tmp_path, asks=True) as broker:
        bus = await connect(_url(broker, name, TlsFiles(certs.ca, certificate, key)), name="x")
        assert bus.connected
        await bus.close()
        why = await _why(_url(broker, name, TlsFiles(certs.ca)))
        assert "the broker demands a certificate of ours" in why


async def test_credentials_say_whom_to_trust(certs, tmp_path):
    """The CA that stands in the credentials is trusted without being named anywhere else, for nats:// as well."""
    async with broker_with(certs, tmp_path) as broker:
        identity = Identity("", ca=certs.ca.read_text())
        for url in (broker.url, broker.wss_url, broker.url.replace("tls:", "nats:")):
            bus = await connect(url, name="x", credentials=identity)
            assert bus._connection._client.link.transport.get_extra_info("cipher") is not None
            await bus.close()
    async with EmbeddedBroker(tmp_path / "plain") as plain:
        assert "nothing is sent in the clear" in await _why(plain.url, credentials=identity)


async def test_a_context_that_trusts_everybody_is_refused():
    """Verification cannot be turned off, not even by a caller's own context."""
    context = ssl.create_default_context()
    context.check_hostname = False
    assert "anybody could be the broker" in await _why("tls://127.0.0.1:1", tls=context)
    assert "ws:// has no TLS" in await _why("ws://127.0.0.1:1", tls=ssl.create_default_context())
