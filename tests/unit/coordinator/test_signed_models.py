"""What a secured workspace publishes is signed: tasks, the catalogue's entries, versions that people bring in."""

from __future__ import annotations

import asyncio

from fedbus.access.signing import ModelSigner
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.coordinator.chores import Chores
from fedbus.coordinator.countersigning import Countersigning
from fedbus.coordinator.events import PostTask
from fedbus.coordinator.posting import Poster
from fedbus.coordinator.posts import task_for
from fedbus.coordinator.state import SessionState, apply
from fedbus.exchange.station import Station
from fedbus.messages import records
from fedbus.messages.envelope import decode
from fedbus.messages.ids import Peer
from fedbus.messages.records import RESTORED, RESTORING, Entry, ModelPublished
from fedbus.messages.registry import IMPORTED
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.testing.members import Workspace
from fedbus.workers import Inline

OURS = Subjects("default")
DIGEST = "ab" * 32
MEMBERS = Workspace("default")
SIGNER: ModelSigner = MEMBERS.signing("coordinator", "co").model_signer
MODELS = MEMBERS.signing("client", "c").models


def started() -> SessionState:
    """Return a session whose first round is open."""
    state = SessionState("s")
    config = SessionConfig(rounds=2)
    apply(state, records.SessionStarted(config=config, version="s-0", blob="b-0", digest=DIGEST, nbytes=4), 1.0)
    opened = records.RoundOpened(
        round=1, attempt=1, version="s-0", blob="b-0", clients={"c": "k0"}, incarnations={"k0": "k0-1"}, target=1,
        deadline_at=9.0, traceparent="",
    )  # fmt: skip
    apply(state, opened, 2.0)
    return state


def test_a_task_carries_a_signature_that_its_client_takes():
    """Version and digest come from the journal; the signature is of both, and the machine's own task has none."""
    task = task_for(started(), "c")
    assert (task.train.version, task.train.digest, task.train.signature) == ("s-0", DIGEST, b"")

    async def posted(signer):
        bus = MemoryBus(MemoryBroker(), "co")
        await ensure_streams(bus, OURS)
        station = Station(bus, "default", Peer("coordinator", "co"), "i", VirtualClock(), heartbeat_s=1.0)
        assert await Poster(station, signer=signer).post("s", [PostTask("c", task)], None) is None
        message = await bus.last(OURS.stream("board"), OURS.task("c", "s"))
        return decode(message.data, message.subject).body.train

    signed = run_virtual(posted(SIGNER))
    MODELS.check(signed.version, signed.digest, signed.signature)
    assert run_virtual(posted(None)) == task.train


def entry(version: str, session: str, **fields) -> ModelPublished:
    """Return an entry of the catalogue."""
    return ModelPublished(
        round=0,
        version=version,
        parent="",
        session=session,
        blob=f"b-{version}",
        digest=DIGEST,
        nbytes=4,
        at=1.0,
        **fields,
    )


def test_the_catalogue_is_signed_whoever_enters():
    """Versions of sessions as they are entered, imports soon behind it; what was removed stays as it is.

    One that was brought back without a signature gets it when its journal is there, whole, and says the same of it.
    """

    async def main():
        bus = MemoryBus(MemoryBroker(), "co")
        await ensure_streams(bus, OURS)
        store = ModelStore(bus, OURS, Inline())
        chores = Chores(bus, OURS, store, None, signer=SIGNER)
        journal = Journal(bus, OURS)
        countersigning = Countersigning(bus, OURS, journal, chores)
        tasks = [asyncio.create_task(work) for work in (chores.run(), countersigning.run())]
        chores.enter(entry("s-1", "s"))
        await store.enter_first(entry("bert", IMPORTED))
        await store.enter(entry("old", IMPORTED, removed_at=3.0, removed_why="old"))
        await store.enter(entry("forged-1", "forged"))
        for version in ("brought-1", "brought-2"):
            await store.enter(entry(version, "brought"))
        await asyncio.sleep(5)
        last = await journal.mark("brought", RESTORING, 1.0, 0)
        told = entry("brought-1", "brought"), entry("brought-2", "brought").model_copy(update={"digest": "cd" * 32})
        last = await journal.append("brought", Entry.of(1.0, "one", told), last)
        countersigning.restored("brought")
        await asyncio.sleep(5)
        assert not (await store.find("brought-1")).signature, "its journal is not whole yet"
        await journal.mark("brought", RESTORED, 1.0, last)
        countersigning.restored("brought")
        await asyncio.sleep(5)
        found = {one.version: one for one in await store.list()}
        for version in ("s-1", "bert", "brought-1"):
            MODELS.check(version, DIGEST, bytes.fromhex(found[version].signature))
        assert not any(found[version].signature for version in ("old", "forged-1", "brought-2"))
        assert (await store.mark_removed(found["bert"], 9.0, "why")).signature == found["bert"].signature
        before = await bus.last(OURS.stream("model"), OURS.model("s-1"))
        chores.enter(entry("s-1", "s"))
        await asyncio.sleep(5)
        assert await bus.pending(OURS.stream("model"), OURS.model()) == 6
        message = await bus.last(OURS.stream("model"), OURS.model("s-1"))
        assert message == before, "entered again it is the same, to the bit"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(main())
