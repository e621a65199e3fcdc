"""The client's decisions: train once, hold until the receipt, send where the newest task says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbus.client.events import (
    Measured,
    Release,
    Report,
    Settled,
    StartEvaluating,
    StartSending,
    StartTraining,
    StopSending,
    StopWork,
    TaskSeen,
    Trained,
    WorkFailed,
)
from fedbus.client.machine import Machine, Phase
from fedbus.messages.tasks import Evaluate, Receipt, Task, Train


def train(round_=1, attempt=1, combiner="k0"):
    """What to train."""
    return Train(
        round=round_,
        attempt=attempt,
        version=f"s-{round_ - 1}",
        blob="b",
        combiner=combiner,
        seed=1,
        deadline_at=9.0,
        weight_max=8.0,
    )


def seen(state="train", *, revision, receipt=None, **fields):
    """A task."""
    wanted = train(**fields) if state == "train" else None
    number = fields.get("round_", 1)
    evaluate = (
        Evaluate(round=number, version=f"s-{number}", blob="b", seed=1, deadline_at=9.0)
        if state == "evaluate"
        else None
    )
    closed = (
        None
        if receipt is None
        else Receipt(round=abs(receipt), counted=receipt > 0, reason="" if receipt > 0 else "late")
    )
    return TaskSeen(Task(session="s", revision=revision, state=state, train=wanted, evaluate=evaluate, receipt=closed))


def run(*events):
    """A machine that was told these, and the effects of the last."""
    machine, effects = Machine("s"), []
    for event in events:
        effects = machine.handle(event)
        machine.check()
    return machine, effects


ASKED = seen(revision=1)
SENDING = (ASKED, Trained(1, 1))
HOLDING = (*SENDING, Settled(1, 1, accepted=True, reason=""))


def test_a_round_from_task_to_receipt():
    """Train, send, hold, and forget only with the receipt."""
    machine, effects = run(ASKED)
    assert effects == [StartTraining(train(), 1)] and machine.phase is Phase.TRAINING
    machine, effects = run(*SENDING)
    assert effects == [StartSending(train())] and machine.held == 1
    machine, effects = run(*HOLDING)
    assert effects == [] and machine.phase is Phase.HOLDING and machine.held == 1
    machine, effects = run(*HOLDING, seen("rest", revision=5, receipt=1))
    assert effects == [Release(1, counted=True, reason="")] and machine.phase is Phase.IDLE and machine.held is None


@pytest.mark.parametrize("before", [(ASKED,), SENDING, HOLDING], ids=["training", "sending", "holding"])
def test_the_same_task_twice_changes_nothing(before):
    """Tasks are states: repeated at will, also with a newer revision."""
    for revision in (1, 7):
        machine, effects = run(*before, seen(revision=revision))
        assert effects == [] and machine.phase is run(*before)[0].phase


def test_an_older_task_is_ignored():
    """What was replaced does not come back, however late it arrives."""
    machine, effects = run(seen(revision=5, round_=2), seen(revision=4, round_=1), seen("ended", revision=3))
    assert effects == [] and machine.train.round == 2 and machine.phase is Phase.TRAINING


def test_another_place_while_training_is_where_it_is_sent():
    """A move during training costs nothing: the result goes to the new combiner."""
    _, effects = run(ASKED, seen(revision=2, attempt=2, combiner="k1"), Trained(1, 1))
    assert effects == [StartSending(train(attempt=2, combiner="k1"))]


def test_another_place_later_sends_what_is_held():
    """Sending or holding: the same update goes to the new combiner; nothing is trained again."""
    again = seen(revision=2, attempt=2, combiner="k1")
    wanted = StartSending(train(attempt=2, combiner="k1"))
    assert run(*SENDING, again)[1] == [StopSending(), wanted]
    assert run(*HOLDING, again)[1] == [wanted]
    refused = Settled(1, 1, accepted=False, reason="NaN")
    assert run(*SENDING, refused, again)[1] == [wanted]


def test_a_verdict_of_another_attempt_is_ignored():
    """The answer of the combiner that was left does not settle what is sent to the next."""
    machine, _ = run(*SENDING, seen(revision=2, attempt=2, combiner="k1"), Settled(1, 1, accepted=True, reason=""))
    assert machine.phase is Phase.SENDING


def test_a_refused_update_is_held_and_not_sent_again():
    """The receipt ends it, or a higher attempt asks for it."""
    machine, effects = run(*SENDING, Settled(1, 1, accepted=False, reason="NaN"))
    assert effects == [] and machine.held == 1 and machine.phase is Phase.IDLE
    assert run(*SENDING, Settled(1, 1, accepted=False, reason="NaN"), seen(revision=9))[1] == []


def test_a_failed_training_is_reported_once_and_tried_again_as_a_higher_attempt():
    """The same task does not start it again; a round that was opened again does."""
    failed = WorkFailed(1, "train", "ValueError: no", 1)
    machine, (report,) = run(ASKED, failed)
    assert isinstance(report, Report)
    assert (report.body.stage, report.body.attempt, report.body.reason) == ("train", 1, "ValueError: no")
    assert machine.phase is Phase.IDLE
    assert run(ASKED, failed, seen(revision=3))[1] == []
    assert run(ASKED, failed, seen(revision=3, attempt=2))[1] == [StartTraining(train(attempt=2), 2)]


def test_a_round_that_is_given_up_stops_the_training():
    """Rest, and a later round, stop it; what it gives is not held."""
    assert run(ASKED, seen("rest", revision=2))[1] == [StopWork()]
    assert run(ASKED, seen(revision=2, round_=2))[1] == [StopWork(), StartTraining(train(2), 2)]
    machine, (released,) = run(ASKED, seen("rest", revision=2), Trained(1, 1))
    assert released.counted is False and machine.held is None


@pytest.mark.parametrize("late", [Trained(1, 1), WorkFailed(1, "train", "no", 1)], ids=["made", "failed"])
def test_a_training_that_was_given_up_does_not_end_the_next_of_its_round(late):
    """Given up and opened again while its result was on its way: the second training's result is the one that counts.

    It once was sent while the second trained, and when that ended, the client forgot what it would be asked for.
    """
    begin = (ASKED, seen("rest", revision=2), seen(revision=3, attempt=2))
    machine, _ = run(*begin, late)
    assert machine.phase is Phase.TRAINING and machine.failed is None
    machine, effects = run(*begin, late, Trained(1, 2))
    assert effects == [StartSending(train(attempt=2))] and machine.held == 1


@pytest.mark.parametrize(
    ("task", "counted", "reason", "lost"),
    [
        (seen("rest", revision=5, receipt=-1), False, "late", True),
        (seen("rest", revision=5, receipt=2), False, "a later round is closed", False),
        (seen("ended", revision=5), False, "the session has ended", False),
        (seen("ended", revision=5, receipt=1), True, "", False),
    ],
)
def test_what_ends_holding(task, counted, reason, lost):
    """Sending stops; the owner hears whether the update counts, and why not; lost is one whose receipt says so."""
    assert run(*HOLDING, task)[1] == [Release(1, counted, reason, lost)]
    assert run(*SENDING, task)[1] == [StopSending(), Release(1, counted, reason, lost)]


def test_what_was_made_for_a_round_that_closed_without_its_client_is_lost():
    """It was given up, and others were asked when it was opened again: what is kept of such a one must go back."""
    later = seen(revision=7, round_=2)
    released = Release(1, counted=False, reason="a later round has begun", lost=True)
    assert run(*HOLDING, seen("rest", revision=5), later)[1] == [released, StartTraining(train(2), 2)]
    begun = StartTraining(train(1), 2)  # a journal that was restored knows less: who can say what became of it
    made = (seen(revision=1, round_=2), Trained(2, 1))
    released = Release(2, counted=False, reason="a later round has begun", lost=False)
    assert run(*made, seen(revision=9, round_=1))[1] == [StopSending(), released, begun]


def test_a_receipt_of_an_earlier_round_ends_nothing():
    """The update of the round under way stays held."""
    machine, effects = run(seen(revision=1, round_=2), Trained(2, 1), seen(revision=2, round_=2, receipt=1))
    assert effects == [] and machine.held == 2


def test_a_new_round_comes_with_the_receipt_of_the_last():
    """One task does both: forget, and train."""
    _, effects = run(*HOLDING, seen(revision=9, round_=2, receipt=1))
    assert effects == [Release(1, counted=True, reason=""), StartTraining(train(2), 2)]


def test_an_evaluation():
    """Measured once, reported once, for the version that was asked for."""
    asked = seen("evaluate", revision=1)
    measured = Measured(1, "s-1", 2.0, {"x": 1.0}, 5)
    machine, effects = run(asked)
    assert isinstance(effects[0], StartEvaluating) and machine.phase is Phase.EVALUATING
    assert run(asked, seen("evaluate", revision=2))[1] == []
    machine, (report,) = run(asked, measured)
    assert (report.body.version, report.body.weight, report.body.metrics, report.body.fetched) == (
        "s-1",
        2.0,
        {"x": 1.0},
        5,
    )
    assert run(asked, measured, seen("evaluate", revision=3))[1] == []
    assert run(asked, Measured(1, "s-0", 2.0, {}, 0))[1] == []
    _, (failed,) = run(asked, WorkFailed(1, "evaluate", "no data"))
    assert (failed.body.stage, failed.body.reason) == ("evaluate", "no data")
    assert run(asked, WorkFailed(1, "train", "late", 1))[1] == []


def test_an_evaluation_keeps_what_is_held():
    """Over-selected clients may still hold an update without a receipt when they are asked to evaluate."""
    machine, effects = run(*SENDING, seen("evaluate", revision=5))
    assert isinstance(effects[0], StopSending) and machine.held == 1


tasks = st.builds(
    lambda state, round_, attempt, combiner, receipt: (state, round_, attempt, combiner, receipt),
    st.sampled_from(["train", "train", "train", "evaluate", "rest", "ended"]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["k0", "k1"]),
    st.integers(0, 3),
)
events = st.one_of(
    tasks,
    st.builds(Trained, st.integers(1, 3), st.integers(0, 5)),
    st.builds(WorkFailed, st.integers(1, 3), st.sampled_from(["train", "evaluate"]), st.just("no"), st.integers(0, 5)),
    st.builds(Settled, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.just("")),
    st.builds(Measured, st.integers(1, 3), st.sampled_from(["s-1", "s-2"]), st.just(1.0), st.just({}), st.just(0)),
)


def event_of(revision, told):
    """An event: a task of the revision, or what it is already."""
    if not isinstance(told, tuple):
        return told
    state, round_, attempt, combiner, receipt = told
    return seen(state, revision=revision, round_=round_, attempt=attempt, combiner=combiner, receipt=receipt or None)


@settings(max_examples=300, deadline=None)
@given(st.lists(events, max_size=30))
def test_no_story_breaks_the_invariants(story):
    """Sending is started and stopped in turn, of what is held only; what is held is not trained again."""
    machine, sending = Machine("s"), False
    for revision, told in enumerate(story):
        event = event_of(revision, told)
        for effect in machine.handle(event):
            match effect:
                case StartTraining(wanted):
                    assert machine.held != wanted.round
                case StartSending(wanted):
                    assert wanted.round == machine.held and not sending
                    sending = True
                case StopSending():
                    assert sending
                    sending = False
                case _:
                    pass
        sending = sending and machine.phase is Phase.SENDING
        machine.check()
