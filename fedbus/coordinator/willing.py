"""Who may be asked: a client whose owner has declined a session is not asked again before something has changed.

What a client declined stands in the journal, with a digest of what its owner had decided then, and perhaps until when.
It is asked again when its `Hello` has another digest, or when that time has come. So a refusal costs one round one
update, and no later round anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedbus.coordinator.known import Known
from fedbus.messages.reasons import by_reason
from fedbus.messages.records import RefusedUpdate

Declined = Mapping[str, RefusedUpdate]
"""Clients, each with what it declined with last."""


def willing(known: Known, clients: Iterable[str], declined: Declined, now: float) -> list[str]:
    """Return those of the clients that have not declined, or may have changed their minds, in their order."""
    if not declined:
        return list(clients)
    return [client for client in clients if not declines(known, declined.get(client), now)]


def declines(known: Known, declined: RefusedUpdate | None, now: float) -> bool:
    """Whether what a client declined with still holds."""
    if declined is None or known.policy(declined.client) != declined.policy:
        return False
    return not declined.until_at or now < declined.until_at


def decliners_text(known: Known, clients: Iterable[str], declined: Declined, now: float) -> str:
    """Say who of the clients declines, and why: ``2 decline: a, b: not at night``; empty where nobody does."""
    reasons = {name: declined[name].reason for name in clients if declines(known, declined.get(name), now)}
    return f"{len(reasons)} decline: {by_reason(reasons)}" if reasons else ""
