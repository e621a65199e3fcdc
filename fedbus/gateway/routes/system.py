"""What programs around a gateway ask it: whether it lives, whether it is ready, and the document of REST."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from fedbus.access.actions import Action
from fedbus.errors import NotFound
from fedbus.gateway.answers import json_answer
from fedbus.gateway.operations import Call, Operation, Reply
from fedbus.gateway.views import HealthView
from fedbus.telemetry.scrape import CONTENT_TYPE
from fedbus.version import __version__


async def health(call: Call) -> Reply:
    """Whether the process answers: a supervisor starts it again where it does not. Says nothing about the broker."""
    return HealthView(status="ok", version=__version__)


async def ready(call: Call) -> Reply:
    """Whether requests should come here: the broker is connected, the journal is read, and it is not draining."""
    reason = call.gateway.unready()
    if not reason:
        return HealthView(status="ok", version=__version__)
    drains = call.gateway.draining.is_set()
    view = HealthView(status="draining" if drains else "not ready", reason=reason, version=__version__)
    return json_answer(call.request, view.model_dump_json().encode(), status=503, headers={"Retry-After": "1"})


async def openapi(call: Call) -> Reply:
    """This document: OpenAPI 3.1, made of the table of operations. `/docs` shows it."""
    return json_answer(call.request, call.gateway.document)


async def metrics(call: Call) -> Reply:
    """Numbers of this gateway as Prometheus reads them; other roles have a port of their own (`--metrics-port`)."""
    if call.gateway.scrape is None:
        raise NotFound("this gateway counts nothing: it was started without metrics")
    text = await asyncio.to_thread(call.gateway.scrape.text)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


OPERATIONS: tuple[Operation, ...] = (
    Operation("getHealth", "GET", "/healthz", "Whether the gateway lives", health, answer=HealthView, needs=None),
    Operation(
        "getReadiness", "GET", "/readyz", "Whether the gateway is ready", ready, answer=HealthView,
        also={503: "It is not ready: `reason` says why."}, needs=None,
    ),
    Operation(
        "getMetrics", "GET", "/metrics", "Numbers for Prometheus", metrics, problems=(404,), media="text/plain",
        needs=Action.METRICS_READ,
    ),
    Operation(
        "getDocument", "GET", "/openapi.json", "The document of REST", openapi, answer=dict[str, Any], needs=None,
    ),
)  # fmt: skip
