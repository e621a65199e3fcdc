"""What the shell may complete: names of sessions, versions, clients, strategies, codecs, selections.

Whoever presses Tab waits for this: a broker that does not answer within `ANSWER_S_MAX` is one without names, and
nothing is ever said, for it would stand in the middle of the command that is being typed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import typer

from fedbus.cli.environment import URL, choose_home, environ
from fedbus.errors import FedbusError

if TYPE_CHECKING:
    from fedbus.federation.service import Federation

ANSWER_S_MAX = 1.5
"""From the connection to the names; longer than that, a person types on."""

NAMES_MAX = 200
"""A shell asks before it lists more."""


def sessions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of sessions, the newest first."""
    return _asked(ctx, incomplete, _sessions)


async def _sessions(federation: Federation) -> Iterable[str]:
    subjects = federation.subjects
    newest = await federation.bus.newest(subjects.stream("journal"), subjects.journal("*"), deadline_s=ANSWER_S_MAX)
    newest.sort(key=lambda message: -message.sequence)
    return [message.subject.rpartition(".")[2] for message in newest]


def versions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return published versions, the newest first."""
    return _asked(ctx, incomplete, _versions)


async def _versions(federation: Federation) -> Iterable[str]:
    return [entry.version for entry in reversed(await federation.models.list())]


def stages(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of stages."""
    return _asked(ctx, incomplete, _stages)


async def _stages(federation: Federation) -> Iterable[str]:
    return [stage.stage for stage in await federation.registry.stages()]


def clients(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of clients that are there."""
    return _asked(ctx, incomplete, _clients)


async def _clients(federation: Federation) -> Iterable[str]:
    return [seen.name for seen in await federation.clients()]


def strategies(incomplete: str) -> list[str]:
    """Return names of strategies; behind a ``+`` those that may go on a chain."""
    from fedbus.aggregation.registry import REGISTRY

    chain, plus, begun = incomplete.rpartition("+")
    return _beginning((f"{chain}{plus}{name}" for name in REGISTRY.names()), f"{chain}{plus}{begun}")


def codecs(incomplete: str) -> list[str]:
    """Return names of codecs."""
    from fedbus.codecs.registry import REGISTRY

    return _beginning(REGISTRY.names(), incomplete)


def selections(incomplete: str) -> list[str]:
    """Return names of selections."""
    from fedbus.selection.registry import REGISTRY

    return _beginning(REGISTRY.names(), incomplete)


def _asked(ctx: typer.Context, incomplete: str, ask: Callable[[Federation], Awaitable[Iterable[str]]]) -> list[str]:
    """Ask the federation that the line so far, or the environment, names; nothing where it does not answer."""
    from fedbus.cli.listing import federation_of
    from fedbus.cli.roles import Place

    choose_home()

    def given(name: str, variable: str, default: str) -> str:
        return str(ctx.params.get(name) or environ().get(variable) or default)

    place = Place(
        given("nats", "FEDBUS_URL", URL),
        given("workspace", "FEDBUS_WORKSPACE", "default"),
        given("credentials", "FEDBUS_CREDENTIALS", "") or None,
    )

    async def names() -> Iterable[str]:
        async with asyncio.timeout(ANSWER_S_MAX), federation_of(place) as federation:
            return await ask(federation)

    logging.disable()
    try:
        return _beginning(asyncio.run(names()), incomplete)
    except (FedbusError, OSError):  # a TimeoutError is one
        return []


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)][:NAMES_MAX]
