"""What the command line prints of sessions, events and clients, of a federation that runs."""

from __future__ import annotations

import csv
import io

import orjson

import fedbus
from fedbus.cli import clients, comparisons, events
from fedbus.cli import sessions as listing
from fedbus.cli.roles import Place
from fedbus.federation.listing import EventFilter


def printed(capsys):
    """What was printed, as lines."""
    return capsys.readouterr().out.splitlines()


async def test_sessions_events_and_clients_on_the_command_line(house, make_app, zeros, capsys, tmp_path):
    """Cloned, listed, compared, exported; events by kind; a client with its rounds: for people and programs."""
    await house.operate()
    await house.client("a", make_app(1.0))
    place = Place(house.url)
    async with fedbus.connect(house.url) as federation:
        await (await federation.start_session(fedbus.SessionConfig(rounds=2), model=zeros, name="one")).wait()
        await comparisons.clone_session(place, "one", {"rounds": 1}, None, "two", json=True)
        assert [orjson.loads(line) for line in printed(capsys)] == [{"session": "two"}]
        await federation.session("two").wait()

    await listing.list_sessions(place, {"status": ["completed"], "order": "newest", "limit": 1}, json=True)
    (found,) = orjson.loads(printed(capsys)[-1])
    assert (found["session"], found["state"]) == ("two", "completed")
    await listing.list_sessions(place, {"text": "nothing"}, json=False)
    assert "no such sessions" in capsys.readouterr().err

    await comparisons.compare_sessions(place, ["one", "two"], json=False)
    lines = printed(capsys)
    assert lines[0].split() == ["one", "two"] and lines[1].split() == ["rounds", "2", "1"]
    await comparisons.compare_sessions(place, ["one", "two"], json=True)
    found = orjson.loads(printed(capsys)[-1])
    assert found["settings"] == [{"setting": "rounds", "values": [2, 1]}]
    assert {(one["session"], one["metric"]) for one in found["curves"]} >= {("one", "shift"), ("two", "first")}

    file = tmp_path / "one.csv"
    await comparisons.export_session(place, "one", "csv", "clients", file, json=True)
    assert orjson.loads(printed(capsys)[-1])["nbytes"] == file.stat().st_size
    rows = [*csv.DictReader(io.StringIO(file.read_text(), newline=""))]
    assert [(row["round"], row["client"], row["outcome"]) for row in rows] == [
        ("1", "a", "counted"),
        ("2", "a", "counted"),
    ]
    await comparisons.export_session(place, "one", "json", "rounds", None, json=False)
    assert orjson.loads("\n".join(printed(capsys)))["session"] == "one"

    wanted = EventFilter(kinds=("ModelPublished",))
    await events.list_events(place, wanted, follow=False, after=None, limit=None, json=True)
    found = [orjson.loads(line) for line in printed(capsys)]
    assert [one["data"]["version"] for one in found] == ["one-1", "one-2", "two-1"]
    await events.list_events(place, wanted, follow=True, after=found[0]["id"], limit=2, json=False)
    assert [line.rsplit("model ")[1].split()[0] for line in printed(capsys)] == ["one-2", "two-1"]

    await clients.show_client(place, "a", json=True)
    found = orjson.loads(printed(capsys)[-1])
    assert (found["online"], found["sessions"], found["rounds_counted"], len(found["history"])) == (True, 2, 3, 3)
    await clients.show_client(place, "a", json=False)
    assert "rounds     asked 3, counted 3, refused 0" in printed(capsys)
