"""The audit in a backup: the chain holds there, comes back as it was, and goes on; never over another one."""

from __future__ import annotations

import pytest

from fedbus.access.audit import Audit
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.errors import BusDenied
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.store.archive import Archive
from fedbus.store.backup import Backup
from fedbus.store.restore import Restore
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.workers import Inline

OURS = Subjects("default")


class Office:
    """A broker with an audit, and somebody who backs it up."""

    def __init__(self, bus_type=MemoryBus):
        self.broker = MemoryBroker(1)
        self.bus = bus_type(self.broker, "office")

    async def open(self):
        """Make the streams."""
        await ensure_streams(self.bus, OURS)
        return self

    def audit(self, name="g"):
        """Somebody who writes."""
        return Audit(self.bus, OURS, Peer("gateway", name), VirtualClock())

    async def write(self, count, name="g"):
        """Write deeds."""
        audit = self.audit(name)
        for number in range(count):
            await audit.write("token.create", by="ann", target=str(number))

    async def back_up(self, directory):
        """Take a backup."""
        return (await Backup(self.bus, OURS, Inline(), Archive(directory)).take(7.0)).contents

    async def restore(self, directory):
        """Bring a backup back."""
        return await Restore(self.bus, OURS, Inline(), Archive(directory)).restore()


def test_a_chain_comes_back_and_goes_on(tmp_path):
    """Two backups, the second of what is new; on an empty broker it is the same chain, to the bit, and is continued."""

    async def main():
        office = await Office().open()
        assert (await office.back_up(tmp_path)).audit is None
        await office.write(3, "g")
        await office.write(2, "h")
        first = await office.back_up(tmp_path)
        await office.write(4, "g")
        second = await office.back_up(tmp_path)
        assert (first.audit.count, second.audit.count, second.audit.file) == (5, 9, "audit.0")
        assert (await office.back_up(tmp_path)).audit == second.audit
        before = await office.audit().verify()
        assert (await office.restore(tmp_path)).deeds == 0

        other = await Office().open()
        done = await other.restore(tmp_path)
        assert (done.deeds, done.deeds_lacking) == (9, "")
        assert await other.audit().verify() == before and before.is_whole
        assert (await other.restore(tmp_path)).deeds == 0
        await other.write(1, "k")
        after = await other.audit().verify(before.head)
        assert after.is_whole and (after.count, after.pinned_at) == (10, 9)
        assert (await other.back_up(tmp_path)).audit.count == 10

    run_virtual(main())


def test_what_a_broker_lacks_of_a_chain_is_added(tmp_path):
    """A restore that was cut short is repeated: the beginning is left, the rest comes behind it."""

    async def main():
        office = await Office().open()
        await office.write(2)
        await office.back_up(tmp_path / "half")
        await office.write(3)
        await office.back_up(tmp_path / "whole")
        other = await Office().open()
        assert (await other.restore(tmp_path / "half")).deeds == 2
        assert (await other.restore(tmp_path / "whole")).deeds == 3
        assert await other.audit().verify() == await office.audit().verify()

    run_virtual(main())


def test_another_chain_is_neither_overwritten_nor_backed_up_over_the_old_one(tmp_path):
    """Where deeds were written anew both stay as they are, and it is said."""

    async def main():
        office = await Office().open()
        await office.write(3)
        kept = (await office.back_up(tmp_path)).audit
        other = await Office().open()
        await other.write(1, "new")
        before = await other.audit().verify()
        done = await other.restore(tmp_path)
        assert done.deeds == 0 and "a new chain" in done.deeds_lacking
        assert await other.audit().verify() == before
        contents = await other.back_up(tmp_path)
        assert contents.audit == kept
        assert [(one.what, one.reason) for one in contents.skipped] == [
            ("the audit", "the broker has another chain: back up to another directory")
        ]
        empty = await Office().open()
        assert (await empty.back_up(tmp_path)).audit == kept
        assert (await empty.restore(tmp_path)).deeds == 3

    run_virtual(main())


class Unread(MemoryBus):
    """A bus whose broker lets nobody read the audit."""

    async def pending(self, stream, pattern):
        if stream == OURS.stream("audit"):
            raise BusDenied("audit")
        return await super().pending(stream, pattern)


def test_who_may_not_read_it_makes_a_backup_without_it(tmp_path):
    """The backup is whole but for the audit, and says whose credentials it takes; what an admin's had stays."""

    async def main():
        office = await Office(Unread).open()
        contents = await office.back_up(tmp_path)
        assert contents.audit is None
        assert "credentials of an admin or an auditor" in contents.skipped[0].reason
        with pytest.raises(BusDenied):
            await office.bus.pending(OURS.stream("audit"), OURS.audit())

    run_virtual(main())
