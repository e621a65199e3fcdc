"""However the work is shared out, on a real broker: the same models, bit for bit, over three rounds with evaluation."""

from __future__ import annotations

from fedbus.messages import records


def closings(facts):
    """How each round was closed."""
    return [fact for fact in facts if isinstance(fact, records.RoundClosing)]


async def test_one_combiner(house, live, run_session):
    """One combiner for all."""
    await house.operate(combiners=1)
    await live()
    facts = await run_session()
    assert {closing.root for closing in closings(facts)} == {"combiner-1"}


async def test_three_combiners_that_share_out_clients(house, live, run_session):
    """Each folds some clients' updates, and the sums meet at one."""
    await house.operate(combiners=3)
    await live()
    facts = await run_session()
    opened = [fact for fact in facts if isinstance(fact, records.RoundOpened)]
    assert all(len(set(fact.clients.values())) == 3 and not fact.shards for fact in opened)


async def test_three_combiners_that_share_out_chunks(house, live, run_session):
    """Each folds a third of everybody's update, and nothing is merged."""
    await house.operate(combiners=3)
    await live()
    facts = await run_session(sharding="chunks")
    opened = [fact for fact in facts if isinstance(fact, records.RoundOpened)]
    assert [fact.shards for fact in opened] == [("combiner-1", "combiner-2", "combiner-3")] * len(opened)


async def test_tiers_of_depth_three(house, live, run_session, regions):
    """Sums go from eu/north to eu to the root, which alone makes the model; no update leaves its region."""
    combiners, clients = regions
    await house.coordinator()
    for name, region in combiners.items():
        await house.combiner(name, attributes={"region": region})
    await house.present(len(combiners), "combiners")
    await live(clients)
    facts = await run_session(residency="require")
    for closing in closings(facts):
        assert (closing.root, closing.parents) == ("root", {"north-1": "eu-1", "north-2": "north-1"})
    for opened in facts:
        if isinstance(opened, records.RoundOpened):
            assert all(combiners[place] == clients.get(client, "") for client, place in opened.clients.items())


async def test_a_crowd(house, learners, run_session):
    """All clients in one process, over one connection."""
    await house.operate(combiners=2)
    await house.crowd("c", learners.app(), 5)
    await house.present(5)
    await run_session()
