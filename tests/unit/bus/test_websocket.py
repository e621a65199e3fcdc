"""The websocket's frames, without a socket: cut anywhere, masked, and broken by whoever is at the other end."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from itertools import pairwise
from urllib.parse import urlparse

import numpy as np
import pytest

from fedbus.bus.nats.websocket import GUID, WebLink, WebsocketRefused, framed

URI = urlparse("wss://broker.example:443/nats")


class Line(asyncio.Transport):
    """The transport that a link writes to."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.closed = self.aborted = False

    def write(self, data):
        assert not self.closed
        self.written += data

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = self.aborted = True


def feed(link, data, piece_bytes):
    """Have a link receive bytes, so many at a time at the most."""
    while data and not link.ended:
        room = link.get_buffer(-1)
        count = min(len(room), len(data), piece_bytes)
        room[:count] = data[:count]
        link.buffer_updated(count)
        data = data[count:]


def frame(payload, code=2, fin=0x80):
    """Return a server's frame, which is not masked."""
    size = len(payload)
    if size < 126:
        return struct.pack(">BB", fin | code, size) + payload
    if size < 2**16:
        return struct.pack(">BBH", fin | code, 126, size) + payload
    return struct.pack(">BBQ", fin | code, 127, size) + payload


def unmasked(data):
    """Return (code, payload) of each of a client's frames."""
    found = []
    while data:
        assert data[0] & 0xF0 == 0x80 and data[1] & 0x80
        size, at = data[1] & 0x7F, 2
        if size == 126:
            (size,), at = struct.unpack(">H", data[2:4]), 4
        elif size == 127:
            (size,), at = struct.unpack(">Q", data[2:10]), 10
        key, payload = data[at : at + 4], data[at + 4 : at + 4 + size]
        found.append((data[0] & 0x0F, bytes(b ^ key[i % 4] for i, b in enumerate(payload))))
        data = data[at + 4 + size :]
    return found


def answer_to(asked, *, status="101 Switching Protocols", accept=None, more=""):
    """Return what a server says to a handshake."""
    key = next(line.split(": ")[1] for line in asked.decode().split("\r\n") if line.startswith("Sec-WebSocket-Key"))
    accept = accept or base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()
    head = f"HTTP/1.1 {status}\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    return (head + more + "\r\n").encode()


async def opening():
    """A link that has asked for its websocket; returns it, its line, what was asked, and the task that waits."""
    heard = []
    link, line = WebLink(lambda *message: heard.append(message)), Line()
    link.connection_made(line)
    task = asyncio.create_task(link.open(URI))
    await asyncio.sleep(0)
    asked = bytes(line.written)
    line.written.clear()
    return link, line, asked, task, heard


async def opened():
    """A link whose websocket is open, its handshake with NATS over, its line, and what it hears."""
    link, line, asked, task, heard = await opening()
    feed(link, answer_to(asked), 10**6)
    await task
    link.begin()
    return link, line, heard


@pytest.mark.parametrize("piece_bytes", [1, 3, 1000, 10**6])
async def test_messages_are_whole_however_they_are_cut(piece_bytes):
    """Small and large messages, many to a frame and one over several, with pings between, come whole and in order."""
    link, line, heard = await opened()
    datas = [b"", b"x", bytes(range(256)) * 3, np.random.default_rng(1).bytes(200_000), b"y" * 125, b"z" * 20_000]
    stream = b"".join(b"MSG s %d %d\r\n%b\r\n" % (n, len(data), data) for n, data in enumerate(datas))
    cuts = [0, 5, 6, 700, 701, 90_000, len(stream)]
    sent = b"".join(frame(stream[a:b]) + frame(b"hello", 9) for a, b in pairwise(cuts))
    feed(link, sent + frame(b"") + frame(b"PI", fin=0) + frame(b"NG\r\n", code=0), piece_bytes)
    assert [(sid, bytes(data)) for sid, _, _, _, data in heard] == list(enumerate(datas))
    assert unmasked(bytes(line.written)) == [(10, b"hello")] * 6 + [(2, b"PONG\r\n")]
    assert not link.ended


@pytest.mark.parametrize("size", [0, 1, 3, 125, 126, 2**16 - 1, 2**16, 2**18 + 5])
def test_frames_are_masked_as_the_protocol_asks(size):
    """What is written is read back by the rule of RFC 6455, from memory of any alignment, with a key of its own."""
    data = np.random.default_rng(size).bytes(size + 1)
    for piece in (data[:size], memoryview(data)[1:]):
        assert unmasked(bytes(framed(2, piece))) == [(2, bytes(piece))]
    if size > 100:
        assert bytes(framed(2, data)) != bytes(framed(2, data))


@pytest.mark.parametrize(
    "garbage",
    [
        frame(b"PING\r\n", code=1),  # text
        frame(b"PING\r\n", code=3),  # no code that there is
        b"\xc2\x06PING\r\n",  # an extension
        b"\x82\x86abcdPING\r\n",  # masked by a server
        b"\x09\x01x",  # a ping in pieces
        b"\x89\x7e\x00\x80" + bytes(128),  # a ping that is too long
        b"\x82\x7f" + struct.pack(">Q", 2**40),  # a frame larger than all memory
        frame(b"MSG s x y\r\n"),  # a frame that holds no NATS
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(garbage):
    """Nothing more is read, and nothing is taken in advance, of whoever does not keep to the protocol."""
    link, line, heard = await opened()
    feed(link, garbage, 10**6)
    assert link.ended and line.aborted and heard == []
    with pytest.raises(Exception, match="protocol error"):
        await link.next_word()


async def test_a_close_is_answered_and_its_reason_told():
    """What the other side says at the end becomes the error; a normal end is an end; ours is said before we close."""
    link, line, _ = await opened()
    feed(link, frame(b"-ERR 'no'\r\n") + frame(struct.pack(">H", 1008) + b"Slow Consumer", 8), 4)
    assert await link.next_word() == (b"-ERR", b"'no'")
    with pytest.raises(ConnectionResetError, match="1008 Slow Consumer"):
        await link.next_word()
    assert unmasked(bytes(line.written)) == [(8, b"\x03\xe8")] and line.closed

    link, _, _ = await opened()
    feed(link, frame(struct.pack(">H", 1000), 8), 100)
    assert await link.next_word() is None

    link, line, _ = await opened()
    link.send([b"PING\r\n"])
    link.close()
    await asyncio.sleep(0)
    assert unmasked(bytes(line.written)) == [(2, b"PING\r\n"), (8, b"\x03\xe8")] and line.closed


async def test_the_handshake_asks_as_it_should_and_takes_what_follows_it():
    """Path and host are those of the address; what comes behind the answer, in the same piece, is not lost."""
    link, _, asked, task, _ = await opening()
    assert asked.startswith(b"GET /nats HTTP/1.1\r\nHost: broker.example:443\r\n")
    feed(link, answer_to(asked, more="Via: proxy\r\n") + frame(b"INFO {}\r\nPI"), 10**6)
    await task
    assert await link.readline() == b"INFO {}\r\n"
    link.begin()
    feed(link, frame(b"NG\r\n-ERR 'x'\r\n"), 7)
    assert await link.next_word() == (b"-ERR", b"'x'")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"status": "404 Not Found"}, "404 Not Found.*path"),
        ({"status": "400 Bad Request"}, "wss://"),
        ({"accept": "AAAA"}, "not to our question"),
        ({"more": "Sec-WebSocket-Extensions: permessage-deflate\r\n"}, "not asked for"),
    ],
)
async def test_an_answer_that_is_none_is_refused_in_words(how, why):
    """A page, another port's complaint, an answer to somebody else, and extensions that nobody wants."""
    link, _, asked, task, _ = await opening()
    feed(link, answer_to(asked, **how), 11)
    with pytest.raises(WebsocketRefused, match=why):
        await task


@pytest.mark.parametrize(
    ("said", "why"),
    [(b"INFO {}\r\n", "asked by nats://"), (b"", "closed"), (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "200 OK")],
)
async def test_a_server_of_another_kind_is_told_apart(said, why):
    """NATS itself, one that hangs up, and one that talks without end: none is waited for."""
    link, _, _, task, _ = await opening()
    feed(link, said, 10**6)
    if not said:
        link.eof_received()
    with pytest.raises(WebsocketRefused, match=why):
        async with asyncio.timeout(5):
            await task
