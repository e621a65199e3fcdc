"""Frames: any split of a stream gives the same events, those of nats-py's parser, and what is malformed ends it."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from fedbus.bus.nats import frames
from fedbus.bus.nats.frames import Frames, headers_from


class Heard:
    """A sink that keeps what it is told."""

    def __init__(self):
        self.events = []

    def on_message(self, sid, subject, reply, headers, data):
        self.events.append(("MSG", sid, subject, reply, headers, bytes(data)))

    def on_ping(self):
        self.events.append(("PING",))

    def on_word(self, word, rest):
        self.events.append((word.decode(), rest))


@contextmanager
def small():
    """Make every bound small, so that short streams meet all of them."""
    sizes = {
        "LARGE_BYTES": 40,
        "IDLE_BYTES": 20,
        "SCRATCH_BYTES": 120,
        "LINE_BYTES_MAX": 60,
        "SLACK_BYTES": 8,
        "MESSAGE_BYTES_MAX": 300,
    }
    with mock.patch.multiple(frames, **sizes):
        yield


def feed(stream: bytes, pieces, sink: Heard) -> None:
    """Write a stream piece by piece to where the frames want it."""
    cut, left, sizes = Frames(sink), memoryview(stream), iter(pieces)
    while left:
        room = cut.room()
        nbytes = min(len(room), len(left), next(sizes, len(left)))
        assert nbytes > 0, "no room is left"
        room[:nbytes] = left[:nbytes]
        cut.received(nbytes)
        left = left[nbytes:]


def events(stream: bytes, pieces=()) -> tuple[list, bool]:
    """Return what a stream says, and whether it was malformed."""
    sink = Heard()
    try:
        feed(stream, pieces, sink)
    except ProtocolError:
        return sink.events, True
    return sink.events, False


TOKENS = st.text("abcXYZ019_-é", min_size=1, max_size=6)
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=2).map(".".join)
BODIES = st.binary(max_size=90) | st.sampled_from(
    [b"", b"\r\n", b"MSG a 1 1\r\n", b"PING\r\n", b"x" * 38, b"y" * 39, b"z" * 40, bytes(200)]
)
BLOCKS = st.lists(st.tuples(TOKENS, st.text("ab é", max_size=8)), max_size=3).map(
    lambda pairs: b"NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in pairs).encode() + b"\r\n"
)


def _message(subject, sid, reply, block, body):
    back = f" {reply}" if reply else ""
    if block is None:
        return f"MSG {subject} {sid}{back} {len(body)}\r\n".encode() + body + b"\r\n"
    return f"HMSG {subject} {sid}{back} {len(block)} {len(block) + len(body)}\r\n".encode() + block + body + b"\r\n"


MESSAGES = st.builds(_message, SUBJECTS, st.integers(1, 99), st.none() | SUBJECTS, st.none() | BLOCKS, BODIES)
WORDS = st.sampled_from(
    [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"a": [1]}\r\n', b"-ERR 'Stale Connection'\r\n", b"PING  \r\n"]
)
PIECES = st.lists(st.integers(1, 50), max_size=60)


@given(st.lists(MESSAGES | WORDS, max_size=12).map(b"".join), PIECES)
def test_any_split_of_a_stream_gives_the_same_events(stream, pieces):
    """Whole, byte by byte, or cut anywhere: the events are the same, and those that nats-py's own parser finds."""
    with small():
        whole = events(stream)
        assert events(stream, [1] * len(stream)) == whole
        assert events(stream, pieces) == whole
    assert whole == (asyncio.run(_by_nats_py(stream)), False)


async def _by_nats_py(stream: bytes) -> list:
    found = []

    class Listener:
        async def _process_msg(self, sid, subject, reply, data, headers):
            found.append(("MSG", sid, subject.decode(), reply.decode(), headers or b"", data))

        async def _process_ping(self):
            found.append(("PING",))

        async def _process_pong(self):
            found.append(("PONG", b""))

        async def _process_err(self, text):
            found.append(("-ERR", b"'Stale Connection'"))

        async def _process_info(self, info):
            found.append(("INFO", b'{"a": [1]}'))

    await Parser(Listener()).parse(stream)
    return found


@given(st.lists(MESSAGES | WORDS, max_size=3).map(b"".join), st.binary(max_size=150), PIECES)
def test_garbage_never_grows_and_is_refused_alike_in_any_split(stream, garbage, pieces):
    """What follows good frames is garbage: they are heard, it is refused, or waits for more, alike."""
    with small():
        whole = events(stream + garbage)
        assert events(stream + garbage, [1] * 999) == whole
        assert events(stream + garbage, pieces) == whole
    assert whole[0][: len(events(stream)[0])] == events(stream)[0]


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1 -5\r\n",
        b"MSG a 1 +5\r\n",
        b"MSG a 1 1_0\r\n",
        b"MSG a 1 5x\r\n",
        b"MSG a one 5\r\n",
        b"MSG a 1\r\n",
        b"MSG\r\n",
        b"MSG a 1 b c 5\r\n",
        b"MSG \xff 1 0\r\n\r\n",
        b"MSG a 1 %d\r\n" % (frames.MESSAGE_BYTES_MAX + 1),
        b"MSG a 1 " + b"9" * 5000 + b"\r\n",
        b"HMSG a 1 6 5\r\n",
        b"HMSG a 1 5\r\n",
        b"MSG a 1 2\r\nabcd",
        b"MSG a 1 %d\r\n" % frames.LARGE_BYTES + bytes(frames.LARGE_BYTES) + b"ab",
        b"msg a 1 0\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\r\n",
        b"x" * (frames.LINE_BYTES_MAX + 2),
        b"INFO " + b"x" * frames.LINE_BYTES_MAX + b"\r\n",
    ],
)
def test_what_breaks_the_protocol_is_refused(line):
    """Sizes that are none or too large, missing fields, a body without its end, unknown words, lines without end."""
    assert events(b"PING\r\n" + line) == ([("PING",)], True)


def test_a_large_payload_is_received_in_place_aligned_and_read_only():
    """A payload behind headers of any length begins aligned, is a view of where it was written, read-only."""
    seen = []

    class Keeps(Heard):
        def on_message(self, sid, subject, reply, headers, data):
            seen.append((headers, data))

    body = np.random.default_rng(1).bytes(frames.LARGE_BYTES + 3)
    for nbytes in (0, 1, 63, 64, 65, 300):
        block = bytes(nbytes)
        stream = b"HMSG a 1 %d %d\r\n" % (nbytes, nbytes + len(body)) + block + body + b"\r\nPING\r\n"
        cut = Frames(Keeps())
        cut.room()[:100] = stream[:100]
        cut.received(100)
        room = cut.room()
        room[: len(stream) - 100] = stream[100:]
        cut.received(len(stream) - 100)
        headers, data = seen.pop()
        assert (headers, bytes(data)) == (block, body)
        assert data.readonly
        assert np.shares_memory(np.frombuffer(data, np.uint8), np.frombuffer(room, np.uint8))
        assert np.frombuffer(data, np.uint8).ctypes.data % 16 == 0  # what numpy's own allocation has


def test_a_promised_payload_takes_one_buffer_and_no_more():
    """However large a message claims to be within the bounds, one buffer of its size waits, never a growing one."""
    sink = Heard()
    cut = Frames(sink)
    head = b"MSG a 1 %d\r\n" % frames.MESSAGE_BYTES_MAX
    cut.room()[: len(head)] = head
    cut.received(len(head))
    for _ in range(5):
        room = cut.room()
        cut.received(2**20)
        assert len(room) - len(cut.room()) == 2**20
    assert sink.events == []


def test_a_connection_that_hears_little_holds_little():
    """Short messages that come one by one leave the scratch as small as it began; a full read makes it large."""
    cut = Frames(Heard())
    stream = b"MSG a 1 100\r\n" + bytes(100) + b"\r\n"
    for _ in range(2 * frames.IDLE_BYTES // len(stream)):
        cut.room()[: len(stream)] = stream
        cut.received(len(stream))
    assert len(cut.room()) == frames.IDLE_BYTES
    cut.room()[:] = (stream * frames.IDLE_BYTES)[: frames.IDLE_BYTES]
    cut.received(frames.IDLE_BYTES)
    assert len(cut.room()) > frames.SCRATCH_BYTES - len(stream)


STATUS = st.sampled_from(["", " 100", " 404", " 503", " 100 Idle Heartbeat", " 409 Message Size Exceeds MaxBytes"])


@given(STATUS, st.lists(st.tuples(st.text("ab-Z\té", max_size=4), st.text(" ab:é", max_size=6)), max_size=4))
def test_headers_are_those_of_nats_py(status, pairs):
    """Statuses with and without text, headers with blanks, colons and other alphabets are read as by nats-py."""
    # a status without text but with headers, which nats-server does not send, nats-py reads wrongly
    lines = "" if len(status) == 4 else "".join(f"{name}:{value}\r\n" for name, value in pairs)
    block = f"NATS/1.0{status}\r\n{lines}\r\n".encode()
    assert headers_from(block) == asyncio.run(Client()._process_headers(block))
