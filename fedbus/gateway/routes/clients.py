"""Clients: who is there, who was, and what each gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from fedbus.access.actions import Action
from fedbus.errors import NotFound
from fedbus.federation.contributions import Tally
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, cursor_of, parts_of
from fedbus.gateway.shapes import client_detail, client_view
from fedbus.gateway.views import ClientDetail, ClientView, Page
from fedbus.messages.ids import Peer
from fedbus.messages.queries import Seen

Pair = Annotated[str, Field(pattern=r"^[^:]{1,200}:.{0,200}$")]


class ClientsAsked(Paged):
    """Which clients."""

    online: bool | None = None
    """Only those that are there, or only those that are not."""

    text: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Only those with this text in their name."""

    attribute: Annotated[tuple[Pair, ...], Field(max_length=10)] = ()
    """Only those that are there with this attribute, `key:value`; of several, with all."""


async def list_clients(call: Call) -> Reply:
    """Clients that are there, or that a journal tells of, by name; to whom lacks `client.read-all`, her own."""
    query = call.asked(ClientsAsked)
    await call.gateway.sessions.wait()
    there = await _there(call)
    tallies = call.gateway.sessions.tallies
    wanted = _names(query, there, tallies) & _shown_to(call, {*there, *tallies})
    names = sorted(name for name in wanted if _is_meant(query, name, there.get(name)))
    seen = str(parts_of(query.cursor, str)[0]) if query.cursor is not None else ""
    rest = [name for name in names if name > seen]
    shown = rest[: query.limit]
    return Page[ClientView](
        items=tuple(client_view(name, there.get(name), tallies.get(name)) for name in shown),
        next=cursor_of(shown[-1]) if len(rest) > len(shown) else None,
        total=len(names),
    )


def _shown_to(call: Call, names: set[str]) -> set[str]:
    """Return those that whoever asks may see: all, or her own."""
    members = call.gateway.members
    if members is None or call.caller.may(Action.CLIENT_READ_ALL):
        return names
    return {one.name for one in members.all(role="client") if one.owner and one.owner == call.caller.name} & names


def _names(query: ClientsAsked, there: Mapping[str, Seen], tallies: Mapping[str, Tally]) -> set[str]:
    if query.online is None:
        return {*there, *tallies}
    return set(there) if query.online else set(tallies) - set(there)


def _is_meant(query: ClientsAsked, name: str, seen: Seen | None) -> bool:
    if query.text is not None and query.text.casefold() not in name.casefold():
        return False
    pairs = (pair.partition(":") for pair in query.attribute)
    return all(seen is not None and seen.attributes.get(key) == value for key, _, value in pairs)


async def _there(call: Call) -> Mapping[str, Seen]:
    """Return who is there, as the coordinator said it last; but nobody who was shut out since."""
    known = await call.gateway.presence.look()
    return {seen.name: seen for seen in known.clients if not _is_out(call, seen)}


def _is_out(call: Call, seen: Seen) -> bool:
    """Whether the broker has cut it off: the coordinator misses it only after some heartbeats."""
    member = Peer("crowd", seen.crowd) if seen.crowd else Peer("client", seen.name)
    known = call.gateway.members.get(member) if call.gateway.members is not None else None
    return known is not None and known.state != "active"


async def get_client(call: Call) -> Reply:
    """A client with its sums over all sessions and its newest contributions."""
    name = call.path["client"]
    await call.gateway.sessions.wait()
    seen = (await _there(call)).get(name)
    tally = call.gateway.sessions.tallies.get(name)
    if (seen is None and tally is None) or not _shown_to(call, {name}):
        raise NotFound(f"client {name}: it is not there, and no journal tells of it")
    return client_detail(name, seen, tally)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listClients", "GET", f"{API}/clients", "Clients that are there, or were", list_clients,
        "fedbus client list --json", "Federation.clients", query=ClientsAsked, answer=Page[ClientView],
        needs=Action.CLIENT_READ,
    ),
    Operation(
        "getClient", "GET", f"{API}/clients/{{client}}", "A client with what it gave", get_client,
        "fedbus client show CLIENT --json", "Federation.client", answer=ClientDetail, problems=(404,),
        needs=Action.CLIENT_READ,
    ),
)  # fmt: skip
