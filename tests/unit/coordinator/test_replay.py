"""Any coordinator that reads a journal holds the same state and wants the same: whatever happened, at every prefix."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from session_driver import Driver

from fedbus.coordinator import events
from fedbus.coordinator.machine import Machine
from fedbus.coordinator.posts import orders_for, task_for
from fedbus.coordinator.state import Phase
from fedbus.messages import records, reports

CLIENTS, COMBINERS = "abcd", ("k0", "k1", "k2")

happenings = st.one_of(
    st.tuples(st.just("verdict"), st.sampled_from(CLIENTS), st.booleans()),
    st.tuples(st.just("verdict"), st.sampled_from(CLIENTS), st.just(True)),
    st.tuples(st.just("stale"), st.sampled_from(CLIENTS), st.integers(0, 6)),
    st.tuples(st.just("part"), st.sampled_from(CLIENTS), st.sampled_from(COMBINERS), st.booleans()),
    st.tuples(st.just("whole"), st.sampled_from(CLIENTS)),
    st.tuples(st.just("failure"), st.sampled_from(CLIENTS), st.integers(0, 6)),
    st.tuples(st.just("combiners"), st.dictionaries(st.sampled_from(COMBINERS), st.sampled_from("12"))),
    st.tuples(st.just("clients"), st.dictionaries(st.sampled_from(CLIENTS), st.just("1"), min_size=1)),
    st.tuples(st.just("stored"), st.integers(0, 8)),
    st.tuples(st.just("stored"), st.none()),
    st.tuples(st.just("merge failed")),
    st.tuples(st.just("evaluated"), st.sampled_from(CLIENTS), st.floats()),
    st.tuples(st.just("time"), st.sampled_from([0.1, 10.0, 61.0])),
    st.tuples(st.just("recovered")),
    st.tuples(st.just("takeover")),
)

places = st.sampled_from(["", "eu", "eu/north", "us"])
layouts = st.tuples(
    st.sampled_from([{}, {"sharding": "chunks"}, {"residency": "require"}]),
    st.dictionaries(st.sampled_from(CLIENTS), places),
    st.dictionaries(st.sampled_from(COMBINERS), places),
)
"""Settings, and where clients and combiners are."""


def happen(driver, what, *of):  # noqa: C901, PLR0912 - one case a happening, nothing nested
    """Let one thing happen; returns the driver that goes on."""
    match what, *of:
        case "verdict", client, accepted:
            driver.verdict(client, accepted=accepted)
        case "part", client, combiner, accepted:
            driver.verdict(client, combiner=combiner, accepted=accepted)
        case "whole", client:
            accept(driver, client)
        case "stale", client, attempt:
            driver.verdict(client, attempt=attempt, combiner="k0", incarnation="1")
        case "failure", client, attempt:
            driver.failure(client, attempt=attempt)
        case "combiners", there:
            driver.present(combiners=there)
        case "clients", there:
            driver.present(clients=there)
        case "stored", revision:
            closing = driver.state.round.closing if driver.state.round else None
            driver.stored(revision=revision if revision is not None else closing.attempt if closing else 1)
        case ("merge failed",):
            closing = driver.state.round.closing if driver.state.round else None
            attempt = closing.attempt if closing else 1
            number = driver.state.rounds_closed + 1
            driver.report(
                "combiner", "k0", reports.MergeFailed(session="s", round=number, revision=attempt, reason="no")
            )
        case "evaluated", client, value:
            driver.evaluated(client, {"x": value})
        case "time", seconds:
            driver.after(seconds)
        case ("recovered",):
            driver.step(events.Recovered())
        case ("takeover",):
            driver = driver.replayed()
            driver.decide()
    return driver


def accept(driver, client):
    """Whoever has a part of a client's update, or all of it, accepts."""
    current = driver.state.round
    for combiner in (current.shards if current else ()) or (None,):
        driver.verdict(client, combiner=combiner)


def check_facts(driver):
    """What must hold of any journal, read as it stands: nothing of the machine is asked."""
    accepted, attempts, number = {}, {}, 0
    highest = 0
    for fact in driver.facts():
        match fact:
            case records.RoundOpened():
                assert fact.round == number + 1 and fact.attempt > highest
                accepted, attempts, highest = {}, dict.fromkeys(fact.clients, fact.attempt), fact.attempt
            case records.UpdatesRecorded():
                for update in fact.accepted:
                    assert update.client not in accepted, "accepted twice"
                    assert update.attempt == attempts[update.client]
                    accepted[update.client] = update
            case records.ClientsMoved():
                assert fact.attempt > highest
                highest = fact.attempt
                for client in fact.moves:
                    accepted.pop(client, None)
                    attempts[client] = fact.attempt
            case records.RoundClosing():
                assert fact.attempt > highest and fact.counted
                assert set(fact.counted) <= set(accepted)
                highest = fact.attempt
            case records.ModelPublished():
                assert (fact.round, fact.version, fact.parent) == (number + 1, f"s-{number + 1}", f"s-{number}")
            case records.RoundClosed():
                number, highest = fact.round, 0
    ends = [fact for fact in driver.facts() if isinstance(fact, records.SessionEnded)]
    assert len(ends) <= 1 and (not ends or driver.facts()[-1] == ends[0])


@settings(max_examples=300, deadline=None)
@given(st.lists(happenings, max_size=60), st.sampled_from([None, 2]), st.integers(0, 2), layouts)
def test_a_replay_gives_the_same_session(story, per_round, every, layout):
    """A fresh machine that reads the journal holds an equal state, wants equal posts, and decides no differently."""
    driver = Driver().start(
        rounds=3, clients_min=2, clients_per_round=per_round, oversample=2.0, quorum=1 if per_round else 2,
        evaluate_every=every, round_deadline_s=60, close_deadline_s=60, evaluate_deadline_s=60, **layout[0],
    ).regions(*layout[1:])  # fmt: skip
    driver.present(dict.fromkeys(CLIENTS, "1"), {"k0": "1", "k1": "1"})
    for what in story:
        driver = happen(driver, *what)
    check_facts(driver)
    machine = Machine("s")
    live = Machine("s")
    for sequence, entry in enumerate(driver.journal, 1):
        machine.handle(events.Replayed(entry, sequence), entry.at)
        live.handle(events.Appended(entry.unpack(), entry.at, sequence), entry.at)
        assert machine.state == live.state, "an append and its replay differ"
        machine.check()
        assert bool(machine.waits()) == (machine.state.phase not in (Phase.NEW, Phase.ENDED))
    assert machine.state == driver.state
    again = driver.replayed()
    for client in again.tasks:
        assert again.tasks[client] == task_for(driver.state, client)
        posted = driver.tasks.get(client)
        if posted is not None:
            same = {"revision": 0}
            assert posted.model_copy(update=same) == again.tasks[client].model_copy(update=same), client
    for name, order in again.orders.items():
        assert order == orders_for(driver.state, {name: order.incarnation})[name]
        posted = driver.orders.get(name)
        if posted is not None and driver.phase is not Phase.ENDED:
            same = {"revision": 0}
            assert posted.model_copy(update=same) == order.model_copy(update=same), name


def do_as_asked(driver):
    """Clients send what they are asked for, roots store, everybody evaluates."""
    for client in list(driver.state.round.places) if driver.state.round else []:
        if driver.state.round and driver.tasks[client].state == "train":
            train = driver.tasks[client].train
            for combiner in train.shards or (train.combiner,):
                driver.verdict(client, attempt=train.attempt, combiner=combiner)
    if driver.state.round and driver.state.round.closing:
        driver.stored()
    for client in CLIENTS:
        driver.evaluated(client, {"x": 1.0})


@settings(max_examples=60, deadline=None)
@given(st.lists(happenings, max_size=40), layouts)
def test_every_session_ends(story, layout):
    """Whatever happened: once clients and combiners stay and do what they are asked, the session completes."""
    settings = {"rounds": 2, "clients_min": 2, "round_attempts_max": 1000, "evaluate_every": 1, "round_deadline_s": 60}
    driver = Driver().start(**settings, **layout[0]).regions(*layout[1:])
    driver.present(dict.fromkeys(CLIENTS, "1"), {"k0": "1", "k1": "1"})
    for what in story:
        driver = happen(driver, *what)
    driver.present(dict.fromkeys(CLIENTS, "9"), dict.fromkeys(COMBINERS, "9"))
    for _ in range(60):
        if driver.phase is Phase.ENDED:
            break
        do_as_asked(driver)
        if driver.state.round and not driver.machine.decide(driver.now):
            driver.after(61)
        if driver.phase is Phase.GATHERING:
            driver.after(driver.state.config.gather_deadline_s)  # who may not be asked does not become so by waiting
    assert driver.phase is Phase.ENDED
    assert driver.state.outcome in ("completed", "failed")
