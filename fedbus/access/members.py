"""Members: who has an identity at the broker, and in which state; with tokens, people and bounds in one place.

                 approve              suspend
    (join) --> waiting ----> active <---------> suspended
                  |             |     resume        |
                  |             v                   |
                  +---------> expelled <------------+      not under this key again

Whoever writes these boards decides; nobody is shut out by that alone: a registrar, which has the keys, makes the broker
know it (`fedbus.access.registrar`), within milliseconds where one runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fedbus.access.boards import Board, Boards
from fedbus.access.people import People
from fedbus.access.tokens import Tokens
from fedbus.bus.base import Bus
from fedbus.clock import Clock
from fedbus.errors import ConfigError, Conflict, NotFound
from fedbus.messages.access import Member, WorkspaceBounds
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

State = Literal["waiting", "active", "suspended", "expelled"]

FROM: dict[str, tuple[State, ...]] = {
    "approve": ("waiting",),
    "suspend": ("active",),
    "resume": ("suspended",),
    "expel": ("waiting", "active", "suspended"),
}
"""In which states each deed may be done."""

TO: dict[str, State] = {"approve": "active", "suspend": "suspended", "resume": "active", "expel": "expelled"}
"""Which state it leads to."""


RESERVED = 12
"""How often a bound of bytes is written once more: when they are used up, these make room for other decisions."""


class Members:
    """Who takes part in a workspace. `follow` keeps it up to date; `load` reads it once; all deeds work without both.

    ``tokens``, ``people``: those of the workspace. ``by`` of a deed: who does it, an `access.Who`.
    """

    def __init__(self, bus: Bus, subjects: Subjects, clock: Clock) -> None:
        self.boards = Boards(bus, subjects, clock)
        self.tokens = Tokens(self.boards)
        self.people = People(self.boards)

    # --- in memory ---

    async def follow(self) -> None:
        """Keep what is in memory up to date; runs until cancelled."""
        await self.boards.follow()

    async def follow_bounds(self) -> None:
        """Keep the bounds alone up to date; runs until cancelled."""
        await self.boards.follow(self.boards.subjects.access_bounds())

    async def load(self) -> None:
        """Read what stands there now, once."""
        await self.boards.load()

    async def caught_up(self) -> None:
        """Wait until `follow` has heard all that stood there."""
        await self.boards.caught_up.wait()

    def listen(self, hear: Callable[[Board], None]) -> None:
        """Call something with each board that is new (a `Member`, `TokenState`, `Person`, `WorkspaceBounds`)."""
        self.boards.heard.append(hear)

    @property
    def bounds(self) -> WorkspaceBounds:
        """What the workspace may use, as it is known in memory."""
        return self.boards.bounds

    def get(self, member: Peer) -> Member | None:
        """Return a member, as it is known in memory."""
        return self.boards.members.get(member)

    def all(self, *, role: str = "", state: str = "") -> list[Member]:
        """Return all members that are known in memory, by role and name; only of a role, or in a state."""
        found = (one for one in self.boards.members.values() if role in ("", one.role) and state in ("", one.state))
        return sorted(found, key=lambda one: (one.role, one.name))

    def active_clients(self) -> int:
        """Return how many clients are active."""
        return sum(one.role == "client" and one.state == "active" for one in self.boards.members.values())

    # --- deeds ---

    async def approve(self, member: Peer, *, by: str, reason: str = "") -> Member:
        """Let in who waits. `NotFound`; `Conflict` where it does not wait."""
        return await self._do("approve", member, by, reason)

    async def suspend(self, member: Peer, *, by: str, reason: str = "") -> Member:
        """Shut a member out until it is resumed. `NotFound`; `Conflict` where it is not active."""
        return await self._do("suspend", member, by, reason)

    async def resume(self, member: Peer, *, by: str, reason: str = "") -> Member:
        """Let a suspended member back in, with the credentials that it has. `NotFound`; `Conflict` where it is not."""
        return await self._do("resume", member, by, reason)

    async def expel(self, member: Peer, *, by: str, reason: str = "") -> Member:
        """Shut a member out for good; of one that waits: refuse it. `NotFound`; `Conflict` where it is expelled."""
        return await self._do("expel", member, by, reason)

    async def _do(self, deed: str, member: Peer, by: str, reason: str) -> Member:
        def decide(known: Member | None) -> Member:
            if known is None:
                raise NotFound(
                    f"{member.role} {member.name}: there is no such member; `fedbus member list` shows those that exist"
                )
            if known.state not in FROM[deed]:
                raise Conflict(
                    f"{member.role} {member.name} is {known.state}: to {deed} it, it has to be "
                    f"{' or '.join(FROM[deed])}",
                    state=known.state,
                )
            told: dict[str, Any] = {"state": TO[deed], "at": self.boards.clock.now(), "by": by, "reason": reason}
            return known.model_copy(update=told)

        return await self.change(member, decide)

    async def change(self, member: Peer, decide: Callable[[Member | None], Member | None]) -> Member:
        """Change a member as ``decide`` says of what stands there now (`Boards.change`)."""
        return await self.boards.change(self.boards.subjects.access_member(member), Member, decide)

    async def read(self, member: Peer) -> Member | None:
        """Return a member as it stands now, asked of the broker."""
        return await self.boards.read(self.boards.subjects.access_member(member), Member)

    async def set_bounds(
        self,
        *,
        by: str,
        clients_max: int | None = None,
        sessions_max: int | None = None,
        bytes_max: int | None = None,
        approval: Literal["auto", "ask"] | None = None,
    ) -> WorkspaceBounds:
        """Change what is given of what the workspace may use; 0: without a bound. `ConfigError` for what cannot be."""
        given = {"clients_max": clients_max, "sessions_max": sessions_max, "bytes_max": bytes_max}
        if any(value is not None and not 0 <= value < 2**53 for value in given.values()):
            raise ConfigError("bounds: expected whole numbers from 0 on")
        if approval not in (None, "auto", "ask"):
            raise ConfigError(f"approval: expected auto or ask, got {approval!r}")
        told = {name: value for name, value in (given | {"approval": approval}).items() if value is not None}

        def decide(known: WorkspaceBounds | None) -> WorkspaceBounds:
            fields = told | {"at": self.boards.clock.now(), "by": by}
            return (known or WorkspaceBounds()).model_copy(update=fields)

        subject = self.boards.subjects.access_bounds()
        written = await self.boards.change(subject, WorkspaceBounds, decide)
        for _ in range(RESERVED if bytes_max else 0):
            written = await self.boards.change(subject, WorkspaceBounds, decide)
        return written

    async def read_bounds(self) -> WorkspaceBounds:
        """Return what the workspace may use as it stands now, asked of the broker."""
        return await self.boards.read_bounds()
