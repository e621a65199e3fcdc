"""Tokens: what is handed out, what is kept of it, and what a text that somebody pastes says.

    fbj_<...>          a join token: where the broker is, whom to trust there, and a secret that lets a machine ask
    fba_<id>_<secret>  an API token: a person's bearer at a gateway

Of a secret (32 random bytes) only the BLAKE3 digest is kept, and it is compared in constant time: with so much chance
in it, a slow hash would protect nothing more. A join token is deflated msgpack, with bounds on what it may unfold to.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import re
import secrets
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgpack
from blake3 import blake3

from fedbus.access.boards import Boards
from fedbus.access.names import id_of
from fedbus.errors import BadMessage, BusUnavailable, ConfigError, Conflict, NotFound
from fedbus.messages.access import BUS_ROLES, BusRole, PersonRole, TokenState
from fedbus.messages.ids import check_name, is_name

log = logging.getLogger("fedbus.access")

JOIN = "fbj_"
API = "fba_"

SECRET_BYTES = 32
TEXT_CHARS_MAX = 64 * 1024
"""Of a join token as pasted: some 800 characters, and certificates in it some 2,000 more each."""

UNFOLDED_BYTES_MAX = 256 * 1024
"""Of what a join token unfolds to: deflate makes 1,000 bytes of one."""

SIGNED_S_MAX = 10.0
"""How long a new join token waits for a registrar to write its JWT in: one round trip, where one runs."""

USES_MAX = 10_000
"""Of a join token: each use is kept on its board."""

_API = re.compile(rf"{API}([A-Za-z0-9-]{{1,64}})_([A-Za-z0-9_-]{{43}})")


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made: the only moment at which its secret is there."""

    state: TokenState
    secret: str = field(repr=False)

    @property
    def api_text(self) -> str:
        """The text of an API token."""
        assert self.state.what == "api", "a join token says where the broker is: `JoinToken`"
        return f"{API}{self.state.id}_{self.secret}"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a join token says. ``jwt``: lets its holder ask on ``join.<id>``, without a key. ``name`` '': choose one.

    ``urls``: of the broker. ``ca``: certificates in PEM that sign the broker's, '' for those that the system trusts.
    """

    workspace: str
    id: str
    secret: str = field(repr=False)
    jwt: str = field(repr=False)
    urls: tuple[str, ...]
    role: BusRole = "client"
    name: str = ""
    ca: str = ""
    expires_at: float = 0.0

    def text(self) -> str:
        """Return it as it is handed out."""
        told = {
            "v": 1,
            "ws": self.workspace,
            "id": self.id,
            "secret": self.secret,
            "jwt": self.jwt,
            "urls": list(self.urls),
            "role": self.role,
            "name": self.name,
            "ca": self.ca,
            "exp": self.expires_at,
        }
        packed: bytes = msgpack.packb(told)
        return JOIN + base64.urlsafe_b64encode(zlib.compress(packed, 9)).rstrip(b"=").decode()

    @classmethod
    def read(cls, text: str) -> JoinToken:
        """Return what a pasted text says; `ConfigError` says what it is instead of a join token."""
        bare = "".join(text.split())  # a terminal or a mail may have broken it into lines
        if bare.startswith(API):
            raise ConfigError("this is a token for a gateway (fba_...), not one to join with (fbj_...)")
        if not bare.startswith(JOIN) or len(bare) > TEXT_CHARS_MAX:
            raise ConfigError(f"expected a join token (fbj_...), got {len(bare)} characters that are none")
        try:
            return cls._of(_unfold(bare[len(JOIN) :]))
        except (BadMessage, KeyError, TypeError) as error:
            raise ConfigError(f"the join token is damaged ({error}): was all of it copied?") from error

    @classmethod
    def _of(cls, told: Any) -> JoinToken:  # noqa: ANN401 - what a stranger wrote
        if not isinstance(told, dict) or told.get("v") != 1:
            raise BadMessage("of a version that this release does not know")
        texts = [told[key] for key in ("ws", "id", "secret", "jwt", "role", "name", "ca")]
        if not all(isinstance(text, str) for text in texts) or not isinstance(told["urls"], list):
            raise BadMessage("its fields have other types")
        workspace, id_, secret, jwt, role, name, ca = texts
        if not is_name(workspace) or not is_name(id_) or role not in BUS_ROLES or (name and not is_name(name)):
            raise BadMessage("its names are none")
        if not told["urls"] or not all(isinstance(url, str) and url.isprintable() for url in told["urls"]):
            raise BadMessage("it names no broker")
        if type(told["exp"]) not in (int, float) or not 0 <= told["exp"] < 2**53:
            raise BadMessage("its fields have other types")
        return cls(workspace, id_, secret, jwt, tuple(told["urls"]), role, name, ca, float(told["exp"]))


def digest_of(secret: str) -> str:
    """Return what is kept of a secret."""
    return blake3(secret.encode()).hexdigest()


def is_secret_of(state: TokenState, secret: str) -> bool:
    """Whether a secret is that of a token; takes the same time whatever is wrong with it."""
    return hmac.compare_digest(digest_of(secret), state.digest)


def read_api_token(text: str) -> tuple[str, str] | None:
    """Return id and secret of an API token; None for what is none."""
    found = _API.fullmatch(text)
    return (found[1], found[2]) if found else None


def why_not(state: TokenState, now: float) -> str:
    """Return why a token is over, '' while it is good; of a join token its uses are looked at apart (`is_used_up`)."""
    if state.revoked_at:
        return "it was revoked" + (f": {state.reason}" if state.reason else "")
    if state.expires_at and now >= state.expires_at:
        return "it has expired"
    return ""


def is_used_up(state: TokenState) -> bool:
    """Whether nobody more may come in by a join token."""
    return bool(state.uses_max) and len(state.used_by) >= state.uses_max


def state_word(state: TokenState, now: float) -> Literal["good", "revoked", "expired", "used up"]:
    """Return how a token stands, in a word."""
    if state.revoked_at:
        return "revoked"
    if state.expires_at and now >= state.expires_at:
        return "expired"
    return "used up" if state.what == "join" and is_used_up(state) else "good"


class Tokens:
    """The tokens of a workspace."""

    def __init__(self, boards: Boards) -> None:
        self._boards = boards

    def get(self, id_: str) -> TokenState | None:
        """Return a token, as it is known in memory."""
        return self._boards.tokens.get(id_)

    def all(self) -> list[TokenState]:
        """Return all tokens that are known in memory, oldest first."""
        return sorted(self._boards.tokens.values(), key=lambda state: (state.at, state.id))

    async def create_join(
        self,
        role: str,
        *,
        by: str,
        name: str = "",
        expires_s: float = 3600.0,
        uses_max: int = 1,
        approval: Literal["auto", "ask"] | None = None,
        owner: str = "",
    ) -> NewToken:
        """Make a token by which machines become members of a role at the broker.

        ``name``: whom it is for; '' lets each choose. ``expires_s``, ``uses_max`` 0: without an end. ``approval`` None:
        as the workspace's bounds say. ``owner``: the person whose clients they are. `ConfigError` for what cannot be.
        """
        if role not in get_args(BusRole):
            raise ConfigError(f"expected a role at the broker ({', '.join(BUS_ROLES)}), got {role!r}")
        if name:
            check_name("name", name)
            if uses_max != 1:
                raise ConfigError(f"a token for {name} alone has one use, got {uses_max}")
        if not 0 <= uses_max <= USES_MAX or expires_s < 0:
            raise ConfigError(f"expected 0 to {USES_MAX} uses and a time that is not negative")
        if approval is None:
            bounds = await self._boards.read_bounds()
            approval = bounds.approval
        fields: dict[str, Any] = {"uses_max": uses_max, "approval": approval, "owner": owner}
        return await self._create("join", role, name, by, expires_s, fields)

    async def create_api(
        self, role: PersonRole, *, by: str, person: str = "", expires_s: float = 0.0, uses_max: Literal[0, 1] = 0
    ) -> NewToken:
        """Make a bearer for a gateway; ``person``: whose it is, so that it ends with her. ``expires_s`` 0: no end.

        ``uses_max`` 1: good for signing in once, and for nothing else (`fedbus.access.signin`).
        """
        if role not in get_args(PersonRole):
            raise ConfigError(f"expected a role of people ({', '.join(get_args(PersonRole))}), got {role!r}")
        if expires_s < 0:
            raise ConfigError("expected a time that is not negative")
        return await self._create("api", role, id_of(person) if person else "", by, expires_s, {"uses_max": uses_max})

    async def _create(
        self, what: Literal["join", "api"], role: str, name: str, by: str, expires_s: float, fields: dict[str, Any]
    ) -> NewToken:
        secret = secrets.token_urlsafe(SECRET_BYTES)
        now = self._boards.clock.now()
        state = TokenState(
            id=secrets.token_hex(8),
            what=what,
            role=role,
            name=name,
            digest=digest_of(secret),
            at=now,
            by=by,
            expires_at=now + expires_s if expires_s else 0.0,
            **fields,
        )

        def decide(known: TokenState | None) -> TokenState:
            assert known is None, "64 random bits are another's"
            return state

        return NewToken(await self._change(state.id, decide), secret)

    async def join_text(
        self, new: NewToken, urls: Sequence[str], ca: str = "", *, deadline_s: float = SIGNED_S_MAX
    ) -> str:
        """Return the text of a new join token, once a registrar has written its JWT in.

        `BusUnavailable` where none does in time: no gateway of this workspace has the keys. The token is revoked then.
        """
        signed = await self._boards.wait_for_token(new.state.id, lambda state: bool(state.jwt), deadline_s)
        if signed is None:
            await self.revoke(new.state.id, by=new.state.by, reason="no registrar has signed it")
            raise BusUnavailable(
                f"token {new.state.id}: nobody has signed it within {deadline_s:g} s: is there a gateway with the keys "
                "of the workspace (fedbus gateway --keys DIR)?"
            )
        return JoinToken(
            self._boards.subjects.workspace,
            signed.id,
            new.secret,
            signed.jwt,
            tuple(urls),
            signed.role,  # type: ignore[arg-type]  # checked as it was made
            signed.name,
            ca,
            signed.expires_at,
        ).text()

    async def revoke(self, id_: str, *, by: str, reason: str = "") -> TokenState:
        """Let nobody in by a token any more; who is in stays. One that is revoked stays so.

        `NotFound` where there is none.
        """

        def decide(known: TokenState | None) -> TokenState | None:
            if known is None:
                raise NotFound(f"token {id_}: there is none of this id; `fedbus token list` shows those that exist")
            if known.revoked_at:
                return None
            now = self._boards.clock.now()
            return known.model_copy(update={"revoked_at": now, "by": by, "reason": reason, "jwt": ""})

        return await self._change(id_, decide)

    async def sign(self, id_: str, jwt: str) -> TokenState:
        """Write the JWT of a join token in, unless there is one: a registrar's act."""

        def decide(known: TokenState | None) -> TokenState | None:
            if known is None:
                raise NotFound(f"token {id_}: there is none of this id")
            return None if known.jwt or known.revoked_at else known.model_copy(update={"jwt": jwt})

        return await self._change(id_, decide)

    async def use(self, id_: str, key: str) -> TokenState:
        """Mark a join token as used by a key; the same key uses it once. `Conflict` where it is over, or used up."""

        def decide(known: TokenState | None) -> TokenState | None:
            if known is None:
                raise NotFound(f"token {id_}: there is none of this id")
            if key in known.used_by:
                return None
            why = why_not(known, self._boards.clock.now())
            if why or is_used_up(known):
                raise Conflict(f"the token is no good: {why or 'it is used up'}", state=why or "used up")
            if len(known.used_by) >= USES_MAX:
                raise Conflict(f"the token is no good: {USES_MAX} have come in by it", state="used up")
            return known.model_copy(update={"used_by": (*known.used_by, key)})

        return await self._change(id_, decide)

    async def _change(self, id_: str, decide: Callable[[TokenState | None], TokenState | None]) -> TokenState:
        check_name("token", id_)
        return await self._boards.change(self._boards.subjects.access_token(id_), TokenState, decide)


def _unfold(text: str) -> Any:  # noqa: ANN401 - what a stranger wrote
    """Return what base64 of deflated msgpack holds; `BadMessage` for anything else, and for more than is allowed."""
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        inflating = zlib.decompressobj()
        packed = inflating.decompress(raw, UNFOLDED_BYTES_MAX)
        if inflating.unconsumed_tail or not inflating.eof:
            raise BadMessage("it is cut short, or far too large")
        return msgpack.unpackb(packed, max_ext_len=0, max_array_len=1000, max_map_len=1000)
    except (
        binascii.Error,
        zlib.error,
        ValueError,
        RecursionError,
        UnicodeEncodeError,
        msgpack.UnpackException,
    ) as error:
        raise BadMessage("it holds something else") from error
