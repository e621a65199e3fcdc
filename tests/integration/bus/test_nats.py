"""The NATS bus keeps the contract against a real broker, and its promises through the broker's death."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
import tracemalloc
from contextlib import asynccontextmanager

import pytest

from fedbus.bus.base import Storage, StreamSpec
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.jetstream import JetStream
from fedbus.bus.nats.requests import Requests
from fedbus.errors import BusClosed, BusDenied, BusUnavailable, ConfigError
from fedbus.testing.bus import check_bus

JOURNAL = StreamSpec("journal", ("journal.>",), Storage.FILE)
BOARD = StreamSpec("board", ("task.>",), Storage.MEMORY, per_subject_max=1)


async def test_the_nats_bus_keeps_the_contract(broker, fresh):
    """Everything that base.Bus promises holds over a real nats-server."""

    @asynccontextmanager
    async def make():
        yield fresh

    await check_bus(make)


async def test_a_message_of_headers_keeps_nobody_busy(broker, fresh):
    """A megabyte of them is passed over before anything is made of it; what is said behind it is heard."""
    sender, reader = await fresh("sender"), await fresh("reader")
    heard = await reader.subscribe("s")
    for count in (100_000, 1000):
        lines = b"NATS/1.0\r\n" + b"".join(b"a%d:x\r\n" % number for number in range(count)) + b"\r\n"
        first = b"HPUB s %d %d\r\n" % (len(lines), len(lines) + 4)
        sender._connection._client.link.send([first, lines, b"much\r\n"])
    found = await anext(heard)
    assert (bytes(found.data), len(found.headers), heard.waiting_bytes) == (b"much", 1000, 0)
    await heard.close()


async def test_a_killed_broker_loses_nothing_that_was_acknowledged(broker, fresh):
    """Kill -9 under load, twice: every append ends, all are stored once, a follower sees each once, in order."""
    writer, reader = await fresh("writer"), await fresh("reader")
    await writer.ensure(JOURNAL)
    follow = await reader.follow("journal", ">")

    async def write(i):
        return await writer.append("journal", "journal.s", b"%d" % i, deadline_s=30)

    async def load():
        found = []
        for first in range(0, 600, 20):
            found += await asyncio.gather(*(write(i) for i in range(first, first + 20)))
        return found

    loading = asyncio.create_task(load())
    for _ in range(2):
        count = 50 * (1 + reader.reconnects)
        while await reader.pending("journal", ">") < count:
            pass
        await broker.kill()
        await broker.start()
        await _until(lambda: reader.connected)
    sequences = await loading
    assert sorted(sequences) == list(range(1, 601))
    followed = [await anext(follow) for _ in range(600)]
    assert [m.sequence for m in followed] == list(range(1, 601))
    assert {m.sequence: int(m.data) for m in followed} == {n: i for i, n in enumerate(sequences)}
    assert writer.reconnects == reader.reconnects == 2


async def test_an_append_waits_for_a_broker_that_comes_back(broker, fresh):
    """An append begun while the broker is dead succeeds when it is back within the deadline."""
    bus = await fresh("writer")
    await bus.ensure(JOURNAL)
    await broker.kill()
    waiting = asyncio.create_task(bus.append("journal", "journal.s", b"patient", expected_last=0))
    await _until(lambda: not bus.connected)
    await broker.start()
    assert await waiting == 1
    await _until(lambda: bus.reconnects == 1)  # counted behind the first call that goes through


async def test_calls_end_at_their_deadline_while_the_broker_is_dead(broker, fresh):
    """With no broker every call, and publishing more than the buffer holds, raises BusUnavailable in time."""
    bus = await fresh("writer")
    await bus.ensure(JOURNAL)
    await broker.kill()
    began = time.monotonic()
    for call in (
        bus.append("journal", "journal.s", b"", deadline_s=0.2),
        bus.last("journal", "journal.s", deadline_s=0.2),
        bus.newest("journal", ">", deadline_s=0.2),
        bus.request("journal.s", b"", deadline_s=0.2),
    ):
        with pytest.raises(BusUnavailable):
            await call
    assert time.monotonic() - began < 3
    ends = await asyncio.gather(*(bus.publish("plain", bytes(2**14)) for _ in range(600)), return_exceptions=True)
    assert {type(end) for end in ends} == {type(None), BusUnavailable}
    with pytest.raises(BusUnavailable, match="20000 bytes are not kept for it"):
        await bus.publish("plain", bytes(20_000))
    assert not bus.connected


async def test_a_lost_memory_stream_begins_anew(broker, fresh):
    """A board that died with the broker is made anew by its owner's next append; its followers begin anew with it."""
    owner, client = await fresh("owner"), await fresh("client")
    await owner.ensure(BOARD)
    follow = await client.follow("board", "task.c.*")
    for i in range(3):
        await owner.append("board", "task.c.s", b"%d" % i)
        assert (await anext(follow)).sequence == i + 1
    await broker.kill()
    await broker.start()
    assert await owner.append("board", "task.c.s", b"again") == 1
    message = await anext(follow)
    assert (message.sequence, message.data, message.anew) == (1, b"again", 1)


async def test_a_stream_made_anew_is_noticed_even_where_it_has_grown_further(broker, fresh):
    """A follower begins anew with a stream of the same name, though that one's last sequence is above its position."""
    bus = await fresh("x")
    await bus.ensure(JOURNAL)
    follow = await bus.follow("journal", ">")
    await bus.append("journal", "journal.s", b"old")
    await anext(follow)
    async with _api(broker) as jetstream:
        await jetstream.api("STREAM.DELETE.journal", None, deadline_s=5, what="delete")
    for i in range(5):
        await bus.append("journal", "journal.s", b"%d" % i)
    found = [await anext(follow) for _ in range(5)]
    assert [(message.data, message.anew) for message in found] == [(b"%d" % i, 1) for i in range(5)]


async def test_a_follow_survives_the_loss_of_its_consumer(broker, fresh):
    """When the broker drops the consumer, the follow makes another and goes on behind the last delivered."""
    bus = await fresh("x")
    await bus.ensure(JOURNAL)
    follow = await bus.follow("journal", ">")
    await bus.append("journal", "journal.s", b"1")
    await anext(follow)
    async with _api(broker) as jetstream:
        [name] = await _consumers(jetstream, "journal")
        await jetstream.api(f"CONSUMER.DELETE.journal.{name}", None, deadline_s=5, what="delete")
    await bus.append("journal", "journal.s", b"2")
    assert (await anext(follow)).sequence == 2


async def test_an_idle_follow_keeps_its_consumer(broker, fresh, monkeypatch):
    """While heartbeats come the consumer stays, however long nothing else does; without them it is renewed."""
    monkeypatch.setattr("fedbus.bus.nats.follow.HEARTBEAT_S", 0.2)
    monkeypatch.setattr("fedbus.bus.nats.follow.SILENCE_S_MAX", 0.5)
    monkeypatch.setattr("fedbus.bus.nats.follow.PULL_EXPIRES_S", 1.0)
    bus = await fresh("x")
    await bus.ensure(JOURNAL)
    follow = await bus.follow("journal", ">")
    await bus.append("journal", "journal.s", b"1")
    await anext(follow)
    consumer = follow._consumer
    await asyncio.sleep(2.5)
    assert follow._consumer == consumer
    os.kill(broker.pid, signal.SIGSTOP)
    await asyncio.sleep(1)
    os.kill(broker.pid, signal.SIGCONT)
    await bus.append("journal", "journal.s", b"2")
    assert (await anext(follow)).data == b"2"
    await _until(lambda: follow._consumer not in ("", consumer))


async def test_closed_follows_leave_no_consumer(broker, fresh):
    """Closing a follow, or its bus, removes the consumer from the broker."""
    bus, other = await fresh("x"), await fresh("y")
    await bus.ensure(JOURNAL)
    await bus.append("journal", "journal.s", b"1")
    follows = [await b.follow("journal", ">") for b in (bus, bus, other)]
    for follow in follows:
        await anext(follow)
    async with _api(broker) as jetstream:
        assert len(await _consumers(jetstream, "journal")) == 3
        await follows[0].close()
        await other.close()
        await bus.pending("journal", ">")  # a round trip behind the removal
        while len(await _consumers(jetstream, "journal")) > 1:
            pass
        await bus.close()
        while await _consumers(jetstream, "journal"):
            pass


async def test_a_reader_that_stands_still_does_not_grow(broker, fresh):
    """Of 100 MB in a stream a follow that is not read holds some 20 MB, and all of it comes when it is read."""
    bus, reader = await fresh("x"), await fresh("y")
    await bus.ensure(StreamSpec("blobs", ("blob.>",), Storage.FILE))
    await asyncio.gather(*(bus.append("blobs", f"blob.{i}", bytes(2**20), deadline_s=60) for i in range(100)))
    follow = await reader.follow("blobs", ">")
    first = await anext(follow)
    held = -1
    while held != follow._queue_bytes:
        held = follow._queue_bytes
        await asyncio.sleep(0.3)
    assert 2**20 < held < 24 * 2**20
    rest = [await anext(follow) for _ in range(99)]
    assert [m.sequence for m in (first, *rest)] == list(range(1, 101))
    assert rest[-1].pending == 0


async def test_subscriptions_survive_a_restart(broker, fresh):
    """After the broker has come back a subscription made before receives again."""
    receiver, sender = await fresh("r"), await fresh("s")
    inbox = await receiver.subscribe("x.*")
    await broker.restart()
    await _until(lambda: receiver.reconnects and sender.reconnects)
    await sender.publish("x.1", b"after")
    assert (await anext(inbox)).data == b"after"


async def test_thousands_of_patterns_survive_a_restart_and_cost_little(broker, fresh):
    """7,500 patterns are one subscription, below 600 bytes each, which receives by each of them after a restart."""
    receiver, sender = await fresh("r"), await fresh("s")
    patterns = [f"x.{kind}.{i}.>" for i in range(2500) for kind in ("task", "down", "ack")]
    tracemalloc.start()
    try:
        inbox = await receiver.subscribe(patterns)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 7500 * 600
    await broker.restart()
    await _until(lambda: receiver.reconnects and sender.reconnects)
    for pattern in patterns:
        await sender.publish(pattern.replace(">", "y"), b"")
    assert [(await anext(inbox)).subject for _ in patterns] == [p.replace(">", "y") for p in patterns]


async def test_what_is_given_up_while_the_broker_is_away_is_not_heard_later(broker, fresh):
    """A subscription begun and given up during an outage leaves none behind at the broker that came back."""
    bus = await fresh("x")
    await broker.stop()
    await _until(lambda: not bus.connected)
    doomed = asyncio.create_task(bus.subscribe("ghost"))
    await asyncio.sleep(0.01)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    await broker.start()
    await _until(lambda: bus.connected)
    inbox = await bus.subscribe("x")
    heard = bus._connection._client.stats["in_msgs"]
    await bus.publish("ghost", b"")
    await bus.publish("x", b"")
    await anext(inbox)
    assert bus._connection._client.stats["in_msgs"] == heard + 1


async def test_a_cancelled_subscribe_does_not_deafen_the_connection(broker, fresh):
    """Giving up a flush kills nothing: nats-py's own would end its reading task at the pong that comes later."""
    bus = await fresh("x")
    for _ in range(20):
        doomed = asyncio.create_task(bus.subscribe("never"))
        await asyncio.sleep(0)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
    inbox = await bus.subscribe("x")
    await bus.publish("x", b"heard")
    assert (await anext(inbox)).data == b"heard"


async def test_publishing_waits_for_the_socket_and_can_be_cancelled(broker, fresh):
    """Behind 8 MiB of unwritten bytes a publisher waits; cancelling it works, and the connection serves on."""
    sender = await fresh("s")
    accepted = 0

    async def flood():
        nonlocal accepted
        while True:
            await sender.publish("bulk", bytes(2**20))
            accepted += 1
            assert sender._connection._client.pending_data_size < 10 * 2**20

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await flood()
    assert accepted > 8
    inbox = await sender.subscribe("x")
    await sender.publish("x", b"behind the flood")
    assert (await anext(inbox)).data == b"behind the flood"
    assert sender.reconnects == 0


async def test_nobody_there_is_said_by_address():
    """A first connection without a broker ends in time, names the address without secrets, and says what to do."""
    with pytest.raises(BusUnavailable, match=r"nats://127.0.0.1:1:.*fedbus up") as caught:
        await connect("nats://user:secret@127.0.0.1:1", name="x", deadline_s=0.3)
    assert "secret" not in str(caught.value)


async def test_missing_credentials_are_said_by_path(broker, tmp_path):
    """A credentials file that is not there, or is none, is a mistake in a setting, named by its path."""
    path = tmp_path / "x.creds"
    with pytest.raises(ConfigError, match=r"x\.creds' cannot be read"):
        await connect(broker.url, name="x", credentials=path, deadline_s=2)
    path.write_text("not a secret")
    with pytest.raises(ConfigError, match=r"x\.creds' hold no user JWT"):
        await connect(broker.url, name="x", credentials=path, deadline_s=2)


GUARDED = """
listen: "127.0.0.1:-1"
ports_file_dir: "{store}"
jetstream {{ store_dir: "{store}" }}
authorization {{
  users = [
    {{ user: "all", password: "all" }}
    {{ user: "few", password: "few", permissions: {{
        publish: ["mine.>", "$JS.API.STREAM.INFO.journal", "_INBOX.>"], subscribe: ["_INBOX.>", "mine.>"] }} }}
  ]
}}
"""


@pytest.fixture
async def guarded(tmp_path, monkeypatch):
    """A broker with users: "all" may do everything, "few" little."""
    monkeypatch.setattr(
        "fedbus.bus.embedded.broker.settings_text", lambda settings, store, *_: GUARDED.format(store=store)
    )
    monkeypatch.setattr(EmbeddedBroker, "url", property(lambda self: f"nats://all:all@127.0.0.1:{self.port}"))
    async with EmbeddedBroker(tmp_path / "guarded") as running:
        yield f"127.0.0.1:{running.port}"


async def test_wrong_credentials_are_denied_at_once(guarded):
    """A broker that refuses user and password is BusDenied, before any deadline."""
    began = time.monotonic()
    with pytest.raises(BusDenied, match="authorization"):
        await connect(f"nats://few:wrong@{guarded}", name="x", deadline_s=30)
    assert time.monotonic() - began < 5


async def test_refused_subjects_are_denied_at_once(guarded, caplog):
    """What permissions forbid ends the wait for it with BusDenied; a plain publish is logged, once per subject."""
    async with await connect(f"nats://all:all@{guarded}", name="all") as owner:
        await owner.ensure(JOURNAL)
        async with await connect(f"nats://few:few@{guarded}", name="few") as bus:
            inbox = await bus.subscribe("mine.*")
            await bus.publish("mine.x", b"")
            assert (await anext(inbox)).subject == "mine.x"
            with pytest.raises(BusDenied):
                await bus.append("journal", "journal.Secret", b"", deadline_s=30)
            with pytest.raises(BusDenied):
                await bus.subscribe("others.>")
            assert len(bus._mailboxes) == 1
            with pytest.raises(BusDenied):
                await bus.request("others.x", b"", deadline_s=30)
            follow = await bus.follow("journal", "journal.>")
            with pytest.raises(BusDenied):
                await anext(follow)
            with caplog.at_level(logging.WARNING, "fedbus.bus"):
                for _ in range(3):
                    await bus.publish("plain.theirs", b"")
                await bus.subscribe("mine.flush")
            assert [r.message for r in caplog.records if "plain.theirs" in r.message] != []
            assert len([r for r in caplog.records if "plain.theirs" in r.message]) == 1


async def test_a_connection_that_nats_py_gave_up_is_closed_for_good(broker, fresh):
    """When the client is closed under us, calls and iterations raise BusClosed instead of trying for ever."""
    bus = await fresh("x")
    await bus.ensure(JOURNAL)
    inbox, follow = await bus.subscribe("x"), await bus.follow("journal", ">")
    await bus._connection._client.close()
    for call in (anext(inbox), anext(follow), bus.publish("x", b""), bus.append("journal", "journal.s", b"")):
        with pytest.raises(BusClosed):
            async with asyncio.timeout(5):
                await call


async def _until(true):
    while not true():  # noqa: ASYNC110 - the state of a connection, which tells nobody when it changes
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _api(broker):
    connection = Connection(broker.url, "test")
    await connection.open(identify=None, tls=None, inbox_prefix="_INBOX", deadline_s=5)
    requests = Requests(connection)
    await requests.open()
    try:
        yield JetStream(connection, requests)
    finally:
        await connection.close()


async def _consumers(jetstream, stream):
    found = await jetstream.api(f"CONSUMER.NAMES.{stream}", {}, deadline_s=5, what="names")
    assert isinstance(json.dumps(found), str)
    return found["consumers"] or []
