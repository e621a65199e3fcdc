"""What happened in a session: its rounds, each with its clients; its metrics, its evaluations; all of it as a file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from fedbus.access.actions import Action
from fedbus.errors import NotFound
from fedbus.federation.comparing import curves_of
from fedbus.federation.evaluating import EvaluationResult
from fedbus.federation.exporting import exported
from fedbus.federation.info import RoundInfo, SessionInfo
from fedbus.federation.report import RoundReport
from fedbus.federation.rounds import Rounds
from fedbus.gateway.events import events_of
from fedbus.gateway.index import Position, Wanted
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, cursor_of, page_of, parts_of
from fedbus.gateway.sending import send
from fedbus.gateway.shapes import curve_view, evaluation_view, round_detail, round_view
from fedbus.gateway.views import CurveView, EvaluationView, Page, RoundDetail, RoundView
from fedbus.messages import records

if TYPE_CHECKING:
    from fedbus.gateway.service import Gateway


class RoundsAsked(Paged):
    """Which rounds."""

    order: Literal["newest", "oldest"] = "oldest"
    """The newest first, or the oldest."""


class ExportAsked(BaseModel):
    """How a session becomes a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal["json", "csv"] = "json"
    """`json`: all of it; `csv`: what `what` says."""

    what: Literal["rounds", "clients", "curves"] = "rounds"
    """Of CSV: a row a round, a row a client and round, or a row a value of a metric."""


async def list_rounds(call: Call) -> Reply:
    """Closed rounds, and the one that is open, or the last attempt that failed."""
    query = call.asked(RoundsAsked)
    found = _rounds(await _info(call))
    seen = int(parts_of(query.cursor, int)[0]) if query.cursor is not None else None
    newest = query.order == "newest"
    ordered = found[::-1] if newest else found
    rest = [one for one in ordered if seen is None or (one.round < seen if newest else one.round > seen)]
    shown = rest[: query.limit]
    return Page[RoundView](
        items=tuple(round_view(one) for one in shown),
        next=cursor_of(shown[-1].round) if len(rest) > len(shown) else None,
        total=len(found),
    )


def _rounds(info: SessionInfo) -> list[RoundInfo]:
    current = info.current
    return [*info.rounds, *([current] if current is not None else [])]


async def _info(call: Call) -> SessionInfo:
    await call.gateway.sessions.wait()
    return await call.gateway.sessions.info(call.path["session"])


async def get_round(call: Call) -> Reply:
    """A round with every client that was asked, slowest first, and where the time of each went."""
    info = await _info(call)
    asked = call.path["round"]
    rounds = {one.round: one for one in _rounds(info)}
    wanted = max(rounds, default=0) if asked == "newest" else int(asked)
    report = await report_of(call.gateway, info, wanted) if wanted in rounds else None
    if report is None:
        opened = f"rounds 1 to {max(rounds)} were opened" if rounds else "no round was opened yet"
        raise NotFound(f"session {info.session}: no round {asked}; {opened}")
    return round_detail(report, rounds.get(wanted))


async def report_of(gateway: Gateway, info: SessionInfo, wanted: int) -> RoundReport | None:
    """Return the report of a round; of the entries of its session only those are read that tell of it."""
    live = gateway.sessions.folded.contributions.report(info.session)
    if live is not None and live.round == wanted:
        return live
    session = gateway.federation.session(info.session)
    window = _window(gateway, info.session, wanted)
    if window is None:
        return await session.report(wanted)
    found = Rounds(info.session, wanted)
    began, first, last = window
    started = await gateway.federation.journal.at(began)
    for event in events_of(started) if started is not None else ():
        if isinstance(event.record, records.SessionStarted):  # what else stands there is read below, if it is meant
            found.take(event.record, event.at)
    follow = gateway.federation.journal.follow(info.session, first)
    try:
        async for journalled in follow:
            for event in events_of(journalled):
                found.take(event.record, event.at)
            if journalled.sequence >= last or not journalled.pending:
                break
    finally:
        await follow.aclose()
    return found.report()


def _window(gateway: Gateway, session: str, wanted: int) -> tuple[int, int, int] | None:
    """Return where a session begins, and from which entry to which it tells of a round; None where that is not known.

    Rounds are closed one after the other: a round stands behind the closing of the one before it.
    """
    index, everything = gateway.sessions.folded.index, 2**31
    started, _ = index.find(Wanted(session, frozenset({"SessionStarted"})), limit=1)
    closed, _ = index.find(Wanted(session, frozenset({"RoundClosed"})), limit=everything)
    last = gateway.sessions.folded.sequences.get(session, 0)
    if not started or wanted > len(closed) + 1:
        return None
    first = closed[wanted - 2].sequence if wanted > 1 else started[0].sequence
    return started[0].sequence, first, closed[wanted - 1].sequence if wanted <= len(closed) else last


async def list_curves(call: Call) -> Reply:
    """Metrics over the closed rounds: those that clients reported while training, and those of the evaluations."""
    curves = curves_of(await _info(call))
    curves.sort(key=lambda curve: (curve.of, curve.metric))
    return page_of(
        [curve_view(curve) for curve in curves], call.asked(Paged), key=lambda curve: f"{curve.of} {curve.metric}"
    )


async def list_evaluations(call: Call) -> Reply:
    """What clients found of the session's versions, evaluation by evaluation."""
    query = call.asked(Paged)
    await call.gateway.sessions.wait()
    session = (await call.gateway.sessions.summary(call.path["session"])).session
    after = None
    if query.cursor is not None:
        sequence, record = parts_of(query.cursor, int, int)
        after = Position(int(sequence), int(record))
    wanted = Wanted(session, frozenset({"RoundEvaluated"}))
    places, total = call.gateway.sessions.folded.index.find(wanted, after=after, limit=query.limit + 1)
    shown = places[: query.limit]
    return Page[EvaluationView](
        items=tuple(await _evaluations(call, shown)),
        next=cursor_of(*shown[-1]) if len(places) > len(shown) else None,
        total=total,
    )


async def _evaluations(call: Call, places: Sequence[Position]) -> list[EvaluationView]:
    found = await call.gateway.entries.events(places)
    return [
        evaluation_view(EvaluationResult.of(event.session, event.record), event.at)
        for event in found
        if isinstance(event.record, records.RoundEvaluated)
    ]


MEDIA = {"json": ("application/json", "json"), "csv": ("text/csv", "csv")}


async def export(call: Call) -> Reply:
    """A session as a file: JSON with all of it, or CSV (RFC 4180) of what `what` says."""
    query = call.asked(ExportAsked)
    session = call.gateway.federation.session(call.path["session"])
    parts = exported(session, query.format, query.what)
    first = await anext(parts)  # what there is not is told before anything is
    media, ending = MEDIA[query.format]
    what = session.name if query.format == "json" else f"{session.name}-{query.what}"
    response = web.StreamResponse(
        headers={
            "Content-Type": f"{media}; charset=utf-8",
            "Content-Disposition": f'attachment; filename="{what}.{ending}"',
            "Cache-Control": "no-store",
        }
    )
    await response.prepare(call.request)
    if call.request.method != "HEAD":
        await send(call.request, response, first.encode())
        async for part in parts:
            await send(call.request, response, part.encode())
            await asyncio.sleep(0)
    await response.write_eof()
    return response


SHOW = "fedbus session show SESSION --json"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listRounds", "GET", f"{API}/sessions/{{session}}/rounds", "Rounds of a session", list_rounds,
        SHOW, "Session.rounds", query=RoundsAsked, answer=Page[RoundView], problems=(404,), needs=Action.SESSION_READ,
    ),
    Operation(
        "getRound", "GET", f"{API}/sessions/{{session}}/rounds/{{round}}", "A round with its clients", get_round,
        "fedbus session report SESSION --json", "Session.report", answer=RoundDetail, problems=(404,),
        needs=Action.SESSION_INSPECT,
    ),
    Operation(
        "listCurves", "GET", f"{API}/sessions/{{session}}/curves", "Metrics over the rounds", list_curves,
        "fedbus session export SESSION --format csv --what curves", "Session.curves", query=Paged,
        answer=Page[CurveView], problems=(404,), needs=Action.SESSION_READ,
    ),
    Operation(
        "listEvaluations", "GET", f"{API}/sessions/{{session}}/evaluations", "What clients found of versions",
        list_evaluations, "fedbus session export SESSION", "Session.evaluations", query=Paged,
        answer=Page[EvaluationView], problems=(404,), needs=Action.SESSION_INSPECT,
    ),
    Operation(
        "exportSession", "GET", f"{API}/sessions/{{session}}/export", "A session as a file", export,
        "fedbus session export SESSION", "Session.export", query=ExportAsked, problems=(404,),
        answer=dict[str, Any], media="text/csv", headers={"Content-Disposition": "The file's name."},
        needs=Action.SESSION_INSPECT,
    ),
)  # fmt: skip
