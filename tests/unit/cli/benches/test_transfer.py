from __future__ import annotations

import asyncio

import pytest

from fedbus.cli.benches.transfer import Journal, Mark
from fedbus.errors import FedbusError
from fedbus.federation.service import SessionEvent
from fedbus.messages import records


class Meter:
    """Processor time that grows by one at every reading."""

    def __init__(self):
        self.read = 0

    def cpu_s(self):
        self.read += 1
        return {"broker": float(self.read)}


class Session:
    """A session whose events are these."""

    def __init__(self, *happenings):
        self.happenings = happenings

    async def events(self):
        for index, (at, record) in enumerate(self.happenings):
            await asyncio.sleep(0)
            yield SessionEvent("s", index, at, record.kind, record)


OPENED = records.RoundOpened(
    round=1, attempt=1, version="v", blob="b", clients={}, incarnations={}, target=2, deadline_at=9.0
)
CLOSED = records.RoundClosed(round=1, counted=2)


def accepted(client):
    """One update, accepted."""
    update = records.AcceptedUpdate(client=client, attempt=1, weight=1, nbytes=1, norm=1.0, digest="d")
    return records.UpdatesRecorded(round=1, accepted=(update,))


async def test_a_moment_is_marked_when_it_comes_and_once():
    """The last update is the one that makes all; its mark has the journal's time and the meter's reading of then."""
    journal = Journal(Meter(), clients=2)
    following = asyncio.create_task(
        journal.follow(Session((1.0, OPENED), (2.0, accepted("a")), (3.0, accepted("b")), (4.0, CLOSED)))
    )
    opened, done = await journal.mark(1, "opened"), await journal.mark(1, "accepted")
    assert (opened.at, done.at) == (1.0, 3.0)
    way = opened.way_to(done, nbytes=10)
    assert (way.seconds, way.nbytes, way.cpu_s) == (2.0, 10, {"broker": 1.0})
    assert (await journal.mark(1, "closed")).at == 4.0
    await following


async def test_what_does_not_come_ends_with_the_session():
    """A session that ends without the moment that is waited for is an error, not a wait."""
    journal = Journal(Meter(), clients=2)
    waiting = asyncio.create_task(journal.mark(1, "published"))
    await asyncio.sleep(0)
    await journal.follow(Session((1.0, OPENED), (2.0, accepted("a"))))
    with pytest.raises(FedbusError, match="before round 1 was published"):
        await waiting


def test_no_way_takes_no_time():
    """Clocks that stand still give no division by zero."""
    assert Mark(5.0, {}).way_to(Mark(5.0, {}), 1).seconds > 0
