"""Where a request ends is no matter of opinion: what a proxy may read otherwise than we do is refused, and ends."""

from __future__ import annotations

import asyncio

import pytest

HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""What a proxy would take for a body, or for the beginning of somebody else's request."""

START = b"POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"


async def statuses(url, sent):
    """Send bytes, and return the status of every answer that comes of them."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    told = b""
    try:
        async with asyncio.timeout(0.5):
            while piece := await reader.read(65536):
                told += piece
    except TimeoutError:
        pass  # a connection that is kept
    writer.close()
    return [int(line.split()[1]) for line in told.splitlines() if line.startswith(b"HTTP/1.")]


@pytest.mark.parametrize(
    "sent",
    {
        "length and chunks": START + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n" + LAST + HIDDEN,
        "two lengths": START + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nabcde" + HIDDEN,
        "a list of lengths": START + b"Content-Length: 0, 5\r\n\r\nabcde" + HIDDEN,
        "a signed length": START + b"Content-Length: +5\r\n\r\nabcde" + HIDDEN,
        "a space before the colon": START + b"Content-Length : 5\r\n\r\nabcde" + HIDDEN,
        "no coding that we know": START + b"Transfer-Encoding: xchunked\r\n\r\n" + LAST + HIDDEN,
        "chunks that are not last": START + b"Transfer-Encoding: chunked, identity\r\n\r\n" + LAST + HIDDEN,
        "chunks in HTTP/1.0": START.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + LAST + HIDDEN,
        "a line end within a chunk's extension": START + CHUNKED + b"\r\n2;a\n{}\r\n" + LAST + HIDDEN,
        "a header that goes on": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n",
        "bare line ends": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
        "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    }.items(),
    ids=lambda pair: pair[0],
)
async def test_what_can_be_read_in_two_ways_is_refused(house, sent):
    """Once, with 400, and nothing behind it on the connection is answered."""
    url = await house.gateway("g1")
    assert await statuses(url, sent[1]) == [400]


async def test_a_body_is_no_request(house):
    """What stands in a body is taken off the line with it, also where nobody asked for one, or it is refused."""
    url = await house.gateway("g1")
    length = f"Content-Length: {len(HIDDEN)}\r\n\r\n".encode()
    assert await statuses(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + length + HIDDEN) == [200]
    assert await statuses(url, START.replace(b"json", b"xml") + length + HIDDEN) == [415]
