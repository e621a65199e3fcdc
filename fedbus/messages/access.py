"""Who may take part: tokens, members, people, the workspace's bounds; and the words of joining.

Each state is a board of its own in the stream ``access``, written with the sequence that was read (`Bus.append`'s
``expected_last``), so that of two who use a token's last use one loses. Secrets never travel here, only their digests.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, Digest, MaybeName, Name, Number, Reason, Said
from fedbus.messages.presence import Attributes

BusRole = Literal["client", "crowd", "combiner", "coordinator", "gateway", "admin", "engineer", "viewer", "auditor"]
BUS_ROLES: tuple[str, ...] = get_args(BusRole)
"""Roles with an identity of their own at the broker; ``joiner`` is the tenth, in tokens only."""

PersonRole = Literal["admin", "engineer", "data-owner", "viewer", "auditor"]
"""Roles of people at a gateway."""

NkeyPublic = Annotated[str, Field(pattern=r"^[UA][A-Z2-7]{55}$")]
"""A public nkey: Ed25519, base32 with a checksum; U of a user, A of an account or one of its signers."""

Jwt = Annotated[str, Field(max_length=8192, pattern=r"^[A-Za-z0-9_.-]*$")]
"""A NATS user JWT, or none."""

Who = Annotated[str, Field(pattern=r"^[A-Za-z0-9_@.:/+-]{0,200}$")]
"""Who did something: a person's name, or ``<role>/<name>``."""


class TokenState(Body):
    """A token that was handed out. ``what``: ``join`` lets a machine become a member; ``api`` is a person's bearer.

    ``role`` of a ``join`` is a `BusRole`, of an ``api`` token a `PersonRole`. ``name``: whom it is for; empty lets who
    joins choose. ``digest``: BLAKE3 of its secret. ``expires_at`` 0: never. ``uses_max`` 0: without a limit.
    ``used_by``: the keys that were let in by it (join). ``owner``: the person whose clients they are. ``jwt``: with
    which whoever holds a join token may ask to be let in, and do nothing else; a registrar writes it in.
    """

    id: Name
    what: Literal["join", "api"]
    role: Name
    name: MaybeName = ""
    digest: Digest
    at: Number
    by: Who
    expires_at: Number = 0.0
    uses_max: Count = 1
    used_by: Annotated[tuple[NkeyPublic, ...], Field(max_length=10_000)] = ()
    approval: Literal["auto", "ask"] = "auto"
    owner: Who = ""
    jwt: Jwt = ""
    revoked_at: Number = 0.0
    reason: Reason = ""


class Member(Body):
    """Somebody with an identity at the broker: a client, or another role.

    ``waiting`` for a person's approval has no JWT yet. ``suspended`` may come back, ``expelled`` may not under this
    key. ``jwt`` is what was signed for ``key`` last, until ``expires_at`` (0: for ever). ``owner``: the person whose
    client it is. ``revoked``: keys that were its own before, and since when they are not.
    """

    role: BusRole
    name: Name
    key: NkeyPublic
    state: Literal["waiting", "active", "suspended", "expelled"]
    at: Number
    by: Who
    reason: Reason = ""
    attributes: Attributes = {}
    owner: Who = ""
    token: MaybeName = ""
    jwt: Jwt = ""
    issued_at: Number = 0.0
    expires_at: Number = 0.0
    revoked: Annotated[dict[NkeyPublic, Number], Field(max_length=64)] = {}


SIGN_INS_MAX = 32
"""Sign-ins of one person at once: of more the one that began first ends."""


class SignIn(Body):
    """A person has signed in at a gateway ``at``, and stays so ``until`` at the latest.

    ``origin``: from which address; ``by``: with what, ``token <id>``, ``link`` or the provider; ``agent``: what her
    browser calls itself.
    """

    at: Number
    until: Number
    origin: Annotated[str, Said, Field(max_length=200)] = ""
    by: Annotated[str, Said, Field(max_length=200)] = ""
    agent: Annotated[str, Said, Field(max_length=200)] = ""


class Person(Body):
    """A person known to the gateways; ``subjects``: who an OIDC provider says it is, each ``<issuer>#<sub>``.

    ``since``: when she was added; tokens and sign-ins from before were another's of that name. ``signed_in``: her
    sign-ins that have not ended, by id; ``ended``: those that she has ended, each until it would have ended by itself.
    """

    name: Who
    roles: Annotated[tuple[PersonRole, ...], Field(max_length=5)]
    state: Literal["active", "suspended"] = "active"
    subjects: Annotated[tuple[Annotated[str, Field(max_length=500)], ...], Field(max_length=16)] = ()
    at: Number
    by: Who
    since: Number = 0.0
    signed_in: Annotated[dict[Name, SignIn], Field(max_length=SIGN_INS_MAX)] = {}
    ended: Annotated[dict[Name, Number], Field(max_length=256)] = {}


class WorkspaceBounds(Body):
    """What a workspace may use; 0: without a bound. ``approval``: of who joins with a token that says nothing else.

    ``clients_max``: active clients; ``sessions_max``: sessions that run at once; ``bytes_max``: of all its streams.
    """

    clients_max: Count = 0
    sessions_max: Count = 0
    bytes_max: Count = 0
    approval: Literal["auto", "ask"] = "auto"
    at: Number = 0.0
    by: Who = ""


class JoinAsked(Body):
    """May I come in? The secret of a token, and the public half of a key that never leaves its machine.

    ``proof``: the signature by that key of ``join <workspace> <token> <name> <key>``: whoever asks has the key.
    """

    token: Name
    secret: Annotated[str, Field(max_length=128)]
    role: BusRole
    name: Name
    key: NkeyPublic
    proof: Annotated[bytes, Field(max_length=64)]
    attributes: Attributes = {}


class JoinAnswered(Body):
    """How it stands: the ``trust`` (`fedbus.access.credentials.Trust` as JSON) and the JWT of who is ``active``.

    ``waiting``: ask again; a person has to approve. ``refused``: with a reason. ``sealed``: what the role is trusted
    with (`fedbus.access.credentials.Credentials.secrets`), for the key that asked alone (`fedbus.access.sealed`).
    """

    state: Literal["active", "waiting", "refused"]
    jwt: Jwt = ""
    sealed: Annotated[bytes, Field(max_length=4096)] = b""
    trust: Annotated[str, Field(max_length=100_000)] = ""
    reason: Reason = ""


class RenewAsked(Body):
    """A member asks, over its own connection, for a JWT that lasts on; ``new_key`` with its proof: for another key.

    ``proof``: as in `JoinAsked`, of ``renew <workspace> <role> <name> <new key>`` by the new key. ``taken``: it has
    the JWT of its new key, and the keys before it may end.
    """

    new_key: Annotated[str, Field(pattern=r"^(U[A-Z2-7]{55})?$")] = ""
    proof: Annotated[bytes, Field(max_length=64)] = b""
    taken: bool = False


class BoardAsked(Body):
    """What stands on the board for me? Asked of the coordinator by whoever may not read the stream itself.

    ``after``: only what has a higher sequence: where an answer says that there is ``more``, the next one.
    """

    after: Count = 0


class BoardFound(Body):
    """The newest task of each session, as posted, oldest first: whole envelopes, each with its subject and sequence.

    ``more``: an answer has no room for all of them.
    """

    tasks: Annotated[tuple[tuple[Annotated[str, Field(max_length=300)], bytes, Count], ...], Field(max_length=1000)]
    more: bool = False


class AuditEntry(Body):
    """One deed, in a chain. ``before``: BLAKE3 of the message before it in the stream, empty of the first.

    ``by``: who; ``origin``: from where (an address, ``bus``, ``local``); ``action``: one of
    `fedbus.access.actions.Action`, or of `fedbus.access.audit`; ``target``: of what. ``result`` with ``reason``.
    """

    number: Count
    at: Number
    by: Who
    origin: Annotated[str, Said, Field(max_length=200)] = ""
    action: Annotated[str, Said, Field(max_length=64)]
    target: Annotated[str, Said, Field(max_length=300)] = ""
    result: Literal["done", "refused", "failed"] = "done"
    reason: Reason = ""
    details: Annotated[
        dict[Annotated[str, Said, Field(max_length=64)], Annotated[str, Said, Field(max_length=1000)]],
        Field(max_length=32),
    ] = {}
    before: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
