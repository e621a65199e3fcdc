"""Sessions: which there are, how one stands; start, stop, clone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedbus.access.actions import Action
from fedbus.config.session import SessionConfig
from fedbus.errors import Conflict
from fedbus.federation.cloning import model_of_clone, validated
from fedbus.federation.info import SessionInfo, SessionSummary
from fedbus.federation.listing import Order, SessionFilter, in_order
from fedbus.gateway.hiding import hides, reason_without_clients
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, cursor_of, parts_of
from fedbus.gateway.problems import Refused, invalid
from fedbus.gateway.shapes import session_detail, session_view
from fedbus.gateway.views import (
    Page,
    SessionClone,
    SessionDetail,
    SessionStart,
    SessionStop,
    SessionView,
    Status,
)
from fedbus.messages.queries import Wait

END_S_MAX = 5.0
"""How long stopping waits for the end to be journalled; it comes within milliseconds where a coordinator is there."""


class SessionsAsked(Paged):
    """Which sessions."""

    status: Annotated[tuple[Status, ...], Field(max_length=7)] = ()
    """Only those that stand so, in one of these ways."""

    strategy: Annotated[str, Field(min_length=1, max_length=600)] | None = None
    """Only those of this strategy."""

    text: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Only those with this text in their name, reason or strategy, or in who started them."""

    order: Literal["newest", "oldest"] = "newest"
    """By start: the newest first, or the oldest."""


async def list_sessions(call: Call) -> Reply:
    """Sessions by their start, with what each waits for."""
    query = call.asked(SessionsAsked)
    await call.gateway.sessions.wait()
    now = call.gateway.federation.now()
    wanted = SessionFilter(query.status, query.strategy, query.text)
    everything = call.gateway.sessions.folded.sessions.values()
    shown_as = _nameless if query.text and hides(call.caller) else _whole
    found = in_order((info for info in everything if wanted.meets(shown_as(info), now)), query.order)
    rest = _behind(found, query.cursor, query.order)
    shown = rest[: query.limit]
    waits = await _waits(call, shown)
    return Page[SessionView](
        items=tuple(session_view(info, waits, now) for info in shown),
        next=cursor_of(shown[-1].started_at, shown[-1].session) if len(rest) > len(shown) else None,
        total=len(found),
    )


def _whole(info: SessionSummary) -> SessionSummary:
    return info


def _nameless(info: SessionSummary) -> SessionSummary:
    """Return a session as it is told without clients' names: whoever may not read one finds nothing by it either."""
    found = copy(info)
    found.reason = reason_without_clients(info.state, info.reason)
    return found


def _behind(found: list[SessionSummary], cursor: str | None, order: Order) -> list[SessionSummary]:
    """Return what stands behind the session that a cursor names."""
    if cursor is None:
        return found
    at, session = parts_of(cursor, float, str)
    seen = (float(at), str(session))
    return [
        info
        for info in found
        if ((info.started_at, info.session) > seen if order == "oldest" else (info.started_at, info.session) < seen)
    ]


async def _waits(call: Call, infos: Sequence[SessionSummary]) -> Sequence[Wait]:
    """Return what waits, where one of these sessions may wait for something."""
    if all(info.ended for info in infos):
        return ()
    return (await call.gateway.presence.look()).waits


async def get_session(call: Call) -> Reply:
    """How a session stands, with all of its settings."""
    await call.gateway.sessions.wait()
    info = await call.gateway.sessions.info(call.path["session"])
    waits = await _waits(call, [info])
    sequence = call.gateway.sessions.folded.sequences.get(info.session, 0)
    return session_detail(info, waits, call.gateway.federation.now(), sequence)


async def start_session(call: Call) -> Reply:
    """Start a session from a published version; answered when it is journalled."""
    body = call.given(SessionStart)
    return await _start(call, body.session, body.config, body.model)


async def clone_session(call: Call) -> Reply:
    """Start a session like another one, with some settings changed, from the version that it began with."""
    body = call.given(SessionClone)
    info = await call.gateway.federation.session(call.path["session"]).info()
    try:
        config = validated(info.config, body.config)
    except ValidationError as error:
        raise invalid(error, "body.config") from error
    return await _start(call, body.session, config, body.model or model_of_clone(info))


async def _start(call: Call, name: str | None, config: SessionConfig, model: str) -> Reply:
    """Start a session once: under a key the repeat of a request finds the session that the first has started."""
    federation = call.gateway.federation
    name = name or call.name_from_key("session") or None
    if name is not None and not call.key and await federation.is_known(name):
        status = (await federation.session(name).info()).status(federation.now())
        raise Conflict(f"session {name}: there is one of this name; choose another", state=status)
    session = await federation.start_session(config, model=model, name=name, by=call.caller.name)
    info = await session.info()
    if (
        call.caller.name and info.by != call.caller.name
    ):  # somebody else's: a key of one's own finds it no more than none
        raise Conflict(
            f"session {session.name}: there is one of this name; choose another", state=info.status(federation.now())
        )
    if info.config != config or model not in (info.base, info.first_version):
        raise Refused(422, f"session {session.name} was started under this key, or name, with another body")
    view = session_view(info, (), federation.now())
    return view, {"Location": f"{API}/sessions/{session.name}"}


async def stop_session(call: Call) -> Reply:
    """End a session; models that it has published stay. Answered when it has ended, or after a few seconds."""
    session = call.gateway.federation.session(call.path["session"])
    info = await session.info()
    now = call.gateway.federation.now
    if info.ended:
        raise Conflict(f"session {info.session} has ended: {info.state}", state=info.status(now()))
    await session.stop(call.given(SessionStop).reason, by=call.caller.name)
    try:
        async with asyncio.timeout(END_S_MAX):
            async for _ in session.events():
                pass
    except TimeoutError:  # no coordinator is there: the command stands, and is taken when one comes
        pass
    info = await _again(session.name, call)
    return session_view(info, (await _waits(call, [info])), now())


async def _again(name: str, call: Call) -> SessionInfo:
    return await call.gateway.federation.session(name).info()


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listSessions", "GET", f"{API}/sessions", "Sessions, filtered, by their start", list_sessions,
        "fedbus session list --json", "Federation.sessions", query=SessionsAsked, answer=Page[SessionView],
        needs=Action.SESSION_READ,
    ),
    Operation(
        "startSession", "POST", f"{API}/sessions", "Start a session from a published version", start_session,
        "fedbus session start VERSION", "Federation.start_session", body=SessionStart, answer=SessionView, status=201,
        problems=(404, 409), idempotent=True, headers={"Location": "Where the session is."}, needs=Action.SESSION_START,
    ),
    Operation(
        "getSession", "GET", f"{API}/sessions/{{session}}", "How a session stands, with its settings", get_session,
        "fedbus session show SESSION --json", "Session.info", answer=SessionDetail, problems=(404,),
        needs=Action.SESSION_READ,
    ),
    Operation(
        "stopSession", "POST", f"{API}/sessions/{{session}}/stop", "End a session", stop_session,
        "fedbus session stop SESSION", "Session.stop", body=SessionStop, answer=SessionView, problems=(404, 409),
        needs=Action.SESSION_STOP,
    ),
    Operation(
        "cloneSession", "POST", f"{API}/sessions/{{session}}/clone", "Start a session like this one", clone_session,
        "fedbus session clone SESSION", "Federation.clone_session", body=SessionClone, answer=SessionView, status=201,
        problems=(404, 409), idempotent=True, headers={"Location": "Where the new session is."},
        needs=Action.SESSION_START,
    ),
)  # fmt: skip
