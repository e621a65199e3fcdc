"""Events and moments on the command line: each event in a few words, moments as people write them."""

from __future__ import annotations

import pytest
import typer

from fedbus.cli.events import as_json, event_text
from fedbus.cli.moments import moment_of
from fedbus.config.session import SessionConfig
from fedbus.federation.info import SessionEvent
from fedbus.messages import records

DIGEST = "0" * 64

TEXTS = [
    (
        records.SessionStarted(
            config=SessionConfig(rounds=3), version="s-0", blob="b", digest=DIGEST, nbytes=8, by="eve"
        ),
        "started by eve: fedavg, 3 rounds",
    ),
    (
        records.RoundOpened(
            round=2, attempt=3, version="s-1", blob="b", clients={"a": "k", "b": "k"}, incarnations={}, target=1,
            deadline_at=1.0,
        ),
        "round 2 opened again, attempt 3: 2 clients are asked, 1 are enough",
    ),
    (
        records.UpdatesRecorded(
            round=2,
            accepted=(records.AcceptedUpdate(client="a", attempt=1, weight=1.0, nbytes=8, norm=1.0, digest=DIGEST),),
            refused=(records.RefusedUpdate(client="b", by="k", stage="update", reason="not finite"),),
        ),
        "round 2: a accepted; b refused: not finite",
    ),
    (
        records.ClientsMoved(round=2, attempt=4, moves={"a": "l"}, incarnations={}, reason="k is gone"),
        "round 2: 1 clients send to another combiner: k is gone",
    ),
    (
        records.RoundClosing(
            round=2, attempt=4, counted=("a",), root="k", publish="p", reason="deadline", deadline_at=1.0
        ),
        "round 2 closes with 1 updates: deadline",
    ),
    (records.RoundFailed(round=2, attempt=4, reason="no quorum"), "round 2 failed: no quorum"),
    (
        records.ModelPublished(
            round=2, version="s-2", parent="s-1", session="s", blob="b", digest=DIGEST, nbytes=2000
        ),
        "round 2: model s-2 is published, 2 kB",
    ),
    (
        records.RoundClosed(round=2, counted=1, metrics={"loss": 0.25}, not_counted={"b": "refused"}),
        "round 2 closed: 1 updates, 1 not counted  loss 0.25",
    ),
    (
        records.EvaluationOpened(round=2, version="s-2", blob="b", clients=("a",), deadline_at=1.0),
        "round 2: 1 clients evaluate s-2",
    ),
    (
        records.RoundEvaluated(round=2, version="s-2", metrics={"accuracy": 0.5}, answered=1),
        "round 2: s-2 evaluated by 1  accuracy 0.5",
    ),
    (records.SessionEnded(outcome="completed", reason="3 rounds done"), "completed: 3 rounds done"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "text"), TEXTS, ids=[type(record).__name__ for record, _ in TEXTS])
def test_an_event_is_a_few_words(record, text):
    """What happened, to whom, how it went."""
    event = SessionEvent("s", 7, 50.0, record.kind, record, 1)
    assert event_text(event) == text
    assert {name: as_json(event)[name] for name in ("id", "session", "kind", "at")} == {
        "id": "7.1", "session": "s", "kind": record.kind, "at": 50.0,
    }  # fmt: skip


def test_every_record_has_words():
    """None is forgotten when a kind is added."""
    assert {type(record) for record, _ in TEXTS} == set(records.RECORDS.values())


def test_a_moment_is_a_date_or_so_long_ago():
    """Seconds, minutes, hours and days; dates with a zone and without."""
    assert [moment_of(text, lambda: 1000.0) for text in ("90s", "10m", " 0h")] == [910.0, 400.0, 1000.0]
    assert moment_of("3d", lambda: 300_000.0) == 40_800.0
    assert moment_of("1970-01-01T00:01:40+00:00") == 100.0
    assert moment_of("2026-05-01T12:30") - moment_of("2026-05-01") == 12.5 * 3600


@pytest.mark.parametrize("text", ["", "yesterday", "10", "10w", "m", "-5m", "2026-13-01"])
def test_what_is_no_moment_is_refused(text):
    """With what is expected."""
    with pytest.raises(typer.BadParameter, match="expected 2026-05-01T12:30"):
        moment_of(text)
