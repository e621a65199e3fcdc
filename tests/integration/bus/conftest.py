from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import NatsBus, connect


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    """A real broker with a store of its own."""
    async with EmbeddedBroker(tmp_path / "store") as running:
        yield running


@pytest.fixture
async def fresh(broker: EmbeddedBroker) -> AsyncIterator[Callable[[str], Awaitable[NatsBus]]]:
    """Connected buses by name, closed after the test."""
    buses = []

    async def make(name: str) -> NatsBus:
        buses.append(await connect(broker.url, name=name))
        return buses[-1]

    yield make
    for bus in buses:
        await bus.close()
