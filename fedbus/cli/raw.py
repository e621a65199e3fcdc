"""What the broker moves when nothing else is done: one publisher, one subscriber, plain messages, no federation.

The figure that `fedbus bench` measures itself against. The subscriber confirms every `CONFIRM` messages and the
publisher keeps at most `WINDOW_BYTES` unconfirmed, or the broker would cut off whoever is slower.

    python -m fedbus.cli.raw subscribe           says `ready`, then `<bytes> <seconds>` when the publisher has ended
    python -m fedbus.cli.raw publish BYTES CHUNK
"""

from __future__ import annotations

import asyncio
import sys
import time

from fedbus.bus.base import Bus
from fedbus.bus.nats import connect
from fedbus.cli.environment import environ
from fedbus.cli.processes import Process
from fedbus.errors import FedbusError

CHUNKS = "fedbus-bench.chunk"
CONFIRMED = "fedbus-bench.confirmed"

ALL = b"all"
"""What the subscriber confirms last."""

CONFIRM = 8
WINDOW_BYTES = 32 * 2**20
TIME_S_MAX = 10.0
"""The publisher ends by then, however much is left: a figure that takes longer is no better."""

DEADLINE_S = 40.0


async def measure(url: str, nbytes: int, chunk_bytes: int) -> float:
    """Return the bytes a second that go from one process to another in such chunks; about ``nbytes`` are sent."""
    env = {"FEDBUS_URL": url}
    listening = await Process.start(["subscribe"], env=env, piped=True, module="fedbus.cli.raw")
    try:
        async with asyncio.timeout(DEADLINE_S):
            if await listening.read_line() != "ready":
                raise FedbusError(f"the raw subscriber did not get ready: {await listening.wait()}")
            sending = await Process.start(["publish", str(nbytes), str(chunk_bytes)], env=env, module="fedbus.cli.raw")
            try:
                words = (await listening.read_line()).split()
            finally:
                await sending.stop()
    except TimeoutError as error:
        raise FedbusError(f"raw publish and subscribe did not end within {DEADLINE_S:g} s") from error
    finally:
        await listening.stop()
    if len(words) != 2:
        raise FedbusError("the raw subscriber ended without a figure: see its lines above")
    return int(words[0]) / max(float(words[1]), 1e-9)


async def subscribe(bus: Bus) -> None:
    """Take chunks until an empty one; print bytes and seconds from the first to the last."""
    chunks = await bus.subscribe(CHUNKS, pending_bytes_max=4 * WINDOW_BYTES)
    print("ready", flush=True)
    began, received, count = 0.0, 0, 0
    async for message in chunks:
        # the clock starts behind the first chunk, whose own way is not counted
        began = began or time.perf_counter()
        if not message.data:
            await bus.publish(CONFIRMED, ALL)
            break
        received += len(message.data) if count else 0
        count += 1
        if count % CONFIRM == 0:
            await bus.publish(CONFIRMED, str(count).encode())
    print(received, time.perf_counter() - began, flush=True)
    await chunks.close()


async def publish(bus: Bus, nbytes: int, chunk_bytes: int) -> None:
    """Send so many bytes, then an empty message."""
    confirmed = await bus.subscribe(CONFIRMED)
    # spread over the machine's page cache as real chunks are: one chunk would stay in the processor's
    data = [bytes([index]) * chunk_bytes for index in range(16)]
    end = time.perf_counter() + TIME_S_MAX
    window, taken = max(CONFIRM, WINDOW_BYTES // chunk_bytes), 0
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
    async with asyncio.timeout(DEADLINE_S), await connect(environ()["FEDBUS_URL"], name="fedbus-raw") as bus:
        if sys.argv[1] == "subscribe":
            await subscribe(bus)
        else:
            await publish(bus, int(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    asyncio.run(main())
