"""What has to be done some time, and what no decision waits for: the catalogue's entries, and what can be thrown away.

All of it may be repeated and may come late: the journal says which versions there are, a blob that no version is made
of costs room only, and a command that was carried out changes nothing when it is read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from fedbus.access.signing import ModelSigner
from fedbus.bus.base import Bus
from fedbus.errors import BadMessage, BusDenied, BusFull, BusUnavailable, Conflict, NotFound
from fedbus.messages.records import ModelPublished
from fedbus.messages.subjects import Subjects
from fedbus.store.models import ModelStore
from fedbus.store.registry import RegistryStore
from fedbus.store.removal import Collected, Removal

log = logging.getLogger("fedbus.coordinator")

RETRY_S = 0.5
"""How often the bus is tried again: a catalogue that is behind is noticed by whoever lists models."""

FINISH_S_MAX = 2.0
"""How long the end of the process waits for what is left; the next coordinator does what it does not find done."""

FORGET_S = 600.0
"""How long the boards say that a session has ended, for clients that were away."""

LOOK_S = 60.0
"""How often it is looked whether the grace of something that was retired is over: a message is read each time."""

NOT_NOW = (Conflict, NotFound, BadMessage, BusDenied)
"""What does not get better by trying again soon: the version stays, and a collection tells why."""

Chore = Callable[[], Awaitable[None]]


class Chores:
    """A line of chores, done one after the other, each until it is done."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        models: ModelStore,
        registry: RegistryStore,
        is_used: Callable[[str], bool] = lambda _: False,
        signer: ModelSigner | None = None,
    ) -> None:
        """``is_used``: whether a session under way asks clients for a blob. ``signer``: signs what is published."""
        self._signer = signer
        self._bus = bus
        self._subjects = subjects
        self._models = models
        self._registry = registry
        self._removal = Removal(bus, subjects, models, registry)
        self._is_used = is_used
        self._look_at = 0.0
        self._line: dict[str, Chore] = {}
        self._late: set[str] = set()
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._wake = asyncio.Event()

    @property
    def signs(self) -> bool:
        """Whether what is entered is signed."""
        return self._signer is not None

    def enter(self, model: ModelPublished) -> None:
        """Enter a published version into the catalogue."""
        signed = self._signed(model)
        self.put(f"{model.version} enters the catalogue", lambda: self._models.enter(signed))

    def _signed(self, model: ModelPublished) -> ModelPublished:
        if self._signer is None:
            return model
        return model.model_copy(update={"signature": self._signer.sign(model.version, model.digest).hex()})

    def discard(self, blob: str) -> None:
        """Remove a blob that nobody needs any more."""
        self.put(f"blob {blob} is removed", lambda: self._models.remove(blob))

    def expire(self, model: ModelPublished) -> None:
        """Remove the arrays of a version that its session keeps no longer; what a stage has stays."""
        self.put(f"version {model.version} expires", lambda: self._expire(model))

    async def _expire(self, model: ModelPublished) -> None:
        if self._is_used(model.blob):
            log.info("version %s stays until it is collected: another session evaluates it", model.version)
            return
        try:
            why = await self._removal.expire(self._signed(model), "its session keeps the newest versions only")
        except NOT_NOW as error:
            log.warning("version %s stays until it is collected: %s", model.version, error)
            return
        if why:
            log.info("version %s expires, and stays: %s", model.version, why)

    async def _reserve(self) -> None:
        """Let the registry have something to forget when the store is full."""
        try:
            await self._registry.reserve()
        except NOT_NOW as error:
            log.warning("the registry cannot be written: %s", error)

    async def _go_on(self) -> None:
        """Remove what people have retired, when its grace is over."""
        try:
            await self._removal.go_on(Collected())
        except NOT_NOW as error:
            log.warning("what is retired stays until it is collected: %s", error)

    def forget(self, command: int) -> None:
        """Remove a command that was carried out, by its sequence."""
        self.put(f"command {command} is removed", lambda: self._bus.delete(self._subjects.stream("command"), command))

    def ended(self, session: str) -> None:
        """Remove what stands on the boards for a session that has ended, a while from now: clients may be away."""
        self._ended[session] = asyncio.get_running_loop().time() + FORGET_S

    def tick(self) -> None:
        """Time has passed."""
        now = asyncio.get_running_loop().time()
        while self._ended and next(iter(self._ended.values())) <= now:
            self._clear_boards(self._ended.popitem(last=False)[0])
        if self._look_at <= now:
            if not self._look_at:
                self.put("the registry has room", self._reserve)
            self._look_at = now + LOOK_S
            self.put("what is retired is removed", self._go_on)

    def forget_all(self) -> None:
        """Leave what is left to somebody else."""
        self._line.clear()
        self._late.clear()
        self._ended.clear()

    def _clear_boards(self, session: str) -> None:
        board = self._subjects.stream("board")
        for pattern in (self._subjects.task(session=session), self._subjects.order(session=session)):
            self.put(f"{pattern} is cleared", lambda pattern=pattern: self._bus.purge(board, pattern))  # type: ignore[misc]

    def put(self, what: str, chore: Chore) -> None:
        """Do this some time; what stands in the line by the same words is done once."""
        self._line[what] = chore
        self._wake.set()

    async def run(self) -> None:
        """Do what there is to do, as it comes; runs until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self._done():
                self._wake.set()
                await asyncio.sleep(RETRY_S)

    async def finish(self) -> None:
        """Do what is left, if it can be done soon."""
        try:
            async with asyncio.timeout(FINISH_S_MAX):
                await self._done()
        except TimeoutError:
            log.warning("left undone: %s", ", ".join(self._line)[:200])

    async def _done(self) -> bool:
        """Do all that there is; False where the bus did not take something.

        What it did not take holds up nothing else: where a full store has no room for what an expiry writes down, that
        may come from a blob that is removed behind it in the line.
        """
        all_done = True
        for what, chore in list(self._line.items()):
            try:
                await chore()
            except (BusUnavailable, BusFull) as error:
                log.log(logging.DEBUG if what in self._late else logging.WARNING, "not yet: %s: %s", what, error)
                self._late.add(what)
                all_done = False
                continue
            self._late.discard(what)
            if self._line.get(what) is chore:
                del self._line[what]
        return all_done
