"""A TCP line between a role and its broker that is slow, breaks, or goes dead when a test wants it to.

    async with Proxy("127.0.0.1", port, up=Line(bytes_s=125_000, delay_s=0.04)) as proxy:
        ... connect to proxy.url ...
        proxy.cut()  # all connections are reset, new ones too
        proxy.heal()

``up`` is what the one who connects sends, ``down`` what the server sends; all connections of a proxy share the two
lines, as they would share a cable. What a line has taken and not delivered is bounded (`HELD_BYTES_MAX`), so that a
sender feels its pace as it would feel a real one's: its writes wait. Buffers and segments on our side are small for the
same reason.

Three ways to break: `Proxy.reset` ends what is connected now; `Proxy.cut` that and every new connection until `heal`;
`Proxy.blackhole` is a pulled cable: nothing moves, nobody is told, connections stay, and go on at `heal`. Loss on a
line under TCP is seen as a stall: `Proxy.stutter`.

What the kernel of the one who writes keeps is not ours to bound: Linux takes 1 to 4 MB, before a real slow line too.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from fedbus.together import together

HELD_BYTES_MAX = 256 * 1024
"""What one direction of a connection holds at most: 40 ms at 50 Mbit/s, and no model fits in."""

Tap = Callable[[bytes], None]

PIECE_BYTES_MAX = 64 * 1024
PIECE_BYTES_MIN = 1460
PIECE_S = 0.02
"""A line is shared in pieces that take this long, so that a ping does not wait behind a chunk of another connection."""

KERNEL_BYTES = 64 * 1024
"""Of the receiving buffers on our side: the kernel's own would take megabytes before a sender felt the line."""

SEGMENT_BYTES = 1460
"""As on Ethernet: loopback's 64 KB would let a sender's first flight alone be a megabyte."""


@dataclass(slots=True)
class Line:
    """One direction; its settings may be changed at any time, and hold for what comes from then on.

    ``bytes_s``: pace, None: as fast as it goes. ``delay_s``: on top of the pace. ``bytes``: what the line has taken so
    far, delivered or lost by a reset. ``tap``: is handed every piece as it is taken, as whoever listens in would be.
    """

    bytes_s: float | None = None
    delay_s: float = 0.0
    bytes: int = 0
    tap: Tap | None = None
    _free_at: float = 0.0
    _moves: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._moves.set()

    def stop(self) -> None:
        """Let nothing move."""
        self._moves.clear()

    def go(self) -> None:
        """Let all move."""
        self._moves.set()

    async def moving(self) -> None:
        """Wait until something may move."""
        await self._moves.wait()

    @property
    def piece_bytes(self) -> int:
        """Most bytes that are put on the line at once."""
        if self.bytes_s is None:
            return PIECE_BYTES_MAX
        return min(PIECE_BYTES_MAX, max(PIECE_BYTES_MIN, int(self.bytes_s * PIECE_S)))

    async def carry(self, nbytes: int) -> float:
        """Wait until the line is free, and occupy it with a piece; returns when the piece is at the other end."""
        now = asyncio.get_running_loop().time()
        begin = max(now, self._free_at)
        self._free_at = begin + (nbytes / self.bytes_s if self.bytes_s else 0.0)
        arrives = self._free_at + self.delay_s
        self.bytes += nbytes
        if begin > now:
            await asyncio.sleep(begin - now)
        return arrives


class Pipe:
    """One direction of one connection: what is read is held until it is due, then written."""

    def __init__(self, line: Line, source: socket.socket, target: socket.socket) -> None:
        self.line = line
        self._source = source
        self._target = target
        self._held: deque[tuple[float, bytes]] = deque()
        self.held_bytes = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Carry until the source has said that nothing more comes, and pass that on."""
        async with together() as group:
            group.create_task(self._read())
            group.create_task(self._write())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        data = b"."
        while data:
            await self._until(lambda: self.held_bytes < HELD_BYTES_MAX)
            await self.line.moving()
            data = await loop.sock_recv(self._source, self.line.piece_bytes)
            if self.line.tap is not None:
                self.line.tap(data)
            due = await self.line.carry(len(data))
            self._held.append((due, data))
            self.held_bytes += len(data)
            self._changed.set()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._until(lambda: bool(self._held))
            due, data = self._held[0]
            await asyncio.sleep(due - loop.time())
            await self.line.moving()
            if not data:
                with suppress(OSError):
                    self._target.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._target, data)
            self._held.popleft()
            self.held_bytes -= len(data)
            self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class Proxy:
    """A proxy on a port of its own (``port``) before a server; an async context manager."""

    def __init__(self, host: str, server_port: int, *, up: Line | None = None, down: Line | None = None) -> None:
        self.up = up or Line()
        self.down = down or Line()
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self._server = (host, server_port)
        self._refuses = False
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.pipes: list[Pipe] = []
        self._habits: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where to connect to."""
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        listener = self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        _small_segments(listener)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(listener))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._accepting is not None and self._listener is not None
        tasks = [self._accepting, *self._habits, *self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    # --- levers ---

    def reset(self) -> None:
        """End all connections at once, as a broken line or a restarted router would; new ones are taken."""
        self.cuts += 1
        for task in self._open:
            task.cancel()

    def cut(self) -> None:
        """End all connections, and every new one, until `heal`."""
        self._refuses = True
        self.reset()

    def blackhole(self, lines: Iterable[Line] | None = None) -> None:
        """Let nothing move, on both lines or those named, until `heal`: connections stay, nobody is told."""
        for line in lines or (self.up, self.down):
            line.stop()

    def heal(self) -> None:
        """End `cut` and `blackhole`; what stood still goes on."""
        self._refuses = False
        self.up.go()
        self.down.go()

    def cut_every(self, seconds: float) -> None:
        """Reset all connections every so often, until the proxy is left."""
        self._habit(self._cut_every(seconds))

    def stutter(self, every_s: float, for_s: float, seed: int = 0) -> None:
        """Stand still for ``for_s``, at random moments ``every_s`` apart on average, until the proxy is left."""
        self._habit(self._stutter(random.Random(seed), every_s, for_s))

    def _habit(self, doing: Coroutine[Any, Any, None]) -> None:
        self._habits.add(asyncio.create_task(doing))

    async def _cut_every(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            self.reset()

    async def _stutter(self, chance: random.Random, every_s: float, for_s: float) -> None:
        while True:
            await asyncio.sleep(chance.expovariate(1 / every_s))
            self.blackhole()
            await asyncio.sleep(for_s)
            self.up.go()
            self.down.go()

    # --- connections ---

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            caller, _ = await loop.sock_accept(listener)
            self.connections += 1
            task = asyncio.create_task(self._serve(caller))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _serve(self, caller: socket.socket) -> None:
        """Carry one connection in both directions; whatever ends it, but both saying so, resets both sides."""
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        is_over, pipes = False, list[Pipe]()
        try:
            if self._refuses:
                return
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._connect(server)
            pipes = [Pipe(self.up, caller, server), Pipe(self.down, server, caller)]
            self.pipes += pipes
            async with together() as group:
                for pipe in pipes:
                    group.create_task(pipe.run())
            is_over = True
        except OSError:
            pass  # one side is gone: the other hears of it by the reset
        finally:
            self.pipes = [pipe for pipe in self.pipes if pipe not in pipes]
            for side in (caller, server):
                if not is_over:
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.close()

    async def _connect(self, server: socket.socket) -> None:
        await self.up.moving()  # on a pulled cable nobody is reached
        await self.down.moving()
        server.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        _small_segments(server)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(server, self._server)


def _small_segments(side: socket.socket) -> None:
    with suppress(OSError, AttributeError):  # not every system has it
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
