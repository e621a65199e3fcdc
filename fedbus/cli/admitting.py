"""Who takes part, from the command line: tokens, members, people, bounds, as an admin decides about them.

Whoever decides has credentials of an admin; what is decided goes onto the boards and into the audit. Nothing here needs
the keys of the workspace, but `workspaces`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from fedbus.access import known
from fedbus.access.actions import Action
from fedbus.access.audit import Audit
from fedbus.access.credentials import Credentials, read_credentials
from fedbus.access.members import Members
from fedbus.access.tokens import state_word
from fedbus.bus.nats import connect
from fedbus.bus.tls import split_url, told_to_others
from fedbus.cli.output import duration, moment, print_json, print_table, size
from fedbus.cli.roles import Place
from fedbus.clock import SystemClock
from fedbus.errors import ConfigError, NotFound
from fedbus.messages.access import Member, Person, TokenState, WorkspaceBounds
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Office:
    """Where an admin decides; ``by``: as who she is written down."""

    members: Members
    audit: Audit
    credentials: Credentials
    by: str

    async def note(self, action: Action, target: str, reason: str = "", **details: object) -> None:
        """Write down what was decided."""
        await self.audit.write(action, by=self.by, target=target, origin="local", reason=reason, details=details)


@asynccontextmanager
async def office_of(place: Place) -> AsyncIterator[Office]:
    """Connect as the admin whose credentials were given, or are remembered; what she did is written down at the end.

    `ConfigError` where there are none: the workspace is open, or others decide about it.
    """
    path: str | Path | None = place.credentials
    path = path or await asyncio.to_thread(known.find, place.url, place.workspace, role="admin")
    if path is None:
        raise ConfigError(
            f"who takes part in workspace {place.workspace} is decided by its admins: give --credentials FILE of one "
            f"(`fedbus up` and `fedbus workspace create` make one); in an open workspace there is nothing to decide"
        )
    credentials = await asyncio.to_thread(read_credentials, path)
    async with await connect(place.url, name=f"admin-{credentials.name}", credentials=path) as bus:
        subjects, clock = Subjects(place.workspace), SystemClock()
        audit = Audit(bus, subjects, Peer(credentials.role, credentials.name), clock)
        try:
            yield Office(Members(bus, subjects, clock), audit, credentials, f"{credentials.role}/{credentials.name}")
        finally:
            await audit.finish()


# --- tokens ---


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token to be; ``urls``: under which addresses machines reach the broker, () for those of the admin."""

    role: str
    name: str = ""
    expires_s: float = 3600.0
    uses: int = 1
    approval: Literal["auto", "ask"] | None = None
    owner: str = ""
    urls: tuple[str, ...] = ()


async def create_token(place: Place, wanted: Wanted, *, json: bool) -> None:
    """Make a token to join with, and print it: the only time that it is seen."""
    async with office_of(place) as office:
        tokens = office.members.tokens
        new = await tokens.create_join(
            wanted.role,
            by=office.by,
            name=wanted.name,
            expires_s=wanted.expires_s,
            uses_max=wanted.uses,
            approval=wanted.approval,
            owner=wanted.owner,
        )
        trust = office.credentials.trust
        here, ca = await asyncio.to_thread(told_to_others, place.url)
        urls = wanted.urls or trust.urls or here
        text = await tokens.join_text(new, urls, trust.ca or ca)
        await office.note(Action.TOKEN_CREATE, new.state.id, what="join", role=wanted.role, name=wanted.name)
    _print_new(new.state, text, f"fedbus join {text}", json=json)
    if not json and all(urlsplit(url if "://" in url else f"nats://{url}").hostname in LOOPBACK for url in urls):
        print(
            f"it is good on this machine only ({', '.join(urls)}): --url says where others reach the broker",
            file=sys.stderr,
        )
    if not json and split_url(place.url)[1].certificate is not None:
        print(
            "the broker asks for a certificate, and may ask theirs: `fedbus certs client NAME` makes it; they join "
            "with `fedbus --tls-cert NAME.pem --tls-key NAME-key.pem join ...`",
            file=sys.stderr,
        )


async def create_api_token(place: Place, role: str, person: str, expires_s: float, *, json: bool) -> None:
    """Make a bearer for a gateway, and print it: the only time that it is seen."""
    async with office_of(place) as office:
        await office.members.load()
        if person and office.members.people.get(person) is None:
            raise NotFound(f"{person}: there is nobody of this name; `fedbus person add` makes her known")
        new = await office.members.tokens.create_api(role, by=office.by, person=person, expires_s=expires_s)  # type: ignore[arg-type]  # checked there
        await office.note(Action.TOKEN_CREATE, new.state.id, what="api", role=role, name=person)
    _print_new(new.state, new.api_text, new.api_text, json=json)


def _print_new(state: TokenState, text: str, line: str, *, json: bool) -> None:
    if json:
        print_json({**_token(state), "text": text})
        return
    print(line)
    until = f"until {moment(state.expires_at)}" if state.expires_at else "without an end"
    uses = "" if state.what == "api" else f", {state.uses_max or 'any number of'} use{'s' * (state.uses_max != 1)}"
    asks = ", each has to be approved" if state.approval == "ask" and state.what == "join" else ""
    print(f"token {state.id} for a {state.role}: {until}{uses}{asks}; it is shown this once", file=sys.stderr)


async def list_tokens(place: Place, *, json: bool) -> None:
    """Print tokens, oldest first; never their secrets, which nobody has kept."""
    async with office_of(place) as office:
        await office.members.load()
        found = office.members.tokens.all()
    if json:
        print_json([_token(state) for state in found])
        return
    now = SystemClock().now()
    rows = [
        (
            state.id,
            state.what,
            state.role,
            state.name or "-",
            state_word(state, now),
            f"{len(state.used_by)}/{state.uses_max or '-'}" if state.what == "join" else "-",
            moment(state.expires_at),
            state.by,
            moment(state.at),
        )
        for state in found
    ]
    columns = ("token", "for", "role", "name", "state", "used", "expires", "by", "made")
    print_table(columns, rows, empty="no tokens were handed out; fedbus token create makes one")


async def revoke_token(place: Place, token: str, reason: str, *, json: bool) -> None:
    """Let nobody in by a token any more."""
    async with office_of(place) as office:
        state = await office.members.tokens.revoke(token, by=office.by, reason=reason)
        await office.note(Action.TOKEN_REVOKE, token, reason)
    if json:
        print_json(_token(state))
    else:
        print(f"token {state.id} is revoked; who has come in by it stays: fedbus member list")


def _token(state: TokenState) -> dict[str, Any]:
    """Return what is told of a token: neither its digest nor what a joiner needs."""
    told = state.model_dump(mode="json", exclude={"digest", "jwt"})
    return {**told, "state": state_word(state, SystemClock().now()), "used_by": list(state.used_by)}


# --- members ---


async def list_members(place: Place, role: str, state: str, *, json: bool) -> None:
    """Print who has an identity at the broker."""
    async with office_of(place) as office:
        await office.members.load()
        found = office.members.all(role=role, state=state)
    if json:
        print_json([_member(member) for member in found])
        return
    now = SystemClock().now()
    rows = [
        (
            member.role,
            member.name,
            member.state,
            member.by,
            moment(member.at),
            f"in {duration(member.expires_at - now)}"
            if member.expires_at > now
            else ("over" if member.expires_at else "-"),
            member.owner or "-",
            member.reason or "-",
        )
        for member in found
    ]
    columns = ("role", "name", "state", "by", "since", "ends", "owner", "reason")
    print_table(columns, rows, empty="no such members; fedbus token create lets one in")


async def show_member(place: Place, member: Peer, *, json: bool) -> None:
    """Print all that is known of a member."""
    async with office_of(place) as office:
        found = await office.members.read(member)
    if found is None:
        raise NotFound(
            f"{member.role} {member.name}: there is no such member; `fedbus member list` shows those that exist"
        )
    if json:
        print_json(_member(found))
        return
    lines = (
        ("role", found.role),
        ("name", found.name),
        ("state", f"{found.state}{f': {found.reason}' if found.reason else ''}"),
        ("since", f"{moment(found.at)}, by {found.by}"),
        ("key", found.key),
        ("signed", moment(found.issued_at)),
        ("ends", moment(found.expires_at)),
        ("token", found.token or "-"),
        ("owner", found.owner or "-"),
        ("attributes", " ".join(f"{key}={value}" for key, value in sorted(found.attributes.items())) or "-"),
        ("old keys", ", ".join(found.revoked) or "-"),
    )
    for name, value in lines:
        print(f"{name:10s} {value}")


Deed = Literal["approve", "suspend", "resume", "expel"]

SAID: dict[Deed, tuple[Action, str]] = {
    "approve": (Action.MEMBER_APPROVE, "may come in: it is let in when it asks again, within seconds"),
    "suspend": (Action.MEMBER_SUSPEND, "is shut out until it is resumed"),
    "resume": (Action.MEMBER_RESUME, "may come back, with the credentials that it has"),
    "expel": (Action.MEMBER_EXPEL, "is shut out for good"),
}


async def decide(place: Place, deed: Deed, member: Peer, reason: str, *, json: bool) -> None:
    """Do one of the deeds of `Members` to a member."""
    action, said = SAID[deed]
    async with office_of(place) as office:
        found: Member = await getattr(office.members, deed)(member, by=office.by, reason=reason)
        await office.note(action, f"{member.role}/{member.name}", reason)
    if json:
        print_json(_member(found))
    else:
        print(f"{member.role} {member.name} {said}")


def _member(member: Member) -> dict[str, Any]:
    return member.model_dump(mode="json", exclude={"jwt"})


# --- people ---


async def list_people(place: Place, *, json: bool) -> None:
    """Print who may use the gateways."""
    async with office_of(place) as office:
        await office.members.load()
        found = office.members.people.all()
    if json:
        print_json([_person(one) for one in found])
        return
    rows = [
        (one.name, ", ".join(one.roles), one.state, " ".join(one.subjects) or "-", one.by, moment(one.at))
        for one in found
    ]
    columns = ("name", "roles", "state", "login", "by", "since")
    print_table(columns, rows, empty="nobody is known; fedbus person add makes somebody known")


async def add_person(place: Place, name: str, roles: Sequence[str], subjects: Sequence[str], *, json: bool) -> None:
    """Let a person use the gateways."""
    async with office_of(place) as office:
        person = await office.members.people.add(name, roles, by=office.by, subjects=subjects)
        await office.note(Action.PERSON_ADD, name, roles=", ".join(person.roles))
    _print_person(person, json=json)


async def set_person(
    place: Place,
    name: str,
    roles: Sequence[str] | None,
    subjects: Sequence[str] | None,
    state: str | None,
    *,
    json: bool,
) -> None:
    """Change what is given of a person."""
    async with office_of(place) as office:
        person = await office.members.people.change(
            name,
            by=office.by,
            roles=roles,
            subjects=subjects,
            state=state,  # type: ignore[arg-type]  # checked there
        )
        await office.note(Action.PERSON_CHANGE, name, roles=", ".join(person.roles), state=person.state)
    _print_person(person, json=json)


async def remove_person(place: Place, name: str, *, json: bool) -> None:
    """Let a person in no more."""
    async with office_of(place) as office:
        was = await office.members.people.remove(name, by=office.by)
        await office.note(Action.PERSON_REMOVE, name)
    if json:
        print_json(_person(was))
    else:
        print(f"{name} is let in no more")


def _print_person(person: Person, *, json: bool) -> None:
    if json:
        print_json(_person(person))
    else:
        print(f"{person.name}: {', '.join(person.roles)}, {person.state}")


def _person(person: Person) -> dict[str, Any]:
    """Return a person without where she is signed in: from which address is her business, and the ids are cookies'."""
    return person.model_dump(mode="json", exclude={"signed_in", "ended"})


# --- bounds ---


async def show_bounds(place: Place, *, json: bool) -> None:
    """Print what a workspace may use, and what it uses."""
    async with office_of(place) as office:
        await office.members.load()
        bounds, clients = office.members.bounds, office.members.active_clients()
    _print_bounds(place.workspace, bounds, clients, json=json)


async def set_bounds(place: Place, told: dict[str, Any], *, json: bool) -> None:
    """Change what is given of what a workspace may use."""
    if all(value is None for value in told.values()):
        raise ConfigError("expected --clients-max, --sessions-max, --bytes-max or --approval")
    async with office_of(place) as office:
        bounds = await office.members.set_bounds(by=office.by, **told)
        given = {name: value for name, value in told.items() if value is not None}
        await office.note(Action.WORKSPACE_SET, place.workspace, **given)
        await office.members.load()
        clients = office.members.active_clients()
    _print_bounds(place.workspace, bounds, clients, json=json)


def _print_bounds(workspace: str, bounds: WorkspaceBounds, clients: int, *, json: bool) -> None:
    if json:
        print_json({"workspace": workspace, "clients": clients, **bounds.model_dump(mode="json")})
        return
    print(f"workspace  {workspace}")
    print(f"clients    {clients} active, {f'at most {bounds.clients_max}' if bounds.clients_max else 'any number'}")
    print(f"sessions   {f'at most {bounds.sessions_max}' if bounds.sessions_max else 'any number'} at once")
    print(f"bytes      {f'at most {size(bounds.bytes_max)}' if bounds.bytes_max else 'as many as the broker has'}")
    print(f"approval   {bounds.approval}")
