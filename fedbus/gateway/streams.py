"""Events as a stream to one reader: server-sent events (HTML standard, 9.2) over one answer that does not end.

    retry: 1000                     how soon to come again when the stream breaks
    id: 17.0                        where it begins: also who has heard nothing yet resumes exactly there
    id: 18.0 / event: RoundOpened / data: {...}
    : beat                          a comment whenever nothing was to be said for a while
    event: reset                    what was told no longer holds; all of it follows from the beginning
    event: end                      of a session's stream: nothing follows; come no more

A reader that comes again with `Last-Event-ID` gets what is behind it, from whichever gateway. One whose line is so slow
that nothing could be written for a while (`fedbus.gateway.sending`) is cut off, and resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from fedbus.access.actions import Action
from fedbus.errors import FedbusError
from fedbus.federation.info import SessionEvent
from fedbus.gateway.caller import CALLER, Caller
from fedbus.gateway.events import BEGINNING, Event, frame, plain, position_of
from fedbus.gateway.feed import ALL, Quiet, Reset, Said, Told
from fedbus.gateway.hiding import event_without_clients, frame_without_clients, hides
from fedbus.gateway.index import Position, Wanted
from fedbus.gateway.problems import Refused
from fedbus.gateway.sending import send
from fedbus.messages.records import SessionEnded

if TYPE_CHECKING:
    from fedbus.gateway.service import Gateway

BEAT_S = 15.0
"""After so long without a word a comment is sent: proxies cut what is silent for half a minute."""

RETRY_MS = 1000

START = "0.0"
"""The id of no event, before all of them: who has heard nothing yet resumes behind it."""

READERS_MAX = 5000
"""Streams at once: each has a connection and its buffers, some 100 KB."""

RESET = frame(b"{}", event="reset", id_=START)

Meets = Callable[[SessionEvent], bool]
Write = Callable[[bytes], Awaitable[None]]


def start_of(request: web.Request, after: str | None, beginning: bool) -> Position | None:  # noqa: FBT001 - as asked
    """Return behind which event a reader begins; None: from now on. `ConfigError` where it names none."""
    given = request.headers.get("Last-Event-ID", "") or after or ""
    if given:
        return position_of(given)
    return BEGINNING if beginning else None


async def stream(
    gateway: Gateway, request: web.Request, start: Position | None, meets: Meets, session: str = ALL
) -> web.StreamResponse:
    """Answer a request with events, until its reader goes or may no more, the session ends, or the gateway does."""
    if gateway.feed.readers >= READERS_MAX:
        raise Refused(
            503, f"{READERS_MAX} streams are open; ask again, or another gateway", headers={"Retry-After": "5"}
        )
    if start is not None:
        await gateway.feed.reach(start)
    if session and await _is_over(gateway, session, start):
        return web.Response(status=204)  # what makes an EventSource stop coming again
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would keep it until there is more
        }
    )
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    first = start or gateway.feed.position
    is_gone = first.sequence > gateway.feed.position.sequence  # `reset` follows, which has an id
    where = START if first == BEGINNING else str(first)
    head = f"retry: {RETRY_MS}\n" + ("\n" if is_gone else f"id: {where}\n\n")
    with suppress(ConnectionError, FedbusError):  # it has gone, or resumes: its place is in its id
        write: Write = partial(send, request, response)
        is_hidden = hides(request[CALLER])
        await write(head.encode())
        async with aclosing(gateway.feed.read(session, first, quiet_s=BEAT_S)) as told:
            shown = _nameless(told) if is_hidden else told
            await _until_over(gateway, request[CALLER], _tell(write, shown, meets, session))
    return response


async def _nameless(told: AsyncGenerator[Told, None]) -> AsyncGenerator[Told, None]:
    """Yield what is told as a reader gets it who may not see which clients there are; kinds are chosen before."""
    async for one in told:
        match one:
            case Said():
                yield Said(frame_without_clients(one.frame))
            case Event():
                yield event_without_clients(one)
            case _:
                yield one


async def _is_over(gateway: Gateway, session: str, start: Position | None) -> bool:
    """Whether a session has ended, and its reader has heard of it, or asks for what comes from now on."""
    if not (await gateway.sessions.summary(session)).ended:
        return False
    newest, _ = gateway.sessions.folded.index.find(Wanted(session), newest=True, limit=1)
    return start is None or bool(newest and newest[0] <= start and start.sequence <= gateway.feed.position.sequence)


async def _tell(write: Write, told: AsyncGenerator[Told, None], meets: Meets, session: str) -> None:
    async for one in told:
        match one:
            case Quiet():
                await write(b": beat\n\n")
            case Reset():
                await write(RESET)
            case Said():
                await write(one.frame)
            case _:
                if meets(plain(one)):
                    await write(one.frame)
                if session and isinstance(one.record, SessionEnded):  # also where nobody asked for that
                    await write(frame(b"{}", event="end", id_=str(one.position)))
                    return


async def _until_over(gateway: Gateway, reader: Caller, telling: Coroutine[None, None, None]) -> None:
    """Let it tell until the gateway is to end, or the reader may see it no more; what is told is told whole.

    Who was told names of clients, and is a data owner now, has to come again: then they are left out.
    """
    shut_out = gateway.auth.ended(reader, Action.EVENT_READ if hides(reader) else Action.SESSION_INSPECT)
    ends = (telling, gateway.draining.wait(), shut_out)
    parts = tuple(asyncio.ensure_future(one) for one in ends)
    try:
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        if parts[0].done():
            parts[0].result()
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
