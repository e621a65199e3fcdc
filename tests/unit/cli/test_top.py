from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace

import pyte
import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

from fedbus.cli import top
from fedbus.cli.screen import fit, lines, wait_line
from fedbus.cli.top import Glance, SessionLine
from fedbus.errors import BusUnavailable
from fedbus.gateway.views import ArchiveView, BrokerView, OverviewView, PeerView, StreamView, WaitView

NOW = 1_700_000_000.0


def session(number, status="running", **known):
    """A session in one line."""
    facts = {"state": "round 3: training", "reason": "", "rounds_closed": 3, "rounds": 12, "left_s": 42.0}
    facts |= {"metrics": {"accuracy": 0.9}, "version": f"s{number}-3"} | known
    return SessionLine(session=f"s{number}", status=status, **facts)


def glance(sessions=3, combiners=2, waits=1, **known):
    """A federation at one moment."""
    peers = [
        PeerView(role="combiner", name=f"combiner-{i}", version="1", since_at=NOW, seen_at=NOW, clients=i, updates=1)
        for i in range(combiners)
    ]
    leads = PeerView(role="coordinator", name="coordinator-2", version="1", since_at=NOW, seen_at=NOW, leads=True)
    facts = {
        "workspace": "default",
        "at": NOW,
        "version": "0.1.0",
        "broker": BrokerView(
            connected=True,
            server="fedbus-embedded",
            version="2.12.1",
            round_trip_s=0.0004,
            streams=(StreamView(name="fb-default-blob", storage="file", messages=3, nbytes=500, bytes_max=1000),),
        ),
        "coordinator_answers": True,
        "coordinators": (leads,),
        "combiners": tuple(peers),
        "gateways": (),
        "clients": 5,
        "clients_doing": {"idle": 1, "training": 4},
        "sessions": {"running": sessions},
        "models": 7,
        "waits": tuple(
            WaitView(
                session=f"s{i}",
                round=4,
                what="waiting for updates of 2 of 5 clients",
                on=("a", "b"),
                since_at=NOW - 5,
                until_at=NOW + 14,
                then="the round closes",
            )
            for i in range(waits)
        ),
    } | known
    return Glance(OverviewView(**facts), tuple(session(i) for i in range(sessions)))


def drawn(seen, width, height):
    """What a terminal of that size shows, line by line, as its emulator has it."""
    screen = pyte.Screen(width, height)
    stream = pyte.Stream(screen)
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=width, height=height, color_system="standard")
    with Live(top._Screen(seen), console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        stream.feed(said.getvalue().replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display]


def test_a_small_terminal_has_everything_that_is_little():
    """At 80x24: who leads, what clients do, the load of combiners, progress and time left, the wait's count-down."""
    shown = "\n".join(drawn(glance(), 80, 24))
    for words in (
        "workspace default",
        "0.4 ms away",
        "coordinator-2 leads",
        "5: 4 training, 1 idle",
        "combiner-1        1        1",
        "s2       running    3/12  ###.........  42 s  accuracy 0.9",
        "14 s  s0 round 4: waiting for updates of 2 of 5 clients (a, b)",
        "fb-default-blob",
        "50% of 1 kB",
    ):
        assert words in shown


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 10), (20, 4)])
def test_nothing_is_wider_or_higher_than_the_terminal(width, height):
    """With far more than fits, no line wraps or scrolls: the first is still the title."""
    seen = glance(sessions=90, combiners=40, waits=30)
    assert len(lines(seen, width, height)) <= height
    shown = drawn(seen, width, height)
    assert shown[0].startswith("fedbus 0.1.0, works")
    assert all(len(line) <= width for line in shown)
    if height >= 24:
        assert sum("more" in line for line in shown) >= 3, "what is left out is counted"
        assert any("s0 " in line for line in shown) and any("waits" in line for line in shown)


def test_a_large_terminal_shows_more():
    """At 200x50 what had no room at 80x24 is there."""
    seen = glance(sessions=12, combiners=6, waits=6)
    small, large = ("\n".join(drawn(seen, *size)) for size in ((80, 24), (200, 50)))
    assert "s11" in large and "s11" not in small
    assert "then the round closes" in large and "more" not in large


def test_all_of_it_is_printed_where_there_is_no_terminal():
    """Without a height nothing is left out."""
    shown = [line.plain for line in lines(glance(sessions=90, combiners=40, waits=30), 160, 0)]
    assert sum("running" in line for line in shown) == 90
    assert not any("more" in line for line in shown)


def test_what_is_away_is_said():
    """A broker or a coordinator that is away, and combiners that are not there, are lines of their own."""
    shown = [line.plain for line in lines(glance(combiners=0, coordinator_answers=False), 80, 24)]
    assert any("none answers" in line for line in shown)
    assert any("no combiner is there" in line for line in shown)
    away = lines(glance(broker=BrokerView(connected=False)), 80, 24)
    assert any("broker        is away" in line.plain for line in away)


def test_words_of_others_move_no_cursor():
    """A client's or a metric's name with escapes in it is shown as marks."""
    seen = Glance(glance(clients_doing={"\x1b[2Jtraining": 1}).overview, (session(0, metrics={"\x1b]0;x\x07": 1.0}),))
    assert not any("\x1b" in line.plain or "\x07" in line.plain for line in lines(seen, 80, 24))
    assert "?[2Jtraining" in "\n".join(drawn(seen, 80, 24))


def test_a_wait_counts_down_to_its_end():
    """Time left comes first; when it is over that is said."""
    (wait,) = glance().overview.waits
    assert wait_line(wait, NOW + 4).split()[:2] == ["10", "s"]
    assert wait_line(wait, NOW + 20).split()[0] == "over"


def test_the_longest_table_gives_way_first():
    """A table of two lines keeps both while one of twenty is cut; where nothing fits, nothing is kept."""
    short, long = [Text("a"), Text("b")], [Text(str(i)) for i in range(20)]
    cut = fit([short, long], 10)
    assert [len(table) for table in cut] == [2, 6]
    assert cut[1][-1].plain == "  and 15 more"
    assert fit([short, long], 2) == []
    assert len(long) == 20, "what was given stays as it is"


async def test_json_is_one_object_with_sessions_and_the_overview(capsys):
    """`--once --json` prints what the page's overview has, and the sessions that are shown."""

    async def look():
        return glance(sessions=2)

    await top._print(SimpleNamespace(look=look), every_s=1.0, once=True)
    (line,) = capsys.readouterr().out.splitlines()
    import json

    told = json.loads(line)
    assert told["clients_doing"] == {"idle": 1, "training": 4}
    assert [shown["session"] for shown in told["sessions_shown"]] == ["s0", "s1"]
    assert told["sessions_shown"][0]["left_s"] == 42.0


async def test_where_nobody_is_that_is_shown(monkeypatch):
    """A journal that cannot be read, as there is none, keeps nobody from seeing who is there."""

    class Away:
        def __init__(self, *_):
            self.ran = 0

        async def run(self):
            self.ran += 1
            await asyncio.Event().wait()

        watch = run

        async def wait(self):
            raise BusUnavailable("the journal is still being read")

    monkeypatch.setattr(top, "Presence", Away)
    monkeypatch.setattr(top, "Projection", Away)
    watch = top.Watch(SimpleNamespace(), None)
    async with watch.watching():
        await asyncio.sleep(0)
        assert (watch._presence.ran, watch._sessions.ran) == (1, 2)


def test_the_store_is_told_where_there_is_one():
    """How much of what was published it has, what is to come since when, and why it does not go on."""
    assert not any(line.plain.startswith("store") for line in lines(glance(), 120, 40))
    known = {"store": "s3://b/models", "archived": 31, "waiting": 4, "waiting_bytes": 2_000_000, "since_at": NOW - 60}
    (line,) = [
        line.plain
        for line in lines(glance(archive=ArchiveView(**known, error="it is away", refused={"s-1": "no"})), 160, 40)
        if line.plain.startswith("store")
    ]
    told = "31 archived, 4 to come (2 MB), the first for 60 s, 1 cannot be; fails: it is away"
    assert line == f"store         s3://b/models: {told}"
    (line,) = [
        line.plain
        for line in lines(glance(archive=ArchiveView(store="file:///m", archived=2)), 80, 24)
        if line.plain.startswith("store")
    ]
    assert line == "store         file:///m: 2 archived"
