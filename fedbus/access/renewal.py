"""A member's JWT lasts on, and its key changes, while it works: no restart, nothing lost.

    two thirds of the JWT's life are over --> RenewAsked on renew.<role>.<name> --> the credentials' file, whole
                                                                                       |
                       the connection reads the file whenever it is made (again) <-----+

A JWT that ends does not end its connection at once in our hands: the broker closes it, and the new connection shows the
new JWT. A new key is written down beside the file before it is asked for; the old one lets in until the new JWT is
there and was confirmed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from fedbus.access.admission import proof_of_renewal
from fedbus.access.credentials import Credentials, Trust, read_credentials, write_credentials, write_secret
from fedbus.access.joining import Refused, checked, request_answer
from fedbus.access.keys import Key
from fedbus.access.sealed import unseal
from fedbus.access.signing import credentials_at
from fedbus.bus.base import Bus
from fedbus.clock import Clock
from fedbus.errors import BadMessage, BusClosed, FedbusError
from fedbus.messages.access import JoinAnswered, RenewAsked
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

log = logging.getLogger("fedbus.access")

SHARE = 2 / 3
"""Of a JWT's life, after which it is renewed: a third is left for a broker, or a registrar, that is away."""

RETRY_S = 60.0
"""Between tries: of days that are left some minutes do not count."""

RETRY_SHARE = 0.02
"""Of its life, for JWTs that last minutes only."""

LOOK_S = 3600.0
"""Between looks at the file: somebody else may have renewed it."""


async def renew(bus: Bus, path: Path, *, rotate: bool = False) -> Credentials:
    """Ask for a JWT that lasts on, with ``rotate`` for another key, and write it into the file; returns what is there.

    Over the member's own connection. Raises `Refused` with the reason, `BusUnavailable` where nobody answers,
    `ConfigError` where the file cannot be read or written.
    """
    known = await asyncio.to_thread(read_credentials, path)
    subjects = Subjects(known.trust.workspace)
    me = Peer(known.role, known.name)
    pending = path.with_name(f".{path.name}.next")
    key = await asyncio.to_thread(_next_key, pending, rotate=rotate) or known.key
    asked = RenewAsked()
    if key.public != known.key.public:
        proof = key.sign(proof_of_renewal(subjects.workspace, me, key.public))
        asked = RenewAsked(new_key=key.public, proof=proof)
    answer = await request_answer(bus, subjects, subjects.renew(me), asked, me.name)
    new = _credentials(known, key, answer)
    await asyncio.to_thread(write_credentials, path, new)
    await asyncio.to_thread(pending.unlink, missing_ok=True)
    if asked.new_key:  # now the key before may end: at once, and not when its time is over
        with suppress(FedbusError):
            await request_answer(bus, subjects, subjects.renew(me), replaced(asked), me.name)
    return new


def replaced(asked: RenewAsked) -> RenewAsked:
    """Return what says that the JWT of the new key is there."""
    return asked.model_copy(update={"taken": True})


def _next_key(pending: Path, *, rotate: bool) -> Key | None:
    """Return the key that is to be: one that was asked for before, and nobody knows what became of it, or a new one."""
    if pending.exists():
        return Key.of(pending.read_text())
    if not rotate:
        return None
    key = Key.new()
    write_secret(pending, key.seed + "\n")
    return key


def _credentials(known: Credentials, key: Key, answer: JoinAnswered) -> Credentials:
    if answer.state != "active":
        raise Refused(f"{known.role} {known.name} of workspace {known.trust.workspace}: {answer.reason}")
    told = Trust.from_json(answer.trust)
    signs_posts = known.trust.signs_posts or told.signs_posts  # nobody in the broker takes that back
    trust = replace(told, urls=known.trust.urls, ca=known.trust.ca, signs_posts=signs_posts)
    ours, theirs = ((one.workspace, one.account, one.model_key) for one in (known.trust, trust))
    if ours != theirs:  # they are never replaced: whoever sits in the broker would have its own models believed
        raise BadMessage(f"workspace {known.trust.workspace}: another account or model key was answered: join anew")
    kept = {**unseal(key, answer.sealed), **known.secrets}  # nor are these: anybody can seal for a public key
    # signed by whom the workspace trusts now: its signing keys may have been replaced since
    return checked(answer.jwt, key, trust, kept, known.role, known.name)


@asynccontextmanager
async def renewing(bus: Bus, credentials: str | Path | None, clock: Clock) -> AsyncIterator[None]:
    """Keep a file of credentials renewed inside the block, where it is one of ours; else it does nothing."""
    if credentials is None or await asyncio.to_thread(credentials_at, credentials) is None:
        yield
        return
    keeping = asyncio.create_task(keep_renewed(bus, Path(credentials), clock))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)  # a bus that is closed is told to whoever uses it


async def keep_renewed(bus: Bus, path: Path, clock: Clock) -> None:
    """Renew the credentials of a running role before they expire; runs until cancelled.

    Credentials without an end are looked at now and then. What goes wrong is logged and tried again: the role goes on
    with what it has.
    """
    retry_s = RETRY_S
    while True:
        pause_s = LOOK_S
        try:
            known = await asyncio.to_thread(read_credentials, path)
            if known.expires_at:
                life_s = max(1.0, known.expires_at - known.claims.issued_at)
                retry_s = min(RETRY_S, RETRY_SHARE * life_s)
                left_s = known.claims.issued_at + SHARE * life_s - clock.now()
                if left_s <= 0:
                    known = await renew(bus, path)
                    log.info("%s %s: the credentials in %s are renewed", known.role, known.name, path)
                pause_s = min(LOOK_S, max(left_s, retry_s))  # also where our clock is far ahead of theirs
        except BusClosed:
            raise
        except (FedbusError, OSError) as error:
            log.warning("the credentials in %s are not renewed yet, trying again: %s", path, error)
            pause_s = retry_s
        await asyncio.sleep(pause_s)
