"""A secured federation behind a broker that makes things up: it is not believed, and the others go on."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import numpy as np

from fedbus.access.envelopes import signed_by
from fedbus.bus.base import Message
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.client.app import ClientApp, Evaluation, Update
from fedbus.client.client import Client
from fedbus.combiner.service import Combiner
from fedbus.config.session import SessionConfig
from fedbus.coordinator.believing import Believing
from fedbus.coordinator.hearing import SLICE_BYTES, Hearing
from fedbus.coordinator.inbox import Inbox
from fedbus.coordinator.roster import Roster
from fedbus.coordinator.service import Coordinator
from fedbus.exchange.station import Station
from fedbus.federation.service import Federation
from fedbus.messages import records
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Hello
from fedbus.messages.reports import Evaluated, ModelStored
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Evaluate, Task
from fedbus.store.spool import Memory
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.testing.members import Workspace
from fedbus.workers import Inline

OURS = Subjects("default")
MODEL = {"w": np.zeros(4, np.float32)}
SEEN = {"rounds": 1, "evaluate_every": 1, "evaluate_deadline_s": 20.0, "round_deadline_s": 20.0}


class Liar(MemoryBus):
    """A place at a broker that says something else; ``twist`` makes it of a body, None takes the signature away."""

    def __init__(self, broker, name, kind, twist):
        super().__init__(broker, name)
        self.kind, self.twist, self.twisted = kind, twist, []

    def other(self, subject, data):
        """What is said instead."""
        envelope = decode(data, subject)
        if not isinstance(envelope.body, self.kind):
            return data
        if self.twist is None:
            self.twisted.append(envelope.body)
            return encode(replace(envelope, signed=None))
        body = self.twist(envelope.body)
        if body == envelope.body:
            return data
        self.twisted.append(body)
        bare = decode(encode(replace(envelope, body=body, signed=None)), subject)
        signed = envelope.signed._replace(said=encode(bare).partition(b"\xa4body")[2])
        return encode(replace(envelope, body=body, signed=signed))

    async def publish(self, subject, data, headers=None):
        """Hand on what is said instead."""
        is_report = subject.split(".")[2] == "report"
        await super().publish(subject, self.other(subject, bytes(data)) if is_report else data, headers)

    async def append(self, stream, subject, data, **how):
        """Put there what is said instead."""
        on_board = subject.split(".")[2] == "task"
        return await super().append(stream, subject, self.other(subject, bytes(data)) if on_board else data, **how)


def app_of(calls, name):
    """An app that writes down what it is asked."""
    app = ClientApp()

    @app.train
    def train(model, task):
        calls.append((name, "train", dict(task.config)))
        return Update({"w": model["w"] + 1}, 1.0)

    @app.evaluate
    def evaluate(model, task):
        calls.append((name, "evaluate", dict(task.config)))
        return Evaluation(1.0, {"loss": 0.5})

    return app


async def federated(names, *, coordinator=None, combiner=None, clients=(), **config):
    """Run a session of a secured federation; buses by name where they are liars'. Returns records, calls, hellos."""
    members, broker, clock, calls, hellos = Workspace("default"), MemoryBroker(), VirtualClock(), [], []
    liars = {key: make(broker) for key, make in dict(clients).items()}
    signer = members.signing("engineer", "eve").signer
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(MemoryBus(broker, "eve"))
        federation = await stack.enter_async_context(
            Federation(bus, workers=Inline(), name="eve", signer=signer, clock=clock)
        )
        await ensure_streams(bus, OURS)

        async def hear():
            async for message in await bus.subscribe(OURS.presence()):
                name = message.subject.split(".")[-1]
                hellos.append((name, decode(message.data, "presence").body))

        async def take_part(name):
            at = liars.get(name) or MemoryBus(broker, name)
            client = Client(at, app_of(calls, name), name=name, clock=clock, workers=Inline(), incarnation=f"{name}-1")
            client._setup = replace(client._setup, signing=replace(members.signing("client", name), seal=None))
            async with client:
                await client.run()

        common = {"workspace": "default", "clock": clock, "workers": Inline()}
        works = [
            Coordinator(
                coordinator(broker) if coordinator else MemoryBus(broker, "co"),
                name="co", incarnation="co-1", signing=replace(members.signing("coordinator", "co"), seal=None),
                **common,
            ).run(),
            Combiner(
                combiner(broker) if combiner else MemoryBus(broker, "k0"),
                name="k0", incarnation="k0-1", make_spool=lambda _: Memory(),
                signing=replace(members.signing("combiner", "k0"), seal=None), **common,
            ).run(),
            hear(),
            *map(take_part, names),
        ]  # fmt: skip
        tasks = [asyncio.create_task(work) for work in works]
        settings = SessionConfig(**{**SEEN, **config}, clients_min=len(names), quorum=1)
        session = await federation.start_session(settings, model=MODEL, name="s")
        found = [event.data async for event in session.events()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[-1], records.SessionEnded)
    return found, calls, hellos


def of(kind, found):
    """Records of a kind."""
    return [one for one in found if isinstance(one, kind)]


def test_metrics_that_a_broker_makes_up_do_not_count(caplog):
    """Changed on the way, not signed, or as they were said: only the last count; of those not signed it is told why."""
    clients = {
        "bent": lambda broker: Liar(
            broker, "bent", Evaluated, lambda body: body.model_copy(update={"metrics": {"loss": 9.0}})
        ),
        "old": lambda broker: Liar(broker, "old", Evaluated, None),
    }
    found, _, _ = run_virtual(federated(["good", "bent", "old"], clients=clients))
    (evaluated,) = of(records.RoundEvaluated, found)
    assert evaluated.metrics == {"loss": 0.5} and evaluated.answered == 1
    assert "report does not count: it is not signed" in evaluated.missing["old"]
    assert "fedbus join TOKEN" in evaluated.missing["old"]
    assert evaluated.missing["bent"] == "no answer within 20 s"
    assert "Evaluated of session s, round 1: its signature is not one, by the key of its sender" in caplog.text
    assert of(records.SessionEnded, found)[0].outcome == "completed"


def test_a_model_that_a_broker_makes_up_is_not_published():
    """A combiner's word of another model is passed over, and said again; what is published is what it has made."""
    made = []

    def once(body):
        made.append(body)
        return body.model_copy(update={"blob": "elsewhere", "digest": "0" * 64}) if len(made) == 1 else body

    found, _, _ = run_virtual(
        federated(["a"], combiner=lambda broker: Liar(broker, "k0", ModelStored, once), evaluate_every=0)
    )
    published = of(records.ModelPublished, found)
    assert len(made) >= 2
    assert [one.blob for one in published][-1] == made[0].blob and made[0].blob != "elsewhere"


def test_what_a_broker_asks_in_a_coordinators_name_is_not_done():
    """Another configuration, or a question about data, is passed over; a client says so, and the others are done."""

    def twist(body):
        if body.train is not None:
            return body.model_copy(update={"train": body.train.model_copy(update={"config": {"noise": 0}})})
        if body.evaluate is not None:
            asked = Evaluate.model_validate(body.evaluate.model_dump() | {"queries": ({"kind": "count"},)})
            return body.model_copy(update={"evaluate": asked})
        return body

    class OfOne(Liar):
        def other(self, subject, data):
            return super().other(subject, data) if subject.split(".")[3] == "b" else data

    liar = []

    def lying(broker):
        liar.append(OfOne(broker, "co", Task, twist))
        return liar[0]

    found, calls, hellos = run_virtual(federated(["a", "b"], coordinator=lying, train_config={"noise": 1}))
    assert {name for name, *_ in calls} == {"a"} and all(config == {"noise": 1} for _, _, config in calls)
    assert len(liar[0].twisted) >= 2
    said = {hello.doing for name, hello in hellos if name == "b" and isinstance(hello, Hello)}
    assert "passes over tasks that its workspace has not signed" in said
    assert of(records.SessionEnded, found)[0].outcome == "completed"


def test_what_a_standby_has_kept_is_taken_once_and_others_go_on_meanwhile():
    """What was said again is kept once; who takes over verifies it in slices, as the lease has to be renewed."""

    async def all_of(messages):
        for message in messages:
            yield message

    async def main():
        workspace, clock = Workspace("default"), VirtualClock()
        bus = MemoryBus(MemoryBroker(), "co")
        station = Station(bus, "default", Peer("coordinator", "co"), "co-1", clock, heartbeat_s=2.0)
        verifier = workspace.signing("coordinator", "co").verifier
        leads, inbox, refused, turns = [], Inbox(), [], []
        hearing = Hearing(
            station, Roster(), inbox, None, leads=lambda: bool(leads),
            may_start=bool, may_stop=bool, rival=None, deeds=None,
            believing=Believing(station, verifier, refused.append),
        )  # fmt: skip
        sender = Peer("client", "a")
        signer, subject = workspace.signing(*sender).signer, OURS.report(sender)
        bodies = [
            Evaluated(session="s", round=1 + n, version="v", weight=1.0, metrics={}, fetched=0) for n in range(300)
        ]
        envelopes = [Envelope(f"r{body.round}", "default", "a", body) for body in bodies]
        said = [Message(subject, encode(signed_by(signer, subject, envelope))) for envelope in envelopes]
        await hearing.reports(all_of(said * 3))

        async def renew():
            while True:
                turns.append(len(inbox))
                await asyncio.sleep(0)

        leads.append(True)
        renews = asyncio.create_task(renew())
        await hearing.take_kept()
        renews.cancel()
        assert len(inbox) == len(said) and not refused
        assert len(set(turns)) >= sum(len(message.data) for message in said) // SLICE_BYTES >= 3

    run_virtual(main())
