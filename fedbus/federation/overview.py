"""Who is there, what waits, and how full the broker is, asked all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from fedbus.bus.base import Usage
from fedbus.errors import BusDenied, BusUnavailable
from fedbus.messages.queries import Seen, Wait
from fedbus.store.streams import streams_of
from fedbus.together import together

if TYPE_CHECKING:
    from fedbus.federation.service import Federation

Kind = Literal["clients", "combiners", "coordinators", "gateways"]
"""Whom the coordinator can be asked for."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What a coordinator said just now. ``leader``: the name of the coordinator that leads, empty where none does.

    Peers are as the coordinator knows them: a crowd is one, with ``members``. ``streams``: how full each stream of the
    workspace is, by its name.
    """

    clients: tuple[Seen, ...] = ()
    combiners: tuple[Seen, ...] = ()
    coordinators: tuple[Seen, ...] = ()
    gateways: tuple[Seen, ...] = ()
    waits: tuple[Wait, ...] = ()
    leader: str = ""
    streams: Mapping[str, Usage] = field(default_factory=dict)


async def overview_of(federation: Federation, deadline_s: float) -> Overview:
    """Ask for everything at once; `BusUnavailable` where it is not told within the deadline."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    try:
        async with asyncio.timeout(deadline_s), together() as group:
            peers = {what: group.create_task(federation.peers(what, deadline_s=deadline_s)) for what in kinds}
            waits = group.create_task(federation.waits(deadline_s=deadline_s))
            leader = group.create_task(federation.leader())
            streams = group.create_task(streams_of_workspace(federation, deadline_s))
    except TimeoutError as error:
        raise BusUnavailable(f"who is there was not told within {deadline_s:g} s: `fedbus doctor`") from error
    found = {what: tuple(task.result()) for what, task in peers.items()}
    return Overview(**found, waits=tuple(waits.result()), leader=leader.result(), streams=streams.result())


async def streams_of_workspace(federation: Federation, deadline_s: float) -> dict[str, Usage]:
    """Return how full each stream of the workspace is that is there, and that we may see."""

    async def ask(name: str) -> Usage | None:
        try:
            return await federation.bus.usage(name, deadline_s=deadline_s)
        except BusDenied:
            return None

    names = [spec.name for spec in streams_of(federation.subjects)]
    async with together() as group:
        asked = {name: group.create_task(ask(name)) for name in names}
    return {name: usage for name, task in asked.items() if (usage := task.result()) is not None}
