"""The streams of a workspace: how often and where they are kept."""

from __future__ import annotations

import pytest

from fedbus.bus.base import Placement, Storage
from fedbus.errors import BusDenied, BusFull
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import ensure_streams, streams_of


def test_replicas_and_placement_are_every_streams():
    """What is asked for is asked for each stream, the board in memory included."""
    placement = Placement(tags=("disk:fast",))
    specs = streams_of(Subjects("w"), replicas=3, placement=placement)
    assert {(spec.replicas, spec.placement) for spec in specs} == {(3, placement)}
    assert {spec.storage for spec in specs} == {Storage.FILE, Storage.MEMORY}


def test_nothing_said_leaves_streams_as_they_are():
    """Without replicas or placement none is described, so a standby started without options shrinks no stream."""
    assert {(spec.replicas, spec.placement) for spec in streams_of(Subjects("w"))} == {(0, None)}


async def test_each_stream_is_ensured_once():
    """Ensuring hands every description to the bus, as it stands."""

    class Bus:
        def __init__(self):
            self.seen = []

        async def ensure(self, spec):
            self.seen.append(spec)

    bus = Bus()
    await ensure_streams(bus, Subjects("w"), replicas=3)
    assert tuple(bus.seen) == streams_of(Subjects("w"), replicas=3)


@pytest.mark.parametrize("why", [BusFull, BusDenied])
async def test_only_spans_may_stay_without_a_stream(why):
    """A broker with no memory for spans, or that does not permit their stream, has all others; those are an error."""

    class Bus:
        def __init__(self, refused):
            self.refused = refused
            self.seen = []

        async def ensure(self, spec):
            if spec.name == self.refused:
                raise why("no")
            self.seen.append(spec)

    subjects = Subjects("w")
    bus = Bus(subjects.stream("span"))
    await ensure_streams(bus, subjects)
    assert len(bus.seen) == len(streams_of(subjects)) - 1
    with pytest.raises(why):
        await ensure_streams(Bus(subjects.stream("board")), subjects)
    for name in ("access", "audit"):  # there already, and nobody's to be changed
        bus = Bus(subjects.stream(name))
        if why is BusFull:
            with pytest.raises(why):
                await ensure_streams(bus, subjects)
        else:
            await ensure_streams(bus, subjects)
            assert len(bus.seen) == len(streams_of(subjects)) - 1
