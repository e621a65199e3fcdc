"""Signatures on what travels: a member signs what it uploads, a workspace the models that it publishes.

    client, combiner --announcement, signed by its own key, with its JWT--> combiner: is the JWT one of this workspace,
                                                                            and of the one who speaks?
    coordinator --version and digest, signed by the workspace's model key--> clients, before they load the bytes

Reports, commands, tasks and orders are signed as whole messages: `fedbus.access.envelopes`.

What is signed is not the message but a *statement*: what it is about, as msgpack of plain values behind a line that
says what it is, so that no signature of one thing is one of another. Bytes are covered by their BLAKE3 digest, which
the statement has, and which is compared when they have come.

A process without credentials of a workspace signs nothing and asks for nothing (`OPEN`). Ed25519 is deterministic: the
same statement has the same signature, so that a repeat is a repeat.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgpack

from fedbus.access.claims import UserClaims, read_user
from fedbus.access.credentials import Credentials, Trust, read_credentials
from fedbus.access.envelopes import PostKey, PostSigner, PostVerifier, Signer, Verifier, WorkspacePosts
from fedbus.access.keys import Key, verify
from fedbus.access.seals import seal_of
from fedbus.clock import Clock
from fedbus.errors import BadMessage, BadUpdate, ConfigError
from fedbus.messages.envelope import PROTOCOL
from fedbus.messages.ids import Peer
from fedbus.messages.uploads import UploadBegin
from fedbus.store.sealing import Seal

log = logging.getLogger("fedbus.access")

IDENTITIES_MAX = 16_384
"""JWTs that were found to be right and need not be looked at again: some 20 MB, those of 16,000 clients."""

LATE_S = 300.0
"""How long after its JWT has ended a signature is still taken: clocks of two companies, and an upload under way. Who is
shut out is cut off by the broker, at once; this is about who has simply come to the end of its time."""

HOW_TO_JOIN = "let whoever sends it join (`fedbus join TOKEN`), and run this release or a newer one there"

_UPLOAD = b"fedbus upload\n"
_MODEL = b"fedbus model\n"


class ModelSigner(Protocol):
    """Whoever signs models in the name of a workspace."""

    def sign(self, version: str, digest: str) -> bytes:
        """Return the signature of a version with a digest."""
        ...


class ModelVerifier(Protocol):
    """Whoever looks whether a model is what a workspace has published."""

    def check(self, version: str, digest: str, signature: bytes) -> None:
        """Raise `BadMessage` with the reason unless the workspace has signed that this version has this digest."""
        ...


@dataclass(frozen=True, slots=True)
class Signing:
    """What a role can sign and has to verify, and the models that it can open; each None where it does not.

    ``post_signer``, ``posts``: of tasks and orders (`fedbus.access.envelopes`).
    """

    signer: Signer | None = None
    verifier: Verifier | None = None
    model_signer: ModelSigner | None = None
    models: ModelVerifier | None = None
    seal: Seal | None = None
    post_signer: PostSigner | None = None
    posts: PostVerifier | None = None


OPEN = Signing()
"""Without identities: nothing is signed, nothing asked for."""


def signing_of(path: str | Path | None, clock: Clock) -> Signing:
    """Return what the holder of a credentials file signs and verifies; `OPEN` without one, or with one of NATS alone.

    Raises `ConfigError` where the file cannot be read or is damaged.
    """
    credentials = credentials_at(path)
    return OPEN if credentials is None else signing_by(credentials, clock, path)


def signing_by(credentials: Credentials, clock: Clock, path: str | Path | None = None) -> Signing:
    """Return what somebody with these credentials signs and verifies; ``path``: where they may be renewed."""
    trust, seed = credentials.trust, credentials.secrets.get("model", "")
    model_key = Key(seed) if seed else None
    demands = None if credentials.role in ("client", "crowd") else True  # operators upgrade their roles together
    return Signing(
        Own(credentials, path),
        Members(trust, clock, path),
        ModelKey(trust.workspace, model_key) if model_key else None,
        WorkspaceModels(trust) if trust.model_key else None,
        seal_of(credentials),
        PostKey(model_key) if model_key else None,
        WorkspacePosts(trust, demands=demands) if trust.model_key else None,
    )


def credentials_at(path: str | Path | None) -> Credentials | None:
    """Return the credentials in a file; None for no file, and for one of NATS alone, whose holder is no member."""
    if not path:
        return None
    try:
        is_ours = b"BEGIN FEDBUS WORKSPACE" in Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"credentials {str(path)!r} cannot be read: {error.strerror}") from error
    return read_credentials(path) if is_ours else None


class Renewed:
    """A credentials file that somebody else may write anew; of none, there is never anything new."""

    def __init__(self, path: str | Path | None) -> None:
        self._path = Path(path) if path else None
        self._read_at = self._changed_at()

    def read(self) -> Credentials | None:
        """Return what stands there if it was written since the last look, else None; also where it cannot be read."""
        changed_at = self._changed_at()
        if changed_at == self._read_at or self._path is None:
            return None
        self._read_at = changed_at
        try:
            return read_credentials(self._path)
        except ConfigError as error:
            log.warning("goes on with the credentials as they were: %s", error)
            return None

    def _changed_at(self) -> int:
        try:
            return self._path.stat().st_mtime_ns if self._path is not None else 0
        except OSError:
            return 0


# --- whoever signs ---


class Own:
    """Signs with a member's key; where it stands in a file, that is read again when it was renewed."""

    def __init__(self, credentials: Credentials, path: str | Path | None = None) -> None:
        self._credentials = credentials
        self._file = Renewed(path)

    @property
    def identity(self) -> str:
        """Its JWT, as it stands in the file now."""
        self._credentials = self._file.read() or self._credentials
        return self._credentials.jwt

    def sign(self, statement: bytes) -> bytes:
        """Sign with the key that ``identity`` was read with."""
        return self._credentials.key.sign(statement)


class Members:
    """Knows a workspace's members by their JWTs, which its signing keys have signed.

    Those keys may be replaced: where they stand in a file, it is looked at again when somebody comes with another one.
    """

    def __init__(self, trust: Trust, clock: Clock, path: str | Path | None = None) -> None:
        self._trust = trust
        self._clock = clock
        self._file = Renewed(path)
        self._known: OrderedDict[str, UserClaims] = OrderedDict()

    def check(self, sender: Peer, statement: bytes, identity: str, signature: bytes) -> None:
        """Raise `BadUpdate` unless it is signed by the sender, or, for a client of a crowd, by the crowd."""
        if not signature or not identity:
            raise BadUpdate(f"it is not signed, and this workspace takes what its members have signed: {HOW_TO_JOIN}")
        claims = self._claims(identity)
        if claims.workspace != self._trust.workspace:
            raise BadUpdate(f"it is signed by a member of workspace {claims.workspace}, not {self._trust.workspace}")
        if not speaks_for(Peer(claims.role, claims.name), sender):
            raise BadUpdate(f"it is signed by {claims.role} {claims.name}, not by {sender.role} {sender.name}")
        if claims.expires_at and claims.expires_at + LATE_S < self._clock.now():
            raise BadUpdate(
                f"the identity that has signed it has ended: renew it (`fedbus member renew`), or {HOW_TO_JOIN}"
            )
        if not verify(claims.key, statement, signature):
            raise BadUpdate("its signature is not one, by the key of its sender, of what it says")

    def _claims(self, identity: str) -> UserClaims:
        known = self._known.get(identity)
        if known is not None:
            self._known.move_to_end(identity)
            return known
        try:
            claims = self._read(identity)
        except BadMessage as error:
            raise BadUpdate(f"whoever has signed it is no member here: {error}") from error
        self._known[identity] = claims
        if len(self._known) > IDENTITIES_MAX:
            self._known.popitem(last=False)
        return claims

    def _read(self, identity: str) -> UserClaims:
        try:
            return read_user(identity, self._trust.signers)
        except BadMessage:
            found = self._file.read()
            if found is None or found.trust.account != self._trust.account:
                raise
        self._trust = replace(self._trust, signers=found.trust.signers)
        return read_user(identity, self._trust.signers)


def speaks_for(member: Peer, sender: Peer) -> bool:
    """Whether a member may speak as a sender: as itself, and a crowd as each client of its series."""
    if member == sender:
        return True
    series, dash, number = sender.name.rpartition("-")
    if member.role != "crowd" or sender.role != "client" or not dash or not number.isdecimal():
        return False
    first = member.name.removeprefix(f"{series}-")
    return member.name == series or (first != member.name and first.isdecimal() and int(first) <= int(number))


def upload_statement(workspace: str, sender: Peer, combiner: str, begin: UploadBegin) -> bytes:
    """Return what the sender of an upload signs: for whom, for which round, which bytes, with which weight and metrics.

    Not in it: what changes with each repeat (``number``), how chunks travel (``packed``), and ``inline``, whose bytes
    the digest covers.
    """
    return _UPLOAD + _packed(
        (
            PROTOCOL, workspace, sender.role, sender.name, combiner,
            begin.session, begin.round, begin.attempt, begin.update, begin.stale,
            begin.spec, begin.digest, begin.nbytes, begin.chunks, begin.fetched,
            begin.weight, sorted(begin.metrics.items()), begin.spent,
        )
    )  # fmt: skip


def signed_upload(signer: Signer, workspace: str, sender: Peer, combiner: str, begin: UploadBegin) -> UploadBegin:
    """Return an announcement with its signature, and with the JWT of who has signed it."""
    identity = signer.identity
    signature = signer.sign(upload_statement(workspace, sender, combiner, begin))
    return begin.model_copy(update={"identity": identity, "signature": signature})


# --- models ---


def model_statement(workspace: str, version: str, digest: str) -> bytes:
    """Return what is signed of a published model: its version, which no other of its workspace has, and its digest."""
    return _MODEL + _packed((PROTOCOL, workspace, version, digest))


class ModelKey:
    """Signs models of a workspace; the newest signatures are kept, as thousands of tasks carry the same one."""

    def __init__(self, workspace: str, key: Key) -> None:
        self._workspace = workspace
        self._key = key
        self._made: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def sign(self, version: str, digest: str) -> bytes:
        """Return the signature of a version with a digest."""
        made = self._made.get((version, digest))
        if made is None:
            made = self._made[version, digest] = self._key.sign(model_statement(self._workspace, version, digest))
            if len(self._made) > 64:
                self._made.popitem(last=False)
        return made


class WorkspaceModels:
    """Knows the key with which a workspace's models are signed."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    def check(self, version: str, digest: str, signature: bytes) -> None:
        """Raise `BadMessage` unless the workspace has signed that this version has this digest."""
        if not signature:
            raise BadMessage(
                f"model {version} is not signed, and workspace {self._trust.workspace} signs what it publishes"
            )
        if not verify(self._trust.model_key, model_statement(self._trust.workspace, version, digest), signature):
            ours = f"the key of workspace {self._trust.workspace}"
            raise BadMessage(f"model {version}: its signature is not one by {ours} of the digest {digest or '(none)'}")


def _packed(values: tuple[object, ...]) -> bytes:
    packed: bytes = msgpack.packb(values, use_bin_type=True)
    return packed
