"""The keys of an operator, in a directory: whoever has it makes workspaces, signs members in and takes that back.

    <directory>/operator.nk, system.nk                     seeds; nobody else ever needs them
    <directory>/operator.jwt
    <directory>/workspaces/<workspace>/account.nk          the account, its signing keys by role, model and seal
    <directory>/workspaces/<workspace>/door.nk             the account that clients are in; <role>.door.nk: others'
    <directory>/workspaces/<workspace>/state.json          revocations and bounds, of which the account's JWT is made

Several processes may use one directory (a gateway, the command line): what changes is read and written under a lock.
A nats-server is told over its system account (`push`); it keeps what is newer, and cuts off who was revoked at once.
All files are of mode 0600, all directories 0700.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from fedbus.access import claims
from fedbus.access.accounts import Workspace, account_jwts
from fedbus.access.claims import ENDED_AT, user_jwt
from fedbus.access.credentials import Credentials, Trust, write_secret
from fedbus.access.keys import Key
from fedbus.access.permissions import AT_THE_DOOR, ROLES
from fedbus.bus.base import Bus
from fedbus.bus.embedded import BrokerSecurity
from fedbus.bus.nats import Identity, connect
from fedbus.errors import BadMessage, BusUnavailable, ConfigError
from fedbus.messages.ids import check_name, is_name

UPDATE = "$SYS.REQ.CLAIMS.UPDATE"

KNOWN = "$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP"

LOOK = "$SYS.REQ.ACCOUNT.{}.CONNZ"
"""Who is connected to an account, asked over the system account: a server takes the account in that is asked about, as
it does when the first one comes to it. Of several that come at once to one that is new each has it taken in, and what
is tried there with its directory destroys the streams that others make (nats-server 2.15: 10 of 240 were not made)."""

FOUNDERS_MAX = 256
"""Roles of one workspace that are given credentials before it runs: there are some five."""

PUSH_S_MAX = 5.0

TURN_S = 0.01
"""Between looks whether another process has told the broker: that takes it some milliseconds."""

log = logging.getLogger("fedbus.access")

OVERLAP_S = 1.0
"""JWTs count whole seconds: one made in the second of a revocation must be later than it to be good again."""

_SECRETS: Mapping[str, tuple[str, ...]] = {
    "combiner": ("seal",),
    "coordinator": ("seal", "model"),
    "gateway": ("seal", "model", "login"),
    "admin": ("seal",),
    "engineer": ("seal",),
}
"""What the members of a role are trusted with, besides their own key (`Credentials.secrets`)."""


class Authority:
    """The keys in one directory; made by `open`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._looked_at = set[tuple[str, str]]()
        self._operator = self._key("operator.nk")
        self._system = self._key("system.nk")

    @classmethod
    def open(cls, directory: str | Path) -> Authority:
        """Take a directory's keys; an empty one, or one that is not there, gets new ones.

        Raises `ConfigError` where it cannot be read or made, or holds some of the keys only.
        """
        path = Path(directory).resolve()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(path):
                there = [(path / name).exists() for name in ("operator.nk", "system.nk")]
                if not any(there):
                    write_secret(path / "system.nk", Key.new("account").seed)
                    write_secret(path / "operator.nk", Key.new("operator").seed)
                elif not all(there):
                    raise ConfigError(f"{path} holds some of an operator's keys only: bring back the rest from a copy")
        except OSError as error:
            raise ConfigError(f"keys directory {path}: {error.strerror}; name another one") from error
        made = cls(path)
        for workspace in made.workspaces:
            made._make_doors(workspace)
        return made

    # ---- workspaces

    @property
    def workspaces(self) -> list[str]:
        """Names of the workspaces that there are keys for."""
        place = self.directory / "workspaces"
        if not place.is_dir():
            return []
        return sorted(one.name for one in place.iterdir() if is_name(one.name) and (one / "account.nk").exists())

    def create_workspace(self, workspace: str) -> None:
        """Make the keys of a workspace; one that is there is left as it is. See `push`."""
        check_name("workspace", workspace)
        place = self._place(workspace)
        with self._guarded():
            for directory in (place.parent, place):  # each by itself: parents that mkdir makes do not have its mode
                directory.mkdir(mode=0o700, exist_ok=True)
            kept = {f"{role}.nk": Key.new("account").seed for role in ROLES}
            kept |= {door: Key.new("account").seed for door in map(_account_file, AT_THE_DOOR)}
            kept |= {
                "model.nk": Key.new().seed,
                "seal.key": secrets.token_hex(32),
                "login.key": secrets.token_hex(32),
            }
            for name, secret in kept.items():
                if not (place / name).exists():
                    write_secret(place / name, secret)
            if not (place / "account.nk").exists():  # last: whoever sees it finds all the others
                write_secret(place / "account.nk", Key.new("account").seed)

    def _make_doors(self, workspace: str) -> None:
        """Make those accounts that an earlier release did not have, and let in who was signed without them."""
        missing = [role for role in AT_THE_DOOR if not (self._place(workspace) / _account_file(role)).exists()]
        if not missing:
            return
        with self._guarded():
            state = self._state(workspace)
            state["inside"] = sorted({*state["inside"], *missing})
            self._write_state(workspace, state)
        self.create_workspace(workspace)

    def trust(self, workspace: str, urls: tuple[str, ...] = (), ca: str = "") -> Trust:
        """Return what everybody in a workspace knows of it."""
        signers = {role: ",".join(self.signers(workspace, role)) for role in ROLES if role not in ("joiner", "probe")}
        model_key = self._key("model.nk", workspace).public
        return Trust(workspace, self._account(workspace).public, signers, model_key, urls, ca, signs_posts=True)

    def secret(self, workspace: str, name: str) -> str:
        """Return a secret of a workspace: ``seal``, ``login`` (hexadecimal), ``model`` (a seed)."""
        return self._read(f"{name}.nk" if name == "model" else f"{name}.key", workspace)

    def secrets_of(self, workspace: str, role: str) -> dict[str, str]:
        """Return what the members of a role are trusted with, by name."""
        return {what: self.secret(workspace, what) for what in _SECRETS.get(role, ())}

    # ---- members

    def sign(self, workspace: str, role: str, name: str, key_public: str, expires_at: float = 0.0) -> str:
        """Return the JWT of a member with this public key; ``expires_at`` 0: for ever."""
        check_name(f"{role} name", name)
        return user_jwt(
            self._signer(workspace, role),
            self._key(_account_file(role), workspace).public,
            workspace=workspace,
            role=role,
            name=name,
            key=key_public,
            issued_at=self._issue_time(workspace, key_public),
            expires_at=expires_at,
        )

    def issue(
        self,
        workspace: str,
        role: str,
        name: str,
        urls: tuple[str, ...] = (),
        ca: str = "",
        expires_at: float = 0.0,
    ) -> Credentials:
        """Return whole credentials with a new key, for roles on this machine; keys of others stay there (`sign`)."""
        key = Key.new()
        kept = self.secrets_of(workspace, role)
        jwt = self.sign(workspace, role, name, key.public, expires_at)
        return Credentials(jwt, key.seed, self.trust(workspace, urls, ca), kept)

    def note_founder(self, workspace: str, jwt: str) -> None:
        """Remember who was given credentials before there was a board to write it on; see `founders`."""
        with self._guarded():
            state = self._state(workspace)
            state["founders"] = [*state["founders"], jwt][-FOUNDERS_MAX:]
            self._write_state(workspace, state)

    def founders(self, workspace: str) -> list[str]:
        """Return the JWTs of who was given credentials so: a registrar writes them on the board of members."""
        return [str(jwt) for jwt in self._state(workspace)["founders"]]

    def joiner(self, workspace: str, token: str, expires_at: float = 0.0) -> str:
        """Return a JWT that lets in whoever shows it, to ask for membership with this token, and for nothing else."""
        return self.sign(workspace, "joiner", token, Key.new().public, expires_at)

    def _issue_time(self, workspace: str, key: str) -> float:
        revoked = float(self._state(workspace)["revoked"].get(key, 0.0))
        if revoked >= ENDED_AT:
            raise ConfigError(f"key {key} was shut out for good: it takes a new one")
        return max(time.time(), revoked + OVERLAP_S)

    # ---- what changes

    def revoked(self, workspace: str) -> dict[str, float]:
        """Return since when which keys are not let in with what was signed until then."""
        return dict(self._state(workspace)["revoked"])

    def revoke(self, workspace: str, keys: Mapping[str, float], holders: Mapping[str, str] | None = None) -> bool:
        """Let keys in no longer with JWTs that were signed up to a time; returns whether that is new. See `push`.

        Up to `ENDED_AT`: for good, nothing takes that back. ``holders``: the roles of their members, as far as they are
        known: the accounts of other roles need not be told.
        """
        with self._guarded():
            state = self._state(workspace)
            known = state["revoked"]
            later = {key: at for key, at in keys.items() if known.get(key, -1.0) < int(at)}
            if not later:
                return False
            known.update({key: float(int(at)) for key, at in later.items()})
            state["holders"].update({key: role for key, role in (holders or {}).items() if key in later})
            self._write_state(workspace, state)
        return True

    def restore(self, workspace: str, keys: Iterable[str]) -> bool:
        """Let keys in again with what was signed for them; returns whether any was revoked. See `push`.

        Those that were ended for good stay so.
        """
        with self._guarded():
            state = self._state(workspace)
            known = state["revoked"]
            found = [key for key in keys if known.get(key, ENDED_AT) < ENDED_AT]
            for key in found:
                del known[key]
                state["holders"].pop(key, None)
            if found:
                self._write_state(workspace, state)
        return bool(found)

    def set_bounds(self, workspace: str, *, bytes_max: int = 0, connections_max: int = 0) -> bool:
        """Bound a workspace at the broker; 0: without a bound. Returns whether that is new. See `push`."""
        with self._guarded():
            state = self._state(workspace)
            wanted = {"bytes_max": bytes_max, "connections_max": connections_max}
            if state["bounds"] == wanted:
                return False
            state["bounds"] = wanted
            self._write_state(workspace, state)
        return True

    def account_jwts(self, workspace: str) -> dict[str, str]:
        """Return the JWTs of a workspace's accounts as they are to be now, by public key; its own is the first."""
        state = self._state(workspace)
        of = Workspace(
            name=workspace,
            inside=self._account(workspace).public,
            doors={role: self._key(_account_file(role), workspace).public for role in AT_THE_DOOR},
            signers={role: self.signers(workspace, role) for role in ROLES},
            # servers keep the newest by whole seconds, and take another one of the same second
            issued_at=max(time.time(), float(state["at"])),
            revoked=state["revoked"],
            holders=state["holders"],
            bytes_max=int(state["bounds"].get("bytes_max", 0)),
            connections_max=int(state["bounds"].get("connections_max", 0)),
            also_inside=state["inside"],
        )
        return account_jwts(self._operator, of)

    # ---- signing keys, one after the other

    def signers(self, workspace: str, role: str) -> list[str]:
        """Return the public keys whose signatures count for a role: first the one that signs."""
        place = self._place(workspace)
        others = [f"{role}.{which}.nk" for which in ("next", "old") if (place / f"{role}.{which}.nk").exists()]
        return [self._signer(workspace, role).public, *(self._key(name, workspace).public for name in others)]

    def replace_signers(self, workspace: str, step: Literal["begin", "switch", "retire"]) -> None:
        """Replace the keys that sign members, in three steps, each of which may be repeated. See `push`.

        ``begin``: new keys are known beside those that sign. ``switch``: they sign, and those before still count.
        ``retire``: those before count no more. `ConfigError` where the step before is missing.
        """
        place = self._place(workspace)
        with self._guarded():
            state = self._state(workspace)
            if step == "switch" and not any(
                (place / f"{role}.{which}.nk").exists() for role in ROLES for which in ("next", "old")
            ):
                raise ConfigError(f"workspace {workspace}: there are no new signing keys yet: begin first")
            if step == "retire" and any((place / f"{role}.next.nk").exists() for role in ROLES):
                raise ConfigError(f"workspace {workspace}: the new keys do not sign yet: switch first")
            if step == "begin" and any((place / f"{role}.old.nk").exists() for role in ROLES):
                raise ConfigError(f"workspace {workspace}: keys of before still count: retire them first")
            if step == "begin" and not all((place / f"{role}.next.nk").exists() for role in ROLES):
                state["replacing_since"] = time.time()
            for role in ROLES:
                _replace_signer(place, role, step)
            if step == "begin":
                state["inside_ends"] = True  # whoever is signed from now on is signed into an account of his role
            elif step == "retire" and state.pop("inside_ends", False):
                state["inside"] = []
            self._write_state(workspace, state)

    def replacing_since(self, workspace: str) -> float:
        """Return when the signing keys were begun to be replaced the last time, seconds of Unix time; 0: never."""
        return float(self._state(workspace)["replacing_since"])

    # ---- the broker

    def security(self) -> BrokerSecurity:
        """Return what a broker has to know; there must be a workspace."""
        if not self.workspaces:
            raise ConfigError(f"{self.directory} has no workspace yet: `fedbus workspace create NAME` makes one")
        now = time.time()
        accounts = {key: jwt for workspace in self.workspaces for key, jwt in self._newest(workspace).items()}
        accounts[self._system.public] = claims.account_jwt(self._operator, self._system.public, "system", now)
        return BrokerSecurity(
            claims.operator_jwt(self._operator, "fedbus", self._system.public, now),
            self._system.public,
            accounts,
            tuple(self._probe(workspace) for workspace in self.workspaces),
            self._route_password(),
        )

    def _probe(self, workspace: str) -> tuple[str, str]:
        key = Key.new()
        return self.sign(workspace, "probe", "probe", key.public), key.seed

    async def push(self, workspace: str, url: str, tls: ssl.SSLContext | None = None, *, ca: str = "") -> None:
        """Tell a broker that runs, and its cluster, what a workspace's account is now; who was revoked is cut off.

        ``ca``: certificates in PEM that sign the broker's, where ``tls`` says nothing. Raises `BusUnavailable`,
        `BusDenied` (another operator's broker), `ConfigError` where it refuses the JWT.

        A broker takes an older JWT, too, and lets in again whom a newer one has shut out: so one after the other tells
        it, and whoever has told it what was changed meanwhile tells it once more.
        """
        key = Key.new()
        jwt = claims.account_user_jwt(self._system, "authority", key.public, time.time())
        connection = await connect(url, name="authority", credentials=Identity(jwt, key.seed, ca), tls=tls)
        async with connection as bus, _turn(self.directory):
            said = None
            while said != (said := await asyncio.to_thread(self._content, workspace)):
                newest = await asyncio.to_thread(self._newest, workspace)
                for account, made in newest.items():
                    if await _knows(bus, account, made):
                        continue
                    answer = await bus.request(UPDATE, made.encode(), deadline_s=PUSH_S_MAX)
                    _check_taken(workspace, bytes(answer.data))
                for account in newest:  # when all are there that it imports from
                    await self._look_at(bus, url, account)

    async def _look_at(self, bus: Bus, url: str, account: str) -> None:
        """Have a broker take an account in before anybody comes to it."""
        if (url, account) not in self._looked_at:
            with suppress(BusUnavailable):
                await bus.request(LOOK.format(account), b'{"limit": 1}', deadline_s=PUSH_S_MAX)
                self._looked_at.add((url, account))

    def _newest(self, workspace: str) -> dict[str, str]:
        """Return the JWTs of the accounts, dated behind all made so before, whatever became of the clock.

        Servers of a cluster that have missed one keep the newest that one of them has, by whole seconds.
        """
        with self._guarded():
            state = self._state(workspace)
            state["at"] = float(int(state["at"]) + 1)
            try:
                self._write_state(workspace, state)
            except ConfigError as error:  # a full disk must not keep anybody in
                log.warning("when workspace %s was told of last is not written down: %s", workspace, error)
            return self.account_jwts(workspace)

    def _content(self, workspace: str) -> tuple[object, ...]:
        """Return what an account's JWT depends on, but for its date."""
        state = self._state(workspace)
        return state["revoked"], state["bounds"], state["inside"], [self.signers(workspace, role) for role in ROLES]

    # ---- files

    def _place(self, workspace: str) -> Path:
        return self.directory / "workspaces" / check_name("workspace", workspace)

    def _account(self, workspace: str) -> Key:
        return self._key("account.nk", workspace)

    def _signer(self, workspace: str, role: str) -> Key:
        if role not in ROLES:
            raise ConfigError(f"expected one of the roles {', '.join(ROLES)}, got {role!r}")
        return self._key(f"{role}.nk", workspace)

    def _key(self, name: str, workspace: str = "") -> Key:
        return Key.of(self._read(name, workspace))

    def _read(self, name: str, workspace: str = "") -> str:
        path = (self._place(workspace) if workspace else self.directory) / name
        try:
            return path.read_text().strip()
        except FileNotFoundError as error:
            what = f"no workspace {workspace!r}: `fedbus workspace create` makes one" if workspace else f"no {name}"
            raise ConfigError(f"{self.directory}: {what}") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error

    def _state(self, workspace: str) -> dict[str, Any]:
        path = self._place(workspace) / "state.json"
        try:
            told = json.loads(path.read_text())
        except FileNotFoundError:
            told = {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): bring it back from a copy") from error
        kept: dict[str, Any] = {"revoked": {}, "bounds": {}, "founders": [], "inside": [], "holders": {}}
        return {**kept, "at": 0.0, "replacing_since": 0.0, **told}

    def _write_state(self, workspace: str, state: dict[str, Any]) -> None:
        state["at"] = max(time.time(), float(state["at"]))  # a clock that was set back must not make it older
        write_secret(self._place(workspace) / "state.json", json.dumps(state, sort_keys=True))

    def _route_password(self) -> str:
        path = self.directory / "route.key"
        with self._guarded():
            if not path.exists():
                write_secret(path, secrets.token_hex(16))
        return self._read("route.key")

    def _guarded(self) -> AbstractContextManager[None]:
        return _locked(self.directory)


def _account_file(role: str) -> str:
    """Return where the key is of the account that members of a role are in."""
    if role not in AT_THE_DOOR:
        return "account.nk"
    return "door.nk" if role == "client" else f"{role}.door.nk"


def _replace_signer(place: Path, role: str, step: str) -> None:
    """Do a step for one role; what was done of it before a crash is found done."""
    current, coming, old = (place / f"{role}{which}.nk" for which in ("", ".next", ".old"))
    if step == "begin" and not coming.exists():
        write_secret(coming, Key.new("account").seed)
    elif step == "switch" and coming.exists():
        write_secret(old, current.read_text().strip())
        coming.replace(current)
    elif step == "retire":
        old.unlink(missing_ok=True)


async def _knows(bus: Bus, account: str, jwt: str) -> bool:
    """Return whether a broker has an account as this JWT says but for its date.

    Told anew, it would forget where answers go that are under way: who follows a stream waits for some seconds then.
    """
    with suppress(BusUnavailable, BadMessage, UnicodeDecodeError):
        answer = await bus.request(KNOWN.format(account), b"", deadline_s=PUSH_S_MAX)
        return claims.is_same(bytes(answer.data).decode(), jwt)
    return False


def _check_taken(workspace: str, data: bytes) -> None:
    """Raise unless a broker says that it has taken an account."""
    try:
        told = json.loads(data)
    except ValueError as error:
        raise BusUnavailable(f"{UPDATE}: the broker answered what is no JSON") from error
    if told.get("data", {}).get("code") != 200:
        reason = told.get("error", {}).get("description", told)
        raise ConfigError(f"the broker does not take the account of workspace {workspace}: {reason}")


@asynccontextmanager
async def _turn(directory: Path) -> AsyncIterator[None]:
    """Let one process at a time tell the broker; one that stands still is waited for `PUSH_S_MAX` and no longer."""
    lock = os.open(directory / "push.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(PUSH_S_MAX):
                while not _has(lock):  # noqa: ASYNC110 - another process sets no event of ours
                    await asyncio.sleep(TURN_S)
        yield
    finally:
        os.close(lock)


def _has(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one process at a time change what is in a directory; they hold it for milliseconds."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
