"""A model as a file over HTTP: safetensors, streamed from the bus, whole or in ranges (RFC 9110, 14).

The file is the header of `fedbus.tensors.files` and the model's buffer behind it, so any range of it is found without
the rest. Its ETag is strong, and is the model's digest, so a download that broke off goes on with `Range` and
`If-Range` and cannot be put together of two models. `Fedbus-Digest: blake3=<hex>` is the digest of the buffer:
`Repr-Digest` (RFC 9530) has no BLAKE3, and SHA-256 of a file that nobody holds would have to be taken before its first
byte is sent.

Memory holds what the bus was asked for ahead, whatever the size.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import hdrs, web

from fedbus.bus.base import Payload
from fedbus.errors import FedbusError
from fedbus.federation.models import Models
from fedbus.gateway.answers import is_known
from fedbus.gateway.problems import Refused
from fedbus.gateway.sending import cut_off, send
from fedbus.messages.records import ModelPublished
from fedbus.tensors.files import header

log = logging.getLogger("fedbus.gateway")

MEDIA = "application/vnd.safetensors"
DIGITS_MAX = 18
"""Of a place in a file: what has more is no place in any."""

_RANGE = re.compile(r"bytes=\s*([0-9]*)-([0-9]*)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes ``start`` to ``stop`` of a file; ``whole``: nobody asked for a part."""

    start: int
    stop: int
    whole: bool


def span_of(asked: str | None, size: int) -> Span:
    """Return which bytes a `Range` header asks for; `Refused` with 416 where the file has none of them.

    What is no range of bytes, or several at once, is passed over, as RFC 9110 allows: the whole is answered.
    """
    found = _RANGE.fullmatch(asked or "")
    first, last = found.groups() if found is not None else ("", "")
    if not first and not last:
        return Span(0, size, whole=True)
    if max(len(first), len(last)) > DIGITS_MAX or (first and last and int(last) < int(first)):
        return Span(0, size, whole=True)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        what = f"expected a range within the {size} bytes of the file, got {asked}"
        raise Refused(416, what, headers={hdrs.CONTENT_RANGE: f"bytes */{size}"})
    return Span(start, stop, whole=False)


async def send_content(request: web.Request, models: Models, version: str) -> web.StreamResponse:
    """Answer with a version's file, or the part of it that is asked for."""
    entry = await models.find(version)
    spec = await models.spec(version)
    head = header(spec, {"fedbus.version": entry.version, "fedbus.digest": entry.digest})
    tag = f'"{entry.digest}"'
    headers = _headers(entry, tag)
    if is_known(request, tag):
        return web.Response(status=304, headers=headers)
    size = len(head) + spec.nbytes
    span = Span(0, size, whole=True)
    if request.method == hdrs.METH_GET and request.headers.get(hdrs.IF_RANGE, tag) == tag:
        span = span_of(request.headers.get(hdrs.RANGE), size)
    response = web.StreamResponse(status=200 if span.whole else 206, headers=headers)
    if not span.whole:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {span.start}-{span.stop - 1}/{size}"
    response.content_length = span.stop - span.start
    response.content_type = MEDIA
    if request.method == hdrs.METH_HEAD:
        await response.prepare(request)
        return response
    await _send(request, response, _bytes(models, entry, head, span), version)
    return response


def _headers(entry: ModelPublished, tag: str) -> dict[str, str]:
    return {
        hdrs.ETAG: tag,
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CACHE_CONTROL: "no-cache",
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{entry.version}.safetensors"',
        "Fedbus-Digest": f"blake3={entry.digest}",
    }


async def _bytes(models: Models, entry: ModelPublished, head: bytes, span: Span) -> AsyncGenerator[Payload, None]:
    """Yield the bytes of a part of a file."""
    if span.start < len(head):
        yield head[span.start : span.stop]
    start, stop = max(0, span.start - len(head)), span.stop - len(head)
    if start >= stop:
        return
    # of all of it, read in order, also what a store behind the bus gives is checked
    whole = (start, stop) == (0, entry.nbytes)
    pieces = models.chunks(entry.version) if whole else models.span(entry.version, start, stop)
    async with aclosing(pieces):  # whoever has gone wants nothing more to be fetched ahead
        async for piece in pieces:
            yield piece


async def _send(
    request: web.Request, response: web.StreamResponse, pieces: AsyncGenerator[Payload, None], version: str
) -> None:
    """Send what comes. What goes wrong before the first byte is a problem; behind it the connection is cut off."""
    async with aclosing(pieces):
        first = await anext(pieces, None)
        await response.prepare(request)
        try:
            if first is not None:
                await send(request, response, first)
            async for piece in pieces:
                await send(request, response, piece)
            await response.write_eof()
        except FedbusError as error:
            log.warning("the download of %s is cut off: %s", version, error)
            cut_off(request)
