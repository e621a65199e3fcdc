"""Killed with -9 in mid-round: a combiner that folds a part of everybody's update, and one inside the tree."""

from __future__ import annotations

import asyncio

import pytest

from fedbus.messages import records


@pytest.fixture
async def processes(broker, tmp_path, make_processes):
    """The operator's side, each role a process of its own; a coordinator runs."""
    processes = make_processes(broker.url, tmp_path)
    try:
        await processes.start("coordinator", "coordinator")
        yield processes
    finally:
        await processes.end()


async def disturbed(run_session, disturb, **config):
    """Run the session and disturb it; returns its records."""
    running = asyncio.create_task(run_session(**config))
    disturbing = asyncio.create_task(disturb())
    done, pending = await asyncio.wait({running, disturbing}, return_when=asyncio.FIRST_EXCEPTION)
    for task in pending:
        task.cancel()
    if disturbing in done:
        await disturbing
    facts = await running
    assert disturbing in done, "nobody was killed: the test proves nothing"
    return facts


@pytest.mark.slow
@pytest.mark.parametrize("returns", [True, False])
async def test_a_combiner_that_shares_chunks_is_killed_in_the_midst_of_uploads(
    house, live, processes, run_session, hear, returns
):
    """One of three that fold a part each: whether it comes back or not, the digest of the undisturbed run."""
    names = ("combiner-1", "combiner-2", "combiner-3")
    await asyncio.gather(*(processes.start("combiner", name) for name in names))
    await house.present(len(names), "combiners")
    await live()

    async def disturb():
        async with hear("chunk.combiner-2.client.>", 4):
            await processes.kill("combiner-2")
            if returns:
                await processes.start("combiner", "combiner-2")

    facts = await disturbed(run_session, disturb, sharding="chunks")
    moved = [fact for fact in facts if isinstance(fact, records.ClientsMoved)]
    if not moved:
        assert returns, "it came back as itself, with all that it had accepted"
        return
    assert set(moved[0].moves) == {f"c-{number}" for number in range(5)}, "everybody sends again"
    assert moved[0].shards == ("combiner-1", "combiner-3"), "it was away for too long"


@pytest.mark.slow
@pytest.mark.parametrize("returns", [True, False])
async def test_a_combiner_inside_the_tree_is_killed_when_it_is_sent_a_sum(
    house, live, processes, run_session, regions, hear, returns
):
    """The one of eu, between eu/north and the root, with sums on their way to it: the digest of the undisturbed run."""
    combiners, clients = regions
    await asyncio.gather(*(processes.start("combiner", name, region) for name, region in combiners.items()))
    await house.present(len(combiners), "combiners")
    await live(clients)

    async def disturb():
        async with hear("up.eu-1.combiner.*", 1):
            await processes.kill("eu-1")
            if returns:
                await processes.start("combiner", "eu-1", "eu")

    facts = await disturbed(run_session, disturb)
    moved = [fact for fact in facts if isinstance(fact, records.ClientsMoved)]
    first, second = [fact for fact in facts if isinstance(fact, records.RoundClosing)][:2]
    assert first.parents["north-1"] == "eu-1"
    if not moved:
        assert returns, "it came back as itself, with all that it had accepted"
        return
    assert set(moved[0].moves) == {"c-2"}, "only what it had folded is sent again"
    assert (first.round, second.round) == (1, 1) and first.counted == second.counted
