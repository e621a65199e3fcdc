"""What a data owner does on a client's machine: pause, resume, leave, withdraw; its cards; the log of what left."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedbus.cli.output import moment, print_json, print_table, size
from fedbus.client import control
from fedbus.client.cards import Card
from fedbus.client.decisions import decided
from fedbus.client.outgoing import entries_of, verify
from fedbus.errors import BadMessage, ConfigError

ROLES = ("client", "crowd")


def place_of(state_dir: Path, name: str) -> Path:
    """Return where a client's own files stand in a state directory, which may be that of several."""
    try:
        there = sorted(
            place for place in state_dir.iterdir() if place.is_dir() and place.name.partition("-")[0] in ROLES
        )
    except OSError as error:
        raise ConfigError(f"{state_dir}: {error.strerror or error}; name the --state-dir of a client") from error
    found = [place for place in there if not name or place.name.partition("-")[2] == name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(place.name.partition("-")[2] for place in there) or "nobody"
    raise ConfigError(f"{state_dir}: expected the --name of one client, got {name or 'none'}; there: {names}")


async def want(state_dir: Path, name: str, what: str, session: str, *, json: bool) -> None:
    """Say something to a client that runs."""
    done = await control.ask(place_of(state_dir, name), what, session)
    if json:
        print_json(done)
        return
    for line in _said(what, session, done):
        print(line)


def _said(what: str, session: str, done: Mapping[str, Any]) -> list[str]:
    match what:
        case "pause":
            return ["paused: nothing is done and nothing is said until: fedbus client resume"]
        case "resume":
            back = f"; {session} is taken part in again" if session else ""
            return [f"{'still paused' if done['paused'] else 'goes on'}{back}"]
        case "leave":
            left = ", ".join(done["left"]) or "no session"
            dropped = f"{done['dropped']} update{'s' if done['dropped'] != 1 else ''} dropped"
            return [f"left {left}; {dropped}", *(["paused, too"] if done["paused"] and not session else [])]
        case _:
            rounds = ", ".join(map(str, done["rounds"]))
            asked = (
                f"asked that the update of round {rounds} be undone" if rounds else "no round is open: nothing to undo"
            )
            return [
                f"left {session}; {asked}",
                "what is part of a model that was published cannot be taken out of it",
            ]


def show_cards(state_dir: Path, name: str, session: str, *, json: bool) -> None:
    """Print the cards that were shown to a client's owner, with what was decided."""
    found = decided(place_of(state_dir, name))
    cards = [card for card in found["cards"] if not session or card["session"] == session]
    if json:
        print_json({"paused": found["paused"], "left": found["left"], "cards": cards})
        return
    if found["paused"]:
        print("paused: fedbus client resume")
    for card in cards:
        why = f": {card['reason']}" if card["reason"] else ""
        print(f"{card['text']}\n  {'decided':10s} {card['decision']}{why}, {moment(card['at'])}")
    if found["left"]:
        print(f"left: {', '.join(found['left'])}")
    if not cards:
        print("no session has asked it for anything yet", file=sys.stderr)


def show_log(path: Path, session: str, *, check: bool, json: bool) -> None:
    """Print what has left, or see whether the log is whole; raises `BadMessage` where it is not."""
    if check:
        found = verify(path)
        if json:
            print_json({"lines": found.lines, "first": found.first, "wrong": found.wrong})
        elif not found.wrong:
            older = f", from line {found.first} on: older ones are gone with their file" if found.first > 1 else ""
            print(f"{found.lines} lines, each names the one before it{older}")
        if found.wrong:
            raise BadMessage(f"{path}: not as it was written: {'; '.join(found.wrong[:5])}")
        return
    if json:
        for entry in entries_of(path, session):
            print_json(entry)
        return
    rows = [_row(entry) for entry in entries_of(path, session)]
    columns = ("at", "what", "session", "round", "bytes", "norm", "digest", "more")
    print_table(columns, rows, empty="nothing has left yet")


def _row(entry: Mapping[str, Any]) -> tuple[object, ...]:
    norm = entry.get("norm")
    more = entry.get("reason") or ", ".join(entry.get("metrics") or entry.get("of") or ())
    nbytes = entry.get("bytes", sum(of["bytes"] for of in entry.get("of", {}).values()))
    return (
        moment(entry["at"]),
        entry["what"],
        entry.get("session", "-"),
        entry.get("round", "-"),
        size(nbytes),
        "-" if norm is None else f"{norm:.4g}",
        str(entry.get("digest", "-"))[:12],
        more or "-",
    )


class Terminal:
    """Shows cards on the terminal, one after the other, and reads what the owner says."""

    def __init__(self) -> None:
        if not sys.stdin.isatty():
            raise ConfigError("--consent ask needs a terminal; give a --policy, or an app with @app.consent")
        self._lock = asyncio.Lock()

    async def __call__(self, card: Card) -> bool:
        """Ask about one."""
        async with self._lock:
            print(f"\n{card.text()}\n  take part? [y/N] ", end="", flush=True)
            return (await _line()).strip().lower() in ("y", "yes")


async def _line() -> str:
    """Read a line without a thread, which nobody could stop waiting."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not ready.done():
            ready.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin.fileno(), read)
    try:
        return await ready
    finally:
        with suppress(ValueError, OSError):
            loop.remove_reader(sys.stdin.fileno())
