"""What goes into the audit of what is asked of a gateway: every change, every refusal, every model that is taken away.

Written down is what came of a request, before its answer is sent; whoever goes away in the middle is written down too.
Of what a stranger can repeat at will - refusals, and reads - one deed a minute is written for each address and kind,
with how many there were: an audit is nothing that a stranger may fill.

A request becomes a deed at once, in order; `run` writes them, one after the other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from fedbus.access.actions import Action
from fedbus.access.audit import Result
from fedbus.gateway.auth import CLAIMED, SAFE
from fedbus.gateway.caller import CALLER
from fedbus.gateway.operations import API, Operation
from fedbus.gateway.origins import net_of, origin_of

if TYPE_CHECKING:
    from fedbus.access.audit import Audit
    from fedbus.clock import Clock

OPERATION: web.RequestKey[Operation] = web.RequestKey("operation", Operation)

DONE_AS: web.RequestKey[str] = web.RequestKey("done_as", str)
"""What a request is called in the audit, where that is not what its operation needs: ``login``."""

REFUSAL: web.RequestKey[str] = web.RequestKey("refusal", str)
"""Why what was asked for was not done, where the answer is a page all the same."""

WHY: web.RequestKey[str] = web.RequestKey("why", str)
"""The reason that somebody has given for what she does."""

TURNED_AWAY = "request"
LOGIN = "login"
LOGOUT = "logout"

READ_IS_A_DEED = (Action.MODEL_DOWNLOAD, Action.AUDIT_READ)
"""What is written down although it changes nothing: it takes away what cannot be taken back."""

REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)

OFTEN_S = 60.0
"""Of what can be repeated at will one deed is written in so long."""

KINDS_MAX = 10_000
"""Of those whose last minute is remembered."""

WAITING_MAX = 10_000
"""Deeds that wait to be written; beyond them only refusals are left out."""

WRITTEN_S_MAX = 5.0
"""How long an answer waits for its deed to be written."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What came of a request."""

    action: str
    by: str
    origin: str
    target: str
    result: Result
    reason: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


class Deeds:
    """Hands what is done at a gateway to its audit; ``own``: as whom an open gateway does what anybody asks."""

    def __init__(self, audit: Audit, clock: Clock, own: str) -> None:
        self._audit = audit
        self._clock = clock
        self._own = own
        self._runs = False
        self._queue: asyncio.Queue[tuple[Deed, asyncio.Future[None]]] = asyncio.Queue()
        self._often: OrderedDict[tuple[str, ...], list[float]] = OrderedDict()

    async def run(self) -> None:
        """Write what is told; runs until cancelled."""
        self._runs = True
        try:
            while True:
                deed, written = await self._queue.get()
                await self._write(deed)
                if not written.done():
                    written.set_result(None)
        finally:
            self._runs = False

    async def finish(self) -> None:
        """Write what is left, when the gateway ends."""
        while not self._queue.empty():
            deed, _ = self._queue.get_nowait()
            await self._write(deed)
        await self._audit.finish()

    async def _write(self, deed: Deed) -> None:
        await self._audit.write(
            deed.action,
            by=deed.by,
            target=deed.target,
            origin=deed.origin,
            result=deed.result,
            reason=deed.reason,
            details=deed.details,
        )

    async def answered(self, request: web.Request, id_: str, status: int, reason: str = "") -> None:
        """Write down what came of a request, if it is a deed; returns when it is written, or after a while."""
        deed = self._deed(request, id_, status, reason)
        if deed is None:
            return
        written = self._tell(deed)
        if self._runs and written is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITTEN_S_MAX):
                    await written

    def gone(self, request: web.Request, id_: str) -> None:
        """Write down a change whose asker has gone before the answer: it may have been made."""
        if request.method not in SAFE:
            deed = self._deed(request, id_, 499, "whoever asked went away before the answer; it may have been done")
            if deed is not None:
                self._tell(deed)

    def _tell(self, deed: Deed) -> asyncio.Future[None] | None:
        if deed.result == "refused" and self._queue.qsize() >= WAITING_MAX:
            return None
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((deed, written))
        return written

    def _deed(self, request: web.Request, id_: str, status: int, reason: str) -> Deed | None:
        """Return what came of a request as a deed; None where it is none, or was told a moment ago."""
        operation = request.get(OPERATION)
        if operation is None:
            return self._turned_away(request, id_, status, reason)
        own = operation.needs is Action.SELF_READ  # what one does about oneself is a deed where it is called one
        changes = (request.method not in SAFE and not own) or DONE_AS in request
        refusal = request.get(REFUSAL, "")
        status, reason = (HTTPStatus.FORBIDDEN, refusal) if refusal else (status, reason)
        action = request.get(DONE_AS) or (operation.needs.value if operation.needs is not None else "")
        if not action or not (changes or status in REFUSED or operation.needs in READ_IS_A_DEED):
            return None
        by = self._by(request)
        details = {"request": id_, "operation": operation.id, "status": str(int(status))}
        reason = reason or request.get(WHY, "")
        target = request.path.removeprefix(API).strip("/")[:300]
        if status in REFUSED or not changes:
            # of what was read, each thing by itself: these are as many as there are, and none shall hide another
            what = target if status < HTTPStatus.BAD_REQUEST else ""
            kind = (net_of(origin_of(request)), by, "" if by == "anonymous" else action, str(status), what)
            again = self._again(kind)
            if again is None:
                return None
            details |= {"others": str(again)} if again else {}
        return Deed(action, by, origin_of(request), target, _result(status), reason, details)

    def _turned_away(self, request: web.Request, id_: str, status: int, reason: str) -> Deed | None:
        """Return the deed of who was refused before it was known what she wanted: too often, or from a foreign page."""
        again = self._again((net_of(origin_of(request)), "", "", str(status))) if status in REFUSED else None
        if again is None:
            return None
        details = {"request": id_, "status": str(int(status))} | ({"others": str(again)} if again else {})
        return Deed(TURNED_AWAY, "anonymous", origin_of(request), request.path[:300], "refused", reason, details)

    def _by(self, request: web.Request) -> str:
        """Return who is written down: who was let in, else whose credentials came, else nobody that is known."""
        caller = request.get(CALLER)
        if caller is not None and caller.how == "open":
            return self._own
        claimed: str = request.get(CLAIMED, "anonymous")
        return caller.name if caller is not None and caller.name else claimed

    def _again(self, kind: tuple[str, ...]) -> int | None:
        """Return how many of a kind were left out before this one; None where this is one of them."""
        now = self._clock.now()
        known = self._often.get(kind)
        if known is not None and 0 <= now - known[0] < OFTEN_S:
            known[1] += 1
            return None
        left_out = int(known[1]) if known is not None else 0
        self._often[kind] = [now, 0]
        self._often.move_to_end(kind)
        if len(self._often) > KINDS_MAX:
            self._often.popitem(last=False)
        return left_out


def _result(status: int) -> Result:
    if status < HTTPStatus.BAD_REQUEST:
        return "done"
    return "refused" if status < 499 else "failed"
