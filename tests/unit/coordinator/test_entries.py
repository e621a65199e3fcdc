"""What becomes true together is one entry, and what is posted for it is posted once: a round's fixed cost."""

from __future__ import annotations

import copy

import pytest
from session_driver import Driver, closing, evaluating, training

from fedbus.coordinator import events, machine
from fedbus.coordinator.state import Phase
from fedbus.messages import records, reports
from fedbus.messages.ids import Peer

HERE = {"a": "1", "b": "1"}


def test_a_round_is_two_entries():
    """The last update with the closing, the model with the close and the next round: nothing else is written."""
    driver = training(rounds=2)
    before = len(driver.journal)
    driver.verdict("a")
    driver.verdict("b")
    assert driver.kinds() == ["UpdatesRecorded", "RoundClosing"]
    driver.stored()
    assert driver.kinds() == ["ModelPublished", "RoundClosed", "RoundOpened"]
    assert len(driver.journal) == before + 3, "one of the three was an update that came alone"


def test_the_end_of_a_session_is_part_of_its_last_round():
    """Nobody waits for another write to learn that nothing follows."""
    driver = closing()
    driver.stored()
    assert driver.kinds() == ["ModelPublished", "RoundClosed", "SessionEnded"]


def test_an_evaluation_opens_with_the_model_and_ends_with_the_next_round():
    """[published, closed, evaluation] and [evaluated, opened or ended] are one entry each."""
    driver = evaluating(rounds=2)
    assert driver.kinds() == ["ModelPublished", "RoundClosed", "EvaluationOpened"]
    for client in "ab":
        driver.evaluated(client, {"x": 1.0})
    assert driver.kinds() == ["RoundEvaluated", "RoundOpened"]
    assert driver.machine.known.answers == {}


def test_a_session_whose_people_are_there_begins_with_its_round():
    """Started and opened at once."""
    driver = Driver()
    driver.clients, driver.combiners = HERE, {"k0": "1"}
    driver.tell(driver.roster())
    driver.start()
    assert driver.kinds() == ["SessionStarted", "RoundOpened"]
    assert [model.version for model in driver.catalogue] == ["s-0"]


def test_a_round_that_fails_is_opened_again_in_the_same_entry():
    """With what made it fail, when that was an answer."""
    driver = training()
    driver.verdict("a")
    driver.failure("b")
    assert driver.kinds() == ["UpdatesRecorded", "RoundFailed", "RoundOpened"]
    assert {task.train.attempt for task in driver.tasks.values()} == {2}


def test_deciding_changes_nothing_until_it_is_journalled():
    """What follows from a record is found on a copy: an append that fails leaves no trace of it."""
    driver = closing(rounds=2)
    body = reports.ModelStored(session="s", round=1, revision=2, blob="s-1-2", digest="ab" * 32, nbytes=12)
    driver.tell(events.Reported(Peer("combiner", "k0"), "x", body))
    before = copy.deepcopy(driver.state)
    (append,) = driver.machine.decide(driver.now)
    assert [record.kind for record in append.records] == ["ModelPublished", "RoundClosed", "RoundOpened"]
    assert driver.state == before and append.expected_last == len(driver.journal)
    assert driver.machine.decide(driver.now) == [append], "asked again, it decides the same"


def test_everybody_is_told_once_and_combiners_first():
    """A close directly followed by an opening is one task for each client: receipt and training together."""
    driver = closing(rounds=2)
    before = len(driver.posts)
    driver.stored()
    assert [post[1:] for post in driver.posts[before:]] == [("order", "k0"), ("task", "a"), ("task", "b")]
    assert all(task.receipt.round == 1 and task.state == "train" for task in driver.tasks.values())


def test_updates_that_come_in_post_nothing():
    """Each of ten thousand verdicts would otherwise be a reason to look at ten thousand clients."""
    driver = training("abcd")
    before = len(driver.posts)
    for client in "abc":
        driver.verdict(client)
    assert len(driver.posts) == before


def test_only_those_of_this_round_and_the_last_are_told():
    """Who took part in an earlier round knows how it fared; the end of the session is for all who were ever asked."""
    names = {f"c{i}": "1" for i in range(12)}
    driver = Driver().start(rounds=3, clients_per_round=2, clients_min=1).present(names, {"k0": "1"})
    asked = [set(driver.round.places)]
    for _ in range(2):
        for client in sorted(driver.round.places):
            driver.verdict(client)
        before = len(driver.posts)
        driver.stored()
        asked.append(set(driver.round.places))
        told = [name for _, what, name in driver.posts[before:] if what == "task"]
        assert sorted(told) == sorted(asked[-1] | asked[-2])
    assert asked[0] - asked[1] - asked[2], "the seed asks others in each round"
    before = len(driver.posts)
    driver.stop()
    assert {name for _, what, name in driver.posts[before:] if what == "task"} == set().union(*asked)


def test_after_a_recovery_those_are_told_whom_it_may_concern():
    """Tasks of the open round, receipts of the last closed one; nobody of earlier rounds."""
    names = {f"c{i}": "1" for i in range(12)}
    driver = Driver().start(rounds=3, clients_per_round=2, clients_min=1).present(names, {"k0": "1"})
    asked = [set(driver.round.places)]
    for _ in range(2):
        for client in sorted(driver.round.places):
            driver.verdict(client)
        driver.stored()
        asked.append(set(driver.round.places))
    again = driver.replayed()
    assert set(again.tasks) == asked[1] | asked[2] and set(again.orders) == {"k0"}


def test_what_was_not_posted_is_posted_again_and_nothing_else():
    """A lost post is not a reason to post to everybody."""
    driver = training("abcd", ("k0", "k1"))
    before = len(driver.posts)
    driver.step(events.NotPosted(frozenset({"b"}), frozenset({"k1"})))
    assert [post[1:] for post in driver.posts[before:]] == [("order", "k1"), ("task", "b")]


def test_an_order_is_posted_when_it_changes():
    """Clients that come and go, and updates that come in, are no news for a combiner."""
    driver = training("abc", ("k0", "k1"))
    before = len(driver.posts)
    driver.present(clients={"a": "a-1"})
    driver.verdict("a")
    driver.step(events.Recovered())
    assert [post[1] for post in driver.posts[before:]] == ["order", "order", "task", "task", "task"]
    driver.present(combiners=driver.combiners | {"k2": "1"})
    assert driver.posts[-1][1:] == ("order", "k2") and driver.orders["k2"].uploads == {}


def test_more_updates_than_one_message_holds_are_entries_of_their_own(monkeypatch):
    """A record of updates may be as large as a message: never two of them in one entry."""
    monkeypatch.setattr(reports, "NUMBERS_MAX", 10)
    driver = training("abcdef")
    for client in "abcdef":
        metrics = {str(i): 1.0 for i in range(6)}
        verdict = reports.Verdict(client=client, attempt=1, accepted=True, weight=1.0, metrics=metrics)
        body = reports.UpdatesJudged(session="s", round=1, incarnation="k0-1", verdicts=(verdict,))
        driver.tell(events.Reported(Peer("combiner", "k0"), client, body))
    driver.decide()
    kinds = [driver.kinds(index) for index in range(-6, 0)]
    assert kinds == [["UpdatesRecorded"]] * 5 + [["UpdatesRecorded", "RoundClosing"]]
    assert driver.taken == [("k0", client) for client in "abcdef"]


def test_records_that_name_too_many_clients_are_entries_of_their_own(monkeypatch):
    """One message has to hold an entry."""
    monkeypatch.setattr(machine, "ENTRY_WEIGHT_MAX", 3)
    driver = closing(rounds=2)
    driver.stored()
    assert driver.kinds() == ["ModelPublished", "RoundClosed", "RoundOpened"]
    driver = evaluating("abcd", rounds=2)
    assert [driver.kinds(-2), driver.kinds(-1)] == [["ModelPublished", "RoundClosed"], ["EvaluationOpened"]]


def test_thousands_of_long_reasons_fit_their_records():
    """An app that fails on every client, each time with a page of text, must not make what cannot be journalled."""
    names = {f"c{i:05}": "1" for i in range(6000)}
    driver = Driver().start(clients_min=1, quorum=1, evaluate_every=1, rounds=1).present(names, {"k0": "1"})
    for name in list(names)[1:]:
        failed = reports.TaskFailed(session="s", round=1, attempt=1, stage="train", reason="x" * 2000)
        driver.machine.handle(events.Reported(Peer("client", name), name, failed), driver.now)
    driver.decide()
    assert [driver.kinds(index) for index in range(-6, 0)] == [["UpdatesRecorded"]] * 6
    driver.verdict("c00000")
    driver.stored()
    closed = driver.facts(records.RoundClosed)[0]
    assert len(closed.not_counted) == 5999 and {len(reason) for reason in closed.not_counted.values()} == {333}
    for name in names:
        failed = reports.TaskFailed(session="s", round=1, attempt=0, stage="evaluate", reason="y" * 2000)
        driver.machine.handle(events.Reported(Peer("client", name), f"e{name}", failed), driver.now)
    driver.decide()
    assert len(driver.facts(records.RoundEvaluated)[0].missing) == 6000 and driver.phase is Phase.ENDED


@pytest.mark.parametrize("make", [training, closing, evaluating])
def test_a_stop_is_one_entry(make):
    """Whatever else would become true, the end comes first and nothing follows it."""
    driver = make()
    driver.verdict("a")
    driver.stop()
    assert driver.kinds() == ["SessionEnded"] and driver.phase is Phase.ENDED
    assert isinstance(driver.facts()[-1], records.SessionEnded)
