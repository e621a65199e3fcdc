"""Who of us somebody is whom an OIDC provider vouches for: a person who is known, or one who is added now.

Known is somebody by ``<issuer>#<sub>``, which a provider gives to nobody else; never by a name or an address, which
somebody else may have tomorrow. Where groups decide about roles (``--oidc-role-map``), the provider's word is written
down at each sign-in, and somebody who is in a group is added when she comes for the first time. Where they do not, a
person has to have been added here.

Somebody whom the provider knows and we should not let in is *suspended*, not removed: who was removed is new again.
"""

from __future__ import annotations

from blake3 import blake3

from fedbus.access.members import Members
from fedbus.errors import Conflict
from fedbus.gateway.oidc import Identity, SignInRefused
from fedbus.messages.access import Person

BY = "oidc"
"""Who has added a person, or changed her roles, where a provider's groups say so."""

RESERVED = ("anonymous", BY)
"""Names that the audit gives a meaning of their own."""


async def person_of(members: Members, identity: Identity) -> Person:
    """Return the person; `SignInRefused` where she may not come in."""
    known = members.people.by_subject(identity.subject)
    if known is None:
        return await _added(members, identity)
    if known.state != "active":
        raise SignInRefused("suspended", f"{known.name} is {known.state}")
    if identity.roles is None or set(identity.roles) == set(known.roles):
        return known
    if not identity.roles:
        raise SignInRefused("unknown", f"{known.name} is in no group any more that means something here")
    return await members.people.change(known.name, by=BY, roles=identity.roles)


async def _added(members: Members, identity: Identity) -> Person:
    if not identity.roles:
        raise SignInRefused("unknown", f"nobody here is {identity.subject} (`fedbus person add --login`)")
    for name in _names(identity):
        try:
            return await members.people.add(name, identity.roles, by=BY, subjects=(identity.subject,))
        except Conflict:
            found = members.people.get(name)
            if found is not None and identity.subject in found.subjects and found.state == "active":
                return found  # another gateway has added her at the same moment
    raise SignInRefused("unknown", f"all names for {identity.subject} are those of others")


def _names(identity: Identity) -> tuple[str, ...]:
    """Return how somebody may be called here: as the provider calls her, unless that is somebody else's name."""
    mark = blake3(identity.subject.encode()).hexdigest()[:8]
    own = identity.name if identity.name and identity.name.lower() not in RESERVED else ""
    return (own, f"{own}.{mark}") if own else (f"oidc.{mark}",)
