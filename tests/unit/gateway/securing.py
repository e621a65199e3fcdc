"""A gateway of a secured workspace in memory, somebody who signs tokens, and people who ask with tokens of their own.

A registrar works in threads, for which virtual time does not wait: what it would write on tokens is written here.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from asker import ask
from whole_house import House

from fedbus.access.authority import Authority
from fedbus.access.keys import Key
from fedbus.bus.memory import MemoryBus
from fedbus.gateway.listening import Listening
from fedbus.gateway.service import Gateway
from fedbus.messages.access import Member, TokenState
from fedbus.messages.ids import Peer
from fedbus.store.streams import ensure_streams
from fedbus.workers import Inline

URLS = ("tls://bus.example:4222",)


@dataclass
class Secured:
    """A gateway, and how people ask it; ``texts``: the token of each who has asked."""

    gateway: Gateway
    texts: dict[str, str] = field(default_factory=dict)

    async def ask(self, method, target, *, by="admin", headers=None, **given):
        """Ask as somebody whose name is her role."""
        if by not in self.texts:
            members = self.gateway.members
            await members.people.add(by, (by,), by="test")
            self.texts[by] = (await members.tokens.create_api(by, by="test", person=by)).api_text
        found = {"Authorization": f"Bearer {self.texts[by]}"} | (headers or {})
        return await ask(self.gateway, method, f"/api/v1{target}", headers=found, **given)

    async def join(self, name, role="client", state="waiting", **fields):
        """Put a member on its board; returns it."""
        found = {"role": role, "name": name, "key": Key.new().public, "state": state, "at": 1.0, "by": "test"} | fields
        return await self.gateway.members.change(Peer(role, name), lambda _: Member(**found))


@asynccontextmanager
async def secured(house: House, directory, name="gw"):
    """A gateway with credentials that listens on no port; each join token is signed as a registrar would."""
    authority = Authority.open(directory / "keys")
    if "default" not in authority.workspaces:
        authority.create_workspace("default")
    gateway = Gateway(
        MemoryBus(house.broker, name),
        name=name,
        incarnation=f"{name}-1",
        workspace="default",
        clock=house.clock,
        workers=Inline(),
        listening=Listening(rate_per_s=0.0),
        credentials=authority.issue("default", "gateway", name, URLS),
    )
    async with gateway.federation:
        await ensure_streams(gateway.federation.bus, gateway.federation.subjects)
        parts = [house.live(part) for part in (*gateway._parts(), _sign(gateway.members, authority))]
        try:
            await asyncio.sleep(0.1)  # of virtual time: for the parts to read what is there
            yield Secured(gateway)
        finally:
            for part in parts:
                await house.dismiss(part)


async def _sign(members, authority):
    """Write into each new join token the JWT with which its holder may ask."""
    new = asyncio.Queue()
    members.listen(new.put_nowait)
    while True:
        board = await new.get()
        if isinstance(board, TokenState) and board.what == "join" and not board.jwt and not board.revoked_at:
            await members.tokens.sign(board.id, authority.joiner("default", board.id))
