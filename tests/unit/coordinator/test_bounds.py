"""What a workspace may use bounds its sessions: one more than may run at once is refused, with the reason."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from fedbus.access.members import Members
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.coordinator.service import Coordinator
from fedbus.errors import SessionFailed
from fedbus.federation.service import Federation
from fedbus.messages.subjects import Subjects
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.testing.members import Workspace
from fedbus.workers import Inline

MODEL = {"w": np.zeros(4, np.float32)}


async def in_house(steps):
    """Run a secured coordinator in memory, and do some steps with a federation and an admin's members."""
    broker, clock = MemoryBroker(), VirtualClock()
    workspace = Workspace()
    signing = replace(workspace.signing("coordinator", "co"), seal=None)
    coordinator = Coordinator(
        MemoryBus(broker, "co"),
        name="co", incarnation="co-1", workspace="default", clock=clock, workers=Inline(), signing=signing,
    )  # fmt: skip
    running = asyncio.create_task(coordinator.run())
    bus = MemoryBus(broker, "eve")
    signer = workspace.signing("engineer", "eve").signer
    federation = Federation(bus, workspace="default", name="eve", clock=clock, workers=Inline(), signer=signer)
    async with federation:
        await asyncio.sleep(5)
        await steps(federation, Members(bus, Subjects("default"), clock))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def start(federation, name):
    """Start a session that waits for clients; returns why it was refused, '' where it runs."""
    try:
        await federation.start_session(SessionConfig(clients_min=1), model=MODEL, name=name)
    except SessionFailed as error:
        return str(error)
    return ""


def test_one_session_too_many_is_refused_and_room_is_made_by_an_end():
    """Two may run: the third is refused and says why, until one of the two has ended, or the bound is another."""

    async def steps(federation, members):
        await members.set_bounds(by="eve", sessions_max=2)
        assert [await start(federation, name) for name in ("a", "b")] == ["", ""]
        third = await start(federation, "c")
        assert third == "session c was refused: 2 sessions run, and the workspace's bound is 2 at once"
        await federation.session("a").stop("enough")
        await asyncio.sleep(5)
        assert await start(federation, "d") == ""
        await members.set_bounds(by="eve", sessions_max=0)
        assert await start(federation, "e") == ""

    run_virtual(in_house(steps))


def test_of_several_at_the_same_moment_no_more_than_the_bound_run():
    """Starts that come together are counted one after the other."""

    async def steps(federation, members):
        await members.set_bounds(by="eve", sessions_max=2)
        refused = await asyncio.gather(*(start(federation, f"s-{index}") for index in range(5)))
        assert sorted("the workspace's bound is 2" in why for why in refused) == [False, False, True, True, True]

    run_virtual(in_house(steps))
