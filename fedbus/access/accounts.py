"""The accounts of a workspace at a broker: one with its streams, and a door for each role that is not to be among them.

    client's door   --chunks, announcements, reports, presence, spans: streams-------------> workspace's account
                    --questions, of JetStream too: services, answers come back mapped------>   streams, coordinator,
                    <-tasks, how uploads stand, acknowledgements: streams-------------------   combiners, gateways,
    viewer's door   --the same for what a viewer may------------------------------------>      admins
    ...

Nobody at a door can have a broker's answer land where streams listen. A nats-server looks an answer's subject up in the
account that has asked: it delivers nothing of it to those who import streams from there, and what passes on as a
question under a pattern bears the answer's own, mapped name, which nobody takes. Names stay guarded by the template of
each role (`fedbus.access.permissions`): accounts know roles.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fedbus.access import claims
from fedbus.access.keys import Key
from fedbus.access.permissions import AT_THE_DOOR, ROLES, Door, door, has_many, template, widest

ANSWER_S = 60.0
"""For so long a broker remembers where an answer goes that does not come: all who ask have given up by then. Of its
own accord it does for two minutes, some 800 bytes each."""

CONNECTIONS_MAX: Mapping[str, int] = {
    "client": 15_000,
    "crowd": 1_000,
    "engineer": 1_000,
    "viewer": 500,
    "auditor": 200,
    "joiner": 500,
}
"""Of a role at its door. Together they leave some to the roles inside, of the 20,000 files that a process may often
have open and of the 65,536 connections of a nats-server. A quota of clients says more, or less (`connections_for`)."""

SUBSCRIPTIONS_MAX: Mapping[str, int] = {
    "client": 100,
    "engineer": 1_000,
    "viewer": 1_000,
    "auditor": 1_000,
    "joiner": 10,
}
"""Of one connection, each some 300 bytes of a broker's memory: a client has six, who follows a stream one for each."""

PAYLOAD_BYTES_MAX: Mapping[str, int] = {"joiner": 2**16}
"""Of one message, below what the broker takes: whoever has a token only sends a question of some hundred bytes."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """What the JWTs of a workspace's accounts are made of; keys are public.

    ``inside``, ``doors``: the accounts, by role. ``signers``: keys that sign members, by role. ``revoked``: see
    `Authority.revoke`; ``holders``: the roles of those keys, as far as they are known. ``bytes_max``,
    ``connections_max`` (of clients): 0, the default. ``also_inside``: roles whose members were signed into the
    workspace's own account by an earlier release, and are let in there as well.
    """

    name: str
    inside: str
    doors: Mapping[str, str]
    signers: Mapping[str, Sequence[str]]
    issued_at: float
    revoked: Mapping[str, float] = field(default_factory=dict)
    holders: Mapping[str, str] = field(default_factory=dict)
    bytes_max: int = 0
    connections_max: int = 0
    also_inside: Collection[str] = ()


def account_jwts(operator: Key, of: Workspace) -> dict[str, str]:
    """Return the JWTs of all its accounts by public key, the one with the streams first."""
    return {of.inside: _inside(operator, of), **{of.doors[role]: _door(operator, of, role) for role in AT_THE_DOOR}}


def connections_for(clients_max: int) -> int:
    """Return how many connections clients may have where so many may be members; 0: the default.

    Each may have a second one, as a dead one lives on at the broker for some minutes.
    """
    return 2 * clients_max + 100 if clients_max else 0


@lru_cache(maxsize=64)
def _through(workspace: str) -> tuple[Mapping[str, Door], tuple[str, ...], tuple[str, ...]]:
    """Return the doors, and what of all of them is asked and heard: it takes longer than all else of a JWT."""
    doors = {role: door(role, workspace) for role in AT_THE_DOOR}
    asked = widest(pattern for one in doors.values() for pattern in one.asked)
    return doors, asked, widest(pattern for one in doors.values() for pattern in one.heard)


def _inside(operator: Key, of: Workspace) -> str:
    doors, asked, heard = _through(of.name)
    roles = [role for role in ROLES if role not in AT_THE_DOOR or role in of.also_inside]
    return claims.account_jwt(
        operator,
        of.inside,
        of.name,
        of.issued_at,
        scopes=_scopes(of, roles),
        revoked=_revoked(of, roles),
        jetstream_bytes=(-1, of.bytes_max or -1),
        exports=claims.exported(asked, heard, many=[one for one in asked if has_many(one)], answer_s=ANSWER_S),
        imports=[one for role, passes in doors.items() for one in claims.imported(of.doors[role], heard=passes.said)],
    )


def _door(operator: Key, of: Workspace, role: str) -> str:
    passes = _through(of.name)[0][role]
    wanted = of.connections_max if role == "client" else 0
    return claims.account_jwt(
        operator,
        of.doors[role],
        f"{of.name} {role} door",
        of.issued_at,
        scopes=_scopes(of, [role]),
        revoked=_revoked(of, [role]),
        connections_max=wanted or CONNECTIONS_MAX[role],
        leaves_max=0,
        exports=claims.exported(heard=passes.said),
        imports=claims.imported(of.inside, passes.asked, passes.heard),
    )


def _revoked(of: Workspace, roles: Sequence[str]) -> dict[str, float]:
    """Return the keys of these roles: an account that is told anew forgets whom it was about to answer."""
    return {key: at for key, at in of.revoked.items() if of.holders.get(key, roles[0]) in roles}


def _scopes(of: Workspace, roles: Sequence[str]) -> list[dict[str, Any]]:
    made = []
    for role in roles:
        may = template(role, of.name)
        bounds = {"subs": SUBSCRIPTIONS_MAX.get(role, -1), "payload": PAYLOAD_BYTES_MAX.get(role, -1)}
        made += [claims.scope(key, role, may.publish, may.subscribe, **bounds) for key in of.signers[role]]
    return made
