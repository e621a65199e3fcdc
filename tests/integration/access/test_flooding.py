"""A member that says as much as its line carries does not keep others from being heard, and is named in the log."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys

import pytest

from fedbus.access.joining import join
from fedbus.access.renewal import renew
from fedbus.bus.nats import connect
from fedbus.bus.turns import FLOOD_MIN
from fedbus.clock import SystemClock
from fedbus.coordinator.service import Coordinator
from fedbus.exchange.station import Station
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.tasks import Task
from fedbus.workers import Threads

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLOOD = """
import asyncio, sys
from fedbus.bus.nats import connect
from fedbus.bus.turns import FLOOD_MIN

async def main(url, credentials, *subjects):
    data = sys.stdin.buffer.read()
    async with await connect(url, name="evil", credentials=credentials) as bus:
        client = bus._connection._client
        inbox = client.new_inbox()
        said = "".join(f"PUB {one} {inbox} {len(data)}\\r\\n" + data.decode("latin-1") + "\\r\\n" for one in subjects)
        block = (said * 100).encode("latin-1")
        while True:
            client.link.send([block])
            await client.link.drain()
            print("said", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
"""A process that has precomputed what it says, on each of its subjects, as fast as the broker takes it."""


SAID = bytes(4000)
"""What it says: what is no envelope costs as much to refuse as one that is, and what waits at the broker is bytes."""


async def flood(ward, path, *subjects):
    """Start a process that floods; returns it once it does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FLOOD, ward.url, str(path), *subjects,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    process.stdin.write(SAID)
    process.stdin.close()
    for _ in range(20):
        assert await process.stdout.readline() == b"said\n"
    return process


async def test_a_member_that_floods_does_not_keep_others_waiting(wards, caplog):
    """Presence, reports, questions, renewals of one, as fast as the line carries: another is answered each time."""
    ward, subjects = wards["ward"], wards["ward"].subjects
    evil, me = Peer("client", "evil"), Peer("client", "c-1")
    files = {who.name: ward.write(await join(ward.request(await ward.token(), who.name))) for who in (evil, me)}
    registrar, _ = await ward.register("flooded", ears=await ward.bus("gateway", "flooded-ears"))
    bus, workers = await ward.bus("coordinator", "flooded"), Threads(1, "flooded")
    common = {"incarnation": secrets.token_hex(8), "workspace": ward.workspace, "clock": SystemClock()}
    ears = await ward.bus("coordinator", "flooded-ears")
    coordinator = Coordinator(bus, name="flooded", workers=workers, ears=ears, **common)
    running = asyncio.create_task(coordinator.run())
    task = encode(Envelope("t-1", ward.workspace, "co", Task(session="s-1", revision=1, state="rest")))
    await bus.append(subjects.stream("board"), subjects.task("c-1", "s-1"), task)
    families = (subjects.presence(evil), subjects.report(evil), subjects.board(evil), subjects.renew(evil))
    flooding = await flood(ward, files["evil"], *families)
    try:
        async with await connect(ward.url, name="c-1", credentials=files["c-1"]) as own:
            station = Station(own, ward.workspace, me, secrets.token_hex(8), SystemClock(), heartbeat_s=2.0)
            for _ in range(3):
                assert [one.subject for one in await station._ask_for_board()] == [subjects.task("c-1", "s-1")]
            assert (await renew(own, files["c-1"])).name == "c-1"
            async with asyncio.timeout(10):
                while me not in coordinator._roster.peers:
                    await station.hello()
                    await asyncio.sleep(0.05)
        dropped = {about["fedbus.queue"]: count for count, about in coordinator._listening._read()}
        assert min(dropped["presence"], dropped["report"], dropped["board"], registrar.dropped["renew"]) > FLOOD_MIN
        assert coordinator.leads and ears.reconnects == 0
        told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
        assert any("client evil says more" in line and "fedbus member suspend evil" in line for line in told)
        assert not any("client c-1 says more" in line for line in told)
    finally:
        flooding.kill()
        await flooding.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        workers.close()
