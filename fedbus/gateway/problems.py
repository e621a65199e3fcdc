"""Errors as HTTP tells them: RFC 9457's `application/problem+json`, for every error of every operation.

Errors of fedbus are named for what the receiver should do, and so have a status each. What nobody has foreseen is a
500 whose text says nothing but the request's id: the log has the rest under the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus

from aiohttp import web
from pydantic import ValidationError

from fedbus.errors import (
    BadMessage,
    BusClosed,
    BusDenied,
    BusFull,
    BusUnavailable,
    ConfigError,
    Conflict,
    FedbusError,
    NameTaken,
    NotFound,
    SessionFailed,
    StoreDenied,
    StoreUnavailable,
)
from fedbus.gateway.views import FieldProblem, Problem

log = logging.getLogger("fedbus.gateway")

MEDIA = "application/problem+json"

RETRY_S = 2
"""After how long a client is told to try again where the bus is away: the broker is looked for about so often."""

GOT_CHARS_MAX = 100
"""How much of a wrong value is told back."""


class Refused(FedbusError):
    """A request that is not done, as the problem that it is answered with."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str = "",
        errors: Iterable[FieldProblem] = (),
        state: str | None = None,
        headers: Mapping[str, str] | None = None,
        permission: str | None = None,
        permitted_to: Iterable[str] = (),
        again: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title or HTTPStatus(status).phrase
        self.errors = tuple(errors)
        self.state = state
        self.headers = dict(headers or {})
        self.permission = permission
        self.permitted_to = tuple(permitted_to)
        self.again = again


STATUS: tuple[tuple[type[FedbusError], int], ...] = (
    (NotFound, 404),
    (Conflict, 409),
    (NameTaken, 409),
    (SessionFailed, 409),
    (ConfigError, 422),
    (BadMessage, 422),
    (BusDenied, 503),
    (BusFull, 503),
    (BusClosed, 503),
    (BusUnavailable, 503),
    (StoreDenied, 503),
    (StoreUnavailable, 503),
)
"""What each error is answered with; the first that fits counts."""


def refused_by(error: FedbusError) -> Refused | None:
    """Return what an error of fedbus is answered with; None where it is none that a request may meet."""
    if isinstance(error, Refused):
        return error
    for kind, status in STATUS:
        if isinstance(error, kind):
            headers = {"Retry-After": str(RETRY_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
            state, errors = getattr(error, "state", "") or None, _fields(error)
            return Refused(status, str(error), errors=errors, state=state, headers=headers)
    return None


def _fields(error: FedbusError) -> Iterator[FieldProblem]:
    """Yield the settings that cannot be: these come as the body's ``config``, whatever the operation."""
    for wrong in error.wrong if isinstance(error, ConfigError) else ():
        yield FieldProblem(where=f"body.config.{wrong.where}", problem=wrong.problem, got=shown(wrong.got))


def problem_of(refused: Refused, id_: str) -> web.Response:
    """Return the answer to a request that is not done; ``id_``: the request's."""
    problem = Problem(
        title=refused.title,
        status=refused.status,
        detail=str(refused).encode(errors="replace").decode(),  # a header may hold what no UTF-8 has
        instance=f"urn:fedbus:request:{id_}",
        errors=refused.errors,
        state=refused.state,
        permission=refused.permission,
        permitted_to=refused.permitted_to or None,
        again=refused.again or None,
    )
    body = problem.model_dump_json(exclude_none=True).encode()
    return web.Response(body=body, status=refused.status, content_type=MEDIA, headers=refused.headers)


def unforeseen(id_: str, error: Exception) -> Refused:
    """Return what an error is answered with that nobody has foreseen; its traceback goes to the log."""
    log.error("request %s: an error that nobody has foreseen", id_, exc_info=error)
    return Refused(500, f"an error that nobody has foreseen; the gateway's log tells more under request {id_}")


def invalid(error: ValidationError, where: str) -> Refused:
    """Return what is answered to what a model refuses; ``where`` it stood: body, query."""
    found = [
        FieldProblem(
            where=".".join((where, *(str(part) for part in one["loc"]))),
            problem=one["msg"].removeprefix("Value error, "),
            got=shown(one["input"]),
        )
        for one in error.errors(include_url=False, include_context=False)
    ]
    first = f"{found[0].where}: {found[0].problem}" if found else where
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Refused(422, f"{first}{more}", errors=found[:100])


def shown(value: object) -> str:
    """Return a value as it is told back: short, and what has no UTF-8 replaced."""
    if isinstance(value, dict | list):
        return f"a {'map' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = value if isinstance(value, str) else repr(value)
    return text[:GOT_CHARS_MAX].encode(errors="replace").decode()
