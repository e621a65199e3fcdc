"""`fedbus client run`: one client, or many, from what stands on the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedbus
from fedbus.cli import roles
from fedbus.cli.commands import client as command

UNSAID = {"policy": None, "on_card": None, "outgoing_log": None}
"""Of an owner who has said nothing."""


@pytest.fixture(name="asked")
def fixture_asked(monkeypatch):
    """What `take_part` was asked for, by the command; the app is a name."""
    found = []

    async def take_part(place, app, name, attributes, **how):
        found.append((place.url, place.workspace, app, name, dict(attributes), how))

    monkeypatch.setattr("fedbus.cli.roles.take_part", take_part)
    monkeypatch.setattr("fedbus.cli.loading.load_app", lambda target: f"the app {target}")
    return found


def invoke(*arguments):
    """Run the command; returns (exit code, what it printed)."""
    result = CliRunner().invoke(command.app, ["run", *arguments])
    return result.exit_code, result.output


def test_one_client_is_the_rule(asked):
    """Without --count it is a client of that name."""
    code, _ = invoke("m:app", "--name", "site-1", "--nats", "nats://h:1", "--attribute", "gpu=yes")
    assert code == 0
    how = {"count": None, "first": 0, "state_dir": None} | UNSAID
    assert asked == [("nats://h:1", "default", "the app m:app", "site-1", {"gpu": "yes"}, how)]


@pytest.mark.parametrize(("host", "name"), [("4f0c2a1b9d3e", "4f0c2a1b9d3e"), ("ward_7.clinic.example", "ward_7")])
def test_the_machine_gives_its_name(asked, monkeypatch, host, name):
    """Without --name a client is named like its machine, or its container, without the domain."""
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert invoke("m:app")[0] == 0
    assert asked[0][3] == name


def test_a_machine_without_a_name_is_asked_for_one(asked, monkeypatch):
    """Where the machine has none, nothing is made up."""
    monkeypatch.setattr("socket.gethostname", lambda: "")
    result = CliRunner().invoke(command.app, ["run", "m:app"])
    assert result.exception is not None and "--name" in str(result.exception)
    assert asked == []


def test_a_state_directory_is_handed_on(asked):
    """As a path."""
    assert invoke("m:app", "--name", "site-1", "--state-dir", "there/kept")[0] == 0
    assert asked[0][-1]["state_dir"] == Path("there/kept")


def test_count_makes_a_crowd_and_first_says_where_it_begins(asked):
    """Both are handed on; a crowd of one is a crowd."""
    assert invoke("m:app", "--name", "sim", "--count", "500", "--first", "500")[0] == 0
    assert invoke("m:app", "--name", "sim", "--count", "1")[0] == 0
    assert [(one[-1]["count"], one[-1]["first"]) for one in asked] == [(500, 500), (1, 0)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--first", "3"), "--first goes with --count"),
        (("--count", "0"), "--count"),
        (("--count", "2", "--first", "-1"), "--first"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(asked, options, said):
    """Exit code 2, the option is named, and nobody takes part."""
    code, output = invoke("m:app", "--name", "sim", *options)
    assert code == 2 and said in output and not asked


@pytest.mark.parametrize(
    ("how", "kind", "fields"),
    [
        ({}, "Client", {"state_dir": None} | UNSAID),
        ({"count": 3, "first": 7, "state_dir": "s"}, "Crowd", {"count": 3, "first": 7, "state_dir": "s"} | UNSAID),
    ],
)
def test_who_takes_part_is_a_client_or_a_crowd(monkeypatch, caplog, how, kind, fields):
    """It is entered, runs to its end, is left, and the log says who is there."""
    caplog.set_level("INFO", "fedbus")
    story = []

    class Party:
        def __init__(self, url, app, **given):
            given.pop("traces")
            given.pop("crash")
            story.append((url, app, given))

        async def __aenter__(self):
            story.append("enters")
            return self

        async def __aexit__(self, *_):
            story.append("leaves")

        async def run(self):
            story.append("runs")

    monkeypatch.setattr(fedbus, kind, Party)
    place = roles.Place("nats://h:1", "lab", "me.creds")
    asyncio.run(roles.take_part(place, "app", "m", {"gpu": "yes"}, **how))
    common = {"name": "m", "credentials": "me.creds", "attributes": {"gpu": "yes"}, "workspace": "lab"}
    assert story == [("nats://h:1", "app", common | fields), "enters", "runs", "leaves"]
    assert ("m-7 .. m-9" in caplog.text) == (kind == "Crowd")


def test_what_an_owner_wants_is_handed_on(asked, tmp_path):
    """Policy and log by their files; `--consent ask` needs a terminal, anything else is refused."""
    code, _ = invoke("m:app", "--policy", str(tmp_path / "p.toml"), "--outgoing-log", "out.jsonl")
    assert code == 0
    wanted = {"policy": tmp_path / "p.toml", "on_card": None, "outgoing_log": Path("out.jsonl")}
    assert {name: asked[0][-1][name] for name in UNSAID} == wanted
    code, said = invoke("m:app", "--consent", "maybe")
    assert code == 2 and "expected ask or policy" in said
    assert invoke("m:app", "--consent", "ask")[0] != 0 and len(asked) == 1
