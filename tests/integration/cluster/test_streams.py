"""Streams in a cluster: replicas, placement, reads from replicas that are behind, the loss of a leader."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fedbus.bus.base import Placement, Storage, StreamSpec
from fedbus.bus.nats import connect
from fedbus.errors import ConfigError

JOURNAL = StreamSpec("journal", ("journal.>",), Storage.FILE)
BOARD = StreamSpec("board", ("board.>",), Storage.MEMORY, per_subject_max=1)


def keepers(info):
    """Return who keeps a stream."""
    return {info["cluster"].get("leader"), *(peer["name"] for peer in info["cluster"].get("replicas") or [])} - {
        None,
        "",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "subject"), [(JOURNAL, "journal.a"), (BOARD, "board.a")])
async def test_replicas_and_placement_are_brought_to_what_is_asked(engine, eventually, spec, subject):
    """A stream goes from 1 to 3 replicas and back with what it holds, on disk and in memory; nothing said changes
    nothing; tags choose the server.
    """
    async with await connect(engine.url, name="x") as bus:
        await bus.ensure(spec)
        await bus.append(spec.name, subject, b"kept")
        assert (await engine.streams())[spec.name]["config"]["num_replicas"] == 1
        await bus.ensure(replace(spec, replicas=3))
        await eventually(lambda: _kept_by(engine, spec.name, {"n1", "n2", "n3"}))
        await bus.ensure(spec)
        assert (await engine.streams())[spec.name]["config"]["num_replicas"] == 3
        assert (await bus.last(spec.name, subject)).data == b"kept"
        await bus.ensure(replace(spec, replicas=1, placement=Placement(tags=("zone:n2",))))
        await eventually(lambda: _kept_by(engine, spec.name, {"n2"}))
        await bus.ensure(spec)
        assert (await engine.streams())[spec.name]["config"]["placement"]["tags"] == ["zone:n2"]
        await bus.ensure(replace(spec, replicas=3, placement=Placement(tags=("any",))))
        await eventually(lambda: _kept_by(engine, spec.name, {"n1", "n2", "n3"}))
        assert (await bus.last(spec.name, subject)).data == b"kept"


@pytest.mark.slow
async def test_what_no_server_can_give_is_said(engine, monkeypatch):
    """Tags that nobody has, and more replicas than nodes, are ConfigErrors that name what was asked for; servers that
    may still come are waited for until the call's deadline.
    """
    monkeypatch.setattr("fedbus.bus.nats.bus.CALL_DEADLINE_S", 2.0)
    async with await connect(engine.url, name="x") as bus:
        nowhere = Placement(tags=("zone:nowhere",))
        ends = await asyncio.gather(
            bus.ensure(replace(JOURNAL, placement=nowhere)),
            bus.ensure(replace(BOARD, replicas=5)),
            return_exceptions=True,
        )
        assert [type(end) for end in ends] == [ConfigError, ConfigError]
        assert "zone:nowhere" in str(ends[0])
        assert "5 servers" in str(ends[1])


async def _kept_by(engine, stream, names):
    return keepers((await engine.streams())[stream]) == names


async def test_replicas_need_a_cluster(broker):
    """A server that is alone refuses replicas, and the error says what to do; the stream is not made."""
    async with await connect(broker.url, name="x") as bus:
        with pytest.raises(ConfigError, match=r"alone.*1 replica.*fedbus broker settings --kind cluster"):
            await bus.ensure(replace(JOURNAL, replicas=3))
        await bus.ensure(JOURNAL)
        with pytest.raises(ConfigError, match="alone"):
            await bus.ensure(replace(JOURNAL, replicas=3))


async def test_what_is_stored_is_never_missed(engine):
    """Read at once after its append, over the leaf: a replica that does not have it yet is no reason to miss it."""
    async with await connect(engine.url, name="hub") as hub, await connect(engine.leaf.url, name="leaf") as leaf:
        await hub.ensure(replace(JOURNAL, replicas=3))

        async def write_and_read(number):
            sequence = await hub.append("journal", f"journal.{number}", b"x")
            found = await leaf.last("journal", f"journal.{number}")
            assert found is not None
            assert (found.sequence, found.data, found.headers) == (sequence, b"x", {})

        for start in range(0, 400, 40):
            await asyncio.gather(*(write_and_read(number) for number in range(start, start + 40)))
        await hub.append("journal", "journal.h", b"\x00\xff", headers={"a": "b c"})
        found, identity = await hub._jetstream.last_of_leader("journal", "journal.h", 5)
        assert (found.subject, found.data, found.headers) == ("journal.h", b"\x00\xff", {"a": "b c"})
        assert identity
        assert await hub.last("journal", "journal.none") is None


@pytest.mark.slow
async def test_the_death_of_a_leader_is_overcome_within_a_call(engine, eventually):
    """The node that leads the streams is killed between two appends: the next succeeds within its own 30 s, everything
    acknowledged before is there, in order, each once, and a follow over the leaf goes on.
    """
    async with await connect(engine.url, name="hub") as hub, await connect(engine.leaf.url, name="leaf") as leaf:
        for spec in (JOURNAL, BOARD):
            await hub.ensure(replace(spec, replicas=3))
        follow = await leaf.follow("journal", "journal.a")
        numbers = iter(range(1000))

        async def append():
            number = b"%d" % next(numbers)
            await hub.append("journal", "journal.a", number, deadline_s=30)
            await leaf.append("board", "board.a", number, deadline_s=30)
            return number

        before = [await append() for _ in range(20)]
        leader = (await engine.streams())["journal"]["cluster"]["leader"]
        await engine.nodes[leader].kill()
        after = [await append() for _ in range(20)]
        assert [bytes((await follow.__anext__()).data) for _ in range(40)] == before + after

        async def all_is_there():  # any node answers, also one that has not heard of the newest yet
            return (await hub.last("board", "board.a")).data == after[-1]

        await eventually(all_is_there)
