"""What an engineer sees: sessions as their journals tell them, and errors that say what to do."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from whole_house import MODEL, OURS, in_house

from fedbus.bus.memory import MemoryBus
from fedbus.client.app import ClientApp, Evaluation, Update
from fedbus.config.session import SessionConfig
from fedbus.errors import BadMessage, BusUnavailable, ConfigError, NotFound, SessionFailed
from fedbus.federation.service import clients_of
from fedbus.messages import commands
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Hello
from fedbus.messages.queries import Seen
from fedbus.messages.reports import TaskFailed

CONFIG = SessionConfig(rounds=2, clients_min=2)


def app(step=1.0, *, fails=False, takes_s=0.0):
    """An app that adds a step."""
    made = ClientApp()

    @made.train
    async def train(model, task):
        await asyncio.sleep(takes_s)
        if fails:
            raise ValueError("no data today")
        return Update({"w": model["w"] + step}, weight=1.0, metrics={"loss": step})

    @made.evaluate
    async def evaluate(model, task):
        return Evaluation(1.0, {"first": float(model["w"][0])})

    return made


async def opened(session):
    """Wait until a round is open."""
    async for event in session.events():
        if event.kind == "RoundOpened":
            return


def test_a_session_from_start_to_result():
    """Start, events, info, result, catalogue, models: all tell the same, and a second start finds the first."""

    async def main(house, federation):
        house.client("a", app(1.0))
        house.client("b", app(3.0))
        session = await federation.start_session(CONFIG, model=MODEL, name="s")
        same = await federation.start_session(CONFIG, model=MODEL, name="s")
        assert same.name == "s"
        kinds = [event.kind async for event in session.events()]
        assert kinds[0] == "SessionStarted" and kinds[-1] == "SessionEnded" and kinds.count("RoundClosed") == 2
        result = await session.wait()
        assert (result.outcome, result.model_version, result.rounds) == ("completed", "s-2", 2)
        assert result.metrics == {"first": 4.0}
        info = await session.info()
        assert info.ended and info.state == "completed" and info.by == "eve"
        assert [(r.round, r.counted, r.version, dict(r.metrics)) for r in info.rounds] == [
            (1, 2, "s-1", {"first": 2.0}),
            (2, 2, "s-2", {"first": 4.0}),
        ]
        assert info.rounds[0].train_metrics == {"loss": 2.0} and info.rounds[0].bytes_up == 24
        assert [(await federation.models.get(f"s-{i}"))["w"][0] for i in range(3)] == [0.0, 2.0, 4.0]
        assert [model.version for model in await federation.models.list()] == ["s-0", "s-1", "s-2"]
        assert [one.session for one in await federation.sessions()] == ["s"]
        assert [seen.name for seen in await federation.clients()] == ["a", "b"]
        assert [seen.name for seen in await federation.combiners()] == ["k0"]
        assert await federation.waits() == []

    in_house(main)


def test_a_crowd_is_shown_as_its_clients():
    """Each with what the crowd says of them; who speaks for himself is shown as he is, whatever a crowd says."""
    common = {"incarnation": "i", "since_at": 1.0, "seen_at": 2.0}
    crowd = Seen(role="crowd", name="m-2", members=3, first=2, attributes={"gpu": "no"}, doing="idle", **common)
    own = Seen(role="client", name="m-3", attributes={"gpu": "yes"}, **common)
    found = clients_of([crowd, own])
    assert [seen.crowd for seen in found] == ["m-2", "", "m-2"]
    assert [(seen.role, seen.name, seen.attributes["gpu"], seen.members, seen.first) for seen in found] == [
        ("client", "m-2", "no", 0, 0),
        ("client", "m-3", "yes", 0, 0),
        ("client", "m-4", "no", 0, 0),
    ]
    assert found[0].doing == "idle" and clients_of([own]) == [own] and clients_of([]) == []


def test_a_client_whose_app_raises_is_named_and_the_round_goes_on():
    """The reason stands in the journal, in the words of the error."""

    async def main(house, federation):
        house.client("a", app())
        house.client("b", app(fails=True))
        config = SessionConfig(rounds=1, clients_min=2, quorum=1, evaluate_every=0)
        session = await federation.start_session(config, model=MODEL, name="s")
        await session.wait()
        info = await session.info()
        assert info.refused == [(1, "b", "ValueError: no data today")]
        assert info.rounds[0].not_counted == {"b": "train: ValueError: no data today"}

    in_house(main)


def test_what_waits_is_told_and_a_stop_ends_it():
    """A session without clients says what it waits for; stopped, it says so; `wait` returns, it does not raise."""

    async def main(house, federation):
        session = await federation.start_session(CONFIG, model=MODEL, name="s")
        (wait,) = await federation.waits()
        assert (wait.session, wait.what) == ("s", "waiting for 2 of 2 clients (clients_min)")
        await session.stop("no clients")
        result = await session.wait()
        assert (result.outcome, result.reason, result.model_version) == ("stopped", "no clients (eve)", "s-0")

    in_house(main)


def test_a_session_that_fails_raises_with_its_reason():
    """SessionFailed carries what the journal says."""

    async def main(house, federation):
        config = SessionConfig(clients_min=3, gather_deadline_s=5)
        session = await federation.start_session(config, model=MODEL, name="s")
        reason = r"session s failed: waiting for 3 of 3 clients \(clients_min\): not within 5 s"
        with pytest.raises(SessionFailed, match=reason):
            await session.wait()

    in_house(main)


def test_without_a_coordinator_the_error_says_what_to_start():
    """Nothing hangs: a start gives up after its deadline, a question at once."""

    async def main(house, federation):
        with pytest.raises(BusUnavailable, match="no coordinator took the command within 30 s"):
            await federation.start_session(CONFIG, model=MODEL, name="s")
        with pytest.raises(BusUnavailable, match="no coordinator answers"):
            await federation.clients()

    in_house(main, roles=False)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "a.b"}, "session name"),
        ({"name": "x" * 41}, "at most 40 characters"),
        ({"model": {}}, "expected names and arrays"),
        ({"model": {"w": np.array(["text"])}}, "array 'w'"),
        ({"config": SessionConfig(strategy="magic")}, "magic"),
        ({"config": SessionConfig(strategy_options={"x": 1})}, "unknown option 'x'"),
        ({"config": SessionConfig(codec="int8", codec_options={"block": 7})}, "codec int8: option 'block'"),
        ({"config": SessionConfig(downlink="top_k")}, "downlink=top_k"),
        ({"config": SessionConfig(codec="int8"), "model": {"f": np.array([True])}}, "array 'f' is bool"),
        ({"config": SessionConfig(strategy="scaffold"), "model": {"control/w": np.zeros(3)}}, "array 'control/w'"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_before_anything_is_sent(fields, text):
    """ConfigError names the argument; no command, no blob is left behind."""

    async def main(house, federation):
        with pytest.raises(ConfigError, match=text):
            await federation.start_session(**({"config": CONFIG, "model": MODEL, "name": "s"} | fields))
        assert await federation.bus.pending(OURS.stream("command"), OURS.command()) == 0
        assert await federation.bus.pending(OURS.stream("blob"), OURS.blob()) == 0

    in_house(main, roles=False)


def test_chunks_that_grow_by_their_codec_have_to_fit_the_broker():
    """All values of a float16 array as float32 are twice its bytes: too much for a message, told before the start."""

    async def main(house, federation):
        config = SessionConfig(codec="top_k", codec_options={"fraction": 1.0})
        house.broker.payload_max = 1_000_000
        model = {"w": np.zeros(400_000, np.float16)}
        with pytest.raises(ConfigError, match="chunk_bytes=800000: codec top_k makes chunks of 1600000 bytes"):
            await federation.start_session(config, model=model, name="s", chunk_bytes=800_000)
        assert await federation.bus.pending(OURS.stream("blob"), OURS.blob()) == 0

    in_house(main, roles=False)


def test_companions_are_added_to_the_first_version():
    """SCAFFOLD's control variate travels with the model from the first version on: zeros, or what the model has."""
    given = {"w": np.ones(3, np.float32), "n": np.arange(2)}

    async def main(house, federation):
        config = SessionConfig(strategy="scaffold", clients_min=1)
        for name, model in (("s", given), ("t", given | {"control/w": np.full(3, 2, np.float32)})):
            session = await federation.start_session(config, model=model, name=name)
            first = await federation.models.get((await session.info()).version)
            assert list(first) == ["w", "n", "control/w"]
            assert first["control/w"].tolist() == ([0, 0, 0] if name == "s" else [2, 2, 2])
        assert list(given) == ["w", "n"]

    in_house(main)


def test_unknown_things_are_not_found():
    """By name, with where to look."""

    async def main(house, federation):
        with pytest.raises(NotFound, match="session nobody"):
            await federation.session("nobody").info()
        with pytest.raises(NotFound, match="model s-9"):
            await federation.models.get("s-9")
        with pytest.raises(ConfigError):
            await federation.models.get("../etc")
        with pytest.raises(ConfigError):
            federation.session("a b")
        await asyncio.sleep(5)
        with pytest.raises(BadMessage, match="expected StartSession, got Refused"):
            await federation._ask("nonsense", commands.StartSession)

    in_house(main)


def test_who_leaves_in_mid_round_is_not_waited_for():
    """Asked to end, it says so; seconds later the round closes with the others, and its report tells why."""

    async def main(house, federation):
        house.client("a", app())
        house.client("b", app())
        leaving = house.client("c", app(takes_s=500))
        config = SessionConfig(rounds=1, clients_min=3, quorum=2, evaluate_every=0, round_deadline_s=600)
        session = await federation.start_session(config, model=MODEL, name="s")
        await opened(session)
        await asyncio.sleep(20)
        report = await session.report()
        assert {one.client: one.outcome for one in report.clients} == {"a": "accepted", "b": "accepted", "c": "waiting"}
        (wait,) = await federation.waits()
        assert (wait.on, wait.doing, wait.then) == (
            ("c",), {"c": "training"}, "the round closes with the 2 updates that are there"
        )  # fmt: skip
        await house.dismiss(leaving)
        await session.wait()
        report = await session.report(1)
        assert 20 < report.ended_at - report.opened_at < 40
        assert report.why == "closed: every client has answered or left; c had left 5 s before"
        assert (report.clients[0].client, report.clients[0].outcome) == ("c", "missed")
        with pytest.raises(NotFound, match="session s: round 7 was not opened"):
            await session.report(7)
        with pytest.raises(NotFound, match="no such session"):
            await federation.session("t").report()

    in_house(main)


def test_who_falls_silent_is_waited_for_until_the_deadline():
    """It may train on behind a broken line; the report says since when nothing was heard of it."""

    async def main(house, federation):
        house.client("a", app())
        silent = house.client("b", app(takes_s=500))
        config = SessionConfig(rounds=1, clients_min=2, quorum=1, evaluate_every=0, round_deadline_s=100)
        session = await federation.start_session(config, model=MODEL, name="s")
        await opened(session)
        house.broker.partition("b")
        await session.wait()
        report = await session.report()
        assert report.fixed_at - report.opened_at >= 100
        slow = report.clients[0]
        assert slow.client == "b" and slow.what.startswith("not connected since ")
        assert 60 <= int(slow.what.split()[-2]) <= 105
        await house.dismiss(silent)

    in_house(main)


def test_strangers_cannot_end_a_role():
    """Garbage, names that are none, reports of the wrong role, and too long a session's name, on every subject."""

    async def main(house, federation):
        stranger = MemoryBus(house.broker, "stranger")
        hello = encode(Envelope("i", "default", "x", Hello(incarnation="i", heartbeat_s=1.0)))
        failed = encode(
            Envelope("i", "default", "x", TaskFailed(session="s", round=1, attempt=1, stage="train", reason="x"))
        )
        long = commands.StartSession(session="y" * 40, config=CONFIG, blob="b", digest="ab" * 32, nbytes=1)
        start = encode(Envelope("i", "default", "x", long)).replace(b"\xd9\x28" + b"y" * 40, b"\xd9\x40" + b"y" * 64)
        await asyncio.sleep(5)
        for subject in (
            *("presence.client.a$b", "presence.client." + "x" * 200, "presence.client.c", "whois", "query.waits"),
            *("report.client.a$b", "report.combiner.k0", "report.client.c", "ack.combiner.k0", "up.k0.client.c"),
            *(
                "order.k0.s",
                "down.combiner.k0.k0",
                "chunk.k0.client.c.s.1.1.0.0",
                "chunk.k0.x",
                "chunk.k0.a.b.c.d.e.f.g",
            ),
        ):
            for data in (b"", b"\xff", b"\x91" * 3000, hello, failed):
                await stranger.publish(f"fb.default.{subject}", data)
        await federation.bus.append(OURS.stream("command"), OURS.command(Peer("engineer", "x")), start)
        await federation.bus.append(OURS.stream("command"), OURS.command(Peer("engineer", "x")), b"garbage")
        await asyncio.sleep(10)
        house.check()
        assert await federation.bus.pending(OURS.stream("command"), OURS.command()) == 0
        house.client("a", app())
        house.client("b", app())
        session = await federation.start_session(CONFIG, model=MODEL, name="s")
        assert (await session.wait()).outcome == "completed"

    in_house(main)
