"""Runs the clients of a process: tasks in; the owner's functions, uploads and reports out.

What belongs to the connection is there once, however many clients there are: one subscription, presence, one outbox,
one reader of the board, one inbox, one model. Here it is put together and run:

    hearing --> inbox --> deciding --(heeding: may it be?)--> work, sending --> inbox
                             |
                             +--> outbox

With a state (`fedbus.client.state`) a client begins with the updates that a former process of its name has made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from fedbus.bus.base import Bus
from fedbus.client.deciding import Deciding
from fedbus.client.events import Foreign, Settled
from fedbus.client.hearing import Hearing
from fedbus.client.heeding import Heeding
from fedbus.client.inbox import Inbox, Told
from fedbus.client.job import Made, Means
from fedbus.client.keeper import Keeper
from fedbus.client.keepsake import Keepsakes
from fedbus.client.machine import Machine
from fedbus.client.newest import NewestModel
from fedbus.client.numbers import Numbers
from fedbus.client.parts import Part, Parts
from fedbus.client.sending import Courier, Sending
from fedbus.client.setup import Setup
from fedbus.client.shelf import MEMORY_BYTES_MAX, Shelf
from fedbus.client.state import Found
from fedbus.client.warden import Warden
from fedbus.client.watched import About
from fedbus.client.work import Workshop
from fedbus.errors import FedbusError
from fedbus.exchange.outbox import Outbox
from fedbus.exchange.spans import carry
from fedbus.exchange.station import Station, hash_of
from fedbus.messages.ids import Peer
from fedbus.store.models import ModelStore
from fedbus.store.sealing import GivenKeys
from fedbus.together import together
from fedbus.workers import Threads, Workers

log = logging.getLogger("fedbus.client")

HEARTBEAT_S = 5.0
"""How often a process says that it lives: some 200 a second of thousand clients, and known as gone after 28 s."""

REFRESH_S = 30.0
"""How often tasks are read again even if nothing seems to be missed."""


class Hub:
    """One call of `Client.run` or `Crowd.run`: everything that lives as long as it does."""

    def __init__(self, setup: Setup, bus: Bus, newest: NewestModel) -> None:
        self._setup = setup
        name = setup.peer.name
        self._workers: Workers = setup.workers or Threads(2, f"fedbus-{name}")
        # The owner's functions have a thread of their own: two never run at once, and a long training holds nobody up.
        self._thread: Workers = setup.workers or Threads(1, f"fedbus-{name}-app")
        self._warden = Warden(setup.wishes, setup.workspace, setup.clock, bus, self._workers, self._about)
        self._bus = self._warden.door.as_bus
        self._station = self._make_station()
        self._subjects = self._station.subjects
        self._inbox = Inbox(len(setup.clients))
        self._parts = Parts(setup.clients)
        self._outbox = Outbox(self._station)
        self._hearing = Hearing(self._station, self._inbox, self._parts, self._outbox, setup.signing.posts)
        self._shelf = Shelf(MEMORY_BYTES_MAX if setup.crowd else None, newest.spare)
        self._keeper = None if setup.state is None else Keeper(setup.state, setup.peer, self._workers)
        self._keepsakes = Keepsakes()
        self._numbers = Numbers(setup.traces.meters)
        means = self._make_means(newest)
        self._courier = Courier(
            self._station,
            self._workers,
            setup.traces,
            setup.crash,
            self._settled,
            manifest=means.store.manifest,
            leaving=self._warden.leaving,
        )
        self.heeding = Heeding(
            self._warden,
            self._station,
            self._inbox,
            self._parts,
            self._outbox,
            self._courier,
            newest,
            self.doing,
        )
        self._deciding = Deciding(
            self._inbox,
            self._parts,
            self.heeding,
            self._warden,
            workshop=Workshop(setup.app, means, self._made, self._courier.under_way, self._keeper),
            courier=self._courier,
            outbox=self._outbox,
            keepsakes=self._keepsakes,
            spare=newest.spare,
            each=not setup.crowd,
        )

    def _make_station(self) -> Station:
        setup = self._setup
        station = Station(
            self._bus,
            setup.workspace,
            setup.peer,
            setup.incarnation,
            setup.clock,
            heartbeat_s=HEARTBEAT_S,
            attributes=setup.attributes,
            members=len(setup.clients) if setup.crowd else 0,
            first=setup.first,
        )
        station.doing = self.doing
        station.signer = setup.signing.signer
        station.policy = lambda: self._warden.owner.digest
        return station

    def _make_means(self, newest: NewestModel) -> Means:
        setup, keys = self._setup, GivenKeys()
        return Means(
            store=ModelStore(self._bus, self._subjects, self._workers, keys),
            keys=keys,
            newest=newest,
            subjects=self._subjects,
            shelf=self._shelf,
            workers=self._workers,
            thread=self._thread,
            traces=setup.traces,
            crash=setup.crash,
            keepsakes=self._keepsakes,
            models=setup.signing.models,
        )

    async def run(self) -> None:
        """Take part until cancelled. Raises `NameTaken` where another process lives under the name."""
        self._numbers.watch(self._bus, self._outbox, self._inbox.__len__)
        try:
            if self._keeper is not None:
                self._adopt(await self._keeper.open())
                self._keepsakes.adopt(self._keeper.keepsakes, self._keeper.settle, self._keeper.end)
            self.heeding.open()
            async with self.heeding.listening(self._setup.wishes.directory):
                await self._take_part()
        finally:
            self._numbers.forget()
            self._shelf.close()
            self._warden.close()
            self._inbox.close()
            if self._keeper is not None:
                self._keeper.close()
            if self._setup.workers is None:
                self._workers.close()
                self._thread.close()

    async def _take_part(self) -> None:
        clients, subjects = self._setup.clients, self._subjects
        boards = [subjects.task(name) for name in clients]
        others = [pattern(Peer("client", name)) for name in clients for pattern in (subjects.down, subjects.ack)]
        if self._setup.crowd:
            others.append(subjects.ack(self._setup.peer))
        heard = await self._station.listen([*boards, *others])
        every_s = REFRESH_S * (1 + (hash_of(self._setup.peer.name) % 100) / 200)  # each process at its own time
        try:
            async with together() as group:
                for work in (
                    self._station.present(),
                    carry(self._station, self._setup.traces),
                    self._outbox.run(),
                    self._hearing.run(heard),
                    self._station.read_board(boards, self._hearing.take_from_board, every_s),
                    self._deciding.run(group),
                    self._warden.owner.run(),
                    self.heeding.greet(),
                ):
                    group.create_task(work)
                if self._keeper is not None:
                    group.create_task(self._keeper.run())
        finally:
            with suppress(FedbusError):
                await self._station.leave()
            await heard.close()

    def _adopt(self, left: Sequence[Found]) -> None:
        """Begin with what a former process has made and nobody has settled."""
        for client, name, held in left:
            if client not in self._parts or not self._parts.has_room(client):
                log.info("%s: the update for %s of a former process is dropped: nobody here sends it", client, name)
                held.leave()
                continue
            self._parts.begin(Part(client, Machine(name, held=held.round), {}, held=held))
            self._keepsakes.begin(client, name)
        if left:
            log.info("%s: a former process has left %d updates", self._setup.peer.name, len(left))

    def doing(self) -> str:
        """Say what its clients do, each or all together."""
        return self._hearing.doubted or self._parts.doing(each=not self._setup.crowd)

    def _about(self, client: str, session: str) -> About:
        return self.heeding.about(client, session)  # which is made later, and of what has the warden's door

    # --- what comes of work ---

    def _made(self, made: Made | None) -> None:
        self._inbox.put(None if made is None else Told(made.job.client, made.job.session, made.event, by=made))
        if made is not None and self._numbers.wanted:
            self._numbers.made(made)

    def _settled(self, sending: Sending, event: Settled | Foreign) -> None:
        if self._numbers.wanted:
            self._numbers.settled(sending, event, asyncio.get_running_loop().time())
        self._inbox.put(Told(sending.client, sending.session, event, by=sending))
