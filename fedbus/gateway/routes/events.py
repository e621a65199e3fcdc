"""What became true, as the journals say it: page by page, or live as an event stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from fedbus.access.actions import Action
from fedbus.federation.listing import EventFilter, says
from fedbus.gateway.auth import forbidden
from fedbus.gateway.events import Event, plain
from fedbus.gateway.hiding import NAMELESS, event_without_clients, hides
from fedbus.gateway.index import Index, Position, Wanted
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, cursor_of, parts_of
from fedbus.gateway.streams import start_of, stream
from fedbus.gateway.views import EventView, Page
from fedbus.messages.ids import Name

LOOKED_AT_MAX = 1000
"""Events in which a page looks for a text; then it says how far it came, and the next page goes on there."""

AT_ONCE = 100
"""Events that are read in one go."""

PAGE_BYTES_MAX = 8 * 2**20
"""Bytes of the events of a page, as they are stored: a round of ten thousand clients is opened by half a megabyte. A
page that is full of them ends earlier, and has a `next`."""

Kind = Literal[
    "SessionStarted", "RoundOpened", "UpdatesRecorded", "ClientsMoved", "RoundClosing", "RoundFailed",
    "ModelPublished", "RoundClosed", "EvaluationOpened", "RoundEvaluated", "SessionEnded",
]  # fmt: skip
Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]


class SessionEventsAsked(Paged):
    """Which events of a session."""

    kind: Annotated[tuple[Kind, ...], Field(max_length=20)] = ()
    """Only records of this kind; repeatable."""

    since: Moment | None = None
    """Only those from this time on, in seconds since the epoch."""

    until: Moment | None = None
    """Only those up to this time."""

    text: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Only those with this text in the session's name, or anywhere in the record. A page may then have fewer items
    than asked for, or none, and a `next`."""

    order: Literal["newest", "oldest"] = "oldest"
    """The newest first, or the oldest; a stream always has the oldest first."""

    after: Annotated[str, Field(pattern=r"^[0-9]{1,15}\.[0-9]{1,4}$")] | None = None
    """Of a stream: begin behind the event with this id; `Last-Event-ID` wins over it."""

    start: Annotated[Literal["now", "beginning"], Field(alias="from")] = "now"
    """Of a stream without an id to go on from: begin now, or at the beginning of the journal."""


class EventsAsked(SessionEventsAsked):
    """Which events of the workspace."""

    session: Name | None = None
    """Only those of this session."""


async def list_events(call: Call) -> Reply:
    """What became true in the workspace; with `Accept: text/event-stream` live, and with it changes of the overview."""
    query = call.asked(EventsAsked)
    await call.gateway.sessions.wait()
    if _is_stream(call):
        return await _stream(call, query, query.session, "")
    return await _page(call, query, query.session)


async def list_session_events(call: Call) -> Reply:
    """What became true in a session; with `Accept: text/event-stream` live, up to its end (then 204)."""
    query = call.asked(SessionEventsAsked)
    await call.gateway.sessions.wait()
    session = (await call.gateway.sessions.summary(call.path["session"])).session
    if _is_stream(call):
        return await _stream(call, query, session, session)
    return await _page(call, query, session)


def _is_stream(call: Call) -> bool:
    return "text/event-stream" in call.request.headers.get("Accept", "")


async def _stream(call: Call, query: SessionEventsAsked, session: str | None, of: str) -> web.StreamResponse:
    wanted = EventFilter(session, _kinds(call, query), query.since, query.until, query.text)
    begin = start_of(call.request, query.after, beginning=query.start == "beginning")
    return await stream(call.gateway, call.request, begin, wanted.meets, of)


def _kinds(call: Call, query: SessionEventsAsked) -> tuple[str, ...]:
    """Return the kinds that are asked for, of those that whoever asks may see; none: all."""
    if not hides(call.caller):
        return query.kind
    found = tuple(kind for kind in query.kind if kind in NAMELESS)
    if query.kind and not found:
        raise forbidden(call.caller, Action.SESSION_INSPECT)
    return found or tuple(sorted(NAMELESS))


async def _page(call: Call, query: SessionEventsAsked, session: str | None) -> Page[EventView]:
    wanted = Wanted(session or "", frozenset(_kinds(call, query)), query.since, query.until)
    after = None
    if query.cursor is not None:
        sequence, record = parts_of(query.cursor, int, int)
        after = Position(int(sequence), int(record))
    finder = _Finder(call, wanted, newest=query.order == "newest")
    if query.text is None:
        places, total = finder.places(after, query.limit + 1)
        found, seen = await finder.read(places[: query.limit])
        return _shown(found, places[seen - 1] if len(places) > seen else None, total)
    found, last = await finder.search(query.text, after, query.limit)
    return _shown(found, last, None)


def _shown(found: Sequence[Event], last: Position | None, total: int | None) -> Page[EventView]:
    return Page[EventView](
        items=tuple(event.view() for event in found), next=cursor_of(*last) if last is not None else None, total=total
    )


class _Finder:
    """Finds events of one request."""

    def __init__(self, call: Call, wanted: Wanted, *, newest: bool) -> None:
        self._entries = call.gateway.entries
        self._hides = hides(call.caller)
        self._index: Index = call.gateway.sessions.folded.index
        self._wanted = wanted
        self._newest = newest

    def places(self, after: Position | None, limit: int) -> tuple[list[Position], int]:
        """Return where the next ones stand, and how many there are in all."""
        return self._index.find(self._wanted, after=after, newest=self._newest, limit=limit)

    async def _events(self, places: Sequence[Position]) -> list[Event]:
        """Return the events at some places, as whoever asks may see them: a text is looked for in nothing else."""
        found = await self._entries.events(places)
        return [event_without_clients(event) for event in found] if self._hides else list(found)

    async def read(self, places: Sequence[Position]) -> tuple[list[Event], int]:
        """Return the events at some places, and at how many of them was looked: fewer where these are a page."""
        found: list[Event] = []
        seen = nbytes = 0
        while seen < len(places) and nbytes < PAGE_BYTES_MAX:
            for event in await self._events(places[seen : seen + AT_ONCE]):
                found.append(event)
                nbytes += event.nbytes
            seen += AT_ONCE
        return found, min(seen, len(places))

    async def search(self, text: str, after: Position | None, limit: int) -> tuple[list[Event], Position | None]:
        """Return those with a text, and how far was looked; None where nothing is left."""
        found: list[Event] = []
        nbytes = 0
        for _ in range(LOOKED_AT_MAX // AT_ONCE):
            places, _ = self.places(after, AT_ONCE)
            for event in await self._events(places):
                after = event.position
                if says(plain(event), text):
                    found.append(event)
                    nbytes += event.nbytes
                    if len(found) == limit or nbytes >= PAGE_BYTES_MAX:
                        return found, after
            if len(places) < AT_ONCE:
                return found, None
            after = places[-1]
        return found, after


STREAM = "text/event-stream"
ALSO = {204: "To a reader of a stream that has all of it: the session has ended."}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listEvents", "GET", f"{API}/events", "What became true in the workspace, by pages or live", list_events,
        "fedbus event list --json", "Federation.events", query=EventsAsked, answer=Page[EventView], media=STREAM,
        needs=Action.EVENT_READ,
    ),
    Operation(
        "listSessionEvents", "GET", f"{API}/sessions/{{session}}/events", "What became true in a session",
        list_session_events, "fedbus session watch SESSION --json", "Session.events", query=SessionEventsAsked,
        answer=Page[EventView], media=STREAM, problems=(404,), also=ALSO, needs=Action.EVENT_READ,
    ),
)  # fmt: skip
