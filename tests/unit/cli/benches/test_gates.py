from __future__ import annotations

import asyncio

import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.cli.benches.gates import Gates, Keeper
from fedbus.errors import FedbusError


@pytest.fixture
async def sides():
    """The benchmark's side of a broker without delays, and the clients'."""
    broker = MemoryBroker()
    async with (
        MemoryBus(broker, "bench") as ours,
        MemoryBus(broker, "clients") as theirs,
        Keeper.on(ours) as keeper,
        Gates.on(theirs) as gates,
    ):
        yield keeper, gates


async def test_nobody_passes_before_the_gate_is_opened(sides):
    """Clients that reach a gate are counted, wait, and go on when it opens; another gate stays shut."""
    keeper, gates = sides
    waiting = [asyncio.create_task(gates.reach("1-fetched")) for _ in range(3)]
    other = asyncio.create_task(gates.reach("1-trained"))
    await keeper.all_at("1-fetched", 3, 5.0)
    await keeper.all_at("1-trained", 1, 5.0)
    assert not any(task.done() for task in waiting)
    await keeper.open("1-fetched")
    await asyncio.gather(*waiting)
    assert not other.done()
    await keeper.open("1-trained")
    await other


async def test_who_is_missing_is_told(sides):
    """The keeper does not wait for ever: the error says how many came."""
    keeper, gates = sides
    waiting = asyncio.create_task(gates.reach("x"))
    await keeper.all_at("x", 1, 5.0)
    with pytest.raises(FedbusError, match="1 of 2 clients came to x"):
        await keeper.all_at("x", 2, 0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
