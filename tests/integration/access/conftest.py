"""A secured broker with the operator's side of who takes part: a registrar, and an admin who decides."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from fedbus.access.audit import Audit
from fedbus.access.authority import Authority
from fedbus.access.credentials import write_credentials
from fedbus.access.joining import Request
from fedbus.access.keys import Key
from fedbus.access.members import Members
from fedbus.access.registrar import Registrar
from fedbus.access.tokens import JoinToken
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import Identity, connect
from fedbus.clock import SystemClock
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import ensure_streams
from fedbus.together import together

CLOCK = SystemClock()


class Ward:
    """A workspace at a secured broker: its streams, a registrar while `registering`, and an admin's hands.

    ``members``: those of the admin, read from the broker at each deed.
    """

    def __init__(self, url, authority, workspace, place, stack, ca=""):
        self.url = url
        self.authority = authority
        self.workspace = workspace
        self.subjects = Subjects(workspace)
        self.place = place
        self.stack = stack
        self.ca = ca
        self._running = []

    async def bus(self, role, name):
        """A connection of a role of the operator's, with credentials that the authority issues."""
        issued = self.authority.issue(self.workspace, role, name)
        return await self.stack.enter_async_context(
            await connect(self.url, name=name, credentials=Identity(issued.jwt, issued.seed, self.ca))
        )

    async def open(self):
        """Make the streams; returns itself."""
        await ensure_streams(await self.bus("coordinator", "co"), self.subjects)
        self.admin = await self.bus("admin", "eve")
        self.members = Members(self.admin, self.subjects, CLOCK)
        self.audit = Audit(self.admin, self.subjects, Peer("admin", "eve"), CLOCK)
        return self

    async def register(self, name="g-1", **settings):
        """Start a registrar, as a gateway with keys does; returns it with the task that can be cancelled."""
        bus = await self.bus("gateway", name)
        writer = Peer("gateway", name)
        members = Members(bus, self.subjects, CLOCK)
        registrar = Registrar(
            bus,
            self.subjects,
            members,
            self.authority,
            Audit(bus, self.subjects, writer, CLOCK),
            CLOCK,
            push=lambda: self.authority.push(self.workspace, self.url, ca=self.ca),
            writer=writer,
            **settings,
        )

        async def run():
            async with together() as group:
                group.create_task(members.follow())
                group.create_task(registrar.run())

        task = asyncio.create_task(run())
        self._running.append(task)
        return registrar, task

    async def token(self, role="client", **fields):
        """A join token, as it is handed out."""
        new = await self.members.tokens.create_join(role, by="eve", **fields)
        return JoinToken.read(await self.members.tokens.join_text(new, [self.url], self.ca))

    def request(self, token, name="c-1", **fields):
        """What a machine asks with a token, with a new key."""
        return Request(token, name, Key.new().seed, **fields)

    def write(self, credentials):
        """Write credentials where they belong; returns the path."""
        path = self.place / f"{credentials.role}.{credentials.name}.{secrets.token_hex(2)}.creds"
        write_credentials(path, credentials)
        return path

    async def deeds(self, action=None):
        """The audit: (action, target, result, reason) of each deed, oldest first."""
        found = [one async for one in self.audit.read()]
        entries = sorted((one.entry for one in found), key=lambda entry: entry.number)
        return [(e.action, e.target, e.result, e.reason) for e in entries if action in (None, e.action)]

    async def hears(self, pattern):
        """What is said on a pattern, as the coordinator hears it."""
        return await (await self.bus("coordinator", "ear")).subscribe(pattern)

    async def stop(self):
        """End the registrars."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def wards(tmp_path_factory):
    """Two workspaces at one secured broker, by name, each with a registrar."""
    place = tmp_path_factory.mktemp("access")
    authority = Authority.open(place / "keys")
    names = ("ward", "lab")
    for name in names:
        authority.create_workspace(name)
    async with (
        AsyncExitStack() as stack,
        EmbeddedBroker(place / "store", security=authority.security) as broker,
    ):
        made = {}
        for name in names:
            made[name] = await Ward(broker.url, authority, name, place, stack).open()
            await made[name].register()
        yield made
        for one in made.values():
            await one.stop()


@pytest.fixture
def make_ward():
    """``make_ward(url, authority, workspace, place, stack, ca)``: a workspace at a broker of one's own."""
    return Ward
