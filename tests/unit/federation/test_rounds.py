"""The report of a round, of journals written by hand: outcomes, times, why it closed, and what was known of whom."""

from __future__ import annotations

import pytest

from fedbus.config.session import SessionConfig
from fedbus.federation.report import trace_of, why
from fedbus.federation.rounds import Rounds
from fedbus.federation.service import SessionInfo
from fedbus.messages import records
from fedbus.messages.ids import Spent

DIGEST = "0" * 64


def accepted(client, *, attempt=1, stale=0):
    """An update that a combiner has folded."""
    return records.AcceptedUpdate(
        client=client, attempt=attempt, weight=2.0, nbytes=8, norm=1.0, digest=DIGEST, stale=stale
    )


def refused(client, reason="not finite", by="k"):
    """One that cannot count."""
    return records.RefusedUpdate(client=client, by=by, stage="update", reason=reason)


def updates(*of, round_=1):
    """What became of some updates."""
    yes = tuple(one for one in of if isinstance(one, records.AcceptedUpdate))
    no = tuple(one for one in of if isinstance(one, records.RefusedUpdate))
    return records.UpdatesRecorded(round=round_, accepted=yes, refused=no)


def opened(clients="abcd", *, round_=1, attempt=1):
    """A round of some clients, all at one combiner."""
    return records.RoundOpened(
        round=round_, attempt=attempt, version="s-0", blob="b", clients=dict.fromkeys(clients, "k"),
        incarnations={"k": "i"}, target=len(clients), deadline_at=160.0,
    )  # fmt: skip


def closing(counted, reason="deadline with 2 of 4 updates", *, missing=None, attempt=2, round_=1):
    """The set of updates that count."""
    return records.RoundClosing(
        round=round_, attempt=attempt, counted=tuple(counted), root="k", publish=f"s-{round_}-2", reason=reason,
        deadline_at=900.0, missing=missing,
    )  # fmt: skip


def told(*happened, wanted=None, **settings):
    """The report of records, each with its time; the session begins before them."""
    started = records.SessionStarted(
        config=SessionConfig(**({"rounds": 9} | settings)), version="s-0", blob="b", digest=DIGEST, nbytes=8
    )
    rounds = Rounds("s", wanted)
    for at, record in [(90.0, started), *happened]:
        rounds.take(record, at)
    return rounds.report()


CLOSED = records.RoundClosed(round=1, counted=2)
MISSING = records.Missing(training=("c",), silent={"d": 12})


def test_a_round_that_closed_at_its_deadline():
    """Slowest first, those of which nothing came before all; times from the opening; one sentence says why."""
    report = told(
        (100.0, opened()),
        (103.0, updates(accepted("a"))),
        (110.0, updates(accepted("b"))),
        (160.0, closing("ab", missing=MISSING)),
        (161.0, CLOSED),
    )
    assert [(one.client, one.outcome, one.seconds, one.what) for one in report.clients] == [
        ("c", "missed", None, "connected, training"),
        ("d", "missed", None, "not connected since 12 s"),
        ("b", "counted", 10.0, ""),
        ("a", "counted", 3.0, ""),
    ]
    assert report.why == ("closed at its deadline with 2 of 4 updates: c was training, d was not connected since 12 s")
    assert (report.state, report.opened_at, report.fixed_at, report.ended_at) == ("closed", 100.0, 160.0, 161.0)
    assert (report.asked, report.target, report.quorum) == (4, 4, 1)
    assert report.outcomes == {"missed": 2, "counted": 2}


def test_what_may_count_later_is_called_late():
    """With late updates a client of which nothing came is late; an update of an earlier round that counts is stale."""
    happened = (
        (100.0, opened()),
        (103.0, updates(accepted("a", stale=1), accepted("b"))),
        (160.0, closing("ab", missing=MISSING)),
        (161.0, CLOSED),
    )
    report = told(*happened, late_updates="stale")
    outcomes = {one.client: (one.outcome, one.stale) for one in report.clients}
    assert outcomes == {"a": ("stale", 1), "b": ("counted", 0), "c": ("late", 0), "d": ("late", 0)}
    assert {one.outcome for one in told(*happened, late_updates="stale", rounds=1).clients} == {
        "stale", "counted", "missed"
    }  # fmt: skip


def test_who_was_refused_is_named_with_the_reason_and_by_whom():
    """A refusal that was made good is none."""
    report = told(
        (100.0, opened("abc")),
        (101.0, updates(refused("a"), refused("b", "ValueError: no", by="b"))),
        (102.0, updates(accepted("a"), accepted("c"))),
        (103.0, closing("ac", "every client has answered")),
        (104.0, CLOSED),
    )
    found = {one.client: one for one in report.clients}
    assert (found["a"].outcome, found["a"].seconds) == ("counted", 2.0)
    assert (found["b"].outcome, found["b"].what, found["b"].by) == ("refused", "update: ValueError: no", "b")
    assert report.why == "closed: every client has answered; b was refused: ValueError: no"


def test_who_was_moved_is_counted_by_its_last_verdict():
    """A lost combiner's clients answer again; what came before does not stand any more."""
    report = told(
        (100.0, opened("ab")),
        (101.0, updates(accepted("a"))),
        (105.0, records.ClientsMoved(round=1, attempt=2, moves={"a": "k1"}, incarnations={"k1": "i"}, reason="lost")),
        (120.0, updates(accepted("a", attempt=2), accepted("b"))),
        (120.0, closing("ab", "2 of 2 updates arrived", attempt=3)),
        (121.0, CLOSED),
    )
    assert [(one.client, one.combiner, one.seconds, one.moves) for one in report.clients] == [
        ("a", "k1", 20.0, 1), ("b", "k", 20.0, 0)
    ]  # fmt: skip


def test_an_update_that_is_sent_again_while_closing_came_when_it_came_first():
    """A combiner that is lost while merging makes nobody slow, and the first reason is why the round closed."""
    report = told(
        (100.0, opened("a")),
        (101.0, updates(accepted("a"))),
        (101.0, closing("a", "1 of 1 updates arrived")),
        (105.0, records.ClientsMoved(round=1, attempt=3, moves={"a": "k1"}, incarnations={"k1": "i"}, reason="lost")),
        (130.0, updates(accepted("a", attempt=3))),
        (130.0, closing("a", "the updates of a lost combiner were recovered", attempt=4)),
        (131.0, CLOSED),
    )
    assert (report.clients[0].seconds, report.clients[0].moves) == (1.0, 1)
    assert report.why == "closed: 1 of 1 updates arrived" and report.fixed_at == 101.0


def test_what_was_accepted_and_left_out_is_lost():
    """It was there once; its combiner took it along."""
    report = told(
        (100.0, opened("ab")), (101.0, updates(accepted("a"), accepted("b"))), (160.0, closing("a")), (161.0, CLOSED)
    )
    assert {one.client: one.outcome for one in report.clients} == {"a": "counted", "b": "lost"}


def test_an_open_round_tells_what_is_known():
    """Before the set is fixed, and after it."""
    happened = [(100.0, opened("abc")), (101.0, updates(accepted("a"), refused("b")))]
    report = told(*happened)
    assert {one.client: one.outcome for one in report.clients} == {"a": "accepted", "b": "refused", "c": "waiting"}
    assert (report.state, report.why, report.ended_at) == ("training", "it is open", 0.0)
    report = told(*happened, (160.0, closing("a", missing=records.Missing(training=("c",)))))
    assert (report.state, {one.client: one.outcome for one in report.clients}) == (
        "closing", {"a": "counted", "b": "refused", "c": "missed"}
    )  # fmt: skip


def test_a_round_that_failed_and_was_opened_again():
    """The newest attempt is told, and why the ones before it failed; until then the failed one is."""
    failed = records.RoundFailed(
        round=1, attempt=1, reason="1 updates where 2 are the quorum at the deadline",
        missing=records.Missing(training=(), left={"b": 7}),
    )  # fmt: skip
    happened = [(100.0, opened("ab")), (101.0, updates(accepted("a"))), (160.0, failed)]
    report = told(*happened)
    assert (report.state, report.why) == (
        "failed", "failed: 1 updates where 2 are the quorum at the deadline; b had left 7 s before"
    )  # fmt: skip
    assert [(one.client, one.outcome, one.what) for one in report.clients] == [
        ("b", "missed", "left 7 s before"), ("a", "accepted", "")
    ]  # fmt: skip
    report = told(*happened, (170.0, opened("ab", attempt=2)))
    assert (report.state, report.earlier) == ("training", (failed.reason,))
    assert {one.outcome for one in report.clients} == {"waiting"}


def test_a_session_that_is_stopped_ends_its_round():
    """The round's report says so."""
    ended = records.SessionEnded(outcome="stopped", reason="enough (eve)")
    report = told((100.0, opened("ab")), (101.0, updates(accepted("a"))), (102.0, ended))
    assert (report.state, report.why) == ("failed", "failed: enough (eve)")


def test_one_round_of_several_is_told():
    """By number; without one the newest; one that was never opened is not there."""
    happened = [(100.0, opened("a")), (101.0, updates(accepted("a"))), (101.0, closing("a")), (102.0, CLOSED),
                (102.0, opened("ab", round_=2)), (104.0, updates(accepted("b"), round_=2))]  # fmt: skip
    assert told(*happened, wanted=1).round == 1 and len(told(*happened, wanted=1).clients) == 1
    assert told(*happened).round == 2 and told(*happened, wanted=2) == told(*happened)
    assert told(*happened, wanted=3) is None


def test_the_sentence_names_a_few():
    """Of hundreds it names five, and how many more there are; long reasons are cut."""
    many = records.Missing(training=tuple(f"c-{i}" for i in range(300)))
    text = why("closed", "deadline with 7 of 307 updates", many, {"x": "y" * 5000})
    assert text.startswith("closed at its deadline with 7 of 307 updates: c-0 was training, c-1 was training,")
    assert text.endswith("c-4 was training and 296 more")
    assert len(why("closed", "every client has answered", None, {"x": "y" * 5000})) < 200


@pytest.mark.parametrize("missing", [None, MISSING])
def test_a_sessions_rounds_say_why_they_closed(missing):
    """`SessionInfo` keeps a sentence a round, of its own refusals only."""
    info = SessionInfo("s")
    for at, record in [
        (90.0, records.SessionStarted(config=SessionConfig(), version="s-0", blob="b", digest=DIGEST, nbytes=8)),
        (100.0, opened()),
        (103.0, updates(accepted("a"), refused("b"), refused("d"))),
        (104.0, updates(accepted("d"))),
        (160.0, closing("ad", missing=missing)),
        (161.0, CLOSED),
        (161.0, opened("a", round_=2)),
        (162.0, updates(accepted("a"), round_=2)),
        (163.0, closing("a", "1 of 1 updates arrived", round_=2)),
        (164.0, records.RoundClosed(round=2, counted=1)),
    ]:
        info.apply(record, at)
    known = "c was training, d was not connected since 12 s, " if missing else ""
    assert [found.why for found in info.rounds] == [
        f"closed at its deadline with 2 of 4 updates: {known}b was refused: not finite",
        "closed: 1 of 1 updates arrived",
    ]


def test_a_client_is_reported_with_what_its_update_was():
    """Bytes both ways, norm, metrics and where its time went are those of the verdict, whatever became of it."""
    update = accepted("a").model_copy(
        update={"nbytes": 70, "fetched": 80, "norm": 0.5, "metrics": {"loss": 0.1}, "spent": Spent(0.1, 0.2, 3.0, 0.4)}
    )
    for then in ([], [(150.0, closing("a"))]):
        found = told((100.0, opened("ab")), (104.0, updates(update)), *then)
        one = next(client for client in found.clients if client.client == "a")
        assert (one.nbytes, one.fetched, one.norm, one.metrics, one.spent) == (
            70, 80, 0.5, {"loss": 0.1}, Spent(0.1, 0.2, 3.0, 0.4),
        )  # fmt: skip
        other = next(client for client in found.clients if client.client == "b")
        assert (other.nbytes, other.norm, other.spent) == (0, None, None)


def test_a_round_names_its_trace():
    """The id in the traceparent that its last attempt was opened with; none where there is none, or it is no id."""
    traced = opened("a").model_copy(update={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    assert told((100.0, traced)).trace_id == "a" * 32
    assert told((100.0, opened("a"))).trace_id == ""
    assert [trace_of(text) for text in ("", "x", "00-ab-cd-01")] == ["", "", ""]
