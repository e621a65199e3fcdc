"""What an owner decides, and how that is kept: judged by tasks, without a bus."""

from __future__ import annotations

import asyncio
import json
import stat
import threading

import pytest

from fedbus.client import owner as owners
from fedbus.client.cards import Card, card_of
from fedbus.client.decisions import Decisions
from fedbus.client.owner import CONSENT_S, LEFT, NOT_YET, Owner, Wishes
from fedbus.client.policyfile import PolicyFile
from fedbus.config.policy import Policy, parse
from fedbus.errors import ConfigError
from fedbus.messages.tasks import Evaluate, SessionCard, Task, Train

CARD = SessionCard(
    purpose="research", by="eve", strategy="fedavg", codec="none", rounds=3, version="s-0", nbytes=100, clients_min=2,
    updates_min=2, answers_min=1, reveal="clients", residency="prefer",
)  # fmt: skip
TRAIN = Train(round=1, attempt=1, version="s-0", blob="b", combiner="k", seed=1, deadline_at=9.0, weight_max=9.0)
EVALUATE = Evaluate(round=1, version="s-0", blob="b", seed=1, deadline_at=9.0)
TASK = Task(session="s", revision=1, state="train", train=TRAIN, card=CARD)
NOON = 1_772_625_600.0


class FakeClock:
    """Time that a test moves."""

    def __init__(self):
        self.time = NOON

    def now(self):
        """Seconds since the epoch."""
        return self.time


@pytest.fixture
def clock():
    """Noon of a day."""
    return FakeClock()


def of(clock, **wishes):
    """An owner who has opened what there was."""
    owner = Owner(Wishes(**wishes), "clinic", clock)
    owner.open()
    return owner


def test_who_has_said_nothing_accepts_all_and_has_no_digest(clock):
    """As before there were owners; the card is known all the same."""
    owner = of(clock)
    assert owner.judge(TASK).allowed and owner.digest == "" and owner.cards["s"].purpose == "research"
    assert owner.judge(Task(session="s", revision=2, state="rest")).allowed


def test_what_is_left_stays_left_over_a_restart_and_until_the_session_ends(clock, tmp_path):
    """It stands in the state directory, for the owner alone; another session of that name is another question."""
    owner = of(clock, directory=tmp_path / "state")
    owner.leave("s")
    owner.pause()
    again = of(clock, directory=tmp_path / "state")
    assert again.paused and again.judge(TASK).silent, "paused: nobody is told anything"
    again.resume()
    assert again.judge(TASK).reason == LEFT and not again.judge(TASK).silent
    assert again.digest == of(clock, directory=tmp_path / "state").digest != ""
    assert stat.S_IMODE((tmp_path / "state" / "owner.json").stat().st_mode) == 0o600
    again.ended("s")
    assert again.judge(TASK).allowed and again.digest == ""


def test_a_resumed_session_is_taken_part_in_again(clock):
    """Of one that was left; a pause holds on."""
    owner = of(clock)
    owner.leave("s")
    owner.pause()
    owner.resume("s")
    assert owner.paused and not owner.has_left("s")


@pytest.mark.parametrize("text", ["{", "[]", '{"paused": true}', '{"paused": false, "left": {}, "shown": {"s": {}}}'])
def test_decisions_that_cannot_be_read_let_nothing_run(clock, tmp_path, text):
    """Nobody guesses what an owner has decided."""
    (tmp_path / "owner.json").write_text(text)
    with pytest.raises(ConfigError, match="what its owner decided cannot be read"):
        of(clock, directory=tmp_path)


def test_a_policy_and_its_limits_are_asked(clock, tmp_path):
    """The reason and the time are those of the policy; what was used is known to the next process."""
    policy = parse("[limits]\nrounds_per_day = 1\nbytes_up_per_day = 250", "p")
    owner = of(clock, policy=policy, directory=tmp_path)
    assert owner.judge(TASK).allowed
    owner.spend(begun=("s", 1), up=100)
    assert owner.judge(TASK).allowed, "the round that is begun goes on"
    other = TASK.model_copy(update={"session": "t"})
    found = owner.judge(other)
    assert not found.allowed and "rounds a day" in found.reason and found.until_at == NOON + 43_200
    again = of(clock, policy=policy, directory=tmp_path)
    assert not again.judge(other).allowed
    clock.time += 43_200
    assert again.judge(other).allowed


def test_evaluations_and_questions_are_judged_as_such(clock):
    """By the task: a session that trains may ask for either too."""
    owner = of(clock, policy=parse("[tasks]\nevaluate = false\n[privacy]\ncohort_min = 2", "p"))
    assert owner.judge(TASK).allowed
    asked = Task(session="s", revision=2, state="evaluate", evaluate=EVALUATE, card=CARD)
    assert "does not let it train" not in owner.judge(asked).reason and not owner.judge(asked).allowed
    query = EVALUATE.model_copy(update={"queries": ({"column": "age"},)})
    assert "answers may be kept of 1 clients" in owner.judge(asked.model_copy(update={"evaluate": query})).reason


async def test_a_card_is_shown_once_and_waited_for_a_while(clock):
    """Silent at first, then declined for now; the answer changes the digest, and holds for the same question."""
    cards, answer = [], asyncio.Event()

    async def on_card(card):
        cards.append(card)
        await answer.wait()
        return True

    owner = of(clock, on_card=on_card)
    changed = asyncio.Event()
    owner.changed = changed.set
    before = owner.digest
    running = asyncio.create_task(owner.run())
    first = owner.judge(TASK)
    assert (first.allowed, first.reason, first.silent) == (False, NOT_YET, True)
    clock.time += CONSENT_S + 1
    assert not owner.judge(TASK).silent
    answer.set()
    await asyncio.wait_for(changed.wait(), 5)
    assert owner.judge(TASK).allowed and owner.digest != before != ""
    later = CARD.model_copy(update={"version": "s-7"})
    assert owner.judge(TASK.model_copy(update={"card": later})).allowed and len(cards) == 1, "a model goes on"
    other = CARD.model_copy(update={"purpose": "ads"})
    assert owner.judge(TASK.model_copy(update={"card": other})).reason == NOT_YET
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (False, "its owner has not agreed to it"),
        ("ask my lawyer", "ask my lawyer"),
        (None, "has not agreed"),
        (1, "not"),
    ],
)
async def test_only_a_yes_is_a_yes(clock, answer, reason):
    """Anything but True is none; a plain function is called in a thread; its own words are told."""
    owner = of(clock, on_card=lambda card: answer)
    changed = asyncio.Event()
    owner.changed = changed.set
    running = asyncio.create_task(owner.run())
    owner.judge(TASK)
    await asyncio.wait_for(changed.wait(), 5)
    found = owner.judge(TASK)
    assert not found.allowed and reason in found.reason and not found.silent
    running.cancel()
    await asyncio.wait([running])


async def test_a_function_that_raises_says_no(clock, caplog):
    """The session is not joined; the error stays here."""

    def on_card(card):
        raise RuntimeError("patient 4711")

    owner = of(clock, on_card=on_card)
    changed = asyncio.Event()
    owner.changed = changed.set
    running = asyncio.create_task(owner.run())
    owner.judge(TASK)
    await asyncio.wait_for(changed.wait(), 5)
    assert "4711" not in owner.judge(TASK).reason and not owner.judge(TASK).allowed
    running.cancel()
    await asyncio.wait([running])


def test_the_policy_comes_before_the_card(clock):
    """Nobody is asked about what is not allowed anyway."""
    owner = of(clock, policy=parse("[tasks]\ntrain = false", "p"), on_card=lambda card: pytest.fail("asked"))
    assert "does not let it train" in owner.judge(TASK).reason


def test_cards_that_are_remembered_are_bounded(clock, monkeypatch):
    """The oldest go."""
    monkeypatch.setattr(owners, "CARDS_MAX", 3)
    owner = of(clock)
    for number in range(9):
        owner.judge(TASK.model_copy(update={"session": f"s-{number}"}))
        owner.leave(f"s-{number}")
    assert list(owner.cards) == ["s-6", "s-7", "s-8"] and owner.status()["left"] == ["s-6", "s-7", "s-8"]


def test_a_card_is_one_of_printable_lines():
    """What a stranger wrote does not move a cursor, nor begin a line of its own."""
    told = CARD.model_copy(update={"purpose": "a\x1b[2Jb", "description": "x\npurpose    research", "by": "\u202eeve"})
    text = card_of("clinic", TASK.model_copy(update={"card": told})).text()
    assert "\x1b" not in text and "\u202e" not in text and text.count("\n") == len(text.splitlines()) - 1 == 9
    assert "does not say what it is" in Card("s", "w", known=False).text()


# --- the policy's file ---


def test_a_file_that_changes_is_taken_anew_and_a_wrong_one_is_not(tmp_path, caplog):
    """In place or by a rename; one that is not valid, or gone, leaves the last good one in force, loudly."""
    path = tmp_path / "policy.toml"
    path.write_text("[tasks]\nquery = false")
    file = PolicyFile.of(path)
    first = file.digest
    assert not file.policy.tasks.query and not file.look()
    path.write_text("[tasks]\nquery = maybe")
    assert not file.look() and not file.policy.tasks.query and "THE ONE BEFORE HOLDS" in caplog.text
    path.unlink()
    assert not file.look() and not file.policy.tasks.query
    new = tmp_path / "new"
    new.write_text("[tasks]\nevaluate = false  # and no more")
    new.replace(path)
    assert file.look() and file.policy.tasks.query and not file.policy.tasks.evaluate and file.digest != first
    path.write_text("# a comment\n[tasks]\nevaluate = false\n")
    assert not file.look(), "it says the same"


def test_a_file_that_cannot_be_at_first_is_an_error(tmp_path):
    """Nothing runs by a guess; a policy that is one needs no file."""
    with pytest.raises(ConfigError, match="No such file"):
        PolicyFile.of(tmp_path / "none.toml")
    (tmp_path / "p").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected UTF-8"):
        PolicyFile.of(tmp_path / "p")
    assert PolicyFile.of(Policy()).policy == Policy()


def test_a_disk_that_is_full_costs_the_memory_of_a_decision_not_the_decision(clock, tmp_path, caplog):
    """It holds for this process, and the log says that it is not kept."""
    (tmp_path / "owner.json.part").mkdir()
    owner = of(clock, directory=tmp_path)
    owner.pause()
    assert owner.paused and "is not kept" in caplog.text and not Decisions.read(tmp_path).paused


def test_what_is_kept_is_json(clock, tmp_path):
    """Other programs may read it."""
    owner = of(clock, directory=tmp_path, policy=Policy())
    owner.judge(TASK)
    owner.spend(up=5, begun=("s", 1))
    owner.close()
    told = json.loads((tmp_path / "owner.json").read_text())
    assert told["shown"]["s"]["decision"] == "accepted" and told["spent"]["rounds"] == [["s", 1]]


def test_an_owner_who_never_answers_holds_up_no_end(clock):
    """A plain function that waits for somebody: the loop ends all the same, and the thread with the process."""
    entered, answered = threading.Event(), threading.Event()

    def on_card(card):
        entered.set()
        return answered.wait(10)

    async def main():
        owner = of(clock, on_card=on_card)
        running = asyncio.create_task(owner.run())
        assert owner.judge(TASK).reason == NOT_YET
        await asyncio.to_thread(entered.wait, 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    timer = threading.Timer(8, answered.set)
    timer.start()
    asyncio.run(main())
    assert entered.is_set() and not answered.is_set()
    timer.cancel()
    answered.set()
