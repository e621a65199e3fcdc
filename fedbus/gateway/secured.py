"""What the routes of who may take part share: that the workspace is secured, and who decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from fedbus.access.members import Members
from fedbus.gateway.operations import Call
from fedbus.gateway.paging import Paged, cursor_of, parts_of
from fedbus.gateway.problems import Refused
from fedbus.gateway.views import Page, View

Item = TypeVar("Item", bound=View)

OPEN = (
    "this workspace is open: whoever reaches its broker may do everything, and nobody is asked who they are. "
    "`fedbus up` without --open makes a secured one; --keys and --credentials of a gateway secure a broker of your own"
)


async def members_of(call: Call) -> Members:
    """Return who takes part, once all that stood there is known; `Refused` with 409 in an open workspace."""
    members = call.gateway.members
    if members is None:
        raise Refused(409, OPEN, state="open")
    await members.caught_up()
    return members


def author_of(call: Call) -> str:
    """Return who is written down as the one who decides."""
    return call.caller.name or f"gateway/{call.gateway.name}"


def newest(items: Iterable[Item], query: Paged, at: Callable[[Item], float], id_: Callable[[Item], str]) -> Page[Item]:
    """Return a page of items, newest first; ``id_`` tells those of one moment apart."""
    found = sorted(items, key=lambda item: (at(item), id_(item)), reverse=True)
    rest = found
    if query.cursor is not None:
        seen = tuple(parts_of(query.cursor, float, str))
        rest = [item for item in found if (at(item), id_(item)) < seen]
    shown = rest[: query.limit]
    more = len(rest) > len(shown)
    following = cursor_of(at(shown[-1]), id_(shown[-1])) if more else None
    return Page[Item](items=tuple(shown), next=following, total=len(found))


def has_text(text: str | None, *where: str) -> bool:
    """Whether a text stands in one of some others, whatever the case; nothing to look for stands everywhere."""
    return text is None or any(text.casefold() in one.casefold() for one in where)
