"""The joining side: a machine becomes a member of a workspace with a token, and its key never leaves it.

    token --> connection as joiner --> JoinAsked (public key, proof, secret) --> active | waiting | refused
                                                                                   |
                                   credentials file (0600) <--- JWT, whom to trust-+

What is asked for is written down before it is asked (`Request`): whoever is interrupted while a person has to approve,
or whose answer was lost, comes back with the same token and the same key, and finds what became of it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedbus.access.admission import proof_of_join
from fedbus.access.claims import read_user
from fedbus.access.credentials import Credentials, Trust, write_secret
from fedbus.access.keys import Key
from fedbus.access.sealed import unseal
from fedbus.access.tokens import JoinToken
from fedbus.bus.base import Bus
from fedbus.bus.nats import Identity, connect
from fedbus.errors import BadMessage, BusDenied, BusUnavailable, ConfigError
from fedbus.messages.access import BusRole, JoinAnswered, JoinAsked
from fedbus.messages.envelope import Body, Envelope, decode, encode
from fedbus.messages.ids import check_name
from fedbus.messages.subjects import Subjects

ASK_S = 5.0
"""For one answer: a registrar takes milliseconds, one that is started again some seconds."""

TRIES = 6
"""Questions without an answer, before it is said that no registrar is there."""

AWAY = "nobody answers any more"
"""Told where a workspace had answered before."""

PAUSE_S = 2.0
"""Between questions while a person has to approve."""

REQUEST_BYTES_MAX = 128 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: by which token, under which name, with which key (its seed)."""

    token: JoinToken
    name: str
    seed: str = field(repr=False)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Keep it, mode 0600; `ConfigError` where it cannot be written."""
        told = {"name": self.name, "seed": self.seed, "attributes": dict(self.attributes), "token": self.token.text()}
        write_secret(path, json.dumps(told) + "\n")

    @classmethod
    def read(cls, path: Path) -> Request | None:
        """Return what was kept, None where nothing was; `ConfigError` where it is damaged."""
        try:
            with path.open("rb") as file:
                told = json.loads(file.read(REQUEST_BYTES_MAX))
            attributes = {str(key): str(value) for key, value in told["attributes"].items()}
            return cls(
                JoinToken.read(told["token"]), check_name("name", told["name"]), Key.of(told["seed"]).seed, attributes
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}: what was asked for before is damaged ({error}); remove it, and join anew"
            ) from error


def request_file(home: Path, token: JoinToken) -> Path:
    """Return where a request is kept under fedbus's directory in a user's home."""
    return home / "joining" / f"{token.id}.json"


class Refused(BadMessage):
    """The workspace does not let us in; the text says why."""


async def join(
    request: Request,
    *,
    tell: Callable[[str], None] = lambda _: None,
    tls: ssl.SSLContext | None = None,
    url: str | None = None,
) -> Credentials:
    """Ask until it is decided, and return the credentials; runs as long as a person takes to approve.

    ``tell``: called with a sentence whenever it stands otherwise than before. ``url``: the token's addresses, with what
    this machine needs to reach them (`fedbus.bus.proxy`, `fedbus.bus.tls`). Raises `Refused`; `BusUnavailable` where
    no broker, or no registrar, is there; `BusDenied` where the broker does not take the token.
    """
    token = request.token
    identity = Identity(token.jwt, "", token.ca)
    try:
        bus = await connect(url or ",".join(token.urls), name=f"join-{request.name}", credentials=identity, tls=tls)
    except BusDenied as error:
        raise BusDenied(f"the broker does not take the token, is it of another broker, or very old? {error}") from error
    async with bus:
        return await ask(bus, request, tell=tell)


async def ask(bus: Bus, request: Request, *, tell: Callable[[str], None] = lambda _: None) -> Credentials:
    """Ask over a connection that there is, as `join`."""
    told = ""
    while True:
        try:
            answer = await _asked(bus, request)
        except BusUnavailable as error:
            if not told:
                raise
            if told != AWAY:  # who has been heard goes on waiting: a gateway that is restarted comes back
                told = AWAY
                tell(f"{AWAY}, asking on: {error}")
            continue
        if answer.state == "refused":
            raise Refused(f"workspace {request.token.workspace}: {answer.reason}")
        if answer.state == "active":
            return _credentials(request, answer)
        reason = answer.reason or "a person has to approve"
        if told != reason:
            told = reason
            tell(f"{request.token.role} {request.name} waits: {reason}")
        await asyncio.sleep(PAUSE_S)


async def _asked(bus: Bus, request: Request) -> JoinAnswered:
    token, key = request.token, Key.of(request.seed)
    subjects = Subjects(token.workspace)
    asked = JoinAsked(
        token=token.id,
        secret=token.secret,
        role=token.role,
        name=request.name,
        key=key.public,
        proof=b"",
        attributes=dict(request.attributes),
    )
    asked = asked.model_copy(update={"proof": key.sign(proof_of_join(token.workspace, asked))})
    return await request_answer(bus, subjects, subjects.join(token.id), asked, request.name)


async def request_answer(bus: Bus, subjects: Subjects, subject: str, body: Body, sender: str) -> JoinAnswered:
    """Ask a registrar, again while none answers; `BusUnavailable` says that none is there."""
    for attempt in range(TRIES):
        data = encode(Envelope(f"ask-{secrets.token_hex(8)}", subjects.workspace, sender, body))
        try:
            message = await bus.request(subject, data, deadline_s=ASK_S)
        except BusUnavailable as error:
            if attempt == TRIES - 1:
                raise BusUnavailable(
                    f"workspace {subjects.workspace}: nobody answers who could let in: is there a gateway with the "
                    f"workspace's keys? {error}"
                ) from error
            await asyncio.sleep(min(1.0, PAUSE_S))
            continue
        answer = decode(message.data, message.subject).body
        if not isinstance(answer, JoinAnswered):
            raise BadMessage(f"{subject}: expected JoinAnswered, got {answer.kind}")
        return answer
    raise AssertionError("the last try returns or raises")


def _credentials(request: Request, answer: JoinAnswered) -> Credentials:
    """Put together what was answered, and look that it is what was asked for."""
    token, key = request.token, Key.of(request.seed)
    trust = replace(Trust.from_json(answer.trust), urls=token.urls, ca=token.ca)
    if trust.workspace != token.workspace:
        raise BadMessage(f"expected what workspace {token.workspace} trusts, got that of {trust.workspace}")
    return checked(answer.jwt, key, trust, unseal(key, answer.sealed), token.role, request.name)


def checked(jwt: str, key: Key, trust: Trust, kept: Mapping[str, str], role: BusRole | str, name: str) -> Credentials:
    """Return credentials whose JWT is signed by the workspace's key for this role, name and key; else `BadMessage`."""
    claims = read_user(jwt, trust.signers)
    if (claims.role, claims.name, claims.key, claims.workspace) != (role, name, key.public, trust.workspace):
        raise BadMessage(f"expected a JWT of {role} {name} with our key, got one of {claims.role} {claims.name}")
    return Credentials(jwt, key.seed, trust, dict(kept))
