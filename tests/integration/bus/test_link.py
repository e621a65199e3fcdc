"""The socket under nats-py: hostile and slow servers, TLS, websockets, and large payloads both ways."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress

import pytest

from fedbus.bus.embedded.binary import find_binary
from fedbus.bus.nats import connect
from fedbus.bus.nats.frames import LARGE_BYTES
from fedbus.bus.nats.link import Link
from fedbus.errors import BusDenied

INFO = b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":8388608}\r\n'


class Server:
    """Just enough of a broker, whose words can be put in its mouth; what is said goes out in pieces of a few bytes."""

    def __init__(self, piece_bytes: int = 2**20) -> None:
        self.piece_bytes = piece_bytes
        self.url = ""
        self.connections = 0
        self.sids: dict[str, int] = {}
        self.pongs = 0
        self.refuses: set[str] = set()
        self.reads = asyncio.Event()
        self.reads.set()
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task] = set()

    async def say(self, text: bytes) -> None:
        writer = self._writer
        for at in range(0, len(text), self.piece_bytes):
            writer.write(text[at : at + self.piece_bytes])
            await writer.drain()
            if self.piece_bytes < 100:
                await asyncio.sleep(0)

    async def message(self, subject: str, data: bytes) -> None:
        await self.say(b"MSG %b %d %d\r\n%b\r\n" % (subject.encode(), self.sids[subject], len(data), data))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        number = self.connections
        self._writer = writer
        try:
            await self.say(INFO)
            while line := await reader.readline():
                if number == 1:
                    await self.reads.wait()
                await self._answer(line.split(), reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the bus has left
        finally:
            writer.transport.abort()

    async def _answer(self, words: list[bytes], reader: asyncio.StreamReader) -> None:
        match words:
            case [b"PING"]:
                await self.say(b"PONG\r\n")
            case [b"PONG"]:
                self.pongs += 1
            case [b"SUB", subject, sid] if subject.decode() in self.refuses:
                await self.say(b"-ERR 'Permissions Violation for Subscription to \"%b\"'\r\n" % subject)
            case [b"SUB", subject, sid]:
                self.sids[subject.decode()] = int(sid)
            case [b"PUB", *_, size]:
                await reader.readexactly(int(size) + 2)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def served(piece_bytes: int = 2**20):
    """A server, and a bus connected to it."""
    server = Server(piece_bytes)
    listening = await asyncio.start_server(server.serve, "127.0.0.1")
    async with listening:
        server.url = f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(20), await connect(server.url, name="x") as bus:
            yield server, bus
        await server.close()


@pytest.mark.parametrize("piece_bytes", [1, 3, 7])
async def test_a_server_that_speaks_byte_by_byte_is_understood(piece_bytes):
    """Handshake, messages, pings, news and refusals of permission come in pieces of a few bytes, and all arrive."""
    async with served(piece_bytes) as (server, bus):
        inbox = await bus.subscribe("x")
        await server.message("x", b"first")
        await server.say(b"PING\r\n+OK\r\n" + INFO.replace(b"}", b',"connect_urls":["127.0.0.1:1"]}'))
        await server.say(b"HMSG x %d 22 25\r\nNATS/1.0\r\nkey: one\r\n\r\nabc\r\n" % server.sids["x"])
        await server.message("x", b"\r\nPING\r\n")
        found = [await anext(inbox) for _ in range(3)]
        assert [(m.data, dict(m.headers)) for m in found] == [
            (b"first", {}),
            (b"abc", {"key": "one"}),
            (b"\r\nPING\r\n", {}),
        ]
        server.refuses.add("secret")
        with pytest.raises(BusDenied):
            await bus.subscribe("secret")
        assert server.pongs == 1
        assert "127.0.0.1:1" in [s.uri.netloc for s in bus._connection._client.server_pool]
        assert (bus.reconnects, server.connections) == (0, 1)


@pytest.mark.parametrize(
    "garbage",
    [
        b"MSG x 1 -5\r\n",
        b"MSG x 1 99999999999\r\n",
        b"HMSG x 1 9 5\r\n",
        b"MSG x 1 2\r\nabcdef",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"x" * 300_000,
        b"INFO not json\r\n",
        b"INFO []\r\n",
    ],
)
async def test_a_server_that_breaks_the_protocol_is_left_and_found_again(garbage):
    """Malformed lines, sizes out of bounds, lines without end: the connection is made anew, subscriptions go on."""
    async with served() as (server, bus):
        inbox = await bus.subscribe("x")
        await server.message("x", b"before")
        with suppress(ConnectionError):
            await server.say(garbage)
        await _until(lambda: bus.reconnects == 1)
        await server.message("x", b"after")
        assert [(await anext(inbox)).data for _ in range(2)] == [b"before", b"after"]
        assert server.connections == 2


async def test_a_silent_peer_does_not_hold_up_the_reconnection():
    """A peer that stops reading, with megabytes on their way to it, is left at once when the connection is given up."""
    async with served() as (server, bus):
        server.reads.clear()
        flood = [asyncio.create_task(bus.publish("plain", bytes(2**20))) for _ in range(32)]
        await asyncio.sleep(0.2)
        assert not all(task.done() for task in flood)  # the socket is full, and nobody empties it
        await server.say(b"-ERR 'Stale Connection'\r\n")
        async with asyncio.timeout(3):
            await _until(lambda: bus.reconnects == 1)
            await asyncio.gather(*flood, return_exceptions=True)


async def test_a_ping_is_answered_though_nobody_reads_the_messages_before_it():
    """Pings behind more messages than a mailbox holds are answered: no reader holds up the connection."""
    async with served() as (server, bus):
        inbox = await bus.subscribe("x", pending_bytes_max=1000)
        for _ in range(20):
            await server.message("x", bytes(LARGE_BYTES))
            await server.message("x", b"small")
        await server.say(b"PING\r\n")
        await _until(lambda: server.pongs == 1)
        assert len((await anext(inbox)).data) == LARGE_BYTES


async def test_a_handler_that_fails_ends_no_connection(broker, fresh, caplog):
    """A message that cannot be taken is logged with its subject; the next is taken."""
    bus, taken = await fresh("x"), []

    def take(message):
        taken.append(message.data)
        if message.data == b"bad":
            raise ValueError("cannot be taken")

    await bus._connection.receive(["fragile"], take)
    for data in (b"bad", b"good"):
        await bus.publish("fragile", data)
    await _until(lambda: len(taken) == 2)
    assert "'fragile' was lost" in caplog.text
    assert bus.reconnects == 0


OTHERWISE = """
listen: "127.0.0.1:-1"
ports_file_dir: "{store}"
max_payload: 8388608
{more}
"""


@asynccontextmanager
async def server_with(store, more: str):
    """A nats-server that listens otherwise than the embedded broker does; gives its addresses by kind."""
    (store / "conf").write_text(OTHERWISE.format(store=store, more=more))
    with (store / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(find_binary(), "-c", store / "conf", stderr=log)
    try:
        ports = store / f"nats-server_{process.pid}.ports"
        await _until(lambda: ports.exists() and ports.read_text())
        yield json.loads(ports.read_text())
    finally:
        process.kill()
        await process.wait()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_tls_goes_the_same_way(tmp_path):
    """Over TLS, asked for by the broker after its first line, small and large payloads arrive whole and in order."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-days", "2", *subject, "-newkey", "rsa:2048", "-nodes"]
    await asyncio.to_thread(
        subprocess.run, [*made, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    trusted = ssl.create_default_context(cafile=str(certificate))
    more = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
    async with server_with(tmp_path, more) as ports, await connect(ports["nats"][0], name="x", tls=trusted) as bus:
        assert bus._connection._client._transport.link.transport.get_extra_info("cipher") is not None
        await _there_and_back(bus)


async def test_websockets_go_the_same_way(tmp_path):
    """Over websockets small and large payloads arrive whole and in order."""
    more = 'websocket { listen: "127.0.0.1:-1", no_tls: true }'
    async with server_with(tmp_path, more) as ports, await connect(ports["websocket"][0], name="x") as bus:
        await _there_and_back(bus)


async def test_payloads_around_every_bound_arrive_whole(broker, fresh):
    """Sizes around the bounds of the reader and of the writer, mixed, with headers and without, arrive as sent."""
    await _there_and_back(await fresh("x"))


async def _there_and_back(bus) -> None:
    inbox = await bus.subscribe("x", pending_bytes_max=2**28)
    around = [2**13, 2**16, 2**18, 2**18 + 2**16, 2**20, 2**22]
    sizes = [0, 1, *(size + by for size in around for by in (-2, -1, 0, 1, 300)), *range(200), bus.payload_max]
    for at, size in enumerate(sizes):
        data = bytearray([at % 251]) * size
        await bus.publish("x", memoryview(data), {"at": str(at)} if at % 2 else None)
        data[:] = bytes(size)  # the sender may use it again
    for at, size in enumerate(sizes):
        message = await anext(inbox)
        assert bytes(message.data) == bytes([at % 251]) * size
        assert dict(message.headers) == ({"at": str(at)} if at % 2 else {})
    assert bus.reconnects == 0


async def _until(true) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - the state of others
            await asyncio.sleep(0.01)


async def test_a_link_that_is_closed_while_its_socket_is_full_ends_once():
    """What waits is sent, then the socket is closed; asyncio is not made to end the connection a second time."""
    loop = asyncio.get_running_loop()
    complaints = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    took = loop.create_future()

    async def serve(reader, writer):
        await asyncio.sleep(0.1)  # until its socket, and ours, are full
        took.set_result(len(await reader.read(-1)))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = Link(lambda *_: None)
    await loop.create_connection(lambda: link, *server.sockets[0].getsockname())
    link.send([bytes(16 * 2**20)])
    assert link.transport.get_write_buffer_size() > 0, "the socket took it all: nothing is proved"
    link.close()
    async with asyncio.timeout(5):
        await link.wait_closed()
        assert await took == 16 * 2**20
    for _ in range(3):
        await asyncio.sleep(0)
    server.close()
    assert complaints == []
