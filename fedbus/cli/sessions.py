"""Sessions from the command line: start, list, show, watch, stop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from fedbus.cli.listing import federation_of
from fedbus.cli.output import duration, metrics_text, moment, print_json, print_table, size
from fedbus.cli.progress import Progress, show, wait_text
from fedbus.cli.roles import Place
from fedbus.config.session import SessionConfig
from fedbus.errors import BusUnavailable, SessionFailed
from fedbus.federation.service import Federation, RoundInfo, Session, SessionInfo
from fedbus.messages.queries import Wait

END_S_MAX = 30.0
"""How long `stop` waits for the journal to say that it has ended."""


async def start_session(
    place: Place,
    config: SessionConfig,
    model: Mapping[str, np.ndarray[Any, Any]] | str,
    name: str | None,
    *,
    chunk_bytes: int,
    watch: bool,
    json: bool,
) -> None:
    """Start a session, and stay with it where ``watch`` says so."""
    async with federation_of(place) as federation:
        session = await federation.start_session(config, model=model, name=name, chunk_bytes=chunk_bytes)
        if not watch:
            if json:
                print_json({"session": session.name})
            else:
                print(f"{session.name} is started; see it with: fedbus session watch {session.name}")
            return
        if not json:
            print(f"{session.name} is started")
        await _watch(federation, session, json=json)


async def watch_session(place: Place, name: str, *, json: bool) -> None:
    """Show a session until it ends."""
    async with federation_of(place) as federation:
        session = federation.session(name)
        await session.info()
        await _watch(federation, session, json=json)


async def _watch(federation: Federation, session: Session, *, json: bool) -> None:
    progress = Progress(SessionInfo(session.name), federation.now)
    try:
        if json:
            async for event in session.events():
                progress.info.apply(event.data, event.at)
                print_json(event)
        else:
            await show(federation, session, progress)
    except asyncio.CancelledError:
        print(f"{session.name} goes on; see it with: fedbus session watch {session.name}", file=sys.stderr)
        raise
    info = progress.info
    if info.state in ("failed", "refused"):
        raise SessionFailed(f"session {info.session} {info.state}: {info.reason}")
    if not json:
        print(f"{info.session} {info.state}: {info.reason}; model {info.version}, digest {info.digest}")


async def list_sessions(place: Place, chosen: Mapping[str, Any], *, json: bool) -> None:
    """Print sessions in order of their start; ``chosen``: which, as `Federation.sessions` takes it."""
    async with federation_of(place) as federation:
        sessions = await federation.sessions(**chosen)
        waits = await _waits(federation) if any(not info.ended for info in sessions) else []
    if json:
        print_json([summary(info, waits) for info in sessions])
        return
    rows = [
        (
            info.session,
            info.state,
            f"{len(info.rounds)}/{info.config.rounds}",
            "; ".join(wait_text(wait, federation.now) for wait in waits if wait.session == info.session) or "-",
            metrics_text(info.metrics) or "-",
            info.version or "-",
            moment(info.started_at),
        )
        for info in sessions
    ]
    columns = ("session", "state", "rounds", "waits", "metrics", "model", "started")
    filtered = any(chosen.get(name) for name in ("status", "strategy", "text", "after"))
    none = "no such sessions" if filtered else "no sessions yet; start one: fedbus session start MODEL"
    print_table(columns, rows, empty=none)


async def show_session(place: Place, name: str, *, json: bool) -> None:
    """Print a session as its journal tells it."""
    async with federation_of(place) as federation:
        info = await federation.session(name).info()
        waits = [] if info.ended else [wait for wait in await _waits(federation) if wait.session == name]
    if json:
        print_json(
            {
                **summary(info, waits),
                "config": info.config.model_dump(mode="json"),
                "rounds_closed": [_round(found) for found in info.rounds],
                "refused": [{"round": r, "client": client, "reason": reason} for r, client, reason in info.refused],
                "declined": info.declined,
            }
        )
        return
    _print_facts(info, [wait_text(wait, federation.now) for wait in waits])
    rows = [
        (
            r.round,
            r.counted,
            len(r.not_counted),
            duration(r.seconds),
            size(r.bytes_up),
            size(r.bytes_down),
            metrics_text(r.metrics or r.train_metrics),
        )
        for r in info.rounds
    ]
    print_table(
        ("round", "updates", "not counted", "took", "up", "down", "metrics"), rows, empty="no round is closed yet"
    )
    for found in info.rounds:
        if found.why:
            print(f"round {found.round} {found.why}")
    for round_, client, reason in info.refused:
        if info.declined.get(client) != reason:
            print(f"refused in round {round_}: {client}: {reason}")
    for client, reason in sorted(info.declined.items()):
        print(f"declined by its owner: {client}: {reason}")


def _print_facts(info: SessionInfo, waits: list[str]) -> None:
    changed = info.config.model_dump(exclude_defaults=True)
    facts: list[tuple[str, object]] = [
        ("session", info.session),
        ("state", f"{info.state}{f': {info.reason}' if info.reason else ''}"),
        ("started", f"{moment(info.started_at)} by {info.by or '-'}"),
        ("ended", moment(info.ended_at)),
        ("rounds", f"{len(info.rounds)} of {info.config.rounds}"),
        ("settings", ", ".join(f"{name}={value}" for name, value in changed.items()) or "all by default"),
        ("model", f"{info.version} ({size(info.nbytes)})"),
        ("digest", info.digest),
        ("metrics", metrics_text(info.metrics) or "-"),
        *((("best", _best(info)),) if info.config.best_metric else ()),
        *(("waits", wait) for wait in waits),
    ]
    for name, value in facts:
        print(f"{name:10s} {value}")
    print()


def _best(info: SessionInfo) -> str:
    value = "no evaluation has it" if info.best_value is None else f"{info.best_value:.4g}"
    return f"{info.best_version or '-'} ({info.config.best_metric}: {value})"


async def stop_session(place: Place, name: str, reason: str, *, json: bool) -> None:
    """Ask for the end of a session and wait for it."""
    async with federation_of(place) as federation:
        session = federation.session(name)
        await session.stop(reason)
        try:
            async with asyncio.timeout(END_S_MAX):
                async for _ in session.events():
                    pass
        except TimeoutError as error:
            raise BusUnavailable(
                f"session {name}: asked to stop, but no coordinator has done it within {END_S_MAX:g} s; "
                "the command stands, and will be taken when one comes"
            ) from error
        info = await session.info()
    if json:
        print_json(summary(info, []))
    else:
        print(f"{name} {info.state}: {info.reason}; model {info.version}")


def summary(info: SessionInfo, waits: list[Wait]) -> dict[str, object]:
    """Return what a listing says of a session, for JSON."""
    return {
        "session": info.session,
        "state": info.state,
        "reason": info.reason,
        "ended": info.ended,
        "started_at": info.started_at,
        "ended_at": info.ended_at or None,
        "round": info.round,
        "rounds_done": len(info.rounds),
        "rounds": info.config.rounds,
        "model_version": info.version,
        "digest": info.digest,
        "nbytes": info.nbytes,
        "metrics": info.metrics,
        "best_version": info.best_version or None,
        "best_value": info.best_value,
        "waits": [wait for wait in waits if wait.session == info.session],
    }


def _round(found: RoundInfo) -> dict[str, object]:
    return {name: getattr(found, name) for name in RoundInfo.__slots__}


async def _waits(federation: Federation) -> list[Wait]:
    """Return what waits; nothing where no coordinator answers, which `fedbus doctor` would tell."""
    with suppress(BusUnavailable):
        return await federation.waits()
    print("no coordinator answers: what is waited for is not known (fedbus doctor)", file=sys.stderr)
    return []
