"""The registrar: has the keys, lets in who may come in, and shuts out who was shut out.

    join.<token>  --+                                 +--> an answer: active with a JWT, waiting, refused with a reason
    renew.<...>   --+--> decided (`admission`) -------+--> the boards: the token is used, the member is there
    the boards    ------> what they say of keys ------+--> the account's JWT at the broker: revocations, bounds

It keeps nothing that does not follow from the boards and its keys directory, so it may be killed at any time, and
several may run: whatever one of them has done the next finds done. Of a request that is repeated, or reaches several,
the first board that is written counts, and all of them answer the same.

A board that says suspended, expelled or rotated shuts nobody out: the broker does, when it is told
(`fedbus.access.enforcing`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedbus.access.admission import Attempts, Standing, Verdict, judge, judge_renewal
from fedbus.access.boards import Board
from fedbus.access.claims import ENDED_AT, claims_of
from fedbus.access.enforcing import Enforcing
from fedbus.access.local import enlist_holder
from fedbus.access.members import Members
from fedbus.access.sealed import seal
from fedbus.bus.base import Bus, Message, Subscription
from fedbus.bus.patience import patiently
from fedbus.bus.turns import Room, Turns
from fedbus.clock import Clock
from fedbus.errors import BadMessage, BusError, BusUnavailable, ConfigError, Conflict, NotFound
from fedbus.messages.access import JoinAnswered, JoinAsked, Member, RenewAsked, TokenState
from fedbus.messages.envelope import Body, Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.together import together

if TYPE_CHECKING:
    from fedbus.access.audit import Audit
    from fedbus.access.authority import Authority

log = logging.getLogger("fedbus.access")

LIFE_S = 30 * 86400.0
"""Of a member's JWT: who is away for longer joins again. A client renews it when two thirds are over."""

ROTATION_S = 600.0
"""From a new key to the end of the one before: whoever has asked for it has written it down long before."""

REVOKED_MAX = 64
"""Keys of a member that are remembered on its board; older ones stay revoked in the keys directory."""

ROTATIONS_MAX = 10
"""Keys of a member that end within a day: each stays in the account's JWT, which has to fit into one message, and is a
deed in an audit from which nothing is removed. Whoever has more to hide can be expelled."""

PENDING_BYTES_MAX = 16 * 2**20
"""Of all requests that wait; each takes a few milliseconds, and who is not answered asks again."""

JOIN_ROOM = Room(waiting_max=256, bytes_max=4 * 2**20, per_s_max=500)
"""Of a token, by which many machines may come at the same moment."""

RENEW_ROOM = Room(waiting_max=4, bytes_max=64 * 1024, per_s_max=30)
"""Of a member: it renews its JWT every few weeks, and says once that it has the one of its new key."""

FRESH = 0.9
"""With so much of its life left a JWT is not renewed, however often a member asks."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """A JWT with what it says of its time."""

    jwt: str
    issued_at: float
    expires_at: float


class Registrar:
    """One registrar of a workspace; `run` it beside `Members.follow` of the members that it is given.

    ``push``: tells the broker what the workspace's account is now (`Authority.push`). ``life_s``: of members' JWTs.
    ``ears``: another connection, by which it hears requests: what its process asks of the broker does not wait behind
    them, however many they are.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        members: Members,
        authority: Authority,
        audit: Audit,
        clock: Clock,
        *,
        push: Callable[[], Awaitable[None]],
        writer: Peer,
        life_s: float = LIFE_S,
        ears: Bus | None = None,
    ) -> None:
        self._bus = bus
        self._ears = bus if ears is None else ears
        self._subjects = subjects
        self._workspace = subjects.workspace
        self._members = members
        self._authority = authority
        self._audit = audit
        self._clock = clock
        self._writer = writer
        self._life_s = life_s
        self._attempts = Attempts()
        self._noted = Attempts()
        self._holders: dict[str, Peer] = {}
        self._turns: dict[str, Turns] = {}
        self._bad = 0
        self._enforcing = Enforcing(bus, self._workspace, members, authority, clock, push=push, note=self._note_ended)
        members.listen(self._hear)

    async def run(self) -> None:
        """Answer and enforce until cancelled."""
        await self._members.caught_up()
        for member in self._members.all():
            self._hear(member)
        await self._enlist_founders()
        listening = [
            (await self._listen("join", self._subjects.join(), JOIN_ROOM), self._joined),
            (await self._listen("renew", self._subjects.renew(), RENEW_ROOM), self._renewed),
        ]
        try:
            async with together() as group:
                for subscription, answer in listening:
                    group.create_task(self._answer(subscription, answer))
                group.create_task(self._enforcing.run())
        finally:
            for subscription, _ in listening:
                await subscription.close()

    async def _enlist_founders(self) -> None:
        """Write on the board who was given credentials before there was one: what is handed out can be taken back."""
        for jwt in await asyncio.to_thread(self._authority.founders, self._workspace):
            try:
                told = claims_of(jwt)
                known = self._members.get(Peer(told.role, told.name))
                if known is None or (known.state == "active" and known.issued_at < told.issued_at):
                    now = self._clock.now()
                    self._hear(await enlist_holder(self._members, jwt, now, by=self._writer.author))
            except (BusError, BadMessage, ConfigError) as error:
                log.warning("somebody who was given credentials at the beginning stands on no board: %s", error)

    def _hear(self, board: Board) -> None:
        """Note whose key is whose."""
        if isinstance(board, Member):
            for key in (board.key, *board.revoked):
                self._holders[key] = Peer(board.role, board.name)

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many requests of those who ask more than they have room for were dropped, by what they asked."""
        return {what: turns.dropped for what, turns in self._turns.items()}

    async def _listen(self, what: str, pattern: str, room: Room) -> Turns:
        subscription = await patiently(self._ears, lambda: self._ears.subscribe(pattern), tries_max=None)
        self._turns[what] = Turns(subscription, what, lambda _: room, bytes_max=PENDING_BYTES_MAX)
        return self._turns[what]

    # --- requests ---

    async def _answer(self, subscription: Subscription, answer: Callable[[Message], Awaitable[JoinAnswered]]) -> None:
        """Answer requests one after the other, of each who asks in turn: what one decides the next sees."""
        async for message in subscription:
            try:
                self._subjects.check_inbox(message.reply, self._asker(message.subject))
            except BadMessage as error:  # or it would be we who write where whoever asks may not
                self._warn("%s: not answered: %s", message.subject[:200], error)
                continue
            try:
                told = await answer(message)
            except BadMessage as error:
                self._warn("%s: %s", message.subject, error)
                told = JoinAnswered(state="refused", reason=str(error)[:2000])
            except (BusError, ConfigError, OSError) as error:
                log.warning("%s: not answered, who asks will ask again: %s", message.subject, error)
                continue
            await self._say(message.reply, told)

    def _warn(self, text: str, *about: object) -> None:
        """Log what is wrong with a request; after the first hundred only each hundredth, or a flood is one of lines."""
        self._bad += 1
        if self._bad <= 100 or self._bad % 100 == 0:
            log.warning(text, *about)

    def _asker(self, subject: str) -> Peer:
        """Return whose inbox an answer goes to."""
        tokens = subject.split(".")[2:]
        return Peer("joiner", tokens[-1]) if tokens[0] == "join" else Peer(tokens[-2], tokens[-1])

    async def _say(self, reply: str, body: Body) -> None:
        if not reply:
            return
        envelope = Envelope(f"registrar-{id(body):x}", self._workspace, self._writer.author[:200], body)
        try:
            await self._bus.publish(reply, encode(envelope))
        except BusUnavailable as error:
            log.debug("an answer was lost, who asks will ask again: %s", error)

    async def _joined(self, message: Message) -> JoinAnswered:
        """Answer somebody with a token."""
        self._subjects.check(message.subject)
        (token,) = self._subjects.tokens(message.subject, "join", 1)
        now = self._clock.now()
        if self._attempts.are_too_many(token, now):
            return JoinAnswered(state="refused", reason="too many wrong attempts with this token: wait five minutes")
        envelope = decode(message.data, message.subject)
        asked = envelope.body
        if not isinstance(asked, JoinAsked):
            raise BadMessage(f"{message.subject}: expected JoinAsked, got {asked.kind}")
        standing = await self._standing(asked)
        verdict = self._misdirected(envelope, token, asked) or judge(self._workspace, asked, standing)
        if verdict.is_attempt:
            self._attempts.failed(token, now)
        if verdict.state != "refused":
            verdict, member = await self._let_in(asked, standing, verdict)
            if member is not None:
                return await self._welcome(member)
        if verdict.state == "refused":
            await self._refuse("member.join", token, Peer(asked.role, asked.name), verdict.reason)
        return JoinAnswered(state=verdict.state, reason=verdict.reason)

    def _misdirected(self, envelope: Envelope, token: str, asked: JoinAsked) -> Verdict | None:
        """Refuse what was meant for another workspace, or comes over the connection of another token."""
        if envelope.workspace != self._workspace:
            reason = f"the token is of workspace {self._workspace}, it does not let into {envelope.workspace[:64]}"
            return Verdict("refused", reason, is_attempt=True)
        if asked.token != token:
            reason = f"token {asked.token} was shown over the connection of token {token}"
            return Verdict("refused", reason, is_attempt=True)
        return None

    async def _standing(self, asked: JoinAsked) -> Standing:
        """Return how it stands, asked of the broker: another registrar may have written a moment ago."""
        peer = Peer(asked.role, asked.name)
        token = await self._members.boards.read(self._subjects.access_token(asked.token), TokenState)
        holder = self._holders.get(asked.key)
        return Standing(
            token,
            await self._members.read(peer),
            None if holder == peer else holder,
            self._members.active_clients(),
            self._members.bounds,
            self._clock.now(),
        )

    async def _let_in(self, asked: JoinAsked, standing: Standing, verdict: Verdict) -> tuple[Verdict, Member | None]:
        """Use the token, write the member; returns it where it is active, and what is to be said else."""
        peer = Peer(asked.role, asked.name)
        assert verdict.state != "refused", "nobody who is refused comes so far"
        try:
            token = await self._members.tokens.use(asked.token, asked.key)
            decide = _newcomer(asked, token, verdict.state, self._clock.now())
            member = await self._members.change(peer, decide)
        except (Conflict, NotFound) as error:
            return Verdict("refused", str(error)), None
        if standing.member is None or standing.member.key != asked.key:
            await self._note("member.join", peer, "done", f"is {member.state}", token=token.id, key=asked.key)
        if member.state in ("suspended", "expelled"):  # a moment ago
            return Verdict("refused", f"{asked.role} {asked.name} was {member.state}"), None
        if member.state == "waiting":
            return Verdict("waiting", "a person has to approve"), None
        return Verdict("active"), member

    async def _renewed(self, message: Message) -> JoinAnswered:
        """Answer a member that wants a JWT which lasts on, or one for another key."""
        peer = self._subjects.sender(message.subject, "renew", 2, 0)
        envelope = decode(message.data, message.subject)
        asked = envelope.body
        if not isinstance(asked, RenewAsked):
            raise BadMessage(f"{message.subject}: expected RenewAsked, got {asked.kind}")
        if self._attempts.are_too_many(f"{peer.role}.{peer.name}", self._clock.now()):
            return JoinAnswered(state="refused", reason="too many wrong attempts: wait five minutes")
        known = await self._members.read(peer)
        verdict = judge_renewal(self._workspace, peer, asked, known, self._holders.get(asked.new_key))
        if verdict.state == "refused" or known is None:
            if verdict.is_attempt:
                self._attempts.failed(f"{peer.role}.{peer.name}", self._clock.now())
            await self._refuse("member.renew", f"{peer.role}.{peer.name}", peer, verdict.reason)
            return JoinAnswered(state="refused", reason=verdict.reason)
        if asked.taken:
            return await self._welcome(await self._end_others(peer))
        if asked.new_key and asked.new_key != known.key:
            day_ago = self._clock.now() - 86400.0
            if sum(at > day_ago for at in known.revoked.values()) >= ROTATIONS_MAX:
                reason = f"its key was replaced {ROTATIONS_MAX} times within a day: that is enough"
                await self._refuse("member.renew", f"{peer.role}.{peer.name}", peer, reason)
                return JoinAnswered(state="refused", reason=reason)
            known = await self._rotate(peer, asked.new_key)
            await self._note("member.rotate", peer, "done", key=asked.new_key)
        return await self._welcome(known, renew=not asked.new_key)

    async def _rotate(self, peer: Peer, new: str) -> Member:
        """Give a member another key; the one before ends in a while, or when the new one is said to be there."""
        now = self._clock.now()

        def decide(known: Member | None) -> Member | None:
            if known is None or known.state != "active":
                raise BadMessage(f"{peer.role} {peer.name} is {known.state if known else 'gone'}")
            if known.key == new:
                return None
            told = {
                "key": new,
                "jwt": "",
                "issued_at": 0.0,
                "expires_at": 0.0,
                "revoked": _ended(known, now, now + ROTATION_S),
            }
            return known.model_copy(update=told)

        return await self._members.change(peer, decide)

    async def _end_others(self, peer: Peer) -> Member:
        """Let the keys before the newest end now."""
        now = self._clock.now()

        def decide(known: Member | None) -> Member | None:
            if known is None or known.state != "active":
                raise BadMessage(f"{peer.role} {peer.name} is {known.state if known else 'gone'}")
            if all(at <= now for at in known.revoked.values()):
                return None
            return known.model_copy(update={"revoked": {key: min(at, now) for key, at in known.revoked.items()}})

        return await self._members.change(peer, decide)

    async def _welcome(self, member: Member, *, renew: bool = False) -> JoinAnswered:
        """Sign for a member, unless what it has is good for long yet, and tell it all that it needs."""
        workspace = self._workspace
        revoked = (await asyncio.to_thread(self._authority.revoked, workspace)).get(member.key, -1.0)
        if revoked >= ENDED_AT:  # an older state of the boards says otherwise
            raise BadMessage(f"{member.role} {member.name}: this key was shut out for good, join with a new token")
        signers = await asyncio.to_thread(self._authority.signers, workspace, member.role)
        rest_s = member.expires_at - self._clock.now()
        enough_s = self._life_s * (FRESH if renew else 1 / 3)
        is_good = bool(member.jwt) and member.issued_at > revoked and claims_of(member.jwt).issuer == signers[0]
        if not is_good or rest_s < enough_s:
            signed = await self._sign(member)

            def decide(known: Member | None) -> Member | None:
                if known is None or known.state != "active" or known.key != member.key:
                    raise BadMessage(f"{member.role} {member.name} is {known.state if known else 'gone'}")
                told = {"jwt": signed.jwt, "issued_at": signed.issued_at, "expires_at": signed.expires_at}
                return known.model_copy(update=told)

            member = await self._members.change(Peer(member.role, member.name), decide)
            if renew:
                await self._note("member.renew", Peer(member.role, member.name), "done")
        trust = await asyncio.to_thread(self._authority.trust, workspace)
        kept = await asyncio.to_thread(self._authority.secrets_of, workspace, member.role)
        return JoinAnswered(state="active", jwt=member.jwt, trust=trust.to_json(), sealed=seal(member.key, kept))

    async def _sign(self, member: Member) -> _Signed:
        expires_at = self._clock.now() + self._life_s
        jwt = await asyncio.to_thread(
            self._authority.sign, self._workspace, member.role, member.name, member.key, expires_at
        )
        told = claims_of(jwt)
        return _Signed(jwt, told.issued_at, told.expires_at)

    # --- what is written down ---

    async def _note_ended(self, peer: Peer, why: str, key: str) -> None:
        await self._note("member.revoke", peer, "done", why, key=key)

    async def _refuse(self, action: str, who: str, peer: Peer, reason: str) -> None:
        """Write a refusal down, unless so many of the same were: whoever holds an old token must not fill the audit."""
        now = self._clock.now()
        if not self._noted.are_too_many(who, now):
            self._noted.failed(who, now)
            await self._note(action, peer, "refused", reason, asked=who)

    async def _note(
        self, action: str, peer: Peer, result: Literal["done", "refused"], reason: str = "", **details: str
    ) -> None:
        by = self._writer.author if action == "member.revoke" else f"{peer.role}/{peer.name}"
        await self._audit.write(
            action,
            by=by,
            target=f"{peer.role}/{peer.name}",
            origin="bus",
            result=result,
            reason=reason,
            details=details,
        )


def _ended(member: Member, now: float, at: float) -> dict[str, float]:
    """Return the keys of a member that are over, with its present one among them from a moment on; newest kept."""
    ended = {**member.revoked, member.key: at}
    assert at >= now, "a key ends now or later"
    return dict(sorted(ended.items(), key=lambda item: item[1])[-REVOKED_MAX:])


def _newcomer(
    asked: JoinAsked, token: TokenState, state: Literal["waiting", "active"], now: float
) -> Callable[[Member | None], Member | None]:
    """Return what makes a member of whoever asked, unless its key is there already, or another has the name."""

    def decide(known: Member | None) -> Member | None:
        if known is not None and known.key == asked.key:
            return None
        if known is not None and known.state != "expelled":
            raise Conflict(f"the name {asked.name} was just taken by another key: choose another name")
        return Member(
            role=asked.role,
            name=asked.name,
            key=asked.key,
            state=state,
            at=now,
            by=f"{asked.role}/{asked.name}",
            attributes=asked.attributes,
            owner=token.owner,
            token=token.id,
            revoked=_ended(known, now, now) if known is not None else {},
        )

    return decide
