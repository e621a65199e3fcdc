"""What people order stands in the audit of a secured workspace: who, what, with which result."""

from __future__ import annotations

import asyncio

import numpy as np

from fedbus.access.audit import Audit
from fedbus.access.envelopes import signed_by
from fedbus.access.signing import OPEN
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.coordinator.service import Coordinator
from fedbus.federation.service import Federation
from fedbus.messages.commands import StartSession, StopSession
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.testing.members import Workspace
from fedbus.workers import Inline

OURS = Subjects("default")
COMMANDS = (
    (
        Peer("engineer", "eve"),
        StartSession(session="t", config=SessionConfig(strategy="no-such"), blob="b", digest="ab" * 32, nbytes=4),
    ),
    (Peer("gateway", "g-1"), StopSession(session="never", reason="why not")),
)
"""What a client of our own would not send."""

FORGED = (
    (Peer("engineer", "eve"), StopSession(session="s", reason="made up")),
    (Peer("gateway", "g-1"), StopSession(session="s", reason="made up")),
    (Peer("engineer", "eve"), StartSession(session="f", config=SessionConfig(), blob="b", digest="ab" * 32, nbytes=4)),
)
"""What they have not sent: not signed, or by somebody else."""

MODEL = {"w": np.zeros(4, np.float32)}


async def ordered(members):
    """Start and stop sessions as two people, and as one who has no key of theirs; returns the audit, oldest first."""

    def signing(role, name):
        return OPEN if members is None else members.signing(role, name)

    async def command(sender, id_, body, signer):
        subject, envelope = OURS.command(sender), Envelope(id_, "default", "bob", body)
        data = encode(envelope if signer is None else signed_by(signer, subject, envelope))
        await own.append(OURS.stream("command"), subject, data)
        await asyncio.sleep(5)

    broker = MemoryBroker()
    bus = MemoryBus(broker, "co")
    coordinator = Coordinator(
        bus, name="co", incarnation="co-1", workspace="default", clock=VirtualClock(), workers=Inline(),
        signing=signing("coordinator", "co"),
    )  # fmt: skip
    task = asyncio.create_task(coordinator.run())
    await asyncio.sleep(5)
    own = MemoryBus(broker, "eve")
    signer = signing("engineer", "eve").signer
    async with Federation(own, name="eve", clock=VirtualClock(), workers=Inline(), signer=signer) as federation:
        session = await federation.start_session(SessionConfig(rounds=3), model=MODEL, name="s")
        if members is not None:
            for number, (sender, body) in enumerate(FORGED):
                await command(sender, f"f{number}", body, (None, signing("engineer", "bob").signer)[number % 2])
            assert (await session.info()).state == "waiting for clients", "nobody has stopped it"
        await session.stop("enough\x1b")
        await session.wait()
        for number, (sender, body) in enumerate(COMMANDS):
            await command(sender, f"x{number}", body, signing(*sender).signer)
        audit = Audit(own, OURS, Peer("auditor", "ann"), VirtualClock())
        found = [one async for one in audit.read(newest_first=False)]
        assert (await audit.verify()).is_whole
    task.cancel()
    await asyncio.wait([task])
    return found


def test_commands_and_ends_are_written_down():
    """Started, stopped, ended, refused, and of no use: each with who ordered it, read from its subject."""
    found = run_virtual(ordered(Workspace("default")))
    assert {one.writer for one in found} == {Peer("coordinator", "co")}
    entries = [(e.action, e.by, e.target, e.result) for e in (one.entry for one in found)]
    assert entries == [
        ("session.start", "eve", "s", "done"),
        ("session.stop", "eve", "s", "refused"),
        ("session.stop", "gateway/g-1", "s", "refused"),
        ("session.start", "eve", "f", "refused"),
        ("session.stop", "eve", "s", "done"),
        ("session.end", "coordinator/co", "s", "done"),
        ("session.start", "eve", "t", "refused"),
        ("session.stop", "gateway/g-1", "never", "refused"),
    ]
    started, bare, foreign, made_up, stopped, ended, refused, _ = (one.entry for one in found)
    assert started.details["strategy"] == "fedavg" and started.details["rounds"] == "3"
    assert stopped.reason.startswith("enough") and "no-such" in refused.reason
    assert all("it is not signed" in one.reason for one in (bare, made_up))
    assert "signed by engineer bob, not by gateway g-1" in foreign.reason
    assert ended.details["outcome"] == "stopped" and ended.details["digest"] == started.details["digest"]


def test_an_open_workspace_has_no_audit_of_commands():
    """Nobody is known there, so nothing is claimed of anybody."""
    assert run_virtual(ordered(None)) == []
