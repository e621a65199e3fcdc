"""Sessions whose strategy asks for more than averaging: places, weights, and how few updates are too few."""

from __future__ import annotations

import pytest
from session_driver import DIGEST, Driver, training

from fedbus.config.session import SessionConfig
from fedbus.coordinator import events
from fedbus.coordinator.hearing import asked_by
from fedbus.coordinator.state import Phase
from fedbus.messages import records
from fedbus.messages.commands import StartSession
from fedbus.messages.plans import Encoding, Plan, fold_weight_max

KRUM = Plan(whole=True, uniform=True, updates_min=5, updates_why="n >= 2f + 3 (Blanchard et al. 2017)")
TOO_FEW = "mine: 4 updates are fewer than 5: n >= 2f + 3 (Blanchard et al. 2017)"
FIVE = "abcde"


# --- from the start on ---


def test_a_command_is_planned_or_refused():
    """What cannot be is refused with the reason; what can be carries its plan."""

    def command(**settings):
        config = SessionConfig(**settings)
        return asked_by("eve", StartSession(session="s", config=config, blob="b", digest=DIGEST, nbytes=1))

    good = command(codec="fp16")
    assert (good.by, good.refusal, good.plan.encoding.codec) == ("eve", "", "fp16")
    bad = command(strategy="nonesuch")
    assert "'nonesuch' is unknown" in bad.refusal
    driver = Driver()
    driver.step(bad)
    assert driver.state.outcome == "refused" and "'nonesuch' is unknown" in driver.state.reason


def test_the_plan_is_journalled_and_holds_for_a_coordinator_that_does_not_know_the_strategy(monkeypatch):
    """Whoever takes over looks nothing up: orders and tasks are the same, to the last field."""
    plan = Plan(uniform=True, buffer=2, stale=(1.0, 0.5), encoding=Encoding(form="difference", codec="int8"))
    driver = training(plan=plan, strategy="mine", rounds=3)
    assert driver.facts(records.SessionStarted)[0].plan == plan

    def unknown(name):
        raise AssertionError(f"looked {name} up")

    for module in ("aggregation", "codecs", "selection"):
        monkeypatch.setattr(f"fedbus.{module}.find", unknown)
    again = driver.replayed()
    assert again.state == driver.state and again.state.plan == plan
    assert (again.orders, again.tasks) == (driver.orders, driver.tasks)
    assert again.orders["k0"].plan == plan and again.tasks["a"].train.encoding == plan.encoding
    again.step(again.roster())
    for client in "ab":
        again.verdict(client)
    again.stored()
    assert again.round.number == 2 and again.orders["k0"].plan == plan


# --- places ---


def test_who_makes_a_chunk_gets_that_chunk_of_every_update():
    """Combiners share out chunks whatever the setting says; a single one takes everything."""
    driver = training(FIVE, ("k0", "k1"), plan=KRUM, strategy="mine", sharding="clients")
    assert driver.round.shards == ("k0", "k1")
    assert {name: len(order.uploads) for name, order in driver.orders.items()} == {"k0": 5, "k1": 5}
    driver.present(combiners={"k1": "k1-1"})
    assert driver.round.shards == () and set(driver.round.places.values()) == {"k1"}
    assert (driver.orders["k1"].parts, len(driver.orders["k1"].uploads)) == (1, 5)


def test_what_needs_all_in_one_place_gets_all_at_the_combiner_that_expects_least():
    """Whatever sharding says; when it is lost everybody is moved to one other, also those that were accepted."""
    driver = Driver().start(Plan(single=True), strategy="mine", sharding="chunks", clients_min=3, rounds=2)
    driver.tell(events.LoadsChanged({"k0": 100, "k1": 10, "k2": 10}))
    driver.present(dict.fromkeys("abc", "1"), dict.fromkeys(("k0", "k1", "k2"), "1"))
    assert driver.round.shards == () and set(driver.round.places.values()) == {"k1"}
    driver.verdict("a")
    driver.present(combiners={"k0": "1", "k2": "1"})
    (moved,) = driver.facts(records.ClientsMoved)
    assert moved.moves == {"a": "k2", "b": "k2", "c": "k2"}
    for client in "abc":
        driver.verdict(client)
    assert driver.round.closing.root == "k2" and not driver.round.closing.parents
    merges = {name: order.merge for name, order in driver.orders.items() if order.state == "merge"}
    assert set(merges) == {"k2"} and set(merges["k2"].counted) == set("abc")


@pytest.mark.parametrize("plan", [Plan(single=True), Plan(whole=True)])
def test_what_counts_is_moved_together_while_it_is_merged(plan):
    """One client was late: it stays where it was, of no use to anybody; the others send again, to one combiner."""
    driver = Driver().start(plan, strategy="mine", clients_min=3, quorum=2, round_deadline_s=50, rounds=2)
    driver.present(dict.fromkeys("abc", "1"), {"k0": "1"})
    driver.verdict("a")
    driver.verdict("b")
    driver.after(50)
    assert driver.round.closing.counted == ("a", "b")
    driver.present(combiners={"k1": "1"})
    assert {c: driver.round.places[c] for c in "ab"} == {"a": "k1", "b": "k1"}
    for client in "ab":
        driver.verdict(client)
    assert (driver.round.closing.root, set(driver.orders["k1"].merge.counted)) == ("k1", {"a", "b"})
    driver.stored()
    assert driver.round.number == 2 and set(driver.round.places.values()) == {"k1"}


@pytest.mark.parametrize("plan", [Plan(single=True), Plan(whole=True)])
def test_who_is_refused_while_it_is_merged_is_left_out_when_the_next_combiner_is_lost_too(plan):
    """One of the set cannot send again: the others are moved without it, and at the deadline the set is theirs."""
    driver = Driver().start(plan, strategy="mine", clients_min=3, quorum=2, close_deadline_s=50)
    driver.present(dict.fromkeys("abc", "1"), {"k0": "1"})
    for client in "abc":
        driver.verdict(client)
    driver.present(combiners={"k1": "1"})
    driver.failure("c")
    driver.present(combiners={"k2": "1"})
    assert driver.round.places == {"a": "k2", "b": "k2", "c": "k1"}
    for client in "ab":
        driver.verdict(client)
    driver.after(50)
    assert (driver.round.closing.counted, driver.round.closing.root) == (("a", "b"), "k2")


@pytest.mark.parametrize("plan", [Plan(single=True), Plan(whole=True)])
@pytest.mark.parametrize("back", [False, True])
def test_who_was_refused_does_not_count_at_the_combiner_that_the_others_have_left(plan, back):
    """Its combiner may be heard again, or its last words may come late: what it takes then is not with the others."""
    driver = Driver().start(plan, strategy="mine", clients_min=3, quorum=2)
    driver.present(dict.fromkeys("abc", "1"), {"k0": "1"})
    driver.failure("c")
    driver.present(combiners={"k1": "1"})
    assert driver.round.places == {"a": "k1", "b": "k1", "c": "k0"}
    if back:
        driver.present(combiners={"k0": "1", "k1": "1"})
    driver.verdict("c", combiner="k0", incarnation="1")
    assert list(driver.round.refused) == ["c"] and driver.round.places["c"] == "k0"
    for client in "ab":
        driver.verdict(client)
    assert (driver.round.closing.root, driver.round.closing.counted) == ("k1", ("a", "b"))


@pytest.mark.parametrize("plan", [Plan(single=True), Plan(whole=True)])
def test_who_was_refused_may_send_a_sound_one_where_the_others_send(plan):
    """As in every session: nobody was moved."""
    driver = Driver().start(plan, strategy="mine", clients_min=3, quorum=2)
    driver.present(dict.fromkeys("abc", "1"), {"k0": "1"})
    driver.failure("c")
    for client in "cab":
        driver.verdict(client)
    assert driver.round.closing.counted == ("a", "b", "c")


# --- too few ---


def test_a_round_opens_with_as_many_clients_as_the_strategy_needs():
    """Where clients_min says nothing; the wait names the rule."""
    driver = (
        Driver().start(KRUM, strategy="mine", clients_min=1, quorum=2).present(dict.fromkeys("abcd", "1"), {"k0": "1"})
    )
    (wait,) = driver.machine.waits()
    assert wait.what == "waiting for 1 of 5 clients (mine: n >= 2f + 3 (Blanchard et al. 2017))"
    driver.present(dict.fromkeys(FIVE, "1"))
    assert driver.phase is Phase.TRAINING


def test_a_round_that_is_opened_with_too_few_fails_at_once_with_the_rule():
    """Who sets clients_min is taken at the word; nobody trains for nothing, and the session ends with the reason."""
    driver = training_or_over("abcd", clients_min=4)
    assert [fact.reason for fact in driver.facts(records.RoundFailed)] == [TOO_FEW] * 3
    assert driver.state.outcome == "failed" and TOO_FEW in driver.state.reason and not driver.tasks.keys() - set("abcd")
    assert {task.state for task in driver.tasks.values()} <= {"ended", "rest"}


def training_or_over(clients, **settings):
    """A session of Krum with so many clients."""
    driver = Driver().start(KRUM, strategy="mine", **settings)
    return driver.present(dict.fromkeys(clients, "1"), {"k0": "1"})


def test_a_round_that_can_no_longer_have_enough_fails_at_once():
    """The first refusal too many decides; the reason of the refusal stands behind the rule."""
    driver = training_or_over(FIVE, clients_min=5, round_attempts_max=1)
    driver.verdict("c", accepted=False, reason="NaN")
    assert driver.facts(records.RoundFailed)[0].reason == f"{TOO_FEW}: c: NaN"


def test_at_the_deadline_too_few_are_too_few():
    """A quorum below what the strategy needs does not help; the wait says so before."""
    driver = training_or_over(FIVE, clients_min=5, quorum=2, round_deadline_s=50, round_attempts_max=1)
    for client in "abcd":
        driver.verdict(client)
    assert driver.machine.waits()[0].then == f"the round fails, with {TOO_FEW}, and the session fails"
    driver.after(50)
    assert driver.facts(records.RoundFailed)[0].reason == f"{TOO_FEW} at the deadline; missing: e"


def test_enough_are_enough():
    """One more than needed is asked: with five of six it closes at the deadline."""
    driver = training_or_over("abcdef", clients_min=6, quorum=1, round_deadline_s=50)
    for client in FIVE:
        driver.verdict(client)
    driver.after(50)
    assert driver.round.closing.counted == tuple(FIVE)


# --- weights ---


def test_a_merge_says_both_sums_of_weights_and_the_cohort():
    """Weights of the fold are divided by a metric; those that were given, their mean of it, and counts go with it."""
    plan = Plan(metrics=("steps",), divided_by="steps")
    driver = training("ab", plan=plan, strategy="mine", rounds=2)
    driver.verdict("a", weight=6.0, metrics={"steps": 3.0, "loss": 1.0})
    driver.verdict("b", weight=2.0, metrics={"steps": 4.0})
    merge = driver.orders["k0"].merge
    assert (merge.weight_sum, merge.given_sum) == (6 / 3 + 2 / 4, 8.0)
    assert (merge.updates, merge.population) == (2, 2)
    assert merge.means == {"steps": (6 * 3 + 2 * 4) / 8}
    assert driver.orders["k0"].weight_max == driver.tasks["a"].train.weight_max == 2.0**20


def test_where_all_weigh_the_same_the_largest_weight_is_one():
    """The fold spends no bit on more, means of metrics are plain ones; clients may say what they like."""
    driver = training("ab", plan=Plan(uniform=True, metrics=("m",)), strategy="mine", rounds=2)
    assert driver.orders["k0"].weight_max == 1.0 and driver.tasks["a"].train.weight_max == 2.0**20
    driver.verdict("a", weight=900.0, metrics={"m": 1.0})
    driver.verdict("b", weight=3.0, metrics={"m": 2.0})
    merge = driver.orders["k0"].merge
    assert (merge.weight_sum, merge.given_sum, merge.means) == (2.0, 2.0, {"m": 1.5})
    assert driver.facts(records.UpdatesRecorded)[0].accepted[0].weight == 900.0
    assert fold_weight_max(SessionConfig(), Plan(uniform=True), 8192) == 4.0, "8192 of them are 2048 times the largest"


@pytest.mark.parametrize(
    ("plan", "fields", "text"),
    [
        (Plan(metrics=("steps",)), {}, "metric 'steps': expected a finite number from 0 on with each update, got none"),
        (Plan(metrics=("s",)), {"metrics": {"s": float("nan")}}, "metric 's': expected a finite number"),
        (Plan(metrics=("s",), divided_by="s"), {"metrics": {"s": 0.0}}, "metric 's': expected a number above 0, got 0"),
        (
            Plan(metrics=("s",), divided_by="s"),
            {"weight": 1e-300, "metrics": {"s": 1e300}},
            "expected a weight above 0",
        ),
    ],
)
def test_an_update_without_a_weight_of_the_fold_is_refused(plan, fields, text):
    """Whatever its combiner thought of it: it would enter no sum."""
    driver = training("ab", plan=plan, strategy="mine", quorum=1)
    driver.verdict("a", **fields)
    (refused,) = driver.facts(records.UpdatesRecorded)[0].refused
    assert refused.by == "coordinator" and text in refused.reason


def test_the_sum_of_weights_is_that_of_the_fold():
    """Given weights beyond the bound do no harm where the fold's lie below it; and the other way round."""
    plan = Plan(metrics=("s",), divided_by="s")
    driver = training("ab", plan=plan, strategy="mine", weight_max=1.0)
    driver.verdict("a", weight=2000.0, metrics={"s": 1000.0})
    driver.verdict("b", weight=2000.0, metrics={"s": 1000.0})
    assert driver.orders["k0"].merge.weight_sum == 4.0
    driver = training("ab", plan=plan, strategy="mine", weight_max=1.0)
    for client in "ab":
        driver.verdict(client, weight=1.0, metrics={"s": 2.0**-11})
    assert driver.facts(records.RoundFailed)[0].reason.startswith("the weights sum up to 4096, more than 2048 x")


def test_a_session_cannot_be_called_as_what_is_brought_in():
    """Its versions would pass for imported ones: whoever asks past the door of `start_session` is refused as well."""
    start = StartSession(session="imported", config=SessionConfig(), blob="b", digest="ab" * 32, nbytes=1)
    assert "brought in" in asked_by("eve", start).refusal
