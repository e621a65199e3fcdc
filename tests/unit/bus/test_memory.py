"""The memory bus keeps the contract, repeats itself exactly from a seed, and its misfortunes strike as they say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fedbus.bus.base import Bus
from fedbus.bus.memory import Faults, MemoryBroker, MemoryBus
from fedbus.testing.bus import Fresh, check_bus


@asynccontextmanager
async def broker_without_faults() -> AsyncIterator[Fresh]:
    broker = MemoryBroker()

    async def fresh(name: str) -> Bus:
        return MemoryBus(broker, name)

    yield fresh


async def test_the_memory_bus_keeps_the_contract() -> None:
    """Everything that base.Bus promises holds for the bus in memory."""
    await check_bus(broker_without_faults)
