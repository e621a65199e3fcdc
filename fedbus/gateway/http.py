"""The web application: the operations of the table behind what holds for every request.

From the outside in: a request gets an id, which the answer and the log carry; errors become problems; whoever asks too
often, or from a foreign page, is refused; then the operation's names, query and body are checked, and its handler is
asked. Every answer, also a stream or a file, gets the headers that keep a browser from doing what nobody wants.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from fedbus.errors import BusUnavailable, FedbusError
from fedbus.gateway.answers import answer_to
from fedbus.gateway.asking import body_of, key_of, names_in, query_of
from fedbus.gateway.auth import SAFE
from fedbus.gateway.caller import CALLER
from fedbus.gateway.deeds import OPERATION
from fedbus.gateway.files import Files
from fedbus.gateway.hiding import hides, without_clients
from fedbus.gateway.hosts import Hosts
from fedbus.gateway.limits import Rate
from fedbus.gateway.listening import Listening
from fedbus.gateway.operations import Call, Operation
from fedbus.gateway.origins import ORIGIN, Origins, net_of, origin_of
from fedbus.gateway.problems import Refused, problem_of, refused_by, shown, unforeseen
from fedbus.gateway.sending import cut_off

if TYPE_CHECKING:
    from fedbus.gateway.service import Gateway

log = logging.getLogger("fedbus.gateway")

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]

ANSWER_S_MAX = 12.0
"""How long the beginning of an answer is waited for: calls of the bus are given up after ten seconds, and repeated."""

CHANGE_S_MAX = 45.0
"""The same, of what changes something: a start waits half a minute for a coordinator."""

AWAY_S_MAX = 3.0
"""The same, of anything, while the broker is known to be away: what is known here is told at once."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
}
"""Of every answer: only what the gateway itself serves is run, shown or framed."""

CORS_EXPOSED = (
    "ETag, Location, Retry-After, X-Request-Id, Repr-Digest, Fedbus-Digest, Content-Range, Accept-Ranges, "
    "WWW-Authenticate"
)
CORS_ASKED = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range, X-Request-Id"
CORS_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
ID: web.RequestKey[str] = web.RequestKey("id", str)
PATIENCE: web.RequestKey[asyncio.Timeout] = web.RequestKey("patience", asyncio.Timeout)
BEGUN: web.RequestKey[web.StreamResponse] = web.RequestKey("begun", web.StreamResponse)


def application(gateway: Gateway, operations: Iterable[Operation], listening: Listening) -> web.Application:
    """Return the application of a gateway."""
    operations = tuple(operations)
    app = web.Application(
        middlewares=[_Frame(gateway, listening, _exact(operations)).handle],
        client_max_size=listening.body_bytes_max,
    )
    for operation in operations:
        app.router.add_route(operation.method, operation.path, _handler(gateway, operation))
        if operation.method == "GET":
            app.router.add_route("HEAD", operation.path, _handler(gateway, operation))
    Files("page", index="/", below="/page").add_to(app)
    Files("viewer", index="/docs", below="/docs").add_to(app)
    app.on_response_prepare.append(_headers_of(listening))
    return app


def _exact(operations: Iterable[Operation]) -> Mapping[str, tuple[str, ...]]:
    """Return which methods addresses have that have no names in them.

    ``/models/collect`` is nothing but that: the version of this name has no address.
    """
    found: dict[str, tuple[str, ...]] = {}
    for operation in operations:
        if "{" not in operation.path:
            methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
            found[operation.path] = (*found.get(operation.path, ()), *methods)
    return found


def _handler(gateway: Gateway, operation: Operation) -> Next:
    async def bounded(request: web.Request) -> web.StreamResponse:
        if operation.body_media != "application/json":
            return await handle(request)  # what is sent to us takes as long as the sender's line
        longest_s = ANSWER_S_MAX if operation.method in SAFE else CHANGE_S_MAX
        if not gateway.station.bus.connected:
            longest_s = AWAY_S_MAX
        try:
            async with asyncio.timeout(longest_s) as patience:
                request[PATIENCE] = patience
                return await handle(request)
        except TimeoutError as error:
            raise BusUnavailable(f"not answered within {longest_s:g} s: the broker is slow, or away") from error
        finally:
            request.pop(PATIENCE, None)

    async def handle(request: web.Request) -> web.StreamResponse:
        request[OPERATION] = operation
        request[CALLER] = caller = await gateway.auth.admit(request, operation)
        call = Call(
            gateway,
            request,
            path=names_in(operation, request.match_info),
            query=query_of(operation.query, request.query),
            body=await body_of(operation, request),
            key=key_of(operation, request),
            id=request[ID],
            caller=caller,
        )
        reply = await operation.handler(call)
        return answer_to(request, operation, without_clients(reply) if hides(caller) else reply)

    return bounded


class _Frame:
    """What holds for every request."""

    def __init__(self, gateway: Gateway, listening: Listening, exact: Mapping[str, tuple[str, ...]]) -> None:
        self._gateway = gateway
        self._origins = frozenset(listening.cors_origins)
        public = (URL(listening.public_url).host or "",) if listening.public_url else ()
        self._hosts = Hosts(listening.host, (*listening.hosts, *public))
        self._came_from = Origins(listening.proxies)
        self._bytes_max = listening.body_bytes_max
        self._exact = exact
        self._rate = Rate(listening.rate_per_s, listening.burst, gateway.clock.now)

    @property
    def handle(self) -> Middleware:
        """The middleware."""

        @web.middleware
        async def frame(request: web.Request, handler: Next) -> web.StreamResponse:
            given = request.headers.get("X-Request-Id", "")
            request[ID] = id_ = given if _ID.fullmatch(given) else secrets.token_hex(8)
            request[ORIGIN] = self._came_from.of(request)
            began = monotonic()
            with self._gateway.running():
                response = await self._written_down(request, handler)
            self._gateway.numbers.request(request, response, monotonic() - began)
            if not response.prepared:
                response.headers["X-Request-Id"] = id_
            log.debug(
                "%s %s %s -> %d", id_, request.method, request.rel_url.raw_path, response.status
            )  # no code, no state
            return response

        return frame

    async def _written_down(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Answer a request, and tell the audit what came of it: also where nobody is there any more to be answered."""
        deeds, id_ = self._gateway.deeds, request[ID]
        try:
            response, reason = await self._answer(request, handler)
        except BaseException:  # it is told, and goes on
            deeds.gone(request, id_)
            raise
        await deeds.answered(request, id_, response.status, reason)
        return response

    async def _answer(self, request: web.Request, handler: Next) -> tuple[web.StreamResponse, str]:
        """Answer a request; whatever goes wrong is a problem, with its text. The one broad ``except`` is here."""
        id_ = request[ID]
        try:
            self._check(request)
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                return self._preflight(request), ""
            self._check_method(request)
            return await handler(request), ""
        except web.HTTPRequestEntityTooLarge:
            refused = Refused(413, f"expected a body of at most {self._bytes_max} bytes")
        except web.HTTPException as error:
            if error.status < 400:
                raise
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            refused = Refused(error.status, _why(error, request), headers=headers)
        except FedbusError as error:
            refused = refused_by(error) or unforeseen(id_, error)
        except ConnectionError:
            raise  # whoever asked has gone: there is nobody to answer
        except Exception as error:  # noqa: BLE001 - one request must not end a gateway; it is logged with its traceback
            refused = unforeseen(id_, error)
        if BEGUN in request:  # a problem would stand in the middle of what is sent, and end it as if it were whole
            log.warning("request %s: its answer is cut off: %s", id_, refused)
            cut_off(request)
            return request[BEGUN], str(refused)
        return problem_of(refused, id_), str(refused)

    def _check(self, request: web.Request) -> None:
        wait_s = self._rate.take(net_of(origin_of(request)))
        if wait_s:
            raise Refused(429, f"too many requests; ask again in {wait_s} s", headers={"Retry-After": str(wait_s)})
        if not self._hosts.has(host := request.headers.get("Host")):
            raise Refused(
                421, f"Host {shown(host)!r}: no name of this gateway; `--allow-host` lets it be asked for under others"
            )
        origin = request.headers.get("Origin")
        if request.method not in SAFE and origin is not None and not self._is_ours(origin, request):
            raise Refused(
                403, f"Origin {shown(origin)}: another page may change nothing here, unless --cors-origin allows it"
            )

    def _check_method(self, request: web.Request) -> None:
        methods = self._exact.get(request.path, (request.method,))
        if request.method not in methods:
            raise web.HTTPMethodNotAllowed(request.method, methods)

    def _is_ours(self, origin: str, request: web.Request) -> bool:
        if origin in self._origins:
            return True
        scheme = (
            "https" if self._gateway.auth.reached.is_secure(request) else request.scheme
        )  # of it follows which port is meant
        try:
            page, here = URL(origin), URL(f"{scheme}://{request.headers.get('Host', '')}")
        except ValueError:
            return False
        return page.authority == here.authority and (page.scheme == "https" or scheme != "https")

    def _preflight(self, request: web.Request) -> web.Response:
        """Tell a browser what a page of another origin may ask for."""
        if request.headers.get("Origin") not in self._origins:
            raise Refused(403, "this origin may not ask; --cors-origin allows others")
        headers = {
            "Access-Control-Allow-Methods": CORS_METHODS,
            "Access-Control-Allow-Headers": CORS_ASKED,
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=headers)


def _why(error: web.HTTPException, request: web.Request) -> str:
    if isinstance(error, web.HTTPNotFound):
        return f"nothing has this address: {request.path[:200]}"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"expected {', '.join(sorted(error.allowed_methods))}, got {request.method[:32]}"
    return error.text or error.reason


def _headers_of(listening: Listening) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    origins = frozenset(listening.cors_origins)

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        caller = request.get(CALLER)
        if caller is not None and caller.how in ("token", "cookie"):
            response.headers["Cache-Control"] = "no-store"  # what somebody was let see is left on no disk
        request[BEGUN] = response
        response.headers["Server"] = "fedbus"  # which versions of what are below is nobody's business
        if PATIENCE in request:
            request[PATIENCE].reschedule(None)  # it has begun: a stream may go on for days
        if ID in request:
            response.headers.setdefault("X-Request-Id", request[ID])
        if origins:
            response.headers.add("Vary", "Origin")
            if request.headers.get("Origin") in origins:
                response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
                response.headers["Access-Control-Expose-Headers"] = CORS_EXPOSED
                response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"

    return prepare
