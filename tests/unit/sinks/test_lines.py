"""Sinks that are files of lines, and the tracking of a session over a bus in memory."""

from __future__ import annotations

import asyncio
import csv
import json
import tomllib
from pathlib import Path

import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError, NotFound
from fedbus.federation.service import Federation
from fedbus.messages import records
from fedbus.messages.records import Entry
from fedbus.sinks import SinkUnavailable, open_sink, track, tracking
from fedbus.sinks.registry import REGISTRY
from fedbus.sinks.tracking import track_all
from fedbus.store.streams import ensure_streams
from fedbus.workers import Inline

ROOT = Path(__file__).parents[3]
DIGEST = "ab" * 32


def beginning(version="s-0"):
    """Return the record of a session's start."""
    config = SessionConfig(rounds=4, strategy="fedadam", strategy_options={"learning_rate": 0.5})
    return records.SessionStarted(config=config, version=version, blob="b", digest=DIGEST, nbytes=8, by="me")


def closed(number, loss):
    """Return the records of a round that closed."""
    published = records.ModelPublished(
        round=number, version=f"s-{number}", parent="", session="s", blob="b", digest=DIGEST, nbytes=8
    )
    return published, records.RoundClosed(round=number, counted=3, metrics={"loss": loss}, opened_at=1.0, bytes_up=9)


def measured(number, accuracy):
    """Return the record of an evaluation."""
    return records.RoundEvaluated(round=number, version=f"s-{number}", metrics={"accuracy": accuracy}, answered=2)


ENDED = records.SessionEnded(outcome="completed", reason="all rounds are closed", version="s-2", digest=DIGEST)
ALL = [(beginning(),), closed(1, 0.5), (measured(1, 0.25),), closed(2, float("nan")), (measured(2, 0.75),), (ENDED,)]


class World:
    """A federation over a bus in memory, whose journals are written here."""

    def __init__(self):
        self.bus = MemoryBus(MemoryBroker(), "all")
        self.federation = Federation(self.bus, workspace="w", workers=Inline())
        self.sequences = {}

    async def say(self, *said, session="s", at=None):
        """Append an entry to the journal of a session."""
        before = self.sequences.get(session, 0)
        entry = Entry.of(100.0 + before if at is None else at, "epoch", said)
        self.sequences[session] = await self.federation.journal.append(session, entry, before)


@pytest.fixture
async def world():
    """A federation without sessions."""
    world = World()
    await ensure_streams(world.bus, world.federation.subjects)
    async with world.federation:
        yield world


async def tell(world, text, **how):
    """Track session s with a sink that is opened for it, and closed."""
    sink = open_sink(text)
    try:
        return await track(world.federation, "s", sink, **how)
    finally:
        sink.close()


def lines(path):
    """Return (kind, step, points) of every line."""
    return [(line["kind"], line["step"], line.get("points")) for line in map(json.loads, path.read_text().splitlines())]


async def test_a_line_holds_what_became_true(world, tmp_path):
    """Settings, rounds, evaluations and the end stand in the file in order; what is not finite is null."""
    for said in ALL:
        await world.say(*said)
    path = tmp_path / "deep" / "points.jsonl"
    assert await tell(world, f"jsonl:{path}") is True
    first, *rest = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["session"], first["workspace"], first["by"], first["config"]["strategy"]) == (
        "s",
        "w",
        "me",
        "fedadam",
    )
    assert [(line["kind"], line["step"]) for line in rest] == [
        ("round", 1), ("evaluated", 1), ("round", 2), ("evaluated", 2), ("ended", 0),
    ]  # fmt: skip
    assert rest[0]["points"]["train/loss"] == 0.5 and rest[2]["points"]["train/loss"] is None
    assert rest[0]["points"]["round/counted"] == 3.0 and rest[1]["points"] == {"evaluate/accuracy": 0.25}
    assert (rest[-1]["outcome"], rest[-1]["version"]) == ("completed", "s-2")


@pytest.mark.parametrize("name", ["jsonl", "csv"])
@pytest.mark.parametrize("cut", [0, 1, 30, 150, 400])
async def test_a_file_that_was_cut_short_is_completed(world, tmp_path, name, cut):
    """Whatever of its end a crash has taken, tracking again gives the file that was there: no line twice, none less."""
    for said in ALL:
        await world.say(*said)
    path = tmp_path / f"points.{name}"
    await tell(world, f"{name}:{path}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    await tell(world, f"{name}:{path}")
    assert path.read_bytes() == whole
    await tell(world, f"{name}:{path}")
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_a_file_is_of_one_writer(name, tmp_path):
    """Another one would repeat lines, and cut off those that are not whole yet; it is told before it touches any."""
    path = tmp_path / "points"
    sink = open_sink(f"{name}:{path}")
    path.write_bytes(before := path.read_bytes() + b"half a li")
    with pytest.raises(ConfigError, match="another process"):
        open_sink(f"{name}:{path}")
    assert path.read_bytes() == before
    sink.close()
    open_sink(f"{name}:{path}").close()
    assert not path.read_bytes().endswith(b"li")


async def test_a_row_is_one_point(world, tmp_path):
    """The CSV has a row for each metric and step, below the columns' names; several sessions share it."""
    for said in ALL:
        await world.say(*said)
        await world.say(*said, session="t")
    path = tmp_path / "points.csv"
    sink = open_sink(f"csv:{path}")
    assert await track_all(world.federation, sink, follow=False) == 2
    sink.close()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len({(row["session"], row["metric"], row["step"]) for row in rows}) == len(rows) == 2 * 2 * (6 + 1)
    (found,) = [row for row in rows if (row["session"], row["metric"], row["step"]) == ("t", "evaluate/accuracy", "2")]
    assert float(found["value"]) == 0.75


async def test_a_session_is_followed_to_its_end(world, tmp_path):
    """What becomes true while it is tracked is written; its end ends the tracking."""
    path = tmp_path / "points.jsonl"
    telling = asyncio.create_task(tell(world, f"jsonl:{path}"))
    for said in ALL:
        await world.say(*said)
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await telling is True
    assert [kind for kind, *_ in lines(path)] == ["started", "round", "evaluated", "round", "evaluated", "ended"]


async def test_without_following_it_ends_where_the_journal_does(world, tmp_path):
    """Of a session that goes on what there is is written; of one that does not exist that is said."""
    path = tmp_path / "points.jsonl"
    with pytest.raises(NotFound, match="no such session"):
        await tell(world, f"jsonl:{path}", follow=False)
    await world.say(*ALL[0])
    await world.say(*ALL[1])
    assert await tell(world, f"jsonl:{path}", follow=False) is False
    assert [kind for kind, *_ in lines(path)] == ["started", "round"]


async def test_a_session_of_the_same_name_is_another(world, tmp_path):
    """After a broker was lost a session may have the name of one that was; its points are not taken for that one's."""
    path = tmp_path / "points.jsonl"
    await world.say(*ALL[0])
    await world.say(*closed(1, 0.5))
    await tell(world, f"jsonl:{path}", follow=False)
    other = World()
    await ensure_streams(other.bus, other.federation.subjects)
    async with other.federation:
        await other.say(*ALL[0], at=900.0)
        await other.say(*closed(1, 0.125), at=901.0)
        await tell(other, f"jsonl:{path}", follow=False)
    assert [points["train/loss"] for kind, _, points in lines(path) if kind == "round"] == [0.5, 0.125]


class Flaky:
    """A sink that is away for its first calls, and takes no second call meanwhile."""

    def __init__(self, away):
        self.away = away
        self.took = []
        self.busy = False

    def _call(self, what):
        assert not self.busy, "two calls at once"
        self.busy = True
        try:
            self.away -= 1
            if self.away >= 0:
                raise SinkUnavailable("away")
            self.took.append(what)
        finally:
            self.busy = False

    def started(self, session):
        self._call(("started", session.params["strategy_options.learning_rate"]))

    def round(self, session, closed):
        self._call(("round", closed.round))

    def evaluated(self, session, found):
        self._call(("evaluated", found.round))

    def ended(self, session, end):
        self._call(("ended", end.version))

    def flush(self):
        pass

    def close(self):
        pass


async def test_a_sink_that_is_away_is_tried_again(world, monkeypatch):
    """Each call is repeated until it is taken: nothing is left out, and the order stays."""
    monkeypatch.setattr(tracking, "PAUSE_S", 0.001)
    for said in ALL:
        await world.say(*said)
    sink = Flaky(3)
    await track(world.federation, "s", sink)
    assert sink.took == [
        ("started", "0.5"), ("round", 1), ("evaluated", 1), ("round", 2), ("evaluated", 2), ("ended", "s-2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("points", "expected NAME:TARGET"),
        ("csv:", "expected NAME:TARGET"),
        ("excel:x", "sink 'excel' is unknown; known: csv, jsonl, mlflow, tensorboard"),
    ],
)
def test_a_sink_that_cannot_be_is_refused_by_name(text, says):
    """Each mistake is a `ConfigError` that says what was expected."""
    with pytest.raises(ConfigError) as refused:
        open_sink(text)
    assert says in str(refused.value)


def test_entry_points_and_registry_name_the_same():
    """An installed package and a plain checkout find the same sinks."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][REGISTRY.group]
    assert told == {name: entry.value for name, entry in REGISTRY._own.items()}
