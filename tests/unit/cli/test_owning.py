"""What a data owner reads and says on the machine of a client."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedbus.cli import tree
from fedbus.cli.owning import Terminal, place_of, show_cards, show_log
from fedbus.client.cards import Card
from fedbus.client.decisions import Decisions, Shown
from fedbus.client.outgoing import OutgoingLog
from fedbus.clock import SystemClock
from fedbus.errors import BadMessage, ConfigError

CARD = Card("s-1", "clinic", purpose="research/sleep", strategy="fedavg", codec="none", rounds=3, model="s-1-0")


@pytest.fixture
def state(tmp_path):
    """A state directory of two clients."""
    for name in ("client-a", "crowd-phone-7"):
        (tmp_path / name).mkdir()
    (tmp_path / "other").mkdir()
    return tmp_path


def test_whose_files_are_meant(state):
    """The only one, or the named one; where that is not clear the names are told."""
    assert place_of(state, "a") == state / "client-a"
    assert place_of(state, "phone-7") == state / "crowd-phone-7"
    for name in ("", "phone", "other"):
        with pytest.raises(ConfigError, match="there: a, phone-7"):
            place_of(state, name)
    (state / "crowd-phone-7").rmdir()
    assert place_of(state, "") == state / "client-a"
    with pytest.raises(ConfigError, match="No such file"):
        place_of(state / "none", "")


def test_cards_are_shown_with_what_was_decided(state, capsys):
    """For people each with its lines, for programs as one object; a card's lines are printable, whatever it says."""
    shown = Shown(CARD, decision="declined", reason="not at night", at=1_700_000_000.0)
    Decisions(paused=True, left={"s-9": 1.0}, shown={"s-1": shown}).save(state / "client-a")
    show_cards(state, "a", "", json=False)
    text = capsys.readouterr().out
    assert "research/sleep" in text and "declined: not at night" in text and "left: s-9" in text and "paused" in text
    show_cards(state, "a", "s-1", json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["paused"] and told["left"] == ["s-9"] and told["cards"][0]["purpose"] == "research/sleep"


def test_the_log_is_shown_and_verified(state, capsys):
    """A row for each line, of one session where that is named; a changed line is an error."""
    path = state / "client-a" / "outgoing.jsonl"
    log = OutgoingLog(path, SystemClock())
    log.write("update", {"session": "s-1", "round": 1, "bytes": 2_000_000, "digest": "ab" * 32, "norm": 1.25})
    log.write("reason", {"session": "s-2", "round": 1, "bytes": 90, "digest": "cd" * 32, "reason": "not at night"})
    log.count("presence", 70)
    log.close()
    show_log(path, "", check=False, json=False)
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and "2 MB" in rows[1] and "1.25" in rows[1] and "not at night" in rows[2]
    show_log(path, "s-2", check=False, json=True)
    assert [json.loads(line)["round"] for line in capsys.readouterr().out.splitlines()] == [1]
    show_log(path, "", check=True, json=False)
    assert "3 lines, each names the one before it" in capsys.readouterr().out
    path.write_bytes(path.read_bytes().replace(b"2000000", b"1000000"))
    with pytest.raises(BadMessage, match="line 2: expected number 2"):
        show_log(path, "", check=True, json=False)


@pytest.mark.parametrize("words", [["pause"], ["resume"], ["leave", "s"], ["withdraw", "s"]])
def test_who_does_not_run_is_named(state, words):
    """Nothing answers in that directory: the command fails and says where it looked."""
    result = CliRunner().invoke(tree.app, ["client", *words, "--state-dir", str(state), "--name", "a"])
    assert result.exit_code != 0
    assert isinstance(result.exception, ConfigError) and "no client that runs answers there" in str(result.exception)


@pytest.mark.parametrize(
    ("typed", "agreed"), [(b"y\n", True), (b"Yes \n", True), (b"\n", False), (b"yeah no\n", False)]
)
def test_a_terminal_asks_and_only_a_yes_is_one(monkeypatch, capsys, typed, agreed):
    """The card is printed, and a line of the terminal is the answer, without a thread that waits for it."""
    keyboard, screen = os.openpty()
    with os.fdopen(screen) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)

        async def ask():
            asking = asyncio.create_task(Terminal()(CARD))
            os.write(keyboard, typed)
            return await asyncio.wait_for(asking, 10)

        assert asyncio.run(ask()) is agreed
    os.close(keyboard)
    assert "research/sleep" in capsys.readouterr().out


def test_without_a_terminal_nobody_can_be_asked(monkeypatch):
    """The client does not start and wait for ever."""
    with Path(os.devnull).open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(ConfigError, match="needs a terminal"):
            Terminal()
