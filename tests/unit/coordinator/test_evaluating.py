"""Evaluations: sums over clients, how many have to answer, what is revealed, and how they end a session."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_driver import Driver, evaluating

from fedbus.coordinator.state import Phase
from fedbus.coordinator.sums import MAGNITUDE_MAX, SHAPES_MAX, Totals
from fedbus.messages import records, reports
from fedbus.messages.ids import SUMS_MAX, SUMS_NUMBERS_MAX

ABC = {c: f"{c}-1" for c in "abc"}


def answer(driver, client, metrics=None, sums=None, weight=1.0):
    """A client answers the evaluation under way."""
    evaluation = driver.state.evaluation
    body = reports.Evaluated(
        session="s", round=evaluation.round, version=evaluation.version, weight=weight,
        metrics=metrics or {}, sums=sums or {},
    )  # fmt: skip
    return driver.report("client", client, body)


def only(**settings):
    """A session without rounds, whose model three clients are asked to evaluate."""
    driver = Driver().start(**({"rounds": 0, "clients_min": 3} | settings))
    driver.present(ABC, {})
    return driver


def result(driver):
    """The one evaluation of a session."""
    (found,) = driver.facts(records.RoundEvaluated)
    return found


# --- sessions without rounds ---


def test_a_session_without_rounds_evaluates_its_model_and_ends():
    """No combiner is needed; as many clients as clients_min are; nothing is trained."""
    driver = Driver().start(rounds=0, clients_min=3).present({"a": "1", "b": "1"}, {})
    (wait,) = driver.machine.waits()
    assert (wait.what, wait.round) == ("waiting for 1 of 3 clients (clients_min)", 0)
    driver.present(ABC)
    assert driver.kinds() == ["EvaluationOpened"]
    evaluate = driver.tasks["a"].evaluate
    assert (evaluate.round, evaluate.version, evaluate.blob) == (0, "s-0", "blob-0")
    for client in "abc":
        answer(driver, client, {"x": 2.0}, weight=3.0)
    assert driver.kinds() == ["RoundEvaluated", "SessionEnded"]
    ended = driver.facts(records.SessionEnded)[0]
    assert (ended.outcome, ended.reason, ended.version) == ("completed", "evaluated by 3 clients", "s-0")
    assert (result(driver).metrics, result(driver).answered) == ({"x": 2.0}, 3)
    assert not driver.catalogue and not driver.replayed().catalogue, "it has made no version"
    assert not driver.facts(records.RoundOpened) and {task.state for task in driver.tasks.values()} == {"ended"}


@pytest.mark.parametrize("settings", [{"evaluate_every": 0}, {"evaluate_every": 7}, {"target_metric": "x>=1"}])
def test_whatever_is_set_for_rounds_it_is_one_evaluation(settings):
    """Each holds of rounds, and there are none."""
    driver = only(**settings)
    for client in "abc":
        answer(driver, client, {"x": 2.0})
    assert (driver.state.outcome, driver.state.reason) == ("completed", "evaluated by 3 clients")


def test_it_fails_where_too_few_clients_come():
    """At the end of its patience, with the reason; a combiner is not part of it."""
    driver = Driver().start(rounds=0, clients_min=1, answers_min=3, gather_deadline_s=60).present({"a": "1"}, {})
    driver.after(61)
    assert driver.state.outcome == "failed"
    assert driver.state.reason == "waiting for 2 of 3 clients (answers_min): not within 60 s"


def test_a_coordinator_that_takes_over_does_not_ask_again():
    """In the middle of it, and behind its end."""
    driver = only()
    answer(driver, "a", {"x": 1.0})
    again = driver.replayed()
    assert again.phase is Phase.EVALUATING and again.state == driver.state
    for client in "abc":
        answer(again, client, {"x": 1.0})
    assert again.phase is Phase.ENDED
    assert again.replayed().state.outcome == "completed"


def test_questions_go_to_the_clients():
    """Instead of a model."""
    questions = ({"column": "age", "kind": "count"},)
    assert only(queries=questions).tasks["b"].evaluate.queries == questions


# --- what is kept ---


def test_sums_are_added_up_over_all_that_answer():
    """Number by number, whatever the weights of the metrics."""
    driver = only()
    answer(driver, "a", {"x": 1.0}, {"confusion": (1.0, 2.0), "n": (3.0,)}, weight=9.0)
    answer(driver, "b", {"x": 2.0}, {"n": (0.5,), "confusion": (10.0, 20.0)})
    answer(driver, "b", {"x": 2.0}, {"n": (0.5,), "confusion": (10.0, 20.0)})
    answer(driver, "c", {"x": 2.0}, {"confusion": (100.0, 200.0), "n": (0.25,)})
    assert result(driver).sums == {"confusion": (111.0, 222.0), "n": (3.75,)}
    assert (result(driver).answered, len(result(driver).clients)) == (3, 3)


def test_an_answer_whose_sums_have_another_shape_is_refused():
    """Of names or lengths that most do not have: it counts neither in sums nor in means."""
    driver = only()
    answer(driver, "a", {"x": 9.0}, {"confusion": (1.0,)})
    answer(driver, "b", {"x": 1.0}, {"confusion": (1.0, 2.0)})
    answer(driver, "c", {"x": 1.0}, {"confusion": (3.0, 4.0)})
    found = result(driver)
    assert (found.sums, found.metrics, found.answered) == ({"confusion": (4.0, 6.0)}, {"x": 1.0}, 2)
    assert found.missing == {
        "a": "expected sums as most clients send them, confusion (2 numbers), got confusion (1 numbers)"
    }


@pytest.mark.parametrize(
    ("sums", "text"),
    [
        ({"a": (MAGNITUDE_MAX * 2,)}, "finite, and at most 2^1000"),
        ({"a": (0.0,) * SUMS_NUMBERS_MAX, "b": (0.0,)}, f"at most {SUMS_NUMBERS_MAX} numbers together"),
    ],
)
def test_sums_that_cannot_be_are_refused(sums, text):
    """Too many, or so large that a sum of many would be no number."""
    driver = only()
    answer(driver, "a", {"x": 1.0}, sums)
    for client in "bc":
        answer(driver, client, {"x": 1.0})
    assert text in result(driver).missing["a"] and result(driver).answered == 2


def test_too_few_answers_leave_nothing():
    """Neither means nor sums nor anyone's own; a session without rounds fails with the reason."""
    driver = only(answers_min=3, evaluate_deadline_s=20)
    for client in "ab":
        answer(driver, client, {"x": 1.0}, {"n": (1.0,)})
    assert "fewer than 3 clients (answers_min)" in driver.machine.waits()[0].then
    driver.after(20)
    found = result(driver)
    why = "2 answers where 3 are the least (answers_min): nothing of them is kept"
    assert (found.metrics, found.sums, found.clients, found.answered, found.reason) == ({}, {}, (), 2, why)
    assert (driver.state.outcome, driver.state.reason) == ("failed", why)


def test_after_a_round_too_few_answers_end_nothing():
    """The rounds go on; a target is not reached by what is not kept."""
    driver = evaluating("abc", rounds=2, answers_min=3, target_metric="x>=1", evaluate_deadline_s=20)
    answer(driver, "a", {"x": 5.0})
    driver.after(20)
    assert driver.phase is Phase.TRAINING and driver.round.number == 2 and driver.state.lacking


def test_sums_alone_are_revealed_where_so_wished():
    """The journal then says nothing of one client; a metric that too few report is nobody's mean."""
    driver = only(reveal="sums", answers_min=2)
    answer(driver, "a", {"x": 1.0, "only_a": 0.123, "nan": math.nan}, {"n": (1.0,)}, weight=7.0)
    answer(driver, "b", {"x": 1.0, "nan": 1.0}, {"n": (1.0,)})
    answer(driver, "c", {"x": 1.0}, {"n": (1.0,)})
    found = result(driver)
    assert (found.clients, found.metrics, found.sums, found.answered) == ((), {"x": 1.0}, {"n": (3.0,)}, 3)
    assert "0.123" not in "".join(record.model_dump_json() for record in driver.facts())


# --- better and better ---


def rounds_of(*values, **settings):
    """A session whose evaluations find these accuracies, one after the other, as far as it goes."""
    driver = evaluating("ab", **({"rounds": 50, "best_metric": "max accuracy"} | settings))
    for index, value in enumerate(values):
        for client in "ab":
            answer(driver, client, {} if value is None else {"accuracy": value})
        if driver.phase is Phase.ENDED:
            return driver, index + 1
        for client in "ab":
            driver.verdict(client)
        driver.stored()
    return driver, len(values)


def test_patience_ends_a_session_in_which_nothing_gets_better():
    """An equal value is not better; the reason names the best and its round."""
    driver, count = rounds_of(0.5, 0.75, 0.75, 0.7, 0.6, patience=3)
    assert (driver.state.outcome, count) == ("completed", 5)
    assert driver.state.reason == "no better accuracy in 3 evaluations; best 0.75 in round 2"
    assert (driver.state.best.round, driver.state.best.version, driver.state.best.value) == (2, "s-2", 0.75)


def test_a_better_one_begins_it_anew():
    """Patience counts evaluations in a row."""
    driver, count = rounds_of(0.5, 0.4, 0.6, 0.5, 0.55, 0.7, patience=3)
    assert (driver.phase, count, driver.state.without_better) == (Phase.EVALUATING, 6, 0)
    assert driver.replayed().state.best == driver.state.best


def test_less_may_be_better():
    """Of a loss."""
    driver, _ = rounds_of(0.5, 0.6, 0.7, best_metric="min accuracy", patience=2)
    assert driver.state.reason == "no better accuracy in 2 evaluations; best 0.5 in round 1"


def test_what_nobody_reports_does_not_get_better():
    """A metric with another name is found out, instead of all rounds being run without it."""
    driver, _ = rounds_of(None, None, patience=2)
    assert driver.state.reason == "no accuracy in 2 evaluations"


def test_without_patience_it_goes_on():
    """The best is remembered all the same."""
    driver, count = rounds_of(0.5, 0.4, 0.3, 0.2)
    assert (driver.phase, count, driver.state.best.round) == (Phase.EVALUATING, 4, 1)


def test_the_best_version_is_kept_with_the_newest():
    """Until a better one is there; what is neither best nor new goes."""
    driver, _ = rounds_of(0.5, 0.9, 0.1, 0.2, 0.95, 0.3, 0.2, versions_kept=2)
    assert driver.discarded == ["blob-0", "s-1-2", "s-3-2", "s-2-2", "s-4-2"], "s-6-2 goes next"
    assert driver.state.best.blob == "s-5-2"
    assert [model.blob for model in driver.state.kept] == ["s-5-2", "s-7-2", "s-8-2"]


# --- exact sums ---

NUMBER = st.floats(min_value=-MAGNITUDE_MAX, max_value=MAGNITUDE_MAX)


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=20), st.randoms())
def test_sums_are_exact_in_any_order(rows, random):
    """Rounded once, as `math.fsum` rounds; no order of arrival changes a bit."""
    expected = tuple(math.fsum(column) for column in zip(*rows, strict=True))
    random.shuffle(rows)
    totals = Totals()
    for index, row in enumerate(rows):
        assert not totals.add(f"c{index}", {"n": row})
    assert totals.result() == {"n": expected} and not totals.odd()


def test_of_shapes_that_are_equally_frequent_the_first_clients_counts():
    """By its name, not by who came first."""
    totals = Totals()
    totals.add("b", {"n": (1.0,)})
    totals.add("a", {"n": (1.0, 2.0)})
    assert totals.result() == {"n": (1.0, 2.0)} and set(totals.odd()) == {"b"}


def test_a_name_that_some_leave_out_is_added_up_over_the_others():
    """Where enough have sent it; dimensions in a name are part of its shape, not another name."""
    totals = Totals()
    totals.add("a", {"n[2,1]": (1.0, 2.0), "more": (5.0,)})
    totals.add("b", {"n[2,1]": (1.0, 2.0)})
    totals.add("c", {"n[1,2]": (1.0, 2.0), "more": (5.0,)})
    assert totals.odd() == {"c": "expected sums as most clients send them, n[2,1] (2 numbers), got n[1,2] (2 numbers)"}
    assert totals.result() == {"more": (5.0,), "n[2,1]": (2.0, 4.0)}
    assert totals.result(2) == {"n[2,1]": (2.0, 4.0)}


def test_shapes_are_bounded():
    """Clients that each send something else must not fill the memory."""
    totals = Totals()
    for index in range(SHAPES_MAX):
        assert not totals.add(f"c{index}", {f"n{index}": (1.0,)})
    assert "expected sums as other clients send them" in totals.add("one-more", {"n": (1.0,)})
    assert not totals.add("c0-again", {"n0": (1.0,)})


def test_what_is_kept_fits_into_a_record_that_can_be_read_again():
    """Clients may each send sums of names of their own; more than a record holds could never be replayed."""
    driver = only()
    for client in "abc":
        own = {f"{client}{number}": (1.0,) for number in range(SUMS_MAX - 1)}
        answer(driver, client, {"x": 1.0}, own | {"z": (2.0,)})
    assert len(result(driver).sums) == SUMS_MAX and result(driver).sums["z"] == (6.0,)
    assert driver.replayed().state == driver.state


def test_numbers_of_all_sums_together_are_bounded():
    """The sum that most have sent stays, then the first by name that fits."""
    totals = Totals()
    for client in "abc":
        totals.add(client, {"z": (1.0, 2.0), client: (1.0,) * (SUMS_NUMBERS_MAX - 2)})
    totals.add("d", {"d": (1.0,)})
    assert list(totals.result()) == ["a", "z"] and totals.result()["z"] == (3.0, 6.0)
