"""A session as its journal tells it, from records written by hand: where it stands, its rounds, what is left."""

from __future__ import annotations

from fedbus.config.session import SessionConfig
from fedbus.federation.info import BETWEEN_S, SessionInfo, SessionSummary
from fedbus.messages import records

DIGEST = "0" * 64


def started(**settings):
    """A session begins."""
    config = SessionConfig(**({"rounds": 4} | settings))
    return records.SessionStarted(config=config, version="s-0", blob="b", digest=DIGEST, nbytes=8, base="t-9")


def opened(round_=1, clients="ab"):
    """A round of some clients."""
    return records.RoundOpened(
        round=round_, attempt=1, version=f"s-{round_ - 1}", blob="b", clients=dict.fromkeys(clients, "k"),
        incarnations={"k": "i"}, target=len(clients), deadline_at=160.0, traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
    )  # fmt: skip


def accepted(client):
    """An update that counts."""
    return records.AcceptedUpdate(client=client, attempt=1, weight=2.0, nbytes=70, fetched=80, norm=1.0, digest=DIGEST)


def closed(round_, opened_at):
    """A round is over."""
    return records.RoundClosed(round=round_, counted=1, bytes_up=70, bytes_down=80, opened_at=opened_at)


def evaluated(round_, value):
    """A version was measured."""
    measured = records.Measured(client="a", weight=1.0, metrics={"accuracy": value}, fetched=5)
    return records.RoundEvaluated(
        round=round_, version=f"s-{round_}", metrics={"accuracy": value}, clients=(measured,), answered=1
    )


def told(info, *happened):
    """The same information, told of records with their times."""
    for at, record in happened:
        info.apply(record, at)
    return info


def test_where_a_session_stands_follows_from_its_newest_record():
    """Between rounds it runs, and waits when that lasts; an outcome is where it stays."""
    info = SessionSummary("s")
    assert info.status(0.0) == "starting"
    steps = [
        (10.0, started(), "waiting"),
        (11.0, opened(), "running"),
        (12.0, closed(1, 11.0), "running"),
        (13.0, records.EvaluationOpened(round=1, version="s-1", blob="b", clients=("a",), deadline_at=99.0), "running"),
        (14.0, evaluated(1, 0.5), "running"),
        (20.0, opened(2), "running"),
        (21.0, records.RoundFailed(round=2, attempt=2, reason="no quorum"), "running"),
    ]
    for at, record, status in steps:
        assert told(info, (at, record)).status(at) == status, record.kind
    assert info.status(21.0 + BETWEEN_S + 0.1) == "waiting"
    for outcome in ("completed", "stopped", "failed", "refused"):
        told(info, (30.0, records.SessionEnded(outcome=outcome, reason="r")))
        assert (info.status(1e9), info.ended, info.failures) == (outcome, True, 1)


def test_a_summary_adds_up_what_its_rounds_say():
    """Bytes of closed rounds and evaluations, the best version, what it began with; the same with rounds as without."""
    happened = [
        (10.0, started(best_metric="max accuracy")),
        (11.0, opened()), (12.0, closed(1, 11.0)), (13.0, evaluated(1, 0.7)),
        (14.0, opened(2)), (15.0, closed(2, 14.0)), (16.0, evaluated(2, 0.6)),
    ]  # fmt: skip
    for info in (told(SessionSummary("s"), *happened), told(SessionInfo("s"), *happened)):
        assert (info.base, info.first_version, info.rounds_closed) == ("t-9", "s-0", 2)
        assert (info.bytes_up, info.bytes_down) == (140, 170)
        assert (info.best_version, info.best_value, info.metrics) == ("s-1", 0.7, {"accuracy": 0.6})
    info = told(SessionInfo("s"), *happened)
    assert sum(found.bytes_down for found in info.rounds) == info.bytes_down


def test_the_time_that_is_left_follows_from_the_last_rounds():
    """The median from one closing to the next, times the rounds that are left, less what has passed since."""
    info = told(SessionSummary("s"), (0.0, started(rounds=4)), (10.0, opened()))
    assert info.left_s(11.0) is None, "nothing is known yet"
    told(info, (12.0, closed(1, 10.0)))
    assert info.left_s(12.0) == 6.0
    assert info.left_s(99.0) == 4.0, "the round under way may end at any moment, those behind it take their time"
    told(info, (13.0, opened(2)), (22.0, closed(2, 13.0)), (23.0, opened(3)), (26.0, closed(3, 23.0)))
    assert info.left_s(26.0) == 4.0, "the median of 2, 10 and 4"
    assert info.left_s(27.0) == 3.0
    assert info.left_s(99.0) == 0.0
    told(info, (30.0, records.SessionEnded(outcome="completed", reason="all rounds")))
    assert info.left_s(30.0) is None


def test_the_time_that_is_left_forgets_old_rounds():
    """A session whose rounds have become quicker is told by the quick ones, and its summary does not grow."""
    info = told(SessionSummary("s"), (0.0, started(rounds=100)), (0.0, opened()))
    for round_ in range(1, 31):
        told(info, (round_ * 100.0 if round_ < 20 else 1900.0 + round_, closed(round_, 0.0)))
    assert info.left_s(1930.0) == 70.0
    assert len(info.closed_at) == 11


def test_the_open_round_is_told_as_far_as_it_is():
    """Updates so far and their bytes, less what a lost combiner held; failed, it says why; closed, it is gone."""
    updates = records.UpdatesRecorded(
        round=1, accepted=(accepted("a"), accepted("b")),
        refused=(records.RefusedUpdate(client="c", by="k", stage="update", reason="not finite"),),
    )  # fmt: skip
    info = told(SessionInfo("s"), (10.0, started()), (11.0, opened(clients="abc")), (13.0, updates))
    assert info.current.state == "training"
    found = info.current
    assert (found.round, found.asked, found.counted, found.refused) == (1, 3, 2, 1)
    assert (found.bytes_up, found.bytes_down, found.seconds, found.trace_id) == (140, 160, 2.0, "a" * 32)
    moved = records.ClientsMoved(round=1, attempt=2, moves={"b": "l"}, incarnations={}, reason="gone")
    assert told(info, (14.0, moved)).current.counted == 1
    failed = told(info, (15.0, records.RoundFailed(round=1, attempt=3, reason="no quorum"))).current
    assert (failed.state, failed.why, failed.closed_at) == (
        "failed", "failed: no quorum; c was refused: not finite", 15.0,
    )  # fmt: skip
    told(info, (16.0, opened(clients="abc")), (18.0, closed(1, 16.0)))
    assert info.current is None
    (found,) = info.rounds
    assert (found.state, found.asked, found.refused, found.opened_at, found.closed_at) == ("closed", 3, 0, 16.0, 18.0)


def test_who_declined_is_told_apart_from_who_was_refused():
    """An owner's decision stands beside the refusals, with its newest reason, until the client takes part again."""
    declined = records.RefusedUpdate(client="c", by="c", stage="policy", reason="not at night", policy="aa")
    info = SessionInfo("s")
    info.apply(records.UpdatesRecorded(round=1, refused=(declined,)), 5.0)
    info.apply(records.UpdatesRecorded(round=1, withdrawn=(declined.model_copy(update={"client": "d"}),)), 6.0)
    assert info.declined == {"c": "not at night", "d": "not at night"} and len(info.refused) == 2
    accepted = records.AcceptedUpdate(client="c", attempt=1, weight=1.0, nbytes=1, norm=1.0, digest="")
    info.apply(records.UpdatesRecorded(round=2, accepted=(accepted,)), 7.0)
    assert info.declined == {"d": "not at night"}
