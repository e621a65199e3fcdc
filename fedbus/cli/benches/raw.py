"""What the broker moves when nothing else is done: one publisher, one subscriber, plain messages, no federation.

The figure that `fedbus bench` measures itself against. Both sides use fedbus's own way of reading and writing messages,
so it is a hard ceiling: nats-py alone is slower. The subscriber confirms every `CONFIRM` messages and the publisher
keeps at most `WINDOW_BYTES` unconfirmed, or the broker would cut off whoever is slower.

    python -m fedbus.cli.benches.raw listen RUNS             says `ready`, then `<bytes> <seconds>` for each run
    python -m fedbus.cli.benches.raw send RUNS BYTES CHUNK
"""

from __future__ import annotations

import asyncio
import sys
import time

from fedbus.bus.base import Bus
from fedbus.bus.nats import connect
from fedbus.cli.benches import ceilings
from fedbus.cli.environment import environ

CHUNKS = "fedbus-bench.chunk"
CONFIRMED = "fedbus-bench.confirmed"

ALL = b"all"
"""What the subscriber confirms last."""

CONFIRM = 8
WINDOW_BYTES = 32 * 2**20
TIME_S_MAX = 5.0
"""A run ends by then, however much is left: a figure that takes longer is no better."""

RUN_BYTES = (64_000_000, 500_000_000)
"""Least and most bytes of a run: a tenth of a second at least."""

RUNS = 3
"""Runs in a row; their median is not moved by one that something else on the machine disturbed."""


def run_bytes(moved: int) -> int:
    """Return how many bytes a run should have for what moves ``moved`` bytes."""
    low, high = RUN_BYTES
    return min(high, max(low, moved))


async def measure(url: str, nbytes: int, chunk_bytes: int, runs: int = RUNS) -> list[float]:
    """Return, for each run, the bytes a second that go from one process to another in such chunks."""
    return await ceilings.between("fedbus.cli.benches.raw", nbytes, chunk_bytes, runs, {"FEDBUS_URL": url})


async def listen(bus: Bus, runs: int) -> None:
    """Take chunks until an empty one; print bytes and seconds from the first to the last; so for each run."""
    chunks = await bus.subscribe(CHUNKS, pending_bytes_max=4 * WINDOW_BYTES)
    print("ready", flush=True)
    for _ in range(runs):
        began, received, count = 0.0, 0, 0
        async for message in chunks:
            # the clock starts behind the first chunk, whose own way is not counted
            began = began or time.perf_counter()
            if not message.data:
                break
            received += len(message.data) if count else 0
            count += 1
            if count % CONFIRM == 0:
                await bus.publish(CONFIRMED, str(count).encode())
        print(received, time.perf_counter() - began, flush=True)
        await bus.publish(CONFIRMED, ALL)
    await chunks.close()


async def send(bus: Bus, runs: int, nbytes: int, chunk_bytes: int) -> None:
    """Send so many bytes and an empty message, and wait until all has come; so for each run."""
    confirmed = await bus.subscribe(CONFIRMED)
    # spread over the machine's page cache as real chunks are: one chunk would stay in the processor's
    data = [bytes([index]) * chunk_bytes for index in range(16)]
    window = max(CONFIRM, WINDOW_BYTES // chunk_bytes)
    for _ in range(runs):
        end, taken = time.perf_counter() + TIME_S_MAX, 0
        for count in range(1, max(2, -(-nbytes // chunk_bytes)) + 1):
            while count - taken > window:
                taken = int((await anext(aiter(confirmed))).data)
            await bus.publish(CHUNKS, data[count % len(data)])
            if time.perf_counter() > end:
                break
        await bus.publish(CHUNKS, b"")
        # Closing now could lose the end: a bus that closes waits for its broker for a bounded time only.
        async for message in confirmed:
            if message.data == ALL:
                break
    await confirmed.close()


async def main() -> None:
    """Be what argv says."""
    numbers = [int(text) for text in sys.argv[2:]]
    async with asyncio.timeout(ceilings.DEADLINE_S), await connect(environ()["FEDBUS_URL"], name="fedbus-raw") as bus:
        await (listen(bus, *numbers) if sys.argv[1] == "listen" else send(bus, *numbers))


if __name__ == "__main__":
    asyncio.run(main())
