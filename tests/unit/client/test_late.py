"""Updates that come too late for their round: kept or made to the end, sent for a later one, and never counted twice.

The stories are told by a coordinator in short, which knows what the app was asked and what it has counted.
"""

from __future__ import annotations

import random

import pytest

from fedbus.client.events import (
    Foreign,
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


def train(round_, attempt=1, combiner="k0", stale_max=1):
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
        stale_max=stale_max,
        stale_weight=0.5,
    )


def evaluate(round_):
    """What to measure."""
    return Evaluate(round=round_, version=f"s-{round_}", blob="b", seed=1, deadline_at=9.0)


def late(round_, settled=0):
    """A receipt that says so; what was made for ``settled``, or before, never counts."""
    return Receipt(round=round_, counted=False, reason="too late", late=True, settled=settled)


class Story:
    """A machine that is told one thing after the other."""

    def __init__(self, **fields):
        self.machine = Machine("s", **fields)
        self.revision = 0

    def task(self, wanted=None, receipt=None, state="rest"):
        """A task; returns the effects."""
        self.revision += 1
        fields = {}
        if isinstance(wanted, Train):
            state, fields = "train", {"train": wanted}
        if isinstance(wanted, Evaluate):
            state, fields = "evaluate", {"evaluate": wanted}
        seen = Task(session="s", revision=self.revision, state=state, receipt=receipt, **fields)
        return self.tell(TaskSeen(seen))

    def tell(self, event):
        """Something happens; returns the effects."""
        effects = self.machine.handle(event)
        self.machine.check()
        return effects


@pytest.fixture
def training():
    """A client that trains for round 1."""
    story = Story()
    assert story.task(train(1)) == [StartTraining(train(1), 1)]
    return story


@pytest.fixture
def sending(training):
    """A client that sends its update of round 1."""
    assert training.tell(Trained(1, 1)) == [StartSending(train(1))]
    return training


def test_a_late_training_goes_on_and_is_sent_for_the_next_round(training):
    """Through the rest between the rounds; nothing is trained for the next one."""
    assert training.task(receipt=late(1)) == [] and training.machine.phase is Phase.TRAINING
    assert training.task(train(2), late(1)) == []
    assert training.tell(Trained(1, 1)) == [StartSending(train(2))]
    assert training.tell(Settled(2, 1, accepted=True, reason="")) == []
    assert training.task(receipt=Receipt(round=2, counted=True)) == [Release(1, counted=True, reason="")]


def test_a_late_training_that_ends_between_rounds_is_held(training):
    """And sent when the next one opens."""
    training.task(receipt=late(1))
    assert training.tell(Trained(1, 1)) == [] and training.machine.held == 1
    assert training.task(train(2), late(1)) == [StartSending(train(2))]


def test_without_the_receipt_saying_so_a_training_ends_as_ever(training):
    """Dropped updates, and rounds that failed: rest stops it, and the next round is trained for."""
    assert training.task(receipt=Receipt(round=1, counted=False, reason="too late")) == [StopWork()]
    assert training.task(train(2)) == [StartTraining(train(2), 2)]


def test_a_late_upload_stops_and_what_was_sent_is_sent_for_the_next_round(sending):
    """The combiner of the closed round takes no more of it."""
    assert sending.task(receipt=late(1)) == [StopSending()] and sending.machine.held == 1
    assert sending.task(train(2, combiner="k1"), late(1)) == [StartSending(train(2, combiner="k1"))]


def test_both_in_one_task(sending):
    """A round that opens with the closing of the last."""
    assert sending.task(train(2), late(1)) == [StopSending(), StartSending(train(2))]


def test_an_accepted_update_whose_verdict_was_lost_is_late_too(sending):
    """The combiner took it, the coordinator never heard of it: it counts nowhere, and is offered again."""
    sending.tell(Settled(1, 1, accepted=True, reason=""))
    assert sending.task(receipt=late(1)) == [] and sending.machine.phase is Phase.IDLE
    assert sending.task(train(2), late(1)) == [StartSending(train(2))]


@pytest.mark.parametrize(("round_", "stale_max"), [(2, 0), (3, 1), (9, 7)])
def test_what_is_too_old_is_forgotten_and_the_round_trained_for(sending, round_, stale_max):
    """At the task that would not take it, held or still in the making."""
    wanted = train(round_, stale_max=stale_max)
    sending.task(receipt=late(1))
    why = "a later round has begun"
    released = Release(1, counted=False, reason=why, lost=True)
    assert sending.task(wanted, late(1)) == [released, StartTraining(wanted, 2)]


def test_a_late_training_that_is_too_old_by_now_is_stopped(training):
    """Nobody would take what it gives."""
    training.task(receipt=late(1))
    assert training.task(train(3, stale_max=1), late(1)) == [StopWork(), StartTraining(train(3), 2)]
    assert training.tell(Trained(1, 1)) == [
        Release(1, counted=False, reason="it was made for a round that is over", lost=True)
    ]


def test_it_may_miss_several_rounds(training):
    """Each of whose receipts says that it is late, for it was announced in none."""
    for round_ in range(2, 5):
        assert training.task(train(round_, stale_max=3), late(round_ - 1)) == []
    assert training.tell(Trained(1, 1)) == [StartSending(train(4, stale_max=3))]


def test_what_was_settled_while_nobody_heard_is_forgotten(sending):
    """It counted in round 1, and the client was away when that was said: the receipt of round 2 tells."""
    wanted, why = train(3, stale_max=5), "a later round is closed"
    assert sending.task(wanted, late(2, settled=1)) == [
        StopSending(),
        Release(1, counted=False, reason=why),
        StartTraining(wanted, 2),
    ]


def test_receipts_that_were_missed_harm_nothing(sending):
    """It never counted, though the client was away when that was said."""
    wanted = train(3, stale_max=5)
    assert sending.task(wanted, late(2)) == [StopSending(), StartSending(wanted)]


def test_a_round_that_closed_without_the_client_leaves_its_update_as_it_was(sending):
    """It was moved out of round 1 before that closed: no receipt covers the update, and it is not too old."""
    assert sending.task() == [StopSending()]
    assert sending.task(train(2)) == [StartSending(train(2))]


def test_a_stale_one_is_sent_again_where_the_round_is_opened_again(sending):
    """Another attempt, another combiner, and a round that failed: the same update, never a new one beside it."""
    sending.task(train(2), late(1))
    assert sending.task(train(2, attempt=2, combiner="k1"), late(1)) == [
        StopSending(),
        StartSending(train(2, attempt=2, combiner="k1")),
    ]
    assert sending.task(receipt=late(1)) == [StopSending()]
    assert sending.task(train(2, attempt=3), late(1)) == [StartSending(train(2, attempt=3))]
    sending.tell(Settled(2, 3, accepted=False, reason="no"))
    assert sending.task(train(2, attempt=3), late(1)) == []
    assert sending.task(train(2, attempt=4), late(1)) == [StartSending(train(2, attempt=4))]


def test_an_evaluation_waits_for_a_late_training(training):
    """It is begun when the training has ended, well or not, and once."""
    assert training.task(evaluate(1), late(1)) == [] and training.machine.phase is Phase.TRAINING
    assert training.task(evaluate(1), late(1)) == []
    assert training.tell(Trained(1, 1)) == [StartEvaluating(evaluate(1))] and training.machine.held == 1
    (report,) = training.tell(Measured(1, "s-1", 1.0, {}, 0))
    assert isinstance(report, Report)
    assert training.task(train(2), late(1)) == [StartSending(train(2))]


def test_an_evaluation_that_is_over_is_not_begun(training):
    """The next round opened before the training ended."""
    training.task(evaluate(1), late(1))
    training.task(train(2), late(1))
    assert training.tell(Trained(1, 1)) == [StartSending(train(2))]


def test_a_late_training_that_fails(training):
    """Between rounds nobody waits for the reason; in a round, that one is trained for; an evaluation begins."""
    training.task(receipt=late(1))
    assert training.tell(WorkFailed(1, "train", "no", 1)) == [] and training.machine.phase is Phase.IDLE
    assert training.task(train(2), late(1)) == [StartTraining(train(2), 2)]
    training.task(train(3), late(2))
    assert training.tell(WorkFailed(2, "train", "no", 2)) == [StartTraining(train(3), 3)]
    (report,) = training.tell(WorkFailed(3, "train", "no", 3))
    assert (report.body.round, report.body.attempt) == (3, 1)


def test_a_session_that_ends_ends_a_late_training_too(training):
    """And what is held."""
    training.task(receipt=late(1))
    assert training.task(state="ended", receipt=late(1)) == [StopWork()]


def test_what_a_former_process_made_is_sent_and_not_trained_again():
    """For its round, or for a later one that takes it; unless it was settled meanwhile."""
    assert Story(held=1).task(train(1)) == [StartSending(train(1))]
    assert Story(held=1).task(train(2), late(1)) == [StartSending(train(2))]
    covered = Story(held=1)
    assert covered.task(receipt=Receipt(round=1, counted=True)) == [Release(1, counted=True, reason="")]
    missed = Story(held=1).task(train(3, stale_max=9), late(2, settled=1))
    assert [type(effect) for effect in missed] == [Release, StartTraining]


def test_what_is_of_another_session_is_forgotten_and_the_round_trained_for():
    """Found out when it was to be sent."""
    story = Story(held=1)
    story.task(train(1))
    assert story.tell(Foreign(1, "of another model")) == [
        Release(1, counted=False, reason="of another model"),
        StartTraining(train(1), 1),
    ]
    assert story.tell(Foreign(1, "of another model")) == []


STALE_MAX = 2


class Coordinator:
    """One client's session as its coordinator sees it, and the client's machine with or without a state.

    An update is known by (life, work) of the training that made it. Tasks reach the machine when they are delivered.
    """

    def __init__(self, *, policy, state):
        self.policy = policy
        self.keeps = state
        self.saved = None
        self.lives = self.revision = self.closed = self.attempt = 0
        self.open = self.evaluation = self.receipt = None
        self.verdict = None
        self.counted = {}
        self.announced = {}
        self.made = {}
        self.told = None
        self.stale = self.settled = 0
        self.live()

    def live(self):
        """A process begins, with what the state has."""
        self.lives += 1
        saved = self.saved if self.keeps else None
        self.machine = Machine("s") if saved is None else Machine("s", held=saved[0])
        self.held = None if saved is None else saved[1]
        self.making = self.sending = None
        self.measuring = False
        self.receipt_seen = None

    def feed(self, event):
        """The machine is told, its effects are looked at, and the state has what it is to have."""
        effects = self.machine.handle(event)
        self.machine.check()
        self.let_go = None
        for effect in effects:
            self.look(effect)
        assert (self.held is None) == (self.machine.held is None)
        self.saved = None if self.held is None else (self.machine.held, self.held)

    def look(self, effect):
        """What must hold of an effect."""
        match effect:
            case StartTraining(wanted, work):
                assert self.told.train == wanted and self.held is None and self.making is None
                lost = not self.keeps and self.lives > 1
                assert lost or wanted.round not in self.made, "trained for a round for which there was an update"
                assert self.let_go is None or not self.may_yet_count(self.let_go), "a late update was given up"
                self.making = wanted.round, (self.lives, work)
            case StopWork():
                assert self.making or self.measuring
                assert self.making is None or not self.may_yet_count(self.making[0]), "a late training was given up"
                self.making, self.measuring = None, False
            case StartEvaluating():
                assert self.making is None and not self.measuring
                self.measuring = True
            case StartSending(wanted):
                assert self.held is not None and self.sending is None
                old = wanted.round - self.machine.held
                self.stale += old > 0
                assert 0 <= old <= (STALE_MAX if self.policy else 0)
                self.announced.setdefault(wanted.round, set()).add(self.held)
                assert len(self.announced[wanted.round]) == 1 or not self.keeps, "a fresh and a stale one for one round"
                receipt = self.told.receipt
                settled = receipt.settled if receipt and receipt.late else receipt.round if receipt else 0
                assert self.machine.held > settled, "announced though it is settled"
                self.sending = wanted
            case StopSending():
                assert self.sending is not None
                self.sending = None
            case Release():
                self.held, self.let_go = None, effect.round
            case Report():
                pass

    def may_yet_count(self, round_):
        """Whether the task says that an update which is being made for a round is late and wanted."""
        told, receipt = self.told, self.told.receipt
        if receipt is None or not receipt.late or not receipt.settled < round_ <= receipt.round:
            return False
        return told.train is None or told.train.round - round_ <= STALE_MAX

    # --- what happens ---

    def op_open(self):
        """A round opens, with the client or without it."""
        if self.open is None and self.evaluation is None:
            self.attempt += 1
            self.open, self.verdict = self.closed + 1, None

    def op_open_without(self):
        """A round in which others take part opens and closes."""
        if self.open is None and self.evaluation is None:
            self.closed, self.attempt = self.closed + 1, 0

    def op_move(self):
        """The combiner is lost, and with it what it had."""
        if self.open is not None:
            self.attempt += 1
            self.verdict = None

    def op_fail(self):
        """The round comes to nothing."""
        if self.open is not None:
            self.open = None

    def op_close(self):
        """The round is closed: what was accepted counts, for what was not refused the policy says what becomes."""
        if self.open is None:
            return
        if self.verdict and self.verdict[0]:
            update = self.verdict[1]
            assert update not in self.counted, "an update counts twice"
            self.counted[update] = self.open
            self.receipt = Receipt(round=self.open, counted=True)
        else:
            is_late = self.policy and self.verdict is None
            settled = self.settled if is_late else 0
            self.receipt = Receipt(round=self.open, counted=False, reason="no", late=is_late, settled=settled)
        if not self.receipt.late:
            self.settled = self.open
        self.closed, self.open, self.attempt = self.open, None, 0

    def op_evaluate(self):
        """The newest model is to be measured, or that is over."""
        if self.open is None and self.closed:
            self.evaluation = None if self.evaluation else evaluate(self.closed)

    def op_deliver(self):
        """The client sees what it is to do now."""
        self.revision += 1
        fields = {"state": "rest"}
        if self.open is not None:
            wanted = train(self.open, self.attempt, f"k{self.attempt}", STALE_MAX if self.policy else 0)
            fields = {"state": "train", "train": wanted}
        elif self.evaluation is not None:
            fields = {"state": "evaluate", "evaluate": self.evaluation}
        self.told = Task(session="s", revision=self.revision, receipt=self.receipt, **fields)
        self.feed(TaskSeen(self.told))

    def op_made(self):
        """Training ends."""
        if self.making is not None:
            (round_, update), self.making = self.making, None
            self.held, self.made[round_] = update, update
            self.feed(Trained(round_, update[1]))

    def op_made_and_die(self):
        """Training ends, the update is saved, and the process dies before it is told of."""
        if self.making is not None:
            (round_, update), self.making = self.making, None
            self.made[round_] = update
            self.saved = round_, update
            self.live()

    def op_raise(self):
        """Training fails."""
        if self.making is not None:
            (round_, update), self.making = self.making, None
            self.feed(WorkFailed(round_, "train", "no", update[1]))

    def op_accept(self):
        """The combiner takes what is sent, and the coordinator hears of it."""
        self.settle(accepted=True, heard=True)

    def op_accept_unheard(self):
        """The combiner takes what is sent, and its report is lost."""
        self.settle(accepted=True, heard=False)

    def op_refuse(self):
        """The combiner refuses what is sent."""
        self.settle(accepted=False, heard=True)

    def op_take(self):
        """The combiner takes what is sent and the coordinator hears of it, but the client does not."""
        sent = self.sending
        if sent is not None and (sent.round, sent.attempt) == (self.open, self.attempt) and self.verdict is None:
            self.record(accepted=True)

    def record(self, *, accepted):
        """The coordinator hears a verdict; what was made for a round that is settled, it refuses."""
        origin = self.machine.held
        self.verdict = accepted and (origin == self.open or origin > self.settled), self.held

    def settle(self, *, accepted, heard):
        """A verdict."""
        sent, known = self.sending, self.verdict
        if sent is None or (sent.round, sent.attempt) != (self.open, self.attempt):
            return
        if known is None and heard:
            self.record(accepted=accepted)
        self.sending = None
        self.feed(Settled(sent.round, sent.attempt, known[0] if known else accepted, ""))

    def op_measured(self):
        """An evaluation ends."""
        if self.measuring:
            self.measuring = False
            asked = self.machine.evaluate
            self.feed(Measured(asked.round, asked.version, 1.0, {}, 0))

    def op_die(self):
        """The process is killed, and the next one begins."""
        self.live()


def weights(rng):
    """How likely each thing is in a story: some are quiet, in some everything goes wrong."""
    usual = {"op_deliver": 12, "op_open": 6, "op_close": 2, "op_made": 5, "op_accept": 5}
    names = [name for name in vars(Coordinator) if name.startswith("op_")]
    return names, [usual.get(name, 0) + rng.choice([0, 0, 0, 0.3, 1]) for name in names]


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("policy", [True, False])
def test_no_story_trains_for_nothing_or_counts_twice(policy, state):
    """Whatever is lost, moved, killed or too late, with each policy, with a state and without, in 400 stories."""
    stale = counted = 0
    for seed in range(400):
        rng = random.Random(seed)
        world = Coordinator(policy=policy, state=state)
        names, odds = weights(rng)
        for name in rng.choices(names, odds, k=250):
            getattr(world, name)()
        stale += world.stale
        counted += len(world.counted)
    assert counted > 1000 and (stale > 1000) == policy, "the stories prove nothing"
