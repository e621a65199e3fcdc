"""What can be done over REST, as data: the router, OpenAPI and the table of parity are all made of these.

An operation names its path, what it takes and gives, and who else does the same: a command and a method of Python. Its
handler gets a `Call` whose query and body are checked already, and returns a view, a tuple of a view and headers, or an
aiohttp response of its own (a stream, a file). Errors of fedbus that it raises become problems (`gateway.http`).

Paths are whole: those of REST begin with `API`. The names in braces are those of `NAMES`; a request whose names cannot
be is answered with 404 before the handler is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel

from fedbus.access.actions import Action
from fedbus.gateway.caller import Caller, anybody
from fedbus.gateway.views import View
from fedbus.messages.access import BUS_ROLES
from fedbus.messages.ids import NAME

if TYPE_CHECKING:
    from fedbus.gateway.service import Gateway

STRATEGY = r"^[A-Za-z0-9_-]{1,64}(\+[A-Za-z0-9_-]{1,64}){0,7}$"

Model = TypeVar("Model", bound=BaseModel)
Reply = View | tuple[View, Mapping[str, str]] | web.StreamResponse
Handler = Callable[["Call"], Awaitable[Reply]]

API = "/api/v1"
"""What stands before the path of every operation of REST."""

NAMES: Mapping[str, tuple[str, str]] = {
    "session": (NAME, "Name of a session."),
    "round": (r"^(newest|[0-9]{1,9})$", "Number of a round, from 1 on, or `newest`."),
    "client": (NAME, "Name of a client."),
    "version": (NAME, "A published version of a model."),
    "stage": (NAME, "Name of a stage, such as `production`."),
    "token": (NAME, "Id of a token: what stands between its first two `_`."),
    "role": (f"^({'|'.join(BUS_ROLES)})$", "Role of a member at the broker."),
    "member": (NAME, "Name of a member."),
    "sign_in": (r"^[0-9a-f]{16}$", "A sign-in of one's own."),
    "person": (r"^[A-Za-z0-9_@.:+-]{1,200}$", "Name of a person."),
    "name": (STRATEGY, "Name of a strategy, codec or selection, or of several strategies in a chain: `a+b`."),
}
"""What may stand in braces in a path: its form and what it is."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked: ``path`` holds what stands in braces in the operation's path.

    ``key``: of an idempotent operation, the request's `Idempotency-Key`, '' where it has none. ``id``: of the request;
    it stands in the log and in the answer. ``caller``: who asks; she is permitted to do it already.
    """

    gateway: Gateway
    request: web.Request
    path: Mapping[str, str]
    query: BaseModel | None = None
    body: BaseModel | None = None
    key: str = ""
    id: str = ""
    caller: Caller = field(default_factory=lambda: anybody(""))

    def name_from_key(self, prefix: str) -> str:
        """Return the name of what is made under the request's key, ``prefix-0123456789ab``; '' where it has none.

        Every gateway makes the same of a key, so that a repeat finds what the first request has made, whoever took it.
        """
        return f"{prefix}-{self.key_digest}" if self.key else ""

    @property
    def key_digest(self) -> str:
        """What stands for the request's key, '' where it has none: another for each who asks, who may choose alike."""
        if not self.key:
            return ""
        told = f"{self.caller.name}\n{self.key}" if self.caller.name else self.key
        return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()

    def asked(self, kind: type[Model]) -> Model:
        """Return the query as what the operation declares."""
        assert isinstance(self.query, kind), f"{self.request.path}: the operation declares another query"
        return self.query

    def given(self, kind: type[Model]) -> Model:
        """Return the body as what the operation declares."""
        assert isinstance(self.body, kind), f"{self.request.path}: the operation declares another body"
        return self.body


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of REST.

    ``id``: in camelCase, unique. ``command``, ``python``: who does the same on the command line and in Python, '' where
    it is of HTTP only (health, the document itself). ``answer``: a view, or a page of views; None: ``media`` says what
    comes. ``problems``: statuses of problems that it may answer with, besides those of every operation (400, 413, 422,
    429, 503). ``idempotent``: whether a repeat under the same `Idempotency-Key` gives the first answer again.
    ``headers``: those that its answer has besides, each with what it says. ``also``: other statuses that are no
    problems, such as 206, each with what it means. ``needs``: what whoever asks must be permitted to do; None: anybody
    may ask, also who has not said who she is. There is no default: whoever adds an operation decides it.
    ``asks_again``: whether who comes with a cookie has to have shown a moment ago who she is
    (`fedbus.gateway.listening.Listening.ask_again_s`): of what lets others in, or shuts them out.
    """

    id: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    summary: str
    handler: Handler
    command: str = ""
    python: str = ""
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    answer: Any = None
    status: int = 200
    problems: tuple[int, ...] = ()
    media: str = "application/json"
    body_media: str = "application/json"
    idempotent: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[int, str] = field(default_factory=dict)
    needs: Action | None = field(kw_only=True)
    asks_again: bool = False
