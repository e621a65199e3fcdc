"""Sessions beside each other, cloned, filtered, and as files."""

from __future__ import annotations

import asyncio
import csv
import io
import json

import numpy as np
import pytest
from whole_house import in_house

from fedbus.client.app import ClientApp, Evaluation, Update
from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError, NotFound
from fedbus.federation import exporting
from fedbus.federation.cloning import config_of_clone, model_of_clone
from fedbus.federation.comparing import compared, curves_of, differences
from fedbus.federation.info import RoundInfo, SessionEvent, SessionInfo
from fedbus.federation.listing import EventFilter, SessionFilter, in_order
from fedbus.messages import records

MODEL = {"w": np.zeros(3, np.float32)}


def session(name, **settings):
    """A session with settings."""
    return SessionInfo(name, config=SessionConfig(**settings))


def closed(round_, train, metrics):
    """A closed round with its metrics."""
    return RoundInfo(round_, f"s-{round_}", 1, {}, 1.0, 0, 0, train, metrics, closed_at=100.0 + round_)


def app_of(shift, metric="loss"):
    """An app that shifts the model."""
    app = ClientApp()

    @app.train
    def train(model, task):
        return Update({"w": model["w"] + np.float32(shift)}, weight=1.0, metrics={metric: shift})

    @app.evaluate
    def evaluate(model, task):
        return Evaluation(weight=1.0, metrics={"first": float(model["w"][0])})

    return app


def test_settings_that_differ_are_told_one_by_one():
    """Options by their own names, a missing one as None; what is the same is not told."""
    a = session("a", rounds=3, strategy_options={"lr": 0.1, "tau": 1}, train_config={"net": {"layers": 3}})
    b = session("b", rounds=4, strategy_options={"lr": 0.1}, train_config={"net": {"layers": 5}})
    found = {one.setting: one.values for one in differences([a, b])}
    assert found == {"rounds": (3, 4), "strategy_options.tau": (1, None), "train_config.net.layers": (3, 5)}
    assert differences([a, session("c", **a.config.model_dump())]) == []


def test_curves_have_the_rounds_that_have_the_metric():
    """Training's and evaluation's apart, by name; a value that is not finite is None."""
    info = session("a")
    info.rounds = [
        closed(1, {"loss": 0.9}, {"accuracy": 0.5}), closed(2, {"loss": float("nan")}, {}),
        closed(3, {}, {"accuracy": 0.7, "auc": 0.8}),
    ]  # fmt: skip
    found = [(one.of, one.metric, one.rounds, one.values) for one in curves_of(info)]
    assert found == [
        ("train", "loss", (1, 2), (0.9, None)), ("evaluate", "accuracy", (1, 3), (0.5, 0.7)),
        ("evaluate", "auc", (3,), (0.8,)),
    ]  # fmt: skip
    assert curves_of(info)[0].at == (101.0, 102.0)


def test_what_cannot_be_compared_is_refused():
    """One session, eleven, or the same one twice."""
    with pytest.raises(ConfigError, match="expected 2 to 10"):
        compared([session("a")])
    with pytest.raises(ConfigError, match="expected 2 to 10"):
        compared([session(str(number)) for number in range(11)])
    with pytest.raises(ConfigError, match="expected different ones, got a, b, a"):
        compared([session("a"), session("b"), session("a")])


def test_a_clone_has_the_settings_but_for_those_that_change():
    """Each change replaces its setting; what cannot be is named; it begins where its session began."""
    info = session("a", rounds=3, strategy="fedadam", strategy_options={"lr": 0.1})
    config = config_of_clone(info, {"rounds": 5, "strategy_options": {}})
    assert (config.rounds, config.strategy, config.strategy_options) == (5, "fedadam", {})
    for changes, named in (({"rounds": -1}, "rounds: "), ({"rouns": 1}, "rouns: "), ({"patience": 3}, "settings: ")):
        with pytest.raises(ConfigError, match=named):
            config_of_clone(info, changes)
    info.first_version = "a-0"
    assert model_of_clone(info) == "a-0"
    info.base = "other-7"
    assert model_of_clone(info) == "other-7"


def test_sessions_are_chosen_by_status_strategy_and_text():
    """A text in whatever case, in the name, the reason, the strategy, or who started it."""
    one = SessionInfo("Mnist-1", reason="3 rounds done", by="eve", config=SessionConfig(strategy="fedadam"))
    cases = [
        (SessionFilter(), True), (SessionFilter(("starting", "failed")), True), (SessionFilter(("running",)), False),
        (SessionFilter(strategy="fedadam"), True), (SessionFilter(strategy="fedavg"), False),
        (SessionFilter(text="MNIST"), True), (SessionFilter(text="Rounds"), True), (SessionFilter(text="eve"), True),
        (SessionFilter(text="adam"), True), (SessionFilter(text="cifar"), False),
        (SessionFilter(strategy="fedadam", text="cifar"), False),
    ]  # fmt: skip
    assert [wanted.meets(one, 0.0) for wanted, _ in cases] == [expected for _, expected in cases]
    b, a, c = SessionInfo("b", started_at=5.0), SessionInfo("a", started_at=5.0), SessionInfo("c", started_at=1.0)
    assert [info.session for info in in_order([b, a, c], "oldest")] == ["c", "a", "b"]
    assert [info.session for info in in_order([b, a, c], "newest")] == ["b", "a", "c"]


def test_events_are_chosen_by_all_that_is_asked():
    """Session, kind, time and text; an unknown kind is refused with those that are known."""
    record = records.RoundFailed(round=3, attempt=1, reason="No Quorum")
    event = SessionEvent("s", 7, 50.0, record.kind, record, 2)
    assert event.id == "7.2"
    cases = [
        (EventFilter(), True), (EventFilter(session="s"), True), (EventFilter(session="t"), False),
        (EventFilter(kinds=("RoundFailed", "RoundClosed")), True), (EventFilter(kinds=("RoundClosed",)), False),
        (EventFilter(since=50.0, until=50.0), True), (EventFilter(since=50.1), False), (EventFilter(until=49.9), False),
        (EventFilter(text="no quorum"), True), (EventFilter(text="absent"), False),
    ]  # fmt: skip
    assert [wanted.meets(event) for wanted, _ in cases] == [expected for _, expected in cases]
    with pytest.raises(ConfigError, match=r"expected some of SessionStarted.*got 'Closed'"):
        EventFilter(kinds=("Closed",))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_a_spreadsheet_runs_nothing_of_an_export(text):
    """A text that begins like a formula stands behind an apostrophe; numbers, also negative ones, stay numbers."""
    out = exporting._csv([[text, f"x{text}", -1.5, float("nan"), None]])
    (row,) = csv.reader(io.StringIO(out, newline=""))
    assert row == [f"'{text}", f"x{text}", "-1.5", "", ""]


def test_csv_is_as_the_rfc_says():
    """Rows end with CR and LF, quotes are doubled, and a cell may have line breaks."""
    assert exporting._csv([["a", 'say "no", please\nnow']]) == 'a,"say ""no"", please\nnow"\r\n'


async def text_of(parts):
    """All parts together."""
    return "".join([part async for part in parts])


def test_a_session_is_exported_and_cloned_and_found():
    """Over a whole federation: files of all kinds agree with each other, a clone begins where its session began."""

    async def test(house, federation):
        for name, shift in (("a", 1.0), ("b", 3.0)):
            house.client(name, app_of(shift))
        config = SessionConfig(rounds=2, clients_min=2)
        first = await federation.start_session(config, model=MODEL, name="one")
        await first.wait()
        second = await federation.clone_session("one", config={"rounds": 3}, name="two")
        await second.wait()
        info = await second.info()
        assert (info.base, info.config) == ("one-0", config.model_copy(update={"rounds": 3}))
        whole = json.loads(await text_of(first.export()))
        assert (whole["session"], whole["state"], whole["config"]["rounds"]) == ("one", "completed", 2)
        assert [found["round"] for found in whole["rounds"]] == [1, 2]
        assert {one["client"]: one["metrics"]["loss"] for one in whole["rounds"][0]["clients"]} == {"a": 1.0, "b": 3.0}
        assert [one["metrics"] for one in whole["evaluations"]] == [{"first": 2.0}, {"first": 4.0}]
        tables = {}
        for what in ("rounds", "clients", "curves"):
            text = await text_of(first.export("csv", what))
            tables[what] = list(csv.DictReader(io.StringIO(text, newline="")))
        found = [(row["round"], row["counted"], row["train.loss"], row["evaluate.first"]) for row in tables["rounds"]]
        assert found == [("1", "2", "2.0", "2.0"), ("2", "2", "2.0", "4.0")]
        found = sorted((row["round"], row["client"], row["outcome"], row["train.loss"]) for row in tables["clients"])
        assert found == [
            ("1", "a", "counted", "1.0"), ("1", "b", "counted", "3.0"),
            ("2", "a", "counted", "1.0"), ("2", "b", "counted", "3.0"),
        ]  # fmt: skip
        points = [(row["of"], row["metric"], row["round"], row["value"]) for row in tables["curves"]]
        assert points == [
            ("train", "loss", "1", "2.0"), ("train", "loss", "2", "2.0"),
            ("evaluate", "first", "1", "2.0"), ("evaluate", "first", "2", "4.0"),
        ]  # fmt: skip
        assert [found.round for found in await second.rounds()] == [1, 2, 3]
        assert [one.metric for one in await first.curves()] == ["loss", "first"]

    in_house(test)


def test_what_is_not_there_is_not_exported():
    """`NotFound` for a session that is none, `ConfigError` for a format that is none; nothing is yielded before."""

    async def test(house, federation):
        with pytest.raises(NotFound):
            await text_of(federation.session("none").export())
        with pytest.raises(ConfigError, match="expected json, or csv"):
            await text_of(federation.session("none").export("xml"))

    in_house(test)


def test_a_workspace_is_read_by_filters_and_pages():
    """Sessions behind one another, events behind an id, what a client gave; what is not there is not found."""

    async def test(house, federation):
        house.client("a", app_of(1.0))
        for name in ("one", "two", "three"):
            session = await federation.start_session(SessionConfig(rounds=1), model=MODEL, name=name)
            await session.wait()
        assert [info.session for info in await federation.sessions()] == ["one", "two", "three"]
        page = await federation.sessions(order="newest", limit=2)
        assert [info.session for info in page] == ["three", "two"]
        rest = await federation.sessions(order="newest", limit=2, after="two")
        assert [info.session for info in rest] == ["one"]
        assert await federation.sessions(status="failed") == []
        with pytest.raises(NotFound, match="begin again"):
            await federation.sessions(after="four")
        ended = [event async for event in federation.events(kind="SessionEnded")]
        assert [event.session for event in ended] == ["one", "two", "three"]
        behind = [event.session async for event in federation.events(kind="SessionEnded", after=ended[0].id)]
        assert behind == ["two", "three"]
        every = [event async for event in federation.events()]
        assert [event.id for event in every] == sorted(
            {event.id for event in every}, key=lambda id_: [*map(int, id_.split("."))]
        )
        following = federation.events(kind="SessionStarted", follow=True, after=ended[-1].id)
        coming = asyncio.ensure_future(anext(following))
        await federation.start_session(SessionConfig(rounds=1), model=MODEL, name="four")
        assert (await coming).session == "four"
        await following.aclose()
        client = await federation.client("a")
        assert client.online and client.tally.sessions >= 3
        assert {one.session for one in client.history} >= {"one", "two", "three"}
        with pytest.raises(NotFound, match="no journal tells of it"):
            await federation.client("nobody")
        with pytest.raises(ConfigError, match="event id"):
            await anext(federation.events(after="x"))

    in_house(test)
