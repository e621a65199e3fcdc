"""A link whose bytes travel in the frames of a websocket (RFC 6455), as a client's.

NATS over a websocket is the same stream of bytes, cut anywhere into binary frames: what is in them goes to the same
`Frames` as from a socket. Inside of a frame the kernel (or TLS) writes straight to where `Frames` wants it; only what
comes with a frame's head is copied. On the way out each slice of `Link` is one frame. It has to be masked, which is
one pass of numpy over memory that TLS would copy anyway.

    connecting --101--> open --close, by either--> ended

What a proxy on the way may send is answered (pings) or understood (close); nothing is compressed, as models do not get
smaller by it, and no extension is offered. A frame that breaks the protocol ends the connection.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import struct
from urllib.parse import ParseResult

import numpy as np
from nats.errors import ProtocolError

from fedbus.bus.nats.link import Link, OnMessage

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ANSWER_BYTES_MAX = 16 * 1024
"""Of the server's answer to the handshake: proxies add headers, and cookies."""

HEAD_BYTES = 16 * 1024
"""Read at once between frames: a frame's head, and the small messages behind it; a large one is not copied further."""

FRAME_BYTES_MAX = 2**31
"""The broker puts all that waits for us into one frame, which is some 64 MiB; memory is only taken as bytes arrive."""

CONTROL_BYTES_MAX = 125

_BINARY, _CLOSE, _PING, _PONG, _MORE = 0x2, 0x8, 0x9, 0xA, 0x0
_FIN = 0x80
_NORMAL = (1000, 1001, 1005)


class WebsocketRefused(ConnectionError):
    """The other side does not speak websockets, or not there; the text says what it said."""


class WebLink(Link):
    """One connection over a websocket; `open` shakes hands, then it is used as a `Link`."""

    def __init__(self, on_message: OnMessage) -> None:
        super().__init__(on_message)
        self._opened = False
        self._key = base64.b64encode(secrets.token_bytes(16))
        self._head = memoryview(bytearray(HEAD_BYTES))
        self._have = 0
        self._left = 0
        self._into_frames = False
        self._said_close = False

    # ---- the handshake

    async def open(self, uri: ParseResult) -> None:
        """Ask for a websocket; raises `WebsocketRefused`."""
        assert self.transport is not None
        host = uri.netloc.rpartition("@")[2]
        path = uri.path or "/"
        self.transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {self._key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while not self._opened:
            if self.error is not None:
                raise self.error
            if self.ended:
                raise WebsocketRefused(_refusal(bytes(self._head[: self._have])))
            await self._wait()

    def _answer(self) -> None:
        """Look whether the answer is here; done as it comes, for NATS' own first words may come with it."""
        came = bytes(self._head[: self._have])
        end = came.find(b"\r\n\r\n")
        if end < 0 and len(came) < len(self._head) and b"HTTP/1.".startswith(came[:7]):
            return
        try:
            _check_answer(came[: max(end, 0)] or came, self._key)
        except WebsocketRefused as error:  # or it is clear already that it is none: a NATS port says INFO, and waits
            self._break(error)
            return
        self._opened = True
        self._keep_from(end + 4)
        self._wake()
        self._parse()

    # ---- in

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Say where to write what comes: inside of a frame where `Frames` wants it, never beyond the frame's end."""
        if not self._into_frames:
            return self._head[self._have :]
        room = self._frames.room()
        return room if len(room) <= self._left else room[: self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came."""
        if self._into_frames:
            self._left -= nbytes
            self._into_frames = self._left > 0
            super().buffer_updated(nbytes)
            return
        self._have += nbytes
        if self._opened:
            self._parse()
        else:
            self._answer()

    def begin(self) -> None:
        """Read frames of NATS from now on; what is behind the last line of the handshake is here already."""
        self._greeting = False
        super().buffer_updated(0)

    def _parse(self) -> None:
        try:
            while not self._into_frames and not self.ended and self._frame():
                pass
        except ProtocolError as error:
            self._break(error)

    def _frame(self) -> bool:
        """Take one frame's head, and what is here of it; whether there may be another."""
        head = _head_of(self._head[: self._have])
        if head is None:
            return False
        code, size, first = head
        if code in (_CLOSE, _PING, _PONG):
            if self._have < first + size:
                return False
            payload = bytes(self._head[first : first + size])
            self._keep_from(first + size)
            self._control(code, payload)
            return True
        here = min(size, self._have - first)
        self._left = size - here
        self._feed(self._head[first : first + here])
        self._keep_from(first + here)
        self._into_frames = self._left > 0
        return True

    def _feed(self, piece: memoryview) -> None:
        while piece and not self.ended:
            room = self._frames.room()
            count = min(len(room), len(piece))
            room[:count] = piece[:count]
            super().buffer_updated(count)
            piece = piece[count:]

    def _keep_from(self, begin: int) -> None:
        self._have -= begin
        self._head[: self._have] = bytes(self._head[begin : begin + self._have])

    def _control(self, code: int, payload: bytes) -> None:
        if code == _PING and not self._full:  # who pings us and reads nothing gets no queue of answers
            self._tell(_PONG, payload)
        elif code == _CLOSE:
            number = int.from_bytes(payload[:2]) if len(payload) >= 2 else 1005
            if number not in _NORMAL and self.error is None:
                why = payload[2:].decode("utf-8", "replace")
                self.error = ConnectionResetError(f"the other side closed the websocket: {number} {why}".strip())
            self.ended = True
            self._say_close()
            self._wake()
            if self.transport is not None:
                self.transport.close()

    # ---- out

    def _write(self, piece: bytes | memoryview) -> None:
        assert self.transport is not None
        self.transport.write(framed(_BINARY, piece))

    def _finish(self) -> None:
        self._say_close()
        super()._finish()

    def _say_close(self) -> None:
        if not self._said_close:
            self._said_close = True
            self._tell(_CLOSE, struct.pack(">H", 1000))

    def _tell(self, code: int, payload: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(framed(code, payload))


def framed(code: int, piece: bytes | memoryview) -> memoryview:
    """Return a final frame of a client's, masked with a key of its own as RFC 6455 asks."""
    size = len(piece)
    if size <= CONTROL_BYTES_MAX:
        head = struct.pack(">BB", _FIN | code, 0x80 | size)
    elif size < 2**16:
        head = struct.pack(">BBH", _FIN | code, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", _FIN | code, 0x80 | 127, size)
    key = secrets.token_bytes(4)
    first = len(head) + 4
    frame = np.empty(first + size, np.uint8)
    frame[:first] = np.frombuffer(head + key, np.uint8)
    stream = np.full(-(-size // 4), int.from_bytes(key, "little"), "<u4").view(np.uint8)[:size]
    np.bitwise_xor(np.frombuffer(piece, np.uint8), stream, out=frame[first:])
    return frame.data


def _head_of(data: memoryview) -> tuple[int, int, int] | None:
    """Return code, size and first byte of the payload of the frame that begins here; None where more has to come."""
    if len(data) < 2:
        return None
    code, size = data[0] & 0x0F, data[1] & 0x7F
    if data[0] & 0x70 or data[1] & 0x80 or code not in (_MORE, _BINARY, _CLOSE, _PING, _PONG):
        raise ProtocolError  # an extension that nobody offered, a masked frame, text
    if code >= _CLOSE and (size > CONTROL_BYTES_MAX or not data[0] & _FIN):
        raise ProtocolError
    wide = {126: 2, 127: 8}.get(size, 0)
    if len(data) < 2 + wide:
        return None
    if wide:
        size = int.from_bytes(data[2 : 2 + wide])
        if size > FRAME_BYTES_MAX:
            raise ProtocolError
    return code, size, 2 + wide


def _check_answer(answer: bytes, key: bytes) -> None:
    lines = answer.decode("latin-1").split("\r\n")
    if lines[0].split()[1:2] != ["101"]:
        raise WebsocketRefused(_refusal(answer))
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    wanted = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest()).decode()
    if headers.get("sec-websocket-accept") != wanted or headers.get("upgrade", "").lower() != "websocket":
        raise WebsocketRefused("the answer is not to our question: is there a proxy that knows no websockets?")
    if "sec-websocket-extensions" in headers or "sec-websocket-protocol" in headers:
        raise WebsocketRefused("the answer has extensions that were not asked for")


def _refusal(answer: bytes) -> str:
    first = answer.partition(b"\r\n")[0][:120].decode("latin-1")
    if not first:
        return "expected a websocket, and the connection was closed: does this port want TLS (wss://)?"
    shown = "".join(char if char.isprintable() else "?" for char in first)
    if first.startswith("INFO "):
        return "expected a websocket, came NATS itself: this port is asked by nats:// or tls://"
    hint = "this port wants TLS: write wss://" if "400" in first else "is that the path of the broker's websocket?"
    return f"expected a websocket, came {shown!r}: {hint}"
