"""The report of a round as people and programs read it."""

from __future__ import annotations

import orjson

from fedbus.cli import reports
from fedbus.cli.output import print_json
from fedbus.federation.report import ClientReport, RoundReport
from fedbus.messages.ids import Spent


def report(clients, **fields):
    """A round that closed."""
    given = {
        "session": "s", "round": 3, "state": "closed", "why": "closed at its deadline with 1 of 2 updates",
        "opened_at": 1000.0, "deadline_at": 1060.0, "fixed_at": 1060.0, "ended_at": 1061.5, "asked": 2, "target": 2,
        "quorum": 1, "earlier": (), "clients": tuple(clients),
    }  # fmt: skip
    return RoundReport(**(given | fields))


def test_a_client_is_one_line():
    """What became of it, after how long, and whatever there is to know besides."""
    assert reports.row(ClientReport("a", "counted", 3.0, "k")) == ("a", "counted", "3.00 s", "", "k", "")
    missed = ClientReport("b", "missed", None, "k", "not connected since 12 s", moves=2)
    assert reports.row(missed) == ("b", "missed", "-", "", "k", "not connected since 12 s; moved 2 times")
    assert reports.row(ClientReport("c", "refused", 70.0, "k", "update: NaN", "k"))[5] == "update: NaN; found by k"
    assert reports.row(ClientReport("c", "refused", 70.0, "k", "train: no", "c"))[5] == "train: no"
    assert reports.row(ClientReport("d", "stale", 1.0, "k", stale=1, moves=1))[5] == "made one round before; moved once"


def test_a_client_that_measured_says_where_its_time_went():
    """The parts that are worth a word, for people; all of them by name, for programs."""
    one = ClientReport("a", "counted", 3.0, "k", spent=Spent(wait_s=0.001, fetch_s=0.25, train_s=2.5, upload_s=0.0))
    assert reports.row(one)[3] == "fetch 0.25 s, train 2.50 s"
    (found,) = reports.as_json(report([one]))["clients"]
    assert found["spent"] == {"wait_s": 0.001, "fetch_s": 0.25, "train_s": 2.5, "upload_s": 0.0}


def test_the_round_is_told_above():
    """Why, when, how many of each outcome, what was waited for how long, and what failed before."""
    found = report(
        [ClientReport("b", "missed", None, "k"), ClientReport("a", "counted", 3.0, "k")], earlier=("quorum",)
    )
    lines = list(reports.head(found))
    assert lines[0] == "round 3 of s: closed at its deadline with 1 of 2 updates"
    assert lines[1].endswith(", 62 s; deadline after 60 s")
    assert lines[2:] == [
        "asked 2, enough 2, quorum 1: 1 counted, 1 missed",
        "waited 60 s for updates, 1.50 s for the model",
        "attempt 1 failed: quorum",
    ]
    assert len(list(reports.head(report([], fixed_at=0.0, ended_at=0.0)))) == 3, "nothing is over yet"


def test_programs_get_all_of_it(capsys):
    """One object, whatever the number of clients."""
    clients = [ClientReport(f"c-{i}", "counted", float(i), "k") for i in range(reports.CLIENTS_SHOWN + 5)]
    print_json(reports.as_json(report(clients)))
    found = orjson.loads(capsys.readouterr().out)
    assert len(found["clients"]) == reports.CLIENTS_SHOWN + 5 and found["outcomes"] == {"counted": len(clients)}
    assert found["clients"][2] == {
        "client": "c-2", "outcome": "counted", "seconds": 2.0, "combiner": "k", "what": "", "by": "", "weight": 0.0,
        "stale": 0, "moves": 0, "nbytes": 0, "fetched": 0, "norm": None, "metrics": {}, "spent": None,
    }  # fmt: skip
    assert (found["why"], found["earlier"]) == ("closed at its deadline with 1 of 2 updates", [])
