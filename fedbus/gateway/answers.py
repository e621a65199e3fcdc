"""What a handler returns, as HTTP: JSON with a weak ETag, and 304 for whoever has it already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web

from fedbus.gateway.operations import Operation, Reply


def answer_to(request: web.Request, operation: Operation, reply: Reply) -> web.StreamResponse:
    """Return the response of a reply; a response is handed on as it is."""
    if isinstance(reply, web.StreamResponse):
        return reply
    view, headers = reply if isinstance(reply, tuple) else (reply, {})
    body = view.model_dump_json().encode()
    return json_answer(request, body, status=operation.status, headers=headers)


def json_answer(
    request: web.Request, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return JSON; to a GET with its ETag, or 304 where the request names that."""
    found = {"Cache-Control": "no-cache", **(headers or {})}
    if request.method not in ("GET", "HEAD") or status != HTTPStatus.OK:
        return web.Response(body=body, status=status, headers=found, content_type="application/json", charset="utf-8")
    found["ETag"] = tag = weak_tag(body)
    if is_known(request, tag):
        return web.Response(status=304, headers=found)
    return web.Response(body=body, status=status, headers=found, content_type="application/json", charset="utf-8")


def weak_tag(body: bytes) -> str:
    """Return the weak ETag of a body: equal bodies have the same."""
    return f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def is_known(request: web.Request, tag: str) -> bool:
    """Whether `If-None-Match` names an ETag, weakly compared (RFC 9110, 8.8.3.2)."""
    known = request.headers.get("If-None-Match", "")
    if known.strip() == "*":
        return True
    return tag.removeprefix("W/") in (one.strip().removeprefix("W/") for one in known.split(","))
