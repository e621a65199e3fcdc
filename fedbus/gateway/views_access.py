"""What REST answers with about who may take part: tokens, members, people, bounds, audit, roles.

As in `fedbus.gateway.views`. No secret is in any of these but in `TokenMade`, which is told once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from fedbus.gateway.views import View
from fedbus.messages.access import BusRole, PersonRole
from fedbus.messages.ids import Count, MaybeName, Name, Reason

TOKEN_S_MAX = 366 * 86400.0
"""The longest that a token is good for: a year; what has to last longer is handed out anew."""

TokenStatus = Literal["open", "used", "expired", "revoked"]
"""Whether a token may be used: ``used``: as often as it may; ``open``: still."""

MemberState = Literal["waiting", "active", "suspended", "expelled"]
Approval = Literal["auto", "ask"]
Result = Literal["done", "refused", "failed"]
PersonName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_@.:+-]{1,200}$")]
"""A person, without ``/``: who has one in her name are the members that deeds are written down by."""

Subject = Annotated[str, Field(min_length=1, max_length=500)]

# --- tokens ---


class TokenView(View):
    """A token that was handed out; ``what``: ``join`` lets a machine in, ``api`` is a person's own.

    ``role``: of who comes in, or of the person. ``name``: whom it is for, '' where who joins chooses. ``expires_at``
    None: never; ``uses_max`` 0: without a limit. ``owner``: the person whose clients come in by it.
    """

    token: Name
    what: Literal["join", "api"]
    role: str
    name: str = ""
    status: TokenStatus
    at: float
    by: str
    expires_at: float | None = None
    uses: int = 0
    uses_max: int = 1
    approval: Approval = "auto"
    owner: str = ""
    revoked_at: float | None = None
    reason: str = ""


class TokenMade(TokenView):
    """A new token with its text, which is told once and kept nowhere; ``command``: what uses it, '' of ``api``."""

    text: str
    command: str = ""


class TokenWanted(View):
    """What token to make. ``expires_s``: for how long it is good, 0: until it is revoked.

    Of ``what`` ``join`` the role is one at the broker, such as ``client``; of ``api`` it is a person's, and ``name``
    the person. ``uses_max`` 0: without a limit; of ``api`` 1 signs in once, 0 is a bearer. ``approval`` None: as the
    workspace says. ``owner``: the person whose clients they will be. Both of ``join`` only.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "client", "expires_s": 3600, "uses_max": 1}]})

    what: Literal["join", "api"] = "join"
    role: Literal[BusRole, PersonRole] = "client"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_@.:+-]{0,200}$")] = ""
    expires_s: Annotated[float, Field(ge=0, le=TOKEN_S_MAX)] = 3600.0
    uses_max: Annotated[int, Field(ge=0, le=10_000)] = 1
    approval: Approval | None = None
    owner: Annotated[str, Field(pattern=r"^[A-Za-z0-9_@.:+-]{0,200}$")] = ""


# --- members ---


class MemberView(View):
    """Somebody with an identity at the broker. ``waiting``: for a person's approval.

    ``key``: the public half, as its own machine shows it: compare them before it is approved. ``expires_at`` None: its
    identity lasts until it is taken away. ``online``, ``doing``, ``seen_at``: of presence, which it says of itself.
    """

    role: BusRole
    member: Name
    state: MemberState
    at: float
    by: str
    reason: str = ""
    attributes: dict[str, str] = Field(default_factory=dict)
    owner: str = ""
    joined_by: MaybeName = ""
    key: str
    issued_at: float | None = None
    expires_at: float | None = None
    online: bool = False
    doing: str = ""
    seen_at: float | None = None


class Decision(View):
    """Why something is decided about a member."""

    reason: Reason = ""


# --- people ---


class PersonView(View):
    """A person known to the gateways; ``subjects``: who a provider of OIDC says it is, each ``<issuer>#<sub>``."""

    person: str
    roles: tuple[PersonRole, ...]
    state: Literal["active", "suspended"]
    subjects: tuple[str, ...] = ()
    at: float
    by: str


class PersonWanted(View):
    """A person to be known; logs in with a token (``createToken``, ``what`` ``api``), or as one of ``subjects``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"person": "ada@example.org", "roles": ["engineer"]}]})

    person: PersonName
    roles: Annotated[tuple[PersonRole, ...], Field(min_length=1, max_length=5)]
    subjects: Annotated[tuple[Subject, ...], Field(max_length=16)] = ()


class PersonChange(View):
    """What is to be otherwise; what is left out stays."""

    roles: Annotated[tuple[PersonRole, ...], Field(min_length=1, max_length=5)] | None = None
    state: Literal["active", "suspended"] | None = None
    subjects: Annotated[tuple[Subject, ...], Field(max_length=16)] | None = None


# --- the workspace ---


class UsageView(View):
    """What a workspace uses of what it may: active clients, sessions that have not ended, bytes of its streams."""

    clients: int
    sessions: int
    bytes: int


class WorkspaceView(View):
    """A workspace: its bounds (0: none), what it uses, and how many members stand how."""

    workspace: str
    clients_max: int = 0
    sessions_max: int = 0
    bytes_max: int = 0
    approval: Approval = "auto"
    at: float | None = None
    by: str = ""
    usage: UsageView
    members: dict[MemberState, int] = Field(default_factory=dict)


class Bounds(View):
    """What a workspace may use; 0: without a bound. ``approval``: of who joins with a token that says nothing else."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"clients_max": 100, "approval": "ask"}]})

    clients_max: Count = 0
    sessions_max: Count = 0
    bytes_max: Count = 0
    approval: Approval = "auto"


# --- audit ---


class AuditView(View):
    """One deed; ``number``: its place in the chain, ``sequence``: in the stream. ``writer``: which role wrote it down.

    ``origin``: from where it was done. ``digest``: of the deed as it is stored, ``before``: of the one before it.
    """

    sequence: int
    number: int
    writer: str
    at: float
    by: str
    origin: str = ""
    action: str
    target: str = ""
    result: Result
    reason: str = ""
    details: dict[str, str] = Field(default_factory=dict)
    digest: str
    before: str = ""


class FaultView(View):
    """Where the chain does not hold: at which ``sequence``, in which way, and in words."""

    sequence: int
    kind: str
    what: str


class VerificationView(View):
    """What a look at the whole chain found; ``whole``: nothing is missing, changed, out of order or put in.

    ``head``: digest of the last of ``count`` deeds; noted elsewhere, it shows later whether the end was cut.
    ``pinned_at``: where the head stands that was asked for, 0: nowhere. At most 100 ``faults`` of ``faults_count``.
    """

    whole: bool
    count: int
    sequence: int
    head: str
    pinned_at: int = 0
    faults: tuple[FaultView, ...] = ()
    faults_count: int = 0


# --- roles ---


class RoleView(View):
    """A role of people, and what it may do."""

    role: PersonRole
    about: str
    actions: tuple[str, ...]


class ActionView(View):
    """Something that a role may be permitted; ``operations``: of REST, those that need it."""

    action: str
    about: str
    operations: tuple[str, ...]


class RolesView(View):
    """Who may do what: the one table that REST, the page and the command line go by.

    ``members``: the roles that there are at the broker, which machines join as.
    """

    roles: tuple[RoleView, ...]
    members: tuple[BusRole, ...]
    actions: tuple[ActionView, ...]
