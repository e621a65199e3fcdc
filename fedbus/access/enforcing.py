"""Makes the broker know what the boards say: who is shut out, who may come back, how many bytes there are.

    a board that is new --> keys to revoke or to restore, bounds --> the keys directory --> the account's JWT --> broker

It is told at once, again until it has taken it, and whenever it has come back. What is revoked stays so in the keys
directory, also when the boards were lost; only a board that says active takes it back, and only of who was suspended:
keys of who was expelled, and keys that were replaced, are ended for good, whatever an older state of the boards says.
Whose keys are at an end stands in the audit when the broker knows it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from fedbus.access.accounts import connections_for
from fedbus.access.boards import Board
from fedbus.access.claims import ENDED_AT
from fedbus.access.members import Members
from fedbus.bus.base import Bus
from fedbus.clock import Clock
from fedbus.errors import BusError, ConfigError
from fedbus.messages.access import Member, TokenState
from fedbus.messages.ids import Peer
from fedbus.together import together

if TYPE_CHECKING:
    from fedbus.access.authority import Authority

log = logging.getLogger("fedbus.access")

ASKING_S = 7 * 86400.0
"""For so long behind a token's end its holder may still ask how it stands: a person may take longer to approve."""

RETRY_S = 0.5
RETRY_S_MAX = 10.0
"""Between tries to tell a broker that does not answer, or refuses: each pause is twice the one before."""

LOOK_S = 1.0
"""Between looks whether the bus came back, or a key's time is over."""

Note = Callable[[Peer, str, str], Awaitable[None]]
"""Writes down that a member's key is at an end: why, and which."""


class Enforcing:
    """What a registrar does with the keys besides answering. ``push``: tells the broker (`Authority.push`)."""

    def __init__(
        self,
        bus: Bus,
        workspace: str,
        members: Members,
        authority: Authority,
        clock: Clock,
        *,
        push: Callable[[], Awaitable[None]],
        note: Note,
    ) -> None:
        self._bus = bus
        self._workspace = workspace
        self._members = members
        self._authority = authority
        self._clock = clock
        self._push = push
        self._note = note
        self._dirty: set[Peer] = set()
        self._unsigned: set[str] = set()
        self._due: dict[Peer, float] = {}
        self._ended: list[tuple[Peer, str]] = []
        self._is_told = False  # at the start: who ended between a revocation and its push has told nobody
        self._work = asyncio.Event()
        self._work.set()
        members.listen(self._hear)

    async def run(self) -> None:
        """Enforce until cancelled; what is in memory has to be caught up."""
        for member in self._members.all():
            self._hear(member)
        for token in self._members.tokens.all():
            self._hear(token)
        async with together() as group:
            group.create_task(self._enforce())
            group.create_task(self._watch())

    def _hear(self, board: Board) -> None:
        """Note what a board that is new asks for."""
        if isinstance(board, Member):
            self._dirty.add(Peer(board.role, board.name))
        elif isinstance(board, TokenState) and board.what == "join" and not board.jwt and not board.revoked_at:
            self._unsigned.add(board.id)
        self._work.set()

    async def _watch(self) -> None:
        """Look again at what has become due, and tell a broker that came back; runs until cancelled."""
        seen = self._bus.reconnects
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._clock.now()
            due = [peer for peer, at in self._due.items() if at <= now]
            for peer in due:
                del self._due[peer]
            self._dirty.update(due)
            if self._bus.reconnects != seen:
                seen, self._is_told = self._bus.reconnects, False
            if due or not self._is_told:
                self._work.set()

    async def _enforce(self) -> None:
        """Make the broker know what the boards say; runs until cancelled. What fails is tried again."""
        pause_s = RETRY_S
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._sign_tokens()
                if await self._settle() or not self._is_told:
                    self._is_told = True  # before it is: a broker that comes back meanwhile is told again
                    await self._push()
                await self._note_ended()
                pause_s = RETRY_S
            except (BusError, ConfigError, OSError) as error:
                self._is_told = False
                log.warning("the broker does not know yet who was let in or shut out, trying again: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_S_MAX)
                self._work.set()

    async def _sign_tokens(self) -> None:
        """Write into new join tokens with which JWT their holders may ask."""
        for token in sorted(self._unsigned):
            state = self._members.tokens.get(token)
            if state is not None and not state.jwt and not state.revoked_at:
                ends_at = state.expires_at + ASKING_S if state.expires_at else 0.0
                jwt = await asyncio.to_thread(self._authority.joiner, self._workspace, token, ends_at)
                await self._members.tokens.sign(token, jwt)
            self._unsigned.discard(token)

    async def _settle(self) -> bool:
        """Revoke and restore keys, and bound the workspace, as the boards say; whether the account is another now."""
        workspace, bounds = self._workspace, self._members.bounds
        peers, self._dirty = self._dirty, set()
        try:
            known = await asyncio.to_thread(self._authority.revoked, workspace)
            ended, good = self._keys_of(peers, known, self._clock.now())
            since = {key: at for key, (_, at) in ended.items()}
            holders = {key: peer.role for key, (peer, _) in ended.items()}
            changed = await asyncio.to_thread(self._authority.revoke, workspace, since, holders)
            changed |= await asyncio.to_thread(self._authority.restore, workspace, good)
            most = {"bytes_max": bounds.bytes_max, "connections_max": connections_for(bounds.clients_max)}
            changed |= await asyncio.to_thread(self._authority.set_bounds, workspace, **most)
        except BaseException:
            self._dirty |= peers
            raise
        self._ended += [(peer, key) for key, (peer, _) in ended.items()]
        return changed

    def _keys_of(
        self, peers: Iterable[Peer], known: dict[str, float], now: float
    ) -> tuple[dict[str, tuple[Peer, float]], list[str]]:
        """Return the keys of members that are to be shut out, since when, and those that are to come back."""
        ended: dict[str, tuple[Peer, float]] = {}
        good: list[str] = []
        for peer in peers:
            member = self._members.get(peer)
            if member is None:
                continue
            since = known.get(member.key, -1.0)
            if member.state == "suspended" and since < member.issued_at:
                # by our own clock: who has decided may have another, and what was signed must not be later
                ended[member.key] = (peer, max(now, member.issued_at))
            elif member.state == "expelled" and since < ENDED_AT:
                ended[member.key] = (peer, ENDED_AT)
            elif member.state == "active" and since >= ENDED_AT:
                log.warning("%s %s stands as active, but its key was ended for good: let it join anew", *peer)
            elif member.state == "active" and member.key in known and since >= member.issued_at:
                good.append(member.key)
            for key, at in member.revoked.items():  # the time that is left to a key of before ends with its member
                if at > now and member.state == "active":
                    self._due[peer] = min(self._due.get(peer, at), at)
                elif known.get(key, -1.0) < ENDED_AT:
                    ended[key] = (peer, ENDED_AT)
        return ended, good

    async def _note_ended(self) -> None:
        """Write down whose keys the broker lets in no longer."""
        while self._ended:
            peer, key = self._ended[0]
            member = self._members.get(peer)
            is_present = member is not None and member.key == key
            why = f"{member.state}: {member.reason}" if member is not None and is_present else "the key was replaced"
            await self._note(peer, why, key)
            self._ended.pop(0)
