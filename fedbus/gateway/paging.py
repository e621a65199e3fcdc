"""Lists by pages: a cursor names the last item that was told, so what comes and goes meanwhile shifts nothing."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from fedbus.gateway.problems import Refused, shown
from fedbus.gateway.views import FieldProblem, Page, View

Item = TypeVar("Item", bound=View)

LIMIT_MAX = 500
"""Most items of one page: some hundred KB of the largest."""

CURSOR_CHARS_MAX = 1000


class Paged(BaseModel):
    """The query of a list; lists that can be filtered inherit it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = 100
    """Most items to return."""

    cursor: Annotated[str, Field(min_length=1, max_length=CURSOR_CHARS_MAX)] | None = None
    """Where to go on: `next` of the page before."""


def cursor_of(*parts: str | float) -> str:
    """Return an opaque cursor of some texts and numbers."""
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parts_of(cursor: str, *kinds: type[str | int | float]) -> list[str | float]:
    """Return what a cursor was made of; `Refused` with 404 where it is none of ours, of these kinds."""
    try:
        found = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    if not isinstance(found, list) or [type(one) for one in found] != list(kinds):
        problem = FieldProblem(
            where="query.cursor", problem="expected `next` of a page of this list", got=shown(cursor)
        )
        raise Refused(404, f"query.cursor: there is no such page: {problem.problem}", errors=[problem])
    return found


def page_of(items: Sequence[Item], query: Paged, key: Callable[[Item], str], *, descending: bool = False) -> Page[Item]:
    """Return a page of items sorted by a key that each has for itself; ``descending``: from large to small."""
    rest = list(items)
    if query.cursor is not None:
        (seen,) = parts_of(query.cursor, str)
        assert isinstance(seen, str)
        rest = [item for item in items if (key(item) < seen if descending else key(item) > seen)]
    found = rest[: query.limit]
    more = len(rest) > len(found)
    return Page[Item](items=tuple(found), next=cursor_of(key(found[-1])) if more else None, total=len(items))
