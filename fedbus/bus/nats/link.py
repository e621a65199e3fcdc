"""One connection under nats-py, from its opening to its end: read by `Frames`, without a copy where it matters.

nats-py reads through `asyncio.StreamReader` in pieces of 32 KiB and parses with regular expressions over one growing
buffer: five copies of every byte, and a task to wake per message. It makes its handshake over this one as well, line by
line (`Link.readline`), TLS included. From then on messages go straight from the kernel to whoever the link was made
for, and what nats-py has to see (pongs, errors, news of the server) waits in `Link.next_word`.

On the way out asyncio (before Python 3.12) joins what it is given, and copies what the socket does not take. It is
given one slice at a time, and the next when that is gone. TLS has two buffers on the way out, asyncio's of what is to
be encrypted and the socket's: both are held empty, or half a megabyte would wait where nobody counts it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from nats.errors import ProtocolError

from fedbus.bus.nats.frames import Frames

SLICE_BYTES = 256 * 1024
"""Of a large piece, in one call: of the last one that the socket takes, asyncio copies what is left over."""

SECURE_SLICE_BYTES = 64 * 1024
"""The same over TLS, which makes records of 16 KiB of it anyway; what is encrypted already is not seen to wait."""

JOINED_BYTES_MAX = 64 * 1024
HEAD_BYTES = 8 * 1024
"""Small pieces are joined up to the first; the second of a large one goes with them: no packet for a line alone."""

KERNEL_BYTES = 256 * 1024
"""What the kernel may hold that it has not put on the line yet: two seconds at 1 Mbit/s. Left alone it takes 1 to 4 MB,
and whatever is said behind that - that we live, too - comes half a minute late."""

OnMessage = Callable[[int, str, str, bytes, bytes | memoryview], None]


class Link(asyncio.BufferedProtocol):
    """One connection, from the socket's opening to its end."""

    def __init__(self, on_message: OnMessage) -> None:
        self.on_message = on_message
        self.transport: asyncio.Transport | None = None
        self.ended = False
        self.error: Exception | None = None
        self._frames = Frames(self)
        self._greeting = True
        self._words: deque[tuple[bytes, bytes]] = deque()
        self._reader: asyncio.Future[None] | None = None
        self.received_bytes = 0
        self.outgoing_bytes = 0
        self.sent_bytes = 0
        self._outgoing: deque[bytes | memoryview] = deque()
        self._full = False
        self._closing = False
        self._slice_bytes = SLICE_BYTES
        self._drained = asyncio.Event()
        self._drained.set()
        self._closed = asyncio.Event()

    # ---- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # asyncio copies what the socket does not take at once: it gets no more as long as that is something
        transport.set_write_buffer_limits(high=0)
        _hold_little(transport)

    def secured(self, transport: asyncio.Transport) -> None:
        """Go on over TLS, which lies over the transport that was there."""
        self.transport = transport
        transport.set_write_buffer_limits(high=1, low=0)  # 0 would be reached by nothing: it would never be less
        self._slice_bytes = SECURE_SLICE_BYTES

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Say where to write what comes."""
        return self._frames.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on the frames that became whole."""
        self.received_bytes += nbytes
        try:
            if self._greeting:
                self._frames.added(nbytes)
                self._wake()
            else:
                self._frames.received(nbytes)
        except ProtocolError as error:
            self._break(error)

    def eof_received(self) -> None:
        """End; asyncio closes the socket."""
        self.ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """End, of the other's doing or of ours."""
        self.ended = True
        self.error = self.error or error
        self._outgoing.clear()
        self.outgoing_bytes = 0
        self._closed.set()
        self._drained.set()
        self._wake()

    def pause_writing(self) -> None:
        """Hold back: the socket is full."""
        self._full = True
        self._drained.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._full = False
        self._pump()

    # ---- what the frames call

    def on_ping(self) -> None:
        """Answer at once: a reader or writer that is behind must not cost the connection."""
        self.send([b"PONG\r\n"])

    def on_word(self, word: bytes, rest: bytes) -> None:
        """Keep it for `next_word`."""
        self._words.append((word, rest))
        self._wake()

    # ---- what nats-py calls

    async def readline(self) -> bytes:
        """Return a line of the handshake; empty at the end of the connection."""
        while (line := self._frames.line()) is None:
            if self.ended:
                if self.error is not None:
                    raise self.error
                return b""
            await self._wait()
        return line

    def begin(self) -> None:
        """Read frames from now on; the handshake is over."""
        self._greeting = False
        self.buffer_updated(0)  # what came behind its last line

    async def next_word(self) -> tuple[bytes, bytes] | None:
        """Return what is not a message (see `Sink.on_word`), or None at the end; raises what ended the connection."""
        while not self._words:
            if self.ended:
                if self.error is not None:
                    raise self.error
                return None
            await self._wait()
        return self._words.popleft()

    @property
    def waiting(self) -> int:
        """Bytes that the kernel has not taken."""
        return sum(map(len, self._outgoing)) + (self.transport.get_write_buffer_size() if self.transport else 0)

    def send(self, pieces: Iterable[bytes]) -> None:
        """Send whole commands, each in as many pieces as it came in."""
        if not self.ended:
            pieces = list(pieces)
            self._outgoing.extend(pieces)
            self.outgoing_bytes += sum(map(len, pieces))
            self._pump()

    async def drain(self) -> None:
        """Wait until the socket has taken all; `ConnectionResetError` when it never will."""
        await self._drained.wait()
        if self.ended:
            raise ConnectionResetError("connection lost")

    def close(self) -> None:
        """Send what waits, then close."""
        self._closing = True
        self._pump()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        await self._closed.wait()

    def _pump(self) -> None:
        assert self.transport is not None
        while self._outgoing and not self._full:
            piece = self._next()
            self.outgoing_bytes -= len(piece)
            self.sent_bytes += len(piece)
            self._write(piece)
        if self._outgoing or self._full:
            self._drained.clear()
            return
        self._drained.set()
        if self._closing:
            # Not here: asyncio may be telling us that its buffer is empty, and would end the connection twice.
            asyncio.get_running_loop().call_soon(self._finish)

    def _write(self, piece: bytes | memoryview) -> None:
        assert self.transport is not None
        self.transport.write(piece)

    def _finish(self) -> None:
        assert self.transport is not None
        self.transport.close()

    def _next(self) -> bytes | memoryview:
        """Take what one call of the kernel is to send."""
        waiting = self._outgoing
        first = waiting.popleft()
        if len(first) > JOINED_BYTES_MAX or not waiting:
            return self._split(first, self._slice_bytes)
        joined, size = [first], len(first)
        while waiting and size < JOINED_BYTES_MAX:
            piece = waiting.popleft()
            part = self._split(piece, HEAD_BYTES if len(piece) > JOINED_BYTES_MAX else len(piece))
            joined.append(part)
            size += len(part)
            if len(part) < len(piece):
                break
        return b"".join(joined)

    def _split(self, piece: bytes | memoryview, nbytes: int) -> bytes | memoryview:
        if len(piece) <= nbytes:
            return piece
        view = memoryview(piece)
        self._outgoing.appendleft(view[nbytes:])
        return view[:nbytes]

    def _break(self, error: Exception) -> None:
        self.error, self.ended = error, True
        self._wake()
        if self.transport is not None:
            self.transport.abort()

    async def _wait(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _hold_little(transport: asyncio.Transport) -> None:
    side = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError):  # not every system has it
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BYTES)
