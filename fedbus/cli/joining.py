"""`fedbus join`: from a token that somebody has sent to credentials of one's own; and renewing them later."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedbus.access import known
from fedbus.access.credentials import Credentials, write_credentials
from fedbus.access.joining import Refused, Request, join, request_file
from fedbus.access.keys import Key
from fedbus.access.renewal import renew as renewed
from fedbus.access.tokens import JoinToken
from fedbus.bus.nats import connect
from fedbus.bus.nats.connection import without_secrets
from fedbus.cli.environment import host_name
from fedbus.cli.output import duration, moment, print_json
from fedbus.cli.roles import Place
from fedbus.clock import SystemClock
from fedbus.errors import ConfigError
from fedbus.messages.ids import check_name

_RUNS = {"client": "client run MODULE:APP"} | {role: role for role in ("combiner", "coordinator", "gateway")}
"""What is run by whom, with the credentials that were got: they are found by role and name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to join: under which name ('': the token's, or this machine's), with which attributes, into which file.

    ``by_way``: makes of a broker's URL one that names how this machine reaches it (proxy, files for TLS).
    """

    name: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None
    by_way: Callable[[str], str | None] = str


async def take_token(text: str, wanted: Wanted, *, json: bool) -> None:
    """Join with a token, wait while a person has to approve, and keep the credentials."""
    token = JoinToken.read(text)
    kept = request_file(known.home_dir(), token)
    request = await asyncio.to_thread(_request, kept, token, wanted)
    _say(f"joining workspace {token.workspace} as {token.role} {request.name}, at {', '.join(token.urls)}")
    _say(f"key: {_grouped(Key.of(request.seed).public)}  (whoever approves sees the same)")
    try:
        credentials = await join(request, tell=_say, url=wanted.by_way(",".join(token.urls)))
    except Refused:
        await asyncio.to_thread(kept.unlink, missing_ok=True)
        raise
    except asyncio.CancelledError:
        _say("what was asked for is kept: the same command goes on with it")
        raise
    path = wanted.out or known.credentials_file(
        token.workspace, credentials.role, credentials.name, credentials.trust.account
    )
    await asyncio.to_thread(_keep, path, credentials, token)
    await asyncio.to_thread(kept.unlink, missing_ok=True)
    _tell_joined(path, credentials, token, json=json)


def _request(kept: Path, token: JoinToken, wanted: Wanted) -> Request:
    """Return what is to be asked: what was asked before with this token, or something new, written down first."""
    if wanted.out is not None and wanted.out.exists():
        raise ConfigError(f"{wanted.out}: there already, and not written over: remove it, or choose another --out")
    before = Request.read(kept)
    if before is not None and wanted.name in ("", before.name):
        return before
    name = check_name("name", wanted.name or token.name or host_name())
    request = Request(token, name, Key.new().seed, wanted.attributes)
    request.write(kept)
    return request


def _grouped(key: str) -> str:
    """Return a public key as the page shows it: people compare groups of four."""
    return " ".join(key[at : at + 4] for at in range(0, len(key), 4))


def _keep(path: Path, credentials: Credentials, token: JoinToken) -> None:
    write_credentials(path, credentials)
    known.remember(",".join(token.urls), token.workspace, path)


def _tell_joined(path: Path, credentials: Credentials, token: JoinToken, *, json: bool) -> None:
    url = ",".join(token.urls)
    if json:
        told = {"workspace": token.workspace, "role": credentials.role, "name": credentials.name, "url": url}
        print_json({**told, "credentials": str(path), "expires_at": credentials.expires_at or None})
        return
    print(f"{credentials.role} {credentials.name} is a member of workspace {token.workspace}")
    lasts = f", good until {moment(credentials.expires_at)} and renewed while it runs" if credentials.expires_at else ""
    print(f"credentials: {path}{lasts}")
    if command := _RUNS.get(credentials.role):
        workspace = "" if token.workspace == "default" else f" --workspace {token.workspace}"
        print(f"next: fedbus {command} --name {credentials.name} --nats {url}{workspace}")


async def renew(place: Place, *, rotate: bool, json: bool) -> None:
    """Renew the credentials of a member, with ``rotate`` for a new key."""
    found: str | Path | None = place.credentials
    found = found or await asyncio.to_thread(known.find, place.url, place.workspace)
    if found is None:
        raise ConfigError(
            f"no credentials are known for workspace {place.workspace} at {without_secrets(place.url)}: "
            "--credentials FILE"
        )
    path = Path(found)
    async with await connect(place.url, name="renewal", credentials=path) as bus:
        credentials = await renewed(bus, path, rotate=rotate)
    if json:
        told = {"role": credentials.role, "name": credentials.name, "key": credentials.key.public}
        print_json({**told, "credentials": str(path), "expires_at": credentials.expires_at or None})
        return
    until = f"good until {moment(credentials.expires_at)}" if credentials.expires_at else "without an end"
    what = f"has the new key {credentials.key.public}" if rotate else "is renewed"
    print(f"{credentials.role} {credentials.name} {what}: {path}, {until} ({_left(credentials)})")


def _left(credentials: Credentials) -> str:

    rest = credentials.expires_at - SystemClock().now()
    return f"{duration(rest)} from now" if credentials.expires_at else "until it is revoked"


def _say(text: str) -> None:
    print(text, file=sys.stderr)
