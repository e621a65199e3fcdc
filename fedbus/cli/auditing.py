"""The audit, from the command line: what was done by whom, whether the chain holds, and all of it as a file.

A file that was exported is verified without a broker. What strangers have written into texts is shown without what
moves a cursor or begins a line (`fedbus.cli.output.line_of`); in JSON it is escaped.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from fedbus.access import known
from fedbus.access.audit import Audit
from fedbus.access.chain import LINE_CHARS_MAX, Recorded, Verified, line_of, verify_lines
from fedbus.bus.nats import connect
from fedbus.cli.output import line_of as shown
from fedbus.cli.output import moment, print_json, print_table
from fedbus.cli.roles import Place
from fedbus.clock import SystemClock
from fedbus.errors import ConfigError
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

READERS = ("auditor", "admin")
"""Whose credentials are looked for on this machine: those who may read an audit."""


@asynccontextmanager
async def audit_of(place: Place) -> AsyncIterator[Audit]:
    """Connect as somebody who may read the audit of a place."""
    path: str | Path | None = place.credentials
    for role in READERS:
        path = path or await asyncio.to_thread(known.find, place.url, place.workspace, role=role)
    async with await connect(place.url, name="audit", credentials=path) as bus:
        yield Audit(bus, Subjects(place.workspace), Peer(*(bus.member or ("auditor", "local"))), SystemClock())


async def list_deeds(place: Place, fits: Callable[[Recorded], bool], *, last: int, json: bool) -> None:
    """Print the newest deeds that fit, the newest first."""
    found: list[Recorded] = []
    async with audit_of(place) as audit, aclosing(audit.read(fits=fits)) as deeds:
        async for deed in deeds:
            found.append(deed)
            if len(found) >= last:
                break
    if json:
        print_json([_as_json(deed) for deed in found])
        return
    rows = [
        (one.entry.number, moment(one.entry.at), one.entry.by, one.entry.action, one.entry.target or "-",
         one.entry.result, one.entry.origin or "-", one.entry.reason or "-")
        for one in found
    ]  # fmt: skip
    columns = ("number", "when", "by", "action", "target", "result", "from", "reason")
    print_table(columns, rows, empty="nothing that fits is written down")


def _as_json(found: Recorded) -> dict[str, Any]:
    entry = found.entry.model_dump(mode="json")
    return {"sequence": found.sequence, "writer": f"{found.writer.role}/{found.writer.name}", **entry} | {
        "digest": found.digest
    }


async def verify(place: Place, file: Path | None, head: str, *, json: bool) -> bool:
    """Go along the chain at a broker, or in a file that was exported; returns whether it holds."""
    if file is None:
        async with audit_of(place) as audit:
            found = await audit.verify(head)
    else:
        found = await asyncio.to_thread(_verify_file, file, head)
    if json:
        print_json({**asdict(found), "whole": found.is_whole})
    else:
        _print(found, head)
    return found.is_whole


def _verify_file(file: Path, head: str) -> Verified:
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            # a file without line ends must not be taken into memory whole
            return verify_lines(iter(lambda: lines.readline(LINE_CHARS_MAX + 1), ""), head)
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error.strerror}") from error


def _print(found: Verified, head: str) -> None:
    pinned = f", {head[:16]}... stands at {found.pinned_at}" if found.pinned_at else ""
    if found.is_whole:
        print(f"whole: {found.count} deeds{pinned}")
        print(f"head {found.head or '-'}")
        if not head:
            print("note the head elsewhere: with --head it shows later that the end was not cut", file=sys.stderr)
        return
    rows = [(fault.sequence, fault.kind, shown(fault.what)) for fault in found.faults]
    print_table(("at", "what", "how"), rows, empty="")
    more = f", {len(found.faults)} of them shown" if found.faults_count > len(found.faults) else ""
    print(f"not whole: {found.faults_count} faults in {found.count} deeds{more}", file=sys.stderr)


async def export(place: Place, file: Path | None) -> None:
    """Write all deeds as JSON lines, oldest first, into a file or to standard output."""
    async with audit_of(place) as audit:
        if file is None:
            await _write(audit, sys.stdout)
            return
        part = file.with_name(f"{file.name}.part")
        try:
            with part.open("w", encoding="utf-8") as out:
                count = await _write(audit, out)
            part.replace(file)
        except OSError as error:
            raise ConfigError(f"{str(file)!r} cannot be written: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)
    print(f"{file}: {count} deeds", file=sys.stderr)


async def _write(audit: Audit, out: TextIO) -> int:
    count = 0
    async with aclosing(audit.read(newest_first=False)) as deeds:
        async for deed in deeds:
            out.write(line_of(deed) + "\n")
            count += 1
    return count
