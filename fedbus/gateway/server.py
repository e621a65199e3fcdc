"""The web server below the application: aiohttp's, whose own errors are problems too.

What is not HTTP never reaches the application: aiohttp answers it with a text, and logs a traceback for each stranger
that sends garbage. Here it is a problem of status 400 and a line for whoever looks for it.
"""

from __future__ import annotations

import logging
import secrets

from aiohttp import web

from fedbus.gateway.listening import Listening
from fedbus.gateway.problems import Refused, problem_of
from fedbus.gateway.tls import strictly

log = logging.getLogger("fedbus.gateway")

KEEPALIVE_S = 75.0
"""How long an idle connection is kept: longer than a proxy in front of us keeps its own."""


LINE_BYTES_MAX = 2**17
"""Longest first line of a request: the note of an import, of 10,000 characters, may be a part of an address."""


class _Requests(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never became a request of ours."""
        if isinstance(exc, ConnectionError):
            raise exc  # it has gone that asked: there is nobody to answer, and nothing to log
        if isinstance(exc, UnicodeError):
            status, message = 400, "a header is no UTF-8"  # one that aiohttp itself repeats: ours are told with care
        id_ = secrets.token_hex(8)
        log.log(logging.DEBUG if status < 500 else logging.ERROR, "%s: %d %s", id_, status, message, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun: there can be no other")
        lines = (message or "").strip().splitlines() if status < 500 else []
        text = lines[0][:200] if lines else "see the gateway's log"
        response = problem_of(Refused(status, text), id_)
        response.headers["X-Request-Id"] = id_
        response.headers["Server"] = "fedbus"
        response.force_close()
        return response


class _Server(web.Server):
    """Makes a handler of ours for each connection."""

    def __call__(self) -> web.RequestHandler:
        """Return the handler of a new connection."""
        return _Requests(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs the application of a gateway."""

    def __init__(self, app: web.Application, listening: Listening) -> None:
        super().__init__(app, handle_signals=False, shutdown_timeout=listening.drain_s)
        app.on_response_prepare.append(strictly(listening.public_url))

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=True,  # whoever has gone needs no answer: a stream ends with its reader
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,
            auto_decompress=False,  # what is packed is refused: nobody has to find out how large it becomes
            max_line_size=LINE_BYTES_MAX,
        )
