"""Journals that releases have written, replayed by today's code: what was journalled once is understood for ever."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.coordinator.events import Recovered, Replayed
from fedbus.coordinator.machine import Machine
from fedbus.coordinator.service import Coordinator
from fedbus.coordinator.state import Phase
from fedbus.messages import records
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.records import Entry
from fedbus.messages.subjects import Subjects
from fedbus.store.models import ModelStore
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.workers import Inline

JOURNALS = Path(__file__).parents[2] / "data" / "journals"

ENDS = {
    "0.1.0": {
        "phase": Phase.ENDED,
        "outcome": "completed",
        "rounds_closed": 3,
        "version": "world-3",
        "digest": "27e18634ae4fc94d1355e52b8523d93a0a4016103e5b1a7a0065d03c4314f1a2",
    },
}
"""How each release's journal ends. A release adds its own; none is ever changed."""


def entries_of(release):
    """Read a kept journal."""
    lines = (JOURNALS / f"{release}.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        entry = decode(base64.b64decode(line["data"]), release).body
        assert isinstance(entry, Entry)
        yield line["sequence"], entry


def test_every_kept_journal_has_its_end_written_down():
    """A journal that nobody compares with anything would prove nothing."""
    assert {path.stem for path in JOURNALS.glob("*.jsonl")} == set(ENDS)


@pytest.mark.parametrize("release", ENDS)
def test_todays_code_replays_the_journals_of_every_release(release):
    """Replaying a release's journal gives the state in which that release left its session, and breaks no invariant."""
    machine = Machine("world")
    kinds = set()
    for sequence, entry in entries_of(release):
        machine.handle(Replayed(entry, sequence), entry.at)
        machine.handle(Recovered(), entry.at)
        kinds |= {type(record) for record in entry.unpack()}
    found = {name: getattr(machine.state, name) for name in ENDS[release]}
    assert found == ENDS[release]
    missing = {*records.RECORDS.values()} - kinds
    assert missing == {records.RoundFailed}, "the journal should show every kind of record but a failed round"


@pytest.mark.parametrize("release", ENDS)
def test_a_coordinator_enters_what_the_catalogue_lacks(release):
    """Every version that a journal has published can be found after a start, also of a session that has ended."""
    assert run_virtual(_catalogue_after_start(release)) == {"world-0", "world-1", "world-2", "world-3"}


async def _catalogue_after_start(release):
    """Start a coordinator on a kept journal and an empty catalogue; return the versions that are entered."""
    subjects = Subjects("default")
    async with MemoryBus(MemoryBroker(), "coordinator") as bus:
        await ensure_streams(bus, subjects)
        for _, entry in entries_of(release):
            await bus.append(
                subjects.stream("journal"), subjects.journal("world"), encode(Envelope("i", "default", "c", entry))
            )
        coordinator = Coordinator(
            bus, name="c", incarnation="c-2", workspace="default", clock=VirtualClock(), workers=Inline()
        )
        task = asyncio.create_task(coordinator.run())
        await asyncio.sleep(5)
        task.cancel()
        await asyncio.wait([task])
        return {model.version for model in await ModelStore(bus, subjects, Inline()).list()}
