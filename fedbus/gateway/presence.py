"""Who is there, what waits, how full the broker is: asked while somebody wants it, at most once a second.

However many look, the coordinator is asked once, and where it is away nobody waits for it: what is known is told, with
``answers`` False. Of a coordinator that takes long to answer (ten thousand clients are some megabytes) less is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf

from fedbus.bus.base import Usage
from fedbus.clock import Clock
from fedbus.errors import BadMessage, BusError
from fedbus.federation.overview import streams_of_workspace
from fedbus.federation.service import Federation, clients_of
from fedbus.messages.queries import Seen, Wait

log = logging.getLogger("fedbus.gateway")

EVERY_S = 1.0
"""How old an answer may be before it is asked for again: a person does not see a shorter time."""

SHARE = 10
"""Asking takes at most this part of the time: a coordinator has rounds to decide."""

ASK_S_MAX = 2.0
"""How long one answer is waited for: a leader answers within milliseconds, another takes over within five seconds."""


WORDS_MAX = 20
"""Of so many different words for what clients do it is told how many do it: they are clients' own words."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the coordinator said. ``at``: when, in seconds since the epoch, 0 before the first answer.

    ``clients`` are as `fedbus.federation.service.Federation.clients` returns them; ``doing``: how many of them do what,
    in a word; ``leader`` is a coordinator's name; ``streams``: how full each stream of the workspace is.
    """

    at: float = 0.0
    answers: bool = False
    clients: tuple[Seen, ...] = ()
    doing: Mapping[str, int] = field(default_factory=dict)
    combiners: tuple[Seen, ...] = ()
    coordinators: tuple[Seen, ...] = ()
    gateways: tuple[Seen, ...] = ()
    waits: tuple[Wait, ...] = ()
    leader: str = ""
    streams: Mapping[str, Usage] = field(default_factory=dict)


class Presence:
    """What is known of who is there; `run` keeps it fresh while it is looked at."""

    def __init__(self, federation: Federation, clock: Clock) -> None:
        self.known = Known()
        self._federation = federation
        self._clock = clock
        self._wanted = asyncio.Event()
        self._due_at = -inf
        self._asking: asyncio.Future[None] | None = None

    async def look(self) -> Known:
        """Return what is known, at most about a second old; where nobody answers, what was known before."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._due_at:
            return self.known
        self._wanted.set()
        if self._due_at > -inf and not self.known.answers:
            return self.known  # nobody answered last time: it is asked again, and nobody waits for it
        if self._asking is None:
            self._asking = loop.create_future()
        await asyncio.wait([self._asking], timeout=ASK_S_MAX)
        return self.known

    async def run(self) -> None:
        """Ask whenever somebody looks; runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            began = loop.time()
            self.known = await self._ask()
            rest_s = (loop.time() - began) * (SHARE - 1) if self.known.answers else 0.0
            self._due_at = loop.time() + max(EVERY_S, rest_s)
            self._wanted.clear()
            asking, self._asking = self._asking, None
            if asking is not None and not asking.done():
                asking.set_result(None)

    async def _ask(self) -> Known:
        """Ask the coordinator; where none answers, what was known, with what the broker tells itself."""
        if not self._federation.bus.connected:
            return replace(self.known, answers=False)
        try:
            told = await self._federation.overview(deadline_s=ASK_S_MAX)
        except (BusError, BadMessage) as error:
            log.debug("no coordinator answers: %s", error)
            return replace(self.known, answers=False, streams=await self._streams())
        return Known(
            at=self._clock.now(),
            answers=True,
            clients=tuple(clients_of(told.clients)),
            doing=doings(told.clients),
            combiners=told.combiners,
            coordinators=told.coordinators,
            gateways=told.gateways,
            waits=told.waits,
            leader=told.leader,
            streams=told.streams,
        )

    async def _streams(self) -> Mapping[str, Usage]:
        """Return how full the streams are, also without a coordinator; what was known where the broker is away."""
        with suppress(BusError):
            return await streams_of_workspace(self._federation, ASK_S_MAX)
        return self.known.streams


def doings(peers: Iterable[Seen]) -> dict[str, int]:
    """Return how many clients do what, by the first word for it: training, sending, holding, evaluating, idle.

    A client says ``training for s1, sending for s2``, a crowd ``5 training for s1, 2 sending for s1`` of its members.
    """
    found: Counter[str] = Counter()
    for peer in peers:
        if not peer.members:
            found[peer.doing.split(" ")[0] or "idle"] += 1
            continue
        busy = 0
        for part in peer.doing.split(", "):
            number, _, rest = part.partition(" ")
            count = min(int(number), peer.members - busy) if number.isdecimal() and len(number) < 8 else 0
            if count > 0:
                found[rest.split(" ")[0]] += count
                busy += count
        found["idle"] += peer.members - busy
    most = found.most_common(WORDS_MAX)
    return {word: count for word, count in most if count}
