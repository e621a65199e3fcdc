"""Whether a broker lets us in, and lets us do what our role needs: what `fedbus doctor` says of credentials.

    the file -> its time -> its workspace -> the broker's answer -> each subject that the role has to hear

A nats-server tells a stranger no more than "Authorization Violation". Why it refuses is found out here: in the
credentials, and in the keys of its authority where those are on this machine.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from stat import S_IRGRP, S_IROTH

from fedbus.access import known
from fedbus.access.authority import Authority
from fedbus.access.claims import ENDED_AT
from fedbus.access.credentials import Credentials, read_credentials
from fedbus.access.permissions import Permissions, permissions
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.identity import identify_by
from fedbus.bus.patterns import matcher
from fedbus.cli.output import duration
from fedbus.cli.reaching import BrokenError
from fedbus.cli.roles import Place
from fedbus.errors import BusDenied, BusError, ConfigError, FedbusError

JOIN = "get new ones: `fedbus join TOKEN`, with a token from the operator"

CLOCK_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Who we are at a broker. ``path`` None: nobody; ``credentials`` None: NATS' own, which say no more than that."""

    path: Path | None = None
    credentials: Credentials | None = None

    @property
    def permissions(self) -> Permissions | None:
        """What we may do there; None where that is not known: everything, or what its operator has written."""
        if self.credentials is None:
            return None
        claims = self.credentials.claims
        return permissions(claims.role, claims.workspace, claims.name)

    def may_publish(self, subject: str) -> bool:
        """Whether our role may publish there."""
        allowed = self.permissions
        return allowed is None or any(matcher(pattern)(subject) for pattern in allowed.publish)

    @property
    def exposed(self) -> str:
        """What is to be said of a file that others of this machine can read; '' of one that is its owner's alone."""
        if self.path is None or not self.path.stat().st_mode & (S_IRGRP | S_IROTH):
            return ""
        return f"; others can read {self.path}, and whoever has it is that member: chmod 600"

    def __str__(self) -> str:
        """Show who it is, and until when."""
        if self.credentials is None:
            return "nobody" if self.path is None else f"credentials of NATS' own, {self.path}"
        claims = self.credentials.claims
        ends = f"for another {duration(claims.expires_at - time.time())}" if claims.expires_at else "without an end"
        return f"{claims.role} {claims.name} of workspace {claims.workspace}, {ends}"


def standing_of(place: Place) -> Standing:
    """Read the credentials that are given, or known for that broker; `BrokenError` where they can be of no use."""
    try:
        path = Path(place.credentials) if place.credentials else known.find(place.url, place.workspace)
    except ConfigError as error:
        raise BrokenError(str(error), "") from error
    if path is None:
        return Standing()
    try:
        found = read_credentials(path)
    except ConfigError as error:
        if "but not of fedbus" in str(error):
            return Standing(path)
        raise BrokenError(str(error), JOIN) from error
    claims, now = found.claims, time.time()
    if claims.workspace != place.workspace:
        advice = f"say --workspace {claims.workspace}, or give the credentials of {place.workspace}"
        raise BrokenError(f"{path} is of workspace {claims.workspace}, not of {place.workspace}", advice)
    if claims.expires_at and claims.expires_at <= now:
        advice = f"look at this machine's clock; else {JOIN}"
        raise BrokenError(f"{path}: expired {duration(now - claims.expires_at)} ago", advice)
    return Standing(path, found)


async def enter(connection: Connection, place: Place, standing: Standing, deadline_s: float) -> None:
    """Connect as who we are; `BrokenError` says why the broker refuses."""
    try:
        await connection.open(
            identify=identify_by(standing.path), tls=None, inbox_prefix="_INBOX", deadline_s=deadline_s
        )
    except BusDenied as error:
        raise await asyncio.to_thread(_refused, place, standing, error) from error
    except (BusError, ConfigError) as error:
        raise BrokenError(str(error), "is a broker there? `fedbus up` starts one") from error


def _refused(place: Place, standing: Standing, error: BusDenied) -> BrokenError:
    told = str(error).lower()
    if standing.path is None:
        found = "the broker asks who we are, and no credentials are known for it here"
        advice = "`fedbus join TOKEN` with a token from the operator, or --credentials FILE"
        return BrokenError(found, f"{advice}; beside `fedbus up` be the user who runs it")
    if "expired" in told:
        return BrokenError(f"{standing.path}: expired, by the broker's clock", f"compare the clocks; else {JOIN}")
    if standing.credentials is None:
        return BrokenError(f"{standing.path}: the broker refuses them", "ask whoever has issued them")
    who = f"{standing.credentials.role} {standing.credentials.name}"
    why = _why(place, standing.credentials)
    if why:
        return BrokenError(f"{who}: {why}", JOIN)
    if "revoked" in told:
        return BrokenError(f"{who}: revoked", f"ask the operator why (`fedbus member show`); then {JOIN}")
    found = f"{who}: the broker refuses it: revoked, or signed by keys that are not those of this broker"
    return BrokenError(
        found, f"ask the operator (`fedbus member list` shows who is suspended or expelled); else {JOIN}"
    )


def _why(place: Place, credentials: Credentials) -> str:
    """Return what the keys of the broker's authority say about it, where we have them; else nothing."""
    try:
        keys = place.keys or known.keys_at(place.url, place.workspace)
        if keys is None:
            return ""
        authority, claims = Authority.open(keys), credentials.claims
        if authority.trust(claims.workspace).account != credentials.trust.account:
            return "signed by other keys than those of this broker"
        since = authority.revoked(claims.workspace).get(claims.key, -1.0)
    except FedbusError:
        return ""
    if since >= ENDED_AT:
        return "shut out for good"
    return f"revoked {duration(time.time() - since)} ago" if since >= claims.issued_at else ""


class Permitted:
    """Tries whether a broker lets a member hear what its role has to hear: it subscribes to each, and takes nothing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._denied: list[str] = []

    async def check(self, standing: Standing, deadline_s: float) -> str:
        """Return how many subjects were tried; `BrokenError` names those that were denied."""
        allowed = standing.permissions
        if allowed is None:
            return "everything" if standing.path is None else "not known: that is for its operator to say"
        self._connection.listeners.append(self)
        try:
            received = await self._connection.receive(allowed.subscribe, lambda _message: None)
            await self._connection.flush(deadline_s)  # a refusal comes before the answer to it
            await self._connection.ignore(received)
        finally:
            self._connection.listeners.remove(self)
        if self._denied:
            advice = "the workspace's account at the broker is of another release: start `fedbus up` there anew"
            raise BrokenError(f"denied: {', '.join(self._denied[:3])}", advice)
        role = standing.credentials.role if standing.credentials is not None else "member"
        return f"to hear all that is for the role {role}"

    def on_reconnected(self) -> None:
        """Take no notice."""

    def on_closed(self, reason: BusError) -> None:
        """Take no notice: whoever waits is told."""

    def on_denied(self, action: str, subject: str, reason: BusDenied) -> None:  # noqa: ARG002 - a listener is told it
        """Note what was denied."""
        self._denied.append(f"{action} of {subject}")


def check_clock(standing: Standing) -> str:
    """Compare our clock with when our credentials were signed; `BrokenError` where that lies in the future."""
    if standing.credentials is None:
        return ""
    ahead = standing.credentials.claims.issued_at - time.time()
    if ahead > CLOCK_S_MAX:
        raise BrokenError(
            f"our credentials were signed {duration(ahead)} from now", "let NTP set the clocks: deadlines are wall time"
        )
    return "not before our credentials were signed"
