"""The streams of a workspace: how often and where they are kept."""

from __future__ import annotations

from fedbus.bus.base import Placement, Storage
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
