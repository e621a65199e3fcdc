"""What a data owner decides holds on a real bus: declining, pausing, leaving, withdrawing; and the log of what left."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from blake3 import blake3

import fedbus
from fedbus.bus.nats import connect
from fedbus.client.decisions import Decisions, decided
from fedbus.client.outgoing import entries_of, verify
from fedbus.errors import ConfigError
from fedbus.messages import records, reports
from fedbus.messages.envelope import decode
from fedbus.messages.uploads import UploadBegin
from fedbus.testing.proxy import Line, Proxy

LARGE = {"w": np.zeros((3, 1024, 1024), np.float32)}
"""12 MB in 24 chunks: an upload in which something can happen."""

FAMILIES = ("up", "chunk", "report", "presence", "span")
"""All that a client publishes; of what it asks for nothing is a row of data."""

SLOW_BYTES_S = 4_000_000
TWO = {"rounds": 2, "clients_min": 2, "evaluate_every": 0, "seed": 3}


@pytest.fixture
async def said(broker):
    """``said(name)``: what left a client, as (subject behind the workspace, bytes), from the start of the test on."""
    heard = []

    async with await connect(broker.url, name="ear") as bus:
        families = [f"fb.default.{family}.>" for family in FAMILIES]
        messages = await bus.subscribe(families, pending_bytes_max=2**30)

        async def hear():
            async for message in messages:
                told = message.subject.removeprefix("fb.default."), bytes(message.data)
                heard.append(told)

        hearing = asyncio.create_task(hear())

        def of(name):
            return [(subject, data) for subject, data in heard if f".client.{name}" in subject]

        yield of
        hearing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hearing
        await messages.close()


def policy(tmp_path, text, name="policy.toml"):
    """A policy's file."""
    path = tmp_path / name
    path.write_text(text)
    return path


async def test_a_round_goes_on_without_who_declines(house, make_app, zeros, tmp_path):
    """The purpose is not allowed: two of three train, the reason is in the journal and in the card; then another
    purpose is allowed by a change of the file, without a restart, and the third takes part in the next round.
    """
    await house.operate()
    file = policy(tmp_path, '[allow]\npurposes = ["research/*"]')
    for number in (1, 2):
        await house.client(f"site-{number}", make_app(0.5 * number))
    await house.client("site-3", make_app(2.0), policy=file, state_dir=tmp_path / "state")
    await house.present(3)
    async with fedbus.connect(house.url) as federation, asyncio.timeout(30):
        config = fedbus.SessionConfig(**TWO | {"rounds": 100_000}, purpose="ads/clicks", description="Who clicks")
        session = await federation.start_session(config, model=zeros, name="s")
        opened, closed = {}, {}
        async for event in session.events():
            match event.data:
                case records.RoundOpened() as fact:
                    opened[fact.round] = sorted(fact.clients)
                case records.RoundClosed() as fact:
                    closed[fact.round] = fact
                    if fact.round == 2:
                        assert (await session.info()).declined.keys() == {"site-3"}
                        file.write_text('[allow]\npurposes = ["ads/*"]')
                    if fact.counted == 3:
                        await session.stop()
                case _:
                    pass
    house.check()
    assert opened[1] == ["site-1", "site-2", "site-3"] and opened[2] == ["site-1", "site-2"], "it is not asked again"
    assert opened[max(closed)] == opened[1] and closed[max(closed)].counted == 3
    assert closed[1].not_counted == {"site-3": "policy: its owner does not allow the purpose 'ads/clicks'"}
    assert (closed[1].counted, closed[2].counted) == (2, 2)
    (card,) = decided(tmp_path / "state" / "client-site-3")["cards"]
    assert card["decision"] in ("accepted", "ended") and card["description"] == "Who clicks" and card["started_by"]
    log = list(entries_of(tmp_path / "state" / "client-site-3" / "outgoing.jsonl"))
    reasons = [entry["reason"] for entry in log if entry["what"] == "reason"]
    assert reasons == ["its owner does not allow the purpose 'ads/clicks'"]


async def test_who_declines_for_now_is_waited_for_where_it_is_needed(house, make_app, zeros, eventually):
    """Three are needed and one declines: the session waits, says for whom and why, and goes on when it agrees."""
    await house.operate()
    cards, agreed = [], asyncio.Event()
    app = make_app(1.5)

    @app.consent
    async def consent(card):
        cards.append(card)
        await agreed.wait()
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedbus.client.owner.CONSENT_S", 0.3)
        await house.client("site-1", app)
        await house.client("site-2", make_app(0.5))
        await house.present(2)
        async with fedbus.connect(house.url) as federation, asyncio.timeout(30):
            config = fedbus.SessionConfig(**TWO | {"rounds": 1, "round_attempts_max": 9}, purpose="research")
            session = await federation.start_session(config, model=zeros)

            async def declined():
                return [wait for wait in await federation.waits() if "decline" in wait.what]

            (wait,) = await eventually(declined)
            assert "1 decline: site-1: its owner has not agreed to it yet" in wait.what
            agreed.set()
            result = await session.wait()
    assert result.outcome == "completed" and len(cards) == 1
    assert (cards[0].purpose, cards[0].updates_min, cards[0].model_bytes) == ("research", 2, 164)
    assert "research" in cards[0].text() and cards[0].session == session.name


async def test_metrics_that_may_not_leave_never_do(house, zeros, tmp_path, said):
    """Neither with updates nor with evaluations nor in the text of errors is a byte of theirs on the bus."""
    app = fedbus.ClientApp()

    @app.train
    def train(model, task):
        if task.round == 2:
            raise ValueError("patient SECRET-CANARY")
        metrics = {"loss": 0.5, "SECRET-METRIC": 4242.4242}
        return fedbus.Update(dict(model), weight=1.0, metrics=metrics)

    @app.evaluate
    def evaluate(model, task):
        sums = {"hist": [1.0, 2.0], "SECRET-SUM": [3.0]}
        return fedbus.Evaluation(weight=1.0, metrics={"loss": 0.25, "SECRET-METRIC": 1.0}, sums=sums)

    await house.operate()
    file = policy(tmp_path, '[outgoing]\nmetrics = ["loss", "hist"]\nerrors = false\nspans = false')
    await house.client("site-1", app, policy=file)
    await house.present(1)
    settings = {"rounds": 2, "clients_min": 1, "round_attempts_max": 1, "evaluate_every": 1}
    with pytest.raises(fedbus.FedbusError, match="whose text its owner does not let out"):
        await house.run(zeros, **settings)
    messages = said("site-1")
    assert messages and not [subject for subject, data in messages if b"SECRET" in data]
    bodies = [decode(data, subject).body for subject, data in messages if subject.split(".")[0] in ("up", "report")]
    assert {tuple(body.metrics) for body in bodies if isinstance(body, UploadBegin | reports.Evaluated)} == {("loss",)}
    (evaluated,) = [body for body in bodies if isinstance(body, reports.Evaluated)]
    assert list(evaluated.sums) == ["hist[2]"]


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        pytest.param({"w": np.zeros((5, 7), np.float32)}, {}, id="inline"),
        pytest.param(LARGE, {"sharding": "chunks"}, id="chunks of two combiners"),
        pytest.param(LARGE, {"codec": "int8"}, id="encoded"),
    ],
)
async def test_the_log_tells_what_left(house, make_app, tmp_path, said, model, settings):
    """Each update on the bus has one line with its bytes, its digest and its norm, and each report its own; the chain
    holds; and the journal's digest of the update is that of the log.
    """
    await house.operate(2)
    await house.client("site-1", make_app(0.5), state_dir=tmp_path)
    await house.present(1)
    config = {"rounds": 2, "clients_min": 1, "purpose": "research"} | settings
    _, facts, _ = await house.run(model, name="s", chunk_bytes=512 * 1024, **config)
    await house.stop("site-1")
    path = tmp_path / "client-site-1" / "outgoing.jsonl"
    log = list(entries_of(path))
    assert verify(path).wrong == () and verify(path).lines == len(log)
    parts, announced = Counter(), {}
    for subject, data in said("site-1"):
        family, combiner, _, *rest = subject.split(".")
        if family == "chunk":
            parts[combiner, rest[1], rest[2]] += len(data)
        elif family == "up":
            begin = decode(data, subject).body
            announced[combiner, begin.session, str(begin.round)] = begin
    lines = {(entry["to"], entry["session"], str(entry["round"])): entry for entry in log if entry["what"] == "update"}
    assert lines.keys() == announced.keys() and len(lines) == 2 * (2 if settings.get("sharding") else 1)
    for key, line in lines.items():
        begin = announced[key]
        seen = len(begin.inline) or parts[key]
        assert (line["bytes"], line["digest"], line["purpose"]) == (seen, begin.digest, "research")
        assert not begin.inline or blake3(begin.inline).hexdigest() == line["digest"]
        assert line["version"] == f"s-{int(key[2]) - 1}" and line["metrics"] == {"shift": 0.5}
    sizes = sum(array.size for array in model.values())
    round_1 = next(line for key, line in lines.items() if key[2] == "1")
    assert round_1["norm"] == pytest.approx(0.5 * sizes**0.5, rel=1e-3)
    journal = [one.digest for fact in facts if isinstance(fact, records.UpdatesRecorded) for one in fact.accepted]
    assert sorted(digest for of in journal for digest in of.split("+")) == sorted(e["digest"] for e in lines.values())
    evaluations = [entry for entry in log if entry["what"] == "evaluation"]
    reported = [(len(data), blake3(data).hexdigest()) for s, data in said("site-1") if s.startswith("report.")]
    assert sorted((entry["bytes"], entry["digest"]) for entry in evaluations) == sorted(set(reported))
    assert log[0]["what"] == "hello" and log[-1]["what"] == "others"


async def test_pause_stops_all_at_once_and_lasts(house, make_app, tmp_path, said, broker, eventually):
    """In the middle of an upload: not a byte more leaves, the round closes without it; started again it is still
    paused; resumed, it takes part.
    """
    async with Proxy("127.0.0.1", broker.port, up=Line(bytes_s=SLOW_BYTES_S)) as proxy:
        await house.operate()
        first = await house.client("site-1", make_app(1.0), url=proxy.url, state_dir=tmp_path)
        await house.client("site-2", make_app(0.5))
        await house.client("site-3", make_app(0.5))
        await house.present(3)
        async with fedbus.connect(house.url) as federation, asyncio.timeout(60):
            config = fedbus.SessionConfig(**TWO)
            session = await federation.start_session(config, model=LARGE, name="s")
            await eventually(lambda: any(s.startswith("chunk.") for s, _ in said("site-1")), 20)
            await first.pause()
            await eventually(lambda: any(b"Bye" in data for _, data in said("site-1")), 20)
            await house.dismiss("site-1")  # its farewell is through: nothing else may follow
            count = len(said("site-1"))
            again = await house.client("site-1", make_app(1.0), state_dir=tmp_path)
            result = await session.wait()
            assert result.outcome == "completed" and len(said("site-1")) == count
            facts = [event.data async for event in session.events()]
            assert [fact.counted for fact in facts if isinstance(fact, records.RoundClosed)] == [2, 2]
            await again.resume()
            await house.present(3)
        assert decided(tmp_path / "client-site-1")["paused"] is False


async def test_leave_drops_what_was_made_and_the_session_goes_on(house, make_app, tmp_path, eventually, zeros):
    """While it trains: the training is given up, the round does not wait, its owner's word stands in the journal; other
    sessions are not touched.
    """
    await house.operate()
    started = asyncio.Event()
    leaver = await house.client("site-1", make_app(1.0, pause_s=20, started=started), state_dir=tmp_path)
    await house.client("site-2", make_app(0.5))
    await house.client("site-3", make_app(0.5))
    await house.present(3)
    async with fedbus.connect(house.url) as federation, asyncio.timeout(20):
        session = await federation.start_session(fedbus.SessionConfig(**TWO), model=zeros, name="s")
        await started.wait()
        await leaver.leave("s")
        await session.wait()
        info = await session.info()
    assert info.declined == {"site-1": "its owner has left this session"}
    assert [found.counted for found in info.rounds] == [2, 2] and info.rounds[1].asked == 2
    assert "s" in leaver.cards and decided(tmp_path / "client-site-1")["left"] == []  # it has ended


@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_withdrawn_is_undone_bit_for_bit(house, make_app, tmp_path, eventually, zeros, killed):
    """Its update was accepted while the round was open: the model is the one that the others make alone, and of an
    earlier round nothing is undone; also where its process was killed before anybody had heard of it.
    """
    await house.operate()
    hurry = asyncio.Event()
    slow = fedbus.ClientApp()

    @slow.train
    async def train(model, task):
        if task.round == 2:
            await hurry.wait()
        return fedbus.Update({name: array + array.dtype.type(0.25) for name, array in model.items()}, weight=1.0)

    taken = await house.client("site-1", make_app(64.0), state_dir=tmp_path)
    await house.client("site-2", slow)
    await house.client("site-3", make_app(0.5))
    await house.present(3)
    async with fedbus.connect(house.url) as federation, asyncio.timeout(20):
        session = await federation.start_session(fedbus.SessionConfig(**TWO), model=zeros, name="s")

        async def accepted():
            facts = [fact async for fact in read(session)]
            return any(
                isinstance(fact, records.UpdatesRecorded) and fact.round == 2 and "site-1" in names(fact.accepted)
                for fact in facts
            )

        async def withdrawals():
            facts = [fact async for fact in read(session)]
            return [one for fact in facts if isinstance(fact, records.UpdatesRecorded) for one in fact.withdrawn]

        await eventually(accepted, 10)
        if killed:
            await house.dismiss("site-1")
            state = tmp_path / "client-site-1"
            replace(Decisions.read(state), left={"s": 1.0}, withdrawn={"s": 2}).save(state)
            await house.client("site-1", make_app(64.0), state_dir=tmp_path)
            await eventually(withdrawals, 10)
        else:
            assert await taken.withdraw("s") == (2,)
        hurry.set()
        result = await session.wait()
        facts = [event.data async for event in session.events()]
        model = await federation.models.get(result.model_version)
        first = await federation.models.get("s-1")
        (withdrawn,) = await withdrawals()
    assert (withdrawn.client, withdrawn.reason) == ("site-1", "its owner took it back")
    closed = [fact for fact in facts if isinstance(fact, records.RoundClosed)]
    assert (closed[0].counted, closed[1].counted) == (3, 2)
    np.testing.assert_array_equal(model["w"], first["w"] + np.float32(0.375))
    assert any(entry["what"] == "withdrawal" for entry in entries_of(tmp_path / "client-site-1" / "outgoing.jsonl"))


def names(updates):
    """Whose they are."""
    return {update.client for update in updates}


async def read(session):
    """The records of a session until now."""
    found = await session.info()
    async for event in session.events():
        yield event.data
        if event.at >= found.changed_at:
            return


async def test_limits_of_a_day_hold_over_a_restart(house, make_app, zeros, tmp_path):
    """Two rounds a day are two rounds a day; the third is declined until midnight, in its owner's zone."""
    await house.operate()
    file = policy(tmp_path, "[limits]\nrounds_per_day = 2")
    await house.client("site-1", make_app(1.0), policy=file, state_dir=tmp_path / "state")
    await house.client("site-2", make_app(0.5))
    await house.present(2)
    config = {"rounds": 3, "clients_min": 1, "evaluate_every": 0}
    _, facts, _ = await house.run(zeros, **config)
    assert [fact.counted for fact in facts if isinstance(fact, records.RoundClosed)] == [2, 2, 1]
    (refused,) = [one for fact in facts if isinstance(fact, records.UpdatesRecorded) for one in fact.refused]
    today = datetime.now(UTC).date()
    assert refused.declined and (datetime.fromtimestamp(refused.until_at, UTC).date() - today).days == 1
    await house.dismiss("site-1")
    await house.client("site-1", make_app(1.0), policy=file, state_dir=tmp_path / "state")
    await house.present(2)
    _, facts, _ = await house.run(zeros, **config | {"rounds": 1})
    assert [fact.counted for fact in facts if isinstance(fact, records.RoundClosed)] == [1]


async def test_a_policy_that_cannot_be_lets_nothing_run(house, make_app, tmp_path):
    """At the start it is an error that names the line; of a client that runs the last good one holds."""
    file = policy(tmp_path, "[allow]\npurpose = ['x']")
    async with fedbus.Client(house.url, make_app(1.0), name="site-1", policy=file) as client:
        with pytest.raises(ConfigError, match=r"line 2: allow\.purpose: expected one of"):
            await client.run()
        with pytest.raises(ConfigError, match="is not running"):
            await client.pause()


async def test_the_owner_of_a_crowd_speaks_for_all_of_it(house, make_app, zeros, tmp_path):
    """One policy, one log, one word: all of them decline, train and leave together."""
    await house.operate()
    file = policy(tmp_path, '[deny]\npurposes = ["ads"]\n[limits]\nrounds_per_day = 3')
    await house.crowd("m", make_app(1.0), 4, policy=file, state_dir=tmp_path / "state")
    await house.client("site-1", make_app(0.5))
    await house.present(5)
    config = {"rounds": 1, "clients_min": 1, "evaluate_every": 0}
    _, facts, _ = await house.run(zeros, **config, purpose="ads")
    assert [fact.counted for fact in facts if isinstance(fact, records.RoundClosed)] == [1]
    _, facts, _ = await house.run(zeros, **config | {"rounds": 3}, purpose="research")
    assert [fact.counted for fact in facts if isinstance(fact, records.RoundClosed)] == [5, 5, 5]
    log = list(entries_of(tmp_path / "state" / "crowd-m" / "outgoing.jsonl"))
    assert Counter(entry["client"] for entry in log if entry["what"] == "update") == {f"m-{n}": 3 for n in range(4)}
