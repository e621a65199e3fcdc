"""The audit: what was done by whom; page by page, as a file, and whether its chain holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from fedbus.access.actions import Action
from fedbus.access.audit import filter_of
from fedbus.access.chain import Recorded, line_of
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, cursor_of, parts_of
from fedbus.gateway.secured import has_text
from fedbus.gateway.sending import send
from fedbus.gateway.views import Page
from fedbus.gateway.views_access import AuditView, FaultView, Result, VerificationView

LOOKED_AT_MAX = 5000
"""Deeds in which a page looks for those that fit; then it says how far it came, and the next page goes on there."""

Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]


class AuditAsked(Paged):
    """Which deeds."""

    by: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Only those with this text in who did it: a person, or `role/name`."""

    action: Annotated[str, Field(pattern=r"^[a-z.-]{1,64}$")] | None = None
    """Only these, such as `member.suspend`, or all that begin so: `member`."""

    target: Annotated[str, Field(min_length=1, max_length=300)] | None = None
    """Only those with this text in what it was done to."""

    result: Result | None = None
    """Only those that ended so."""

    since: Moment | None = None
    """Only those from this time on, in seconds since the epoch."""

    until: Moment | None = None
    """Only those before this time."""

    format: Literal["json", "jsonl"] = "json"
    """`jsonl`: all that fit as one file, oldest first, a line each, with the bytes that the chain is made of."""


class VerificationAsked(BaseModel):
    """What has to be on the way."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    head: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """A `head` that was noted before: whether all that stood there then stands there still."""


async def list_audit(call: Call) -> Reply:
    """What was done by whom, newest first, or all of it as a file.

    A page of a search may have fewer deeds than were asked for, or none, and a `next`. `fedbus audit verify FILE` takes
    a file that nothing was filtered out of.
    """
    query = call.asked(AuditAsked)
    others = filter_of(
        action=query.action or "", result=query.result or "", since=query.since or 0.0, until=query.until or 0.0
    )

    def fits(found: Recorded) -> bool:
        entry = found.entry
        return others(found) and has_text(query.by, entry.by) and has_text(query.target, entry.target)

    if query.format == "jsonl":
        return await _file(call, call.gateway.audit.read(newest_first=False, fits=fits))
    before = int(parts_of(query.cursor, int)[0]) if query.cursor is not None else 0
    items: list[AuditView] = []
    looked = seen = 0
    async with aclosing(call.gateway.audit.read(before=before)) as deeds:
        async for found in deeds:
            if len(items) == query.limit or looked == LOOKED_AT_MAX:
                return Page[AuditView](items=tuple(items), next=cursor_of(seen))
            looked, seen = looked + 1, found.sequence
            if fits(found):
                items.append(audit_view(found))
    return Page[AuditView](items=tuple(items))


async def _file(call: Call, deeds: AsyncGenerator[Recorded, None]) -> web.StreamResponse:
    workspace = call.gateway.federation.subjects.workspace
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/jsonl; charset=utf-8",
            "Content-Disposition": f'attachment; filename="audit-{workspace}.jsonl"',
            "Cache-Control": "no-store",
        }
    )
    async with aclosing(deeds):
        first = await anext(deeds, None)  # what cannot be read is told before anything is
        await response.prepare(call.request)
        if call.request.method != "HEAD" and first is not None:
            await send(call.request, response, f"{line_of(first)}\n".encode())
            async for found in deeds:
                await send(call.request, response, f"{line_of(found)}\n".encode())
                await asyncio.sleep(0)
    await response.write_eof()
    return response


async def verify_audit(call: Call) -> Reply:
    """Go along the whole chain: whether anything is missing, changed, out of order or put in."""
    found = await call.gateway.audit.verify(call.asked(VerificationAsked).head or "")
    return VerificationView(
        whole=found.is_whole,
        count=found.count,
        sequence=found.sequence,
        head=found.head,
        pinned_at=found.pinned_at,
        faults=tuple(FaultView(sequence=one.sequence, kind=one.kind, what=one.what) for one in found.faults),
        faults_count=found.faults_count,
    )


def audit_view(found: Recorded) -> AuditView:
    """Return a deed as REST shows it."""
    entry = found.entry
    return AuditView(
        sequence=found.sequence,
        number=entry.number,
        writer=f"{found.writer.role}/{found.writer.name}",
        at=entry.at,
        by=entry.by,
        origin=entry.origin,
        action=entry.action,
        target=entry.target,
        result=entry.result,
        reason=entry.reason,
        details=dict(entry.details),
        digest=found.digest,
        before=entry.before,
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listAudit", "GET", f"{API}/audit", "What was done by whom", list_audit, "fedbus audit list --json",
        "fedbus.access.audit.Audit.read", query=AuditAsked, answer=Page[AuditView],
        media="application/jsonl", headers={"Content-Disposition": "Of `format=jsonl`: the file's name."},
        needs=Action.AUDIT_READ,
    ),
    Operation(
        "verifyAudit", "GET", f"{API}/audit/verification", "Whether the audit's chain holds", verify_audit,
        "fedbus audit verify", "fedbus.access.audit.Audit.verify", query=VerificationAsked, answer=VerificationView,
        needs=Action.AUDIT_VERIFY,
    ),
)  # fmt: skip
