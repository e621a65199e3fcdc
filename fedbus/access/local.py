"""Identities on the machine that has a workspace's keys: whoever may read those needs no token to take part.

    client run --name site-1 --> known? --yes--> its credentials
                                   | no, but the keys are here (`fedbus up` of the same user)
                                   v
                 new credentials --> the board of members, as the admin --> written, remembered

The board comes first: whoever was suspended or expelled there gets nothing, and what has been handed out can be taken
back like any other membership. A name that somebody has joined under from elsewhere stays theirs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

from fedbus.access import known
from fedbus.access.authority import Authority
from fedbus.access.claims import claims_of
from fedbus.access.credentials import Credentials, Trust, read_credentials, write_credentials
from fedbus.access.members import Members
from fedbus.bus.base import Bus
from fedbus.bus.nats import connect
from fedbus.clock import SystemClock
from fedbus.errors import BusDenied, ConfigError
from fedbus.messages.access import BusRole, Member
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

log = logging.getLogger("fedbus.access")

ENDING_S = 3600.0
"""Credentials that end sooner are made anew: a training may take longer than they last."""

REVOKED_MAX = 60
"""Keys of a member that are kept as revoked; its board has room for 64."""


async def admitted(url: str, workspace: str, role: str, name: str, *, home: Path | None = None) -> Path | None:
    """Return the credentials file of somebody at a broker; where its keys are on this machine one is made if need be.

    None where nothing is known of that broker, or of this name there. Raises `BusDenied` for a member that is suspended
    or expelled, `ConfigError` for a name that is a member's elsewhere, and what a bus raises that cannot be asked.
    """
    found = await asyncio.to_thread(known.find, url, workspace, role=role, name=name, home=home)
    keys = await asyncio.to_thread(known.keys_at, url, workspace, home=home)
    admin = await asyncio.to_thread(known.find, url, workspace, role="admin", home=home)
    if keys is None or admin is None:
        return found
    authority = await asyncio.to_thread(Authority.open, keys)
    if found is not None and await asyncio.to_thread(is_current, found, authority.trust(workspace)):
        return found
    ours = await asyncio.to_thread(read_credentials, admin)
    urls = tuple(part.strip() for part in url.split(","))
    made = await asyncio.to_thread(authority.issue, workspace, role, name, urls, ours.trust.ca)
    async with await connect(url, name="admission", credentials=admin) as bus:
        await enlist(bus, made, by=f"admin/{ours.name}")
    return await asyncio.to_thread(_keep, made, url, keys, home)


def is_current(path: Path, trust: Trust) -> bool:
    """Whether credentials are there that this workspace has signed and that do not end within an hour."""
    try:
        found = read_credentials(path)
    except ConfigError:
        return False
    same = (found.trust.account, dict(found.trust.signers), found.trust.model_key) == (
        trust.account,
        dict(trust.signers),
        trust.model_key,
    )
    return same and (not found.expires_at or found.expires_at > time.time() + ENDING_S)


async def enlist(bus: Bus, made: Credentials, *, by: str) -> Member:
    """Write on the board of members who was given credentials here; see `enlist_holder`."""
    return await enlist_holder(
        Members(bus, Subjects(made.claims.workspace), SystemClock()), made.jwt, time.time(), by=by
    )


async def sign_anew(bus: Bus, authority: Authority, workspace: str, *, by: str) -> None:
    """Sign all whose credentials lie beside the keys anew, by the keys that sign now.

    Their files then say, too, whose signatures count; processes that run read them again when they need to. Who was
    shut out, has joined from elsewhere since, or has another key by now, is left as it is.
    """
    members = Members(bus, Subjects(workspace), SystemClock())
    for path in sorted(credentials_dir(authority.directory, workspace).glob("*.creds")):
        try:
            made = await asyncio.to_thread(_signed_anew, path, authority, workspace)
            if made is not None:
                await _enlist_again(members, made, by)
                await asyncio.to_thread(write_credentials, path, made)
        except (BusDenied, ConfigError) as error:
            log.warning("%s stays as it is: %s", path, error)


async def _enlist_again(members: Members, made: Credentials, by: str) -> None:
    there = await members.read(Peer(made.role, made.name))
    if there is not None and there.key != made.claims.key:
        raise ConfigError("another key is known of that member")
    await enlist_holder(members, made.jwt, time.time(), by=by)


def _signed_anew(path: Path, authority: Authority, workspace: str) -> Credentials | None:
    """Return what is to stand in a file; None where it is of other keys."""
    kept = read_credentials(path)
    trust = authority.trust(workspace, kept.trust.urls, kept.trust.ca)
    if kept.trust.account != trust.account:
        return None
    jwt = authority.sign(workspace, kept.role, kept.name, kept.key.public, kept.expires_at)
    return replace(kept, jwt=jwt, trust=trust)


async def enlist_holder(members: Members, jwt: str, now: float, *, by: str) -> Member:
    """Write on the board of members who holds a JWT; the key that the member had before ends with it.

    Raises `BusDenied` for one that is suspended or expelled, `ConfigError` for one that has joined with a token.
    """
    claims = claims_of(jwt)
    role, name = claims.role, claims.name
    who = f"{role} {name} of workspace {claims.workspace}"
    signed = {"jwt": jwt, "issued_at": claims.issued_at, "expires_at": claims.expires_at}

    def decide(there: Member | None) -> Member | None:
        revoked: dict[str, float] = {}
        if there is not None:
            if there.state in ("suspended", "expelled"):
                why = f" ({there.reason})" if there.reason else ""
                raise BusDenied(f"{who} is {there.state}{why}: `fedbus member resume`, or take another name")
            if there.token or there.state == "waiting":
                raise ConfigError(f"{who} has joined from elsewhere: take another name, or expel that one first")
            if there.key == claims.key:
                return None if there.jwt == jwt else there.model_copy(update=signed)
            newest = sorted(there.revoked.items(), key=lambda one: one[1])[-REVOKED_MAX:]
            revoked = {**dict(newest), there.key: now}
        member = Member(
            role=cast("BusRole", role), name=name, key=claims.key, state="active", at=now, by=by, revoked=revoked
        )
        return member.model_copy(update=signed)

    return await members.change(Peer(role, name), decide)


def credentials_dir(keys: Path, workspace: str) -> Path:
    """Return where credentials are kept that were made with these keys: beside them, so that they go when those do."""
    return keys.parent / "credentials" / workspace


def _keep(made: Credentials, url: str, keys: Path, home: Path | None) -> Path:
    path = credentials_dir(keys, made.trust.workspace) / f"{made.role}.{made.name}.creds"
    if not os.access(keys.parent, os.W_OK):
        path = known.credentials_file(made.trust.workspace, made.role, made.name, made.trust.account, home=home)
    write_credentials(path, made)
    known.remember(url, made.trust.workspace, path, keys=keys, home=home)
    return path
