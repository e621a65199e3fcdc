"""Deeds are written once, in a chain, whoever else writes and whatever the bus does; and any change of it is found."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbus.access import audit as audit_module
from fedbus.access.audit import AUDIT_LOST, Audit, filter_of
from fedbus.access.chain import FAULTS_MAX, Walk, digest_of, line_of, verify_lines
from fedbus.bus.memory import Faults, MemoryBroker, MemoryBus
from fedbus.errors import BadMessage, BusDenied
from fedbus.messages.access import AuditEntry
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual

OURS = Subjects("w")
GATEWAY = Peer("gateway", "g")


class Desk:
    """A broker, and those who write at it."""

    def __init__(self, seed: int = 0, faults: Faults | None = None) -> None:
        self.broker = MemoryBroker(seed)
        self.faults = faults or Faults()

    async def writer(self, name: str = "g", role: str = "gateway") -> Audit:
        """Return somebody who writes."""
        bus = MemoryBus(self.broker, name)
        await ensure_streams(bus, OURS)
        return Audit(bus, OURS, Peer(role, name), VirtualClock())


async def everything(audit: Audit, **how):
    """Return all deeds of a reading."""
    return [found async for found in audit.read(**how)]


def test_deeds_of_several_writers_are_one_chain():
    """Three write forty deeds each at the same time: all stand there once, in one chain, each writer's in order."""

    async def main():
        desk = Desk()
        writers = [await desk.writer(name) for name in ("a", "b", "c")]

        async def work(audit, name):
            for number in range(40):
                written = await audit.write("token.create", by=name, target=str(number))
                assert written.number > 0

        await asyncio.gather(*(work(audit, name) for audit, name in zip(writers, "abc", strict=True)))
        found = await everything(writers[0], newest_first=False)
        assert [one.entry.number for one in found] == list(range(1, 121))
        for name in "abc":
            assert [one.entry.target for one in found if one.writer.name == name] == [str(n) for n in range(40)]
        verified = await writers[1].verify(found[57].digest)
        assert verified.is_whole and verified.count == 120 and verified.pinned_at == 58
        assert verified.head == found[-1].digest

    run_virtual(main())


@pytest.mark.parametrize("seed", range(6))
def test_what_the_bus_loses_is_written_once_all_the_same(seed):
    """With a third of appends lost and a third of answers, and others writing, each deed stands there exactly once."""

    async def main():
        desk = Desk(seed)
        writers = [await desk.writer(name) for name in "ab"]
        desk.broker.faults = Faults(append_loss=0.3, ack_loss=0.3, delay_s=(0.0, 0.1))
        flushing = [asyncio.ensure_future(audit.run()) for audit in writers]

        async def work(audit, name):
            for number in range(15):
                await audit.write("token.create", by=name, target=str(number))

        await asyncio.gather(*(work(audit, name) for audit, name in zip(writers, "ab", strict=True)))
        desk.broker.faults = Faults()
        await asyncio.sleep(30)
        assert not any(audit.kept for audit in writers)
        for task in flushing:
            task.cancel()
        await asyncio.gather(*flushing, return_exceptions=True)
        found = await everything(writers[0], newest_first=False)
        for name in "ab":
            assert [one.entry.target for one in found if one.writer.name == name] == [str(n) for n in range(15)]
        assert (await writers[0].verify()).is_whole

    run_virtual(main())


def test_what_cannot_be_written_is_kept_in_order_and_bounded(monkeypatch, caplog):
    """While the bus is away writing takes seconds, not for ever; beyond the bound the log has it, the chain says so."""
    monkeypatch.setattr(audit_module, "KEPT_MAX", 5)

    async def main():
        desk = Desk()
        audit = await desk.writer()
        desk.broker.down()
        for number in range(7):
            began = asyncio.get_running_loop().time()
            assert (await audit.write("member.expel", by="ann", target=str(number))).number == 0
            assert asyncio.get_running_loop().time() - began <= 2 * audit_module.WRITE_S + 0.1
        assert audit.kept == 5
        desk.broker.up()
        written = await audit.write("member.expel", by="ann", target="last")
        found = await everything(audit, newest_first=False)
        assert [one.entry.target for one in found] == ["0", "1", "2", "3", "4", "", "last"] and written.number == 7
        assert found[5].entry.action == AUDIT_LOST and found[5].entry.reason.startswith("2 deeds")
        assert (await audit.verify()).is_whole and not audit.kept

    with caplog.at_level(logging.WARNING, "fedbus.access"):
        run_virtual(main())
    assert sum("this one stands here only" in line for line in caplog.messages) == 2
    assert sum("is kept until the bus takes it" in line for line in caplog.messages) == 5


def test_who_ends_with_deeds_unwritten_leaves_them_in_the_log(caplog):
    """What was never written is an error in the log, whole."""

    async def main():
        desk = Desk()
        audit = await desk.writer()
        desk.broker.down()
        await audit.write("token.revoke", by="ann", target="t-1")
        await audit.finish()
        assert not audit.kept

    run_virtual(main())
    (line,) = [line for line in caplog.messages if "never written" in line]
    assert json.loads(line.partition(": never written: ")[2])["target"] == "t-1"


class Strict(MemoryBus):
    """A bus whose broker does not let one write, until it does."""

    denies = True

    async def append(self, *args, **how):
        if self.denies:
            raise BusDenied("not you")
        return await super().append(*args, **how)


def test_who_may_not_write_says_so_once_and_keeps_what_was_done(caplog):
    """No flood of lines, and nothing is lost: once it is permitted, all of it is written."""

    async def main():
        bus = Strict(MemoryBroker(), "g")
        await ensure_streams(bus, OURS)
        audit = Audit(bus, OURS, GATEWAY, VirtualClock())
        running = asyncio.ensure_future(audit.run())
        for number in range(3):
            assert (await audit.write("token.create", by="ann", target=str(number))).number == 0
        await asyncio.sleep(600)
        bus.denies = False
        await asyncio.sleep(audit_module.DENIED_S + 1)
        assert [one.entry.target for one in await everything(audit, newest_first=False)] == ["0", "1", "2"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_virtual(main())
    assert sum("does not let gateway/g write" in line for line in caplog.messages) == 1


def test_nothing_is_removed_from_the_audit():
    """The broker refuses to delete and to purge, whoever asks."""

    async def main():
        desk = Desk()
        audit = await desk.writer()
        await audit.write("token.revoke", by="ann")
        bus = MemoryBus(desk.broker, "root")
        with pytest.raises(BusDenied):
            await bus.delete(OURS.stream("audit"), 1)
        with pytest.raises(BusDenied):
            await bus.purge(OURS.stream("audit"), OURS.audit())
        assert (await audit.verify()).count == 1

    run_virtual(main())


def test_what_a_stranger_says_fits_an_entry():
    """Whatever comes from outside is cut, and what may not travel replaced; nothing of it fails the deed."""

    async def main():
        audit = await (Desk()).writer()
        written = await audit.write(
            "session.start" * 20, by="\x1b[31mann\n" * 90, target="t" * 900, origin="\udcff" * 300, result="refused",
            reason="r" * 5000, details={"k" * 99: "v" * 5000, "b": 3, **{f"n{i}": i for i in range(90)}},
        )  # fmt: skip
        assert written.number == 1 and len(written.details) == 32
        (found,) = await everything(audit)
        assert found.entry == written and found.entry.by.startswith("__31mann_")

    run_virtual(main())


def test_reading_goes_either_way_and_by_what_is_asked():
    """Pages of any size, from either end, within bounds, give the same deeds; filters hold."""

    async def main():
        audit = await (Desk()).writer()
        for number in range(10):
            await audit.write("member.expel" if number % 3 else "token.create", by="ab"[number % 2], target=str(number))
        audit_module.PAGE, page = 3, audit_module.PAGE
        try:
            numbers = [one.entry.number for one in await everything(audit)]
            assert numbers == list(range(10, 0, -1))
            assert [one.sequence for one in await everything(audit, before=9, after=4)] == [8, 7, 6, 5]
            assert [one.sequence for one in await everything(audit, before=9, after=7, newest_first=False)] == [8]
            assert await everything(audit, before=1) == [] == await everything(audit, after=10, newest_first=False)
        finally:
            audit_module.PAGE = page
        member = await everything(audit, fits=filter_of(action="member", by="a"))
        assert [one.entry.target for one in member] == ["8", "4", "2"]
        assert await everything(audit, fits=filter_of(action="mem")) == []
        assert len(await everything(audit, fits=filter_of(since=member[0].entry.at, result="done"))) >= 2
        assert await everything(audit, fits=filter_of(until=member[-1].entry.at - 1e6)) == []

    run_virtual(main())


def test_an_empty_audit_is_whole():
    """Nothing is there, nothing is wrong; but a head that was noted must be there."""

    async def main():
        audit = await (Desk()).writer()
        assert await everything(audit) == []
        verified = await audit.verify()
        assert verified.is_whole and (verified.count, verified.head) == (0, "")
        assert not (await audit.verify("0" * 64)).is_whole

    run_virtual(main())


def test_a_message_that_is_no_deed_is_told_and_does_not_end_the_chain():
    """Who writes garbage on its own subject is found; deeds go on behind it."""

    async def main():
        desk = Desk()
        audit = await desk.writer()
        await audit.write("token.create", by="ann")
        bus = MemoryBus(desk.broker, "bad")
        await bus.append(OURS.stream("audit"), OURS.audit(Peer("gateway", "bad")), b"\xc1")
        await audit.write("token.revoke", by="ann")
        verified = await audit.verify()
        assert [(fault.sequence, fault.kind) for fault in verified.faults] == [(2, "changed")]
        assert [one.entry.number for one in await everything(audit)] == [3, 1]

    run_virtual(main())


# ---- the chain as such


def chain(count: int) -> list[tuple[str, int, bytes]]:
    """Return a chain of deeds: subject, sequence, bytes."""
    found, before = [], ""
    for number in range(1, count + 1):
        entry = AuditEntry(number=number, at=float(number), by="ann", action="token.create", before=before)
        data = encode(Envelope(f"id-{number}", "w", "gateway/g", entry))
        before = digest_of(data)
        found.append((OURS.audit(GATEWAY), number, data))
    return found


def verified_of(messages, head=""):
    """Go along messages."""
    walk = Walk(OURS, head)
    for subject, sequence, data in messages:
        walk.step(subject, sequence, data)
    return walk.end()


CHAIN = chain(12)
HEAD = digest_of(CHAIN[-1][2])


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, 11), byte=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_any_changed_byte_is_found(at, byte, flip):
    """Whichever byte of whichever deed changes, the chain does not hold; of the last one the pinned head tells it."""
    subject, sequence, data = CHAIN[at]
    changed = bytearray(data)
    changed[byte % len(changed)] ^= flip
    messages = [*CHAIN[:at], (subject, sequence, bytes(changed)), *CHAIN[at + 1 :]]
    assert not verified_of(messages, HEAD).is_whole
    if at < 11:
        assert not verified_of(messages).is_whole


@settings(deadline=None, max_examples=200)
@given(order=st.lists(st.integers(0, 11), max_size=14))
def test_any_other_order_is_found(order):
    """Deeds that are left out, repeated or swapped are found, but for an end that is cut: that takes a head."""
    messages = [CHAIN[index] for index in order]
    is_beginning = order == list(range(len(order)))
    assert verified_of(messages).is_whole == is_beginning
    assert verified_of(messages, HEAD).is_whole == (order == list(range(12)))


def test_each_fault_is_told_where_it_is():
    """Missing, changed, moved: each has its place and its name, and what stands behind it is not blamed."""
    assert verified_of(CHAIN, HEAD) == verified_of(CHAIN, HEAD) and verified_of(CHAIN, HEAD).pinned_at == 12
    missing = verified_of([*CHAIN[:4], *CHAIN[7:]])
    assert [(f.sequence, f.kind) for f in missing.faults] == [(8, "missing")] and "5 to 7" in missing.faults[0].what
    moved = verified_of([*CHAIN[:4], CHAIN[2], *CHAIN[4:]])
    assert [f.kind for f in moved.faults] == ["moved", "missing"]
    other = encode(Envelope("x", "w", "gateway/g", AuditEntry(number=5, at=1.0, by="eve", action="a", before="0" * 64)))
    changed = verified_of([*CHAIN[:4], (CHAIN[4][0], 5, other), *CHAIN[5:]])
    assert [(f.sequence, f.kind) for f in changed.faults] == [(5, "changed"), (6, "changed")]
    many = verified_of(list(reversed(chain(3 * FAULTS_MAX))))
    assert len(many.faults) == FAULTS_MAX < many.faults_count


def test_an_export_verifies_without_a_broker():
    """Lines hold as the stream does; what a line shows must be what its bytes say; what is no export is refused."""

    async def main():
        audit = await (Desk()).writer()
        for number in range(5):
            await audit.write("token.create", by="ann", target=f"t\x1b\u2028{number}")
        return [line_of(one) for one in await everything(audit, newest_first=False)], await audit.verify()

    lines, verified = run_virtual(main())
    assert verify_lines(lines) == verified and verified.is_whole
    assert all(line.isascii() and line.isprintable() for line in lines)
    told = json.loads(lines[2])
    told["entry"]["by"] = "bob"
    found = verify_lines([*lines[:2], json.dumps(told), *lines[3:]])
    assert [(f.sequence, f.kind) for f in found.faults] == [(3, "changed")]
    assert [f.kind for f in verify_lines(lines[:2] + lines[3:]).faults] == ["missing"]
    assert not verify_lines(lines[:-1], verified.head).is_whole
    assert verify_lines([]).count == 0
    for wrong in (
        "{}",
        "[]",
        "x",
        '{"raw": "", "subject": "fb.w.journal.s", "sequence": 1}',
        '{"raw": "%"}',
        "[" * 5000,
    ):
        with pytest.raises(BadMessage, match="line 1"):
            verify_lines([wrong])
