"""The door by which a client's words leave: paced, shut, and each word written down before it goes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fedbus.client.app import Model, Update
from fedbus.client.held import prepare
from fedbus.client.newest import Fetched
from fedbus.client.norms import norm_of
from fedbus.client.outgoing import OutgoingLog, entries_of
from fedbus.client.owner import Owner, Wishes
from fedbus.client.shelf import Shelf
from fedbus.client.watched import About, WatchedBus
from fedbus.config.policy import parse
from fedbus.errors import BusUnavailable
from fedbus.messages import reports
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.plans import Encoding
from fedbus.messages.presence import Bye, Hello
from fedbus.messages.subjects import ChunkAddress, Subjects
from fedbus.messages.tasks import Train
from fedbus.messages.uploads import UploadBegin
from fedbus.tensors import Manifest
from fedbus.testing.loop import VirtualClock, run_virtual

OURS, ME = Subjects("w"), Peer("client", "c-1")
DIGEST = "ab" * 32
BEGIN = UploadBegin(
    session="s",
    round=1,
    attempt=1,
    spec=DIGEST,
    digest=DIGEST,
    nbytes=2000,
    chunks=2,
    weight=1.0,
    metrics={"loss": 0.5},
)
FAILED = reports.TaskFailed(session="s", round=1, attempt=1, stage="train", reason="no data")
WITHDRAWN = reports.Withdrawn(session="s", round=1, attempt=1, reason="taken back")
HELLO = Hello(incarnation="i", heartbeat_s=5.0)


class Line:
    """A bus on which all that is sent is seen, with the time of the loop."""

    payload_max = 2**20

    def __init__(self):
        self.sent = []

    async def publish(self, subject, data, headers=None):
        """Take it."""
        self.sent.append((asyncio.get_running_loop().time(), subject.split(".")[2], len(data)))


def door(policy="", path=None):
    """A door before a line; returns both."""
    clock = VirtualClock()
    wishes = Wishes(policy=parse(policy, "p") if policy else None)
    watched = WatchedBus(Line(), Owner(wishes, "w", clock), lambda client, session: About("research", "s-0", 1.5))
    if path is not None:
        watched.outgoing = OutgoingLog(path, clock)
    return watched, watched.as_bus._bus


def said(body, id_="i-1"):
    """A body as it is sent."""
    return encode(Envelope(id_, "w", "c-1", body))


def chunk(index, attempt=1):
    """Where a chunk goes."""
    return OURS.chunk("k-0", ChunkAddress(ME, "s", 1, attempt, index, 7))


def test_updates_wait_for_their_owners_rate_and_nothing_else_does():
    """Ten chunks of 1,000 bytes at 1,000 bytes a second take 9 s; a heartbeat beside them goes at once."""

    async def main():
        watched, line = door("[limits]\nbytes_up_per_s = 1000")
        start = asyncio.get_running_loop().time()

        async def send():
            for index in range(10):
                await watched.publish(chunk(index), bytes(1000))

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.5)
        await watched.publish(OURS.presence(ME), said(HELLO))
        await sending
        times = {family: at - start for at, family, _ in line.sent}
        assert times["chunk"] == pytest.approx(9.0) and times["presence"] == pytest.approx(0.5)

    run_virtual(main())


def test_a_shut_door_lets_a_withdrawal_through_and_nothing_else():
    """Also not what waited for its rate when it was shut; one family is let through while that is said."""

    async def main():
        watched, line = door("[limits]\nbytes_up_per_s = 1000")
        await watched.publish(chunk(0), bytes(1000))
        waiting = asyncio.create_task(watched.publish(chunk(1), bytes(1000)))
        await asyncio.sleep(0.1)
        watched.shut(but="presence")
        await watched.publish(OURS.presence(ME), said(Bye(incarnation="i")))
        watched.shut()
        await waiting
        await watched.publish(OURS.presence(ME), said(HELLO))
        await watched.publish(OURS.report(ME), said(FAILED))
        await watched.publish(OURS.report(ME), said(WITHDRAWN))
        assert [family for _, family, _ in line.sent] == ["chunk", "presence", "report"]
        for asking in (watched.request(OURS.board(ME), b"x", deadline_s=1.0), watched.newest("board", "x")):
            with pytest.raises(BusUnavailable, match="paused"):
                await asking
        watched.unshut()
        await watched.publish(OURS.report(ME), said(FAILED))
        assert len(line.sent) == 4

    run_virtual(main())


def test_traces_stay_where_the_owner_wants_it():
    """They are dropped, and nobody waits for them."""

    async def main():
        watched, line = door("[outgoing]\nspans = false")
        await watched.publish(OURS.span(ME), b"x")
        assert line.sent == []

    run_virtual(main())


def test_each_word_is_written_down_once_and_repeats_are_counted(tmp_path):
    """An update by its announcement, a chunk that no announcement went before by itself, a report, a changed hello."""
    path = tmp_path / "out.jsonl"

    async def main():
        watched, _ = door(path=path)
        await watched.publish(OURS.presence(ME), said(HELLO, "h-1"))
        await watched.publish(OURS.presence(ME), said(HELLO.model_copy(update={"doing": "training for s"}), "h-2"))
        await watched.publish(OURS.presence(ME), said(HELLO.model_copy(update={"attributes": {"a": "b"}}), "h-3"))
        for number in (1, 2):
            await watched.publish(OURS.up("k-0", ME), said(BEGIN.model_copy(update={"number": number})))
        for index in (0, 1, 1):
            await watched.publish(chunk(index), bytes(1000))
        await watched.publish(chunk(0, attempt=9), bytes(10))
        for _ in range(3):
            await watched.publish(OURS.report(ME), said(FAILED, "r-1"))
        await watched.publish(OURS.report(ME), said(FAILED, "r-2"))
        watched.outgoing.close()

    run_virtual(main())
    log = list(entries_of(path))
    assert [entry["what"] for entry in log] == ["hello", "hello", "update", "chunk", "reason", "reason", "others"]
    update = log[2]
    assert (update["bytes"], update["digest"], update["norm"], update["purpose"]) == (2000, DIGEST, 1.5, "research")
    assert (update["version"], update["to"], update["metrics"]) == ("s-0", "k-0", {"loss": 0.5})
    counts = {what: of["messages"] for what, of in log[-1]["of"].items()}
    assert counts == {"presence": 1, "announcement": 1, "announcement again": 1, "chunk again": 1, "report again": 2}


def test_what_cannot_be_written_down_does_not_leave(tmp_path):
    """The sender hears of it, as of a bus that is away, and tries again later."""

    async def main():
        watched, line = door(path=tmp_path / "out.jsonl")

        def full(*_):
            raise BusUnavailable("no room")

        watched.outgoing.write = full
        with pytest.raises(BusUnavailable):
            await watched.publish(OURS.up("k-0", ME), said(BEGIN))
        assert line.sent == []

    run_virtual(main())


@pytest.mark.parametrize(
    ("encoding", "norm"),
    [
        (Encoding(), (4 * 3.0**2 + 2 * 5.0**2) ** 0.5),
        (Encoding(form="difference"), (4 * 2.0**2 + 2 * 1.0**2) ** 0.5),
        (Encoding(form="difference", codec="int8"), (4 * 2.0**2 + 2 * 1.0**2) ** 0.5),
    ],
)
def test_the_norm_is_that_of_what_leaves(encoding, norm):
    """Of the arrays, of their difference, of what a codec makes of that: over all dtypes."""
    model = {"w": np.ones(4, np.float32), "n": np.full(2, 4, np.int32)}
    arrays = {"w": np.full(4, 3, np.float32), "n": np.full(2, 5, np.int32)}
    train = Train(
        round=1,
        attempt=1,
        version="v",
        blob="b",
        combiner="k",
        seed=1,
        deadline_at=9.0,
        weight_max=9.0,
        encoding=encoding,
    )
    held = prepare(Fetched(Model(model), Manifest.of(model), 0), Update(arrays), train, Shelf(None))
    assert norm_of(held) == pytest.approx(norm, rel=1e-2)
    held.leave()


def test_a_payload_has_no_norm():
    """Its bytes are no numbers."""
    model = {"w": np.ones(4, np.float32)}
    train = Train(
        round=1, attempt=1, version="v", blob="b", combiner="k", seed=1, deadline_at=9.0, weight_max=9.0,
        encoding=Encoding(form="payload"),
    )  # fmt: skip
    held = prepare(Fetched(Model(model), Manifest.of(model), 0), Update(payload=b"tree"), train, Shelf(None))
    assert norm_of(held) is None
    held.leave()
