from __future__ import annotations

import pytest

from fedbus.cli.benches.rounds import Rounds
from fedbus.federation.service import SessionEvent
from fedbus.messages import records


def accepted(round_, *clients):
    """Updates of these clients, accepted."""
    updates = [
        records.AcceptedUpdate(client=client, attempt=1, weight=1, nbytes=10, norm=1.0, digest="d")
        for client in clients
    ]
    return records.UpdatesRecorded(round=round_, accepted=tuple(updates))


def session(*happenings):
    """Rounds of a session in which these records were written at these times."""
    rounds = Rounds()
    closed = [
        rounds.take(SessionEvent("s", index, at, record.kind, record)) for index, (at, record) in enumerate(happenings)
    ]
    return rounds, [found.round for found in closed if found]


def a_round(number, opened_at, accepted_at, published_at, closed_at):
    """One round of two clients, 20 bytes up and 24 down."""
    places = {"a": "c", "b": "c"}
    version = f"s-{number}"
    return [
        (
            opened_at,
            records.RoundOpened(
                round=number,
                attempt=1,
                version=version,
                blob="b",
                clients=places,
                incarnations={"c": "i"},
                target=2,
                deadline_at=1e9,
            ),
        ),
        (opened_at, accepted(number, "a")),
        (accepted_at, accepted(number, "b")),
        (
            accepted_at,
            records.RoundClosing(
                round=number, attempt=1, counted=("a", "b"), root="c", publish="p", reason="all", deadline_at=1e9
            ),
        ),
        (
            published_at,
            records.ModelPublished(
                round=number, version=version, parent="", session="s", blob="b", digest="0" * 64, nbytes=10
            ),
        ),
        (closed_at, records.RoundClosed(round=number, counted=2, bytes_up=20, bytes_down=24, opened_at=opened_at)),
    ]


def test_times_of_a_round():
    """From opening to closing is the round, from the last update to the model is publication."""
    rounds, closed = session(*a_round(1, 10.0, 11.0, 11.5, 12.0))
    assert closed == [1]
    (found,) = rounds.closed
    assert (found.seconds, found.publish_s, found.counted, found.accepted, found.bytes_moved) == (2.0, 0.5, 2, 2, 44)
    assert rounds.steady == [found]
    assert rounds.per_s == 0.5


def test_the_first_round_is_not_steady():
    """Medians leave the first round out; the rate counts what lies between rounds, from the first closing on."""
    rounds, closed = session(
        *a_round(1, 0.0, 90.0, 95.0, 100.0),
        *a_round(2, 101.0, 102.0, 102.25, 103.0),
        *a_round(3, 104.0, 105.0, 106.0, 108.0),
    )
    assert closed == [1, 2, 3]
    assert rounds.median_s == 3.0
    assert rounds.publish_median_s == 0.625
    assert rounds.per_s == pytest.approx(2 / 8)


def test_an_update_after_the_closing_does_not_make_publication_quicker():
    """What is accepted when the set is already fixed does not count."""
    happenings = a_round(1, 0.0, 1.0, 3.0, 4.0)
    happenings.insert(4, (2.5, accepted(1, "late")))
    rounds, _ = session(*happenings)
    assert rounds.closed[0].publish_s == 2.0


def test_a_round_without_updates_is_published_from_its_closing():
    """Where no update was journalled apart, the closing is where publication begins."""
    rounds, _ = session(*(h for h in a_round(1, 0.0, 1.0, 3.0, 4.0) if h[1].kind != "UpdatesRecorded"))
    assert rounds.closed[0].publish_s == 2.0
