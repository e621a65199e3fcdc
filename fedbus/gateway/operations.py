"""What can be done over REST, as data: the router, OpenAPI and the table of parity are all made of these.

An operation names its path, what it takes and gives, and who else does the same: a command and a method of Python. Its
handler gets a `Call` whose query and body are checked already, and returns a view, a tuple of a view and headers, or an
aiohttp response of its own (a stream, a file). Errors of fedbus that it raises become problems (`gateway.http`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel

from fedbus.gateway.views import View

if TYPE_CHECKING:
    from fedbus.gateway.service import Gateway

Model = TypeVar("Model", bound=BaseModel)
Reply = View | tuple[View, Mapping[str, str]] | web.StreamResponse
Handler = Callable[["Call"], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked: ``path`` holds what stands in braces in the operation's path."""

    gateway: Gateway
    request: web.Request
    path: Mapping[str, str]
    query: BaseModel | None = None
    body: BaseModel | None = None

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
    comes. ``problems``: statuses of problems that it may answer with, besides those of every operation (400, 413, 414,
    429, 503). ``idempotent``: whether a repeat under the same `Idempotency-Key` gives the first answer again.
    ``headers``: those that its answer has besides, each with what it says.
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
