"""Entries of the journal by their place, several at once; those that were read last are at hand."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from fedbus.gateway.events import Event, events_of
from fedbus.gateway.index import Position
from fedbus.store.journal import Journal
from fedbus.together import together

AT_ONCE = 32
"""Entries that are asked for at once: on a line of 50 ms a page of 100 takes four turns."""

CLOSE_MIN, CLOSE = 20, 2
"""From so many entries on, of which at least each second is wanted, all between the first and the last are read: one
question to the broker in place of many."""

HELD_BYTES_MAX = 16 * 2**20
"""Bytes of entries at hand, as they are stored: pages are asked for again and again."""


class Entries:
    """What stands in the journal at some places; ``life``: how often it was written again."""

    def __init__(self, journal: Callable[[], Journal], life: Callable[[], int]) -> None:
        self._journal = journal
        self._life = life
        self._held_of = 0
        self._held: OrderedDict[int, tuple[Event, ...]] = OrderedDict()
        self._held_bytes = 0

    async def events(self, places: Sequence[Position]) -> list[Event]:
        """Return the events at some places, in their order; without those that are not there any more."""
        self._forget()
        wanted = dict.fromkeys(place.sequence for place in places)
        found = {sequence: self._held[sequence] for sequence in wanted if sequence in self._held}
        await self._read([sequence for sequence in wanted if sequence not in found], found)
        for sequence in wanted:
            if sequence in self._held:
                self._held.move_to_end(sequence)
        by_place = {event.position: event for events in found.values() for event in events}
        return [by_place[place] for place in places if place in by_place]

    def _forget(self) -> None:
        """Hold nothing of a journal that was written again since."""
        if self._held_of != self._life():
            self._held_of = self._life()
            self._held.clear()
            self._held_bytes = 0

    async def _read(self, sequences: list[int], found: dict[int, tuple[Event, ...]]) -> None:
        """Read entries: in one go where they stand close together, else each by its place."""
        if len(sequences) >= CLOSE_MIN and max(sequences) - min(sequences) < CLOSE * len(sequences):
            await self._read_through(sequences, found)
        else:
            await self._read_each(sequences, found)

    async def _read_through(self, sequences: list[int], found: dict[int, tuple[Event, ...]]) -> None:
        wanted, last = set(sequences), max(sequences)
        follow = self._journal().follow(from_sequence=min(sequences))
        try:
            async for journalled in follow:
                if journalled.sequence in wanted:
                    found[journalled.sequence] = tuple(events_of(journalled))
                    self._hold(journalled.sequence, found[journalled.sequence])
                if journalled.sequence >= last or not journalled.pending:
                    return
        finally:
            await follow.aclose()

    async def _read_each(self, sequences: Iterable[int], found: dict[int, tuple[Event, ...]]) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def read(sequence: int) -> None:
            async with room:
                journalled = await self._journal().at(sequence)
            if journalled is not None:
                found[sequence] = tuple(events_of(journalled))
                self._hold(sequence, found[sequence])

        async with together() as group:
            for sequence in sequences:
                group.create_task(read(sequence))

    def _hold(self, sequence: int, events: tuple[Event, ...]) -> None:
        if sequence in self._held:
            return
        self._held[sequence] = events
        self._held_bytes += sum(event.nbytes for event in events)
        while self._held_bytes > HELD_BYTES_MAX:
            _, other = self._held.popitem(last=False)
            self._held_bytes -= sum(event.nbytes for event in other)
