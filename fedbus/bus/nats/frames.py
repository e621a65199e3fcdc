"""What a NATS server says, cut into frames in the very memory that the kernel wrote it to.

Bytes in, frames out, no I/O: whoever reads a socket asks for `Frames.room`, has it filled, and says how much came by
`Frames.received`, which calls the `Sink` for every frame that became whole.

    scratch  [ parsed | MSG a.b 1 5..hello..PING..MSG a.b 2 524288..first bytes |   room   ]
    large    [ headers | payload ......................... | CRLF | slack ]    of one message, then handed on

Messages below `LARGE_BYTES` are cut out of the scratch, many to a read: one copy, as ``bytes``. A larger one gets
memory of its own as soon as its first line is read, the kernel writes the rest of it there, and it is handed on as a
read-only view: no copy but of what came with its first line. Behind it there is some slack for the next line, or every
large message would cost a second call of the kernel.

Held in memory: the scratch and one message. A frame that breaks the protocol, or a bound, is a `ProtocolError`, and
nothing more can be read from this connection.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from nats.errors import ProtocolError

LARGE_BYTES = 64 * 1024
"""From here on memory of its own: below, a read of the scratch brings several messages: worth more than a copy."""

IDLE_BYTES = 16 * 1024
"""The scratch at first: of a thousand connections in a process most hear little."""

SCRATCH_BYTES = 4 * LARGE_BYTES
"""The scratch once a read has filled it: 256 KiB of small messages at a time, which is what asyncio reads otherwise."""

LINE_BYTES_MAX = 32 * 1024
"""nats-server takes 4 KiB of a client; its own INFO lists the servers of its cluster."""

MESSAGE_BYTES_MAX = 64 * 2**20 + 2**16
"""The most that nats-server can be set to, and headers of its own. Not this server's ``max_payload``: a message may
have come in at another, and memory is only taken as bytes arrive."""

DIGITS_MAX = 60
"""Of all numbers in the first line of a message."""

SLACK_BYTES = 8 * 1024

ALIGNED_BYTES = 64
"""Payloads begin at a multiple of this, whatever headers stand before them: numpy is slow on unaligned numbers."""

HEADERS_READ_MAX = 16 * 1024
"""Of one plain message. Ours have 4 KiB. Whoever may say anything may fill a message with them, and 8 MiB keep their
reader busy for three seconds and take 100 MB. In streams a nats-server stores no more than 64 KiB."""

HEAP_BYTES = 16 * 2**20
"""See `keep_freed_memory`."""

_CRLF = b"\r\n"


class Sink(Protocol):
    """Who is told."""

    def on_message(self, sid: int, subject: str, reply: str, headers: bytes, data: bytes | memoryview) -> None:
        """Take a message; ``headers`` is the block of them as sent, or empty."""
        ...

    def on_ping(self) -> None:
        """Answer at once."""
        ...

    def on_word(self, word: bytes, rest: bytes) -> None:
        """Take ``PONG``, ``INFO`` with its JSON, or ``-ERR`` with its text in quotes."""
        ...


class Frames:
    """One connection's bytes."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._scratch = bytearray(IDLE_BYTES)
        self._view = memoryview(self._scratch)
        self._begin = self._end = 0
        self._large: _Large | None = None

    def room(self) -> memoryview:
        """Return where the next bytes are to be written; never empty."""
        if self._large is not None:
            return self._large.room()
        if self._begin:
            left = self._end - self._begin
            self._view[:left] = self._view[self._begin : self._end]
            self._begin, self._end = 0, left
        return self._view[self._end :]

    def received(self, nbytes: int) -> None:
        """Cut what became whole by so many bytes, written to the start of `room`."""
        large = self._large
        if large is None:
            self._end += nbytes
        elif large.received(nbytes):
            self._large = None
            rest = large.rest()
            self._begin, self._end = 0, len(rest)
            self._view[: self._end] = rest
            large.hand_to(self._sink)
        else:
            return
        filled = self._end == len(self._scratch)
        self._cut()
        if filled and self._large is None:
            self._grow()

    def line(self) -> bytes | None:
        """Take one line with its end, if it is there: for handshakes, before `received` is first called.

        Raises `ProtocolError` for a line too long.
        """
        end = self._line_end()
        if end < 0:
            return None
        line = bytes(self._view[self._begin : end + 2])
        self._begin = end + 2
        return line

    def added(self, nbytes: int) -> None:
        """Keep bytes for `line`, or for the first `received`, without cutting."""
        self._end += nbytes
        if self._end == SCRATCH_BYTES:
            raise ProtocolError
        if self._end == len(self._scratch):
            self._grow()

    def _grow(self) -> None:
        if len(self._scratch) < SCRATCH_BYTES:
            larger = bytearray(SCRATCH_BYTES)
            larger[: self._end] = self._view[: self._end]
            self._scratch, self._view = larger, memoryview(larger)

    def _line_end(self) -> int:
        end = self._scratch.find(_CRLF, self._begin, self._end)
        if (end if end >= 0 else self._end - 1) - self._begin > LINE_BYTES_MAX:
            raise ProtocolError
        return end

    def _cut(self) -> None:
        view, sink = self._view, self._sink
        while (line_end := self._line_end()) >= 0:
            words = bytes(view[self._begin : line_end]).split(None, 1)
            word, rest = (*words, b"", b"")[:2]
            first = line_end + 2
            if word in (b"MSG", b"HMSG"):
                sid, subject, reply, headers_bytes, nbytes = _head(word, rest.split())
                last = first + nbytes
                if last + 2 > self._end:
                    if nbytes >= LARGE_BYTES:
                        self._large = _Large(sid, subject, reply, headers_bytes, nbytes)
                        self._large.begin(view[first : self._end])
                        self._begin = self._end = 0
                    return  # a small one is read anew from its first line when the rest is here
                if view[last : last + 2] != _CRLF:
                    raise ProtocolError
                self._begin = last + 2
                payload = first + headers_bytes
                sink.on_message(sid, subject, reply, bytes(view[first:payload]), bytes(view[payload:last]))
                continue
            self._begin = first
            if word == b"PING":
                sink.on_ping()
            elif word in (b"PONG", b"INFO", b"-ERR"):
                sink.on_word(word, rest)
            elif word != b"+OK":
                raise ProtocolError


class _Large:
    """A message that is received into memory of its own."""

    def __init__(self, sid: int, subject: str, reply: str, headers_bytes: int, nbytes: int) -> None:
        self._sid, self._subject, self._reply = sid, subject, reply
        self._first = -headers_bytes % ALIGNED_BYTES
        self._payload = self._first + headers_bytes
        self._last = self._first + nbytes
        # not a bytearray: it would be filled with zeros first
        self._view: memoryview = np.empty(self._last + 2 + SLACK_BYTES, np.uint8).data
        self._end = self._first

    def begin(self, head: memoryview) -> None:
        """Take over what came with the first line."""
        self._end += len(head)
        self._view[self._first : self._end] = head

    def room(self) -> memoryview:
        return self._view[self._end :]

    def received(self, nbytes: int) -> bool:
        """Whether it is whole."""
        self._end += nbytes
        return self._end >= self._last + 2

    def rest(self) -> memoryview:
        """Return what came behind it."""
        return self._view[self._last + 2 : self._end]

    def hand_to(self, sink: Sink) -> None:
        if self._view[self._last : self._last + 2] != _CRLF:
            raise ProtocolError
        headers = bytes(self._view[self._first : self._payload])
        data = self._view[self._payload : self._last].toreadonly()
        sink.on_message(self._sid, self._subject, self._reply, headers, data)


def _head(word: bytes, fields: list[bytes]) -> tuple[int, str, str, int, int]:
    """Read the first line of a message: sid, subject, reply, bytes of headers, bytes of headers and payload.

    ``MSG subject sid [reply] bytes`` or ``HMSG subject sid [reply] header-bytes bytes``
    """
    sizes = 1 if word == b"MSG" else 2
    reply = fields.pop(2) if len(fields) == 3 + sizes else b""
    # int() would take signs and underscores too, and refuses thousands of digits in its own way
    digits = b"".join(fields[1:])
    if len(fields) != 2 + sizes or not digits.isdigit() or len(digits) > DIGITS_MAX:
        raise ProtocolError
    sid, nbytes = int(fields[1]), int(fields[-1])
    headers_bytes = int(fields[2]) if sizes == 2 else 0
    if not headers_bytes <= nbytes <= MESSAGE_BYTES_MAX:
        raise ProtocolError
    try:
        return sid, fields[0].decode(), reply.decode(), headers_bytes, nbytes
    except UnicodeDecodeError as error:
        raise ProtocolError from error


def keep_freed_memory() -> None:
    """Have glibc keep up to twice `HEAP_BYTES` of freed memory at the end of its heap, for the next large message.

    It gives larger blocks back to the system at once, until one of such a size was freed: then it has learnt that they
    come again. Before, each message in or out faulted its pages in anew, which costs more than copying it. No page
    is touched here. Other allocators are not impressed.
    """
    np.empty(HEAP_BYTES, np.uint8)


def headers_from(block: bytes) -> dict[str, str] | None:
    """Return the headers of a block as nats-py does: a status of the server becomes ``Status`` and ``Description``.

    Lines without a colon, and names that are not ASCII or have blanks in them, are passed over.
    """
    if not block:
        return None
    version, *lines = block.split(_CRLF)
    found: dict[str, str] = {}
    status, _, description = version.partition(b" ")[2].partition(b" ")
    if status.isdigit():
        found["Status"] = status.decode()
    if description:
        found["Description"] = description.decode("utf-8", "replace")
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.strip()
        if colon and name.isascii() and not any(blank in name for blank in b" \t\n\r\v\f"):
            found[name.decode()] = value.strip().decode("utf-8", "replace")
    return found or None
