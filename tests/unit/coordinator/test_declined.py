"""What the owners of clients do not want: the round goes on without them, and they are asked anew when that changes."""

from __future__ import annotations

from session_driver import closing, evaluating, training

from fedbus.coordinator.roster import Roster
from fedbus.coordinator.state import Phase
from fedbus.messages import records, reports
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Hello

NIGHT, OTHER = "aa" * 16, "bb" * 16


def decided(driver, **policies):
    """These owners have decided something, as digests; everybody hears of it."""
    plain = driver.roster

    def roster():
        told = plain()
        return type(told)(**{name: getattr(told, name) for name in told.__slots__} | {"client_policies": policies})

    driver.roster = roster
    driver.present()
    return driver


def decline(driver, client, policy=NIGHT, until_at=0.0, stage="policy", round_=None):
    """A client's owner does not want it."""
    current = driver.state.round
    attempt = current.attempts.get(client, 0) if current else 0
    number = round_ or driver.state.rounds_closed + (stage == "policy")
    body = reports.TaskFailed(
        session="s", round=number, attempt=attempt, stage=stage, reason="not at night", policy=policy, until_at=until_at
    )
    return driver.report("client", client, body)


def withdraw(driver, client, round_=None):
    """A client's owner takes its update back."""
    number = round_ or driver.state.rounds_closed + 1
    return driver.report(
        "client", client, reports.Withdrawn(session="s", round=number, attempt=1, reason="taken back", policy=NIGHT)
    )


def test_a_round_goes_on_without_who_declines():
    """It is not waited for, its reason stands in the journal, and its receipt says it too."""
    driver = decided(training(("a", "b", "c"), clients_min=2), c=NIGHT)
    said = decline(driver, "c")
    driver.verdict("a")
    driver.verdict("b")
    assert driver.phase is Phase.CLOSING and driver.round.closing.counted == ("a", "b")
    assert driver.round.closing.reason == "every client has answered" and ("c", said) in driver.taken
    driver.stored()
    (closed,) = driver.facts(records.RoundClosed)
    assert closed.not_counted == {"c": "policy: not at night"}


def test_who_declined_is_asked_again_with_another_policy_only():
    """In the next round it is left out, and taken in again when its owner has decided anew; a replay knows it too."""
    driver = decided(training(("a", "b", "c"), clients_min=2, rounds=9), c=NIGHT)
    decline(driver, "c")

    def play_round():
        for client in driver.round.places:
            if client not in driver.round.refused:
                driver.verdict(client)
        driver.stored()

    play_round()
    assert sorted(driver.round.places) == ["a", "b"]
    assert driver.replayed().state.declined["c"].policy == NIGHT
    play_round()
    decided(driver, c=OTHER)
    play_round()
    assert sorted(driver.round.places) == ["a", "b", "c"]


def test_who_declined_until_some_time_is_asked_again_then():
    """Hours and limits come to an end by themselves."""
    driver = decided(training(("a", "b", "c"), clients_min=3, round_attempts_max=9), c=NIGHT)
    decline(driver, "c", until_at=driver.now + 60)
    driver.verdict("a")
    driver.verdict("b")
    assert driver.phase is Phase.GATHERING, "two updates where three are the quorum"
    (wait,) = driver.machine.waits(driver.now)
    assert "1 of 3 clients" in wait.what and "1 decline: c: not at night" in wait.what
    driver.after(61)
    assert driver.phase is Phase.TRAINING and sorted(driver.round.places) == ["a", "b", "c"]


def test_who_does_not_want_to_evaluate_is_not_asked_the_next_time():
    """The evaluation counts it as answered, the journal has the reason, the next one goes without it."""
    driver = decided(evaluating(("a", "b"), rounds=2), b=NIGHT)
    decline(driver, "b", stage="evaluate")
    driver.evaluated("a", {"loss": 1.0})
    (found,) = driver.facts(records.RoundEvaluated)
    assert found.missing == {"b": "not at night"} and [one.client for one in found.declined] == ["b"]
    assert sorted(driver.round.places) == ["a", "b"], "it trains: that is another question"
    driver.verdict("a")
    driver.verdict("b")
    driver.stored()
    assert list(driver.state.evaluation.clients) == ["a"]


def test_what_is_withdrawn_does_not_count_though_it_was_accepted():
    """It leaves the accepted, no later verdict brings it back, and the set that counts is without it."""
    driver = training(("a", "b", "c"), clients_min=2)
    driver.verdict("a")
    withdraw(driver, "a")
    assert list(driver.round.accepted) == [] and driver.round.refused["a"].declined
    driver.verdict("a")
    assert list(driver.round.accepted) == []
    driver.verdict("b")
    driver.verdict("c")
    assert driver.round.closing.counted == ("b", "c")
    assert driver.replayed().round.closing.counted == ("b", "c")


def test_what_is_withdrawn_before_it_came_is_not_taken():
    """The withdrawal may overtake the update."""
    driver = training(("a", "b", "c"), clients_min=2)
    withdraw(driver, "a")
    for client in ("a", "b", "c"):
        driver.verdict(client)
    assert driver.round.closing.counted == ("b", "c")


def test_a_set_that_is_fixed_is_fixed_anew_without_what_is_withdrawn():
    """While the model is being made it can still be made without; what was being stored is nothing then."""
    driver = closing(("a", "b", "c"), clients_min=2)
    first = driver.round.closing
    withdraw(driver, "c")
    assert driver.round.closing.counted == ("a", "b") and driver.round.closing.attempt > first.attempt
    assert "taken" not in driver.round.closing.reason and "took its update back" in driver.round.closing.reason
    driver.stored(revision=first.attempt, blob=first.publish)
    assert driver.phase is Phase.CLOSING, "the old set's model is not published"
    driver.stored()
    assert driver.facts(records.RoundClosed)[0].counted == 2


def test_a_round_fails_where_too_few_are_left():
    """A model of fewer updates than the quorum is made by nobody."""
    driver = closing(("a", "b"), clients_min=2)
    withdraw(driver, "b")
    (failed,) = driver.facts(records.RoundFailed)
    assert failed.reason == "1 updates where 2 are the quorum: the owner of b took its update back"


def test_what_is_withdrawn_of_a_closed_round_is_acknowledged_and_changes_nothing():
    """Its model is published: nobody can take it out again, and the client need not go on asking."""
    driver = closing(("a", "b"), rounds=2)
    driver.stored()
    entries = len(driver.journal)
    said = withdraw(driver, "a", round_=1)
    assert len(driver.journal) == entries and ("a", said) in driver.taken


def test_a_task_says_what_the_session_is():
    """Whoever decides has it before it trains; a task that asks for nothing carries nothing."""
    driver = training(purpose="research/sleep", description="Who sleeps", target_metric="accuracy>=0.9", rounds=2)
    card = driver.tasks["a"].card
    assert (card.purpose, card.description, card.by) == ("research/sleep", "Who sleeps", "eve")
    assert (card.version, card.nbytes, card.rounds, card.strategy) == ("s-0", 12, 2, "fedavg")
    assert (card.clients_min, card.updates_min, card.metrics) == (2, 2, ("accuracy",))
    driver.stop()
    assert driver.tasks["a"].state == "ended" and driver.tasks["a"].card is None


def test_a_decision_of_an_owner_makes_the_roster_another():
    """A `Hello` with another digest is news; the members of a crowd share the crowd's."""
    roster, crowd = Roster(), Peer("crowd", "phone")
    hello = Hello(incarnation="i", heartbeat_s=5.0)
    assert roster.hello(Peer("client", "a"), hello, 1.0)
    assert not roster.hello(Peer("client", "a"), hello, 2.0)
    assert roster.hello(Peer("client", "a"), hello.model_copy(update={"policy": NIGHT}), 3.0)
    roster.hello(crowd, hello.model_copy(update={"policy": OTHER, "members": 2}), 3.0)
    assert roster.changed().client_policies == {"a": NIGHT, "phone-0": OTHER, "phone-1": OTHER}
