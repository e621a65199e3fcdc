"""Many clients in one process, over the bus in memory: what is there once, and what is each client's own."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.client.app import ClientApp, Evaluation, Update
from fedbus.client.client import Client, Crowd
from fedbus.client.directory import Directory
from fedbus.client.service import REFRESH_S
from fedbus.client.shelf import Shelf
from fedbus.client.state import Memory
from fedbus.crash import Point
from fedbus.errors import ConfigError, NameTaken
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Bye, Hello, NameIsTaken
from fedbus.messages.reports import Evaluated, ReportTaken, TaskFailed
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Evaluate, Receipt, Task, Train
from fedbus.messages.uploads import UploadBegin, UploadState
from fedbus.store.models import ModelStore
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.workers import Inline

OURS = Subjects("default")
MODEL = {"w": np.arange(40_000, dtype=np.float32)}


def app_of_many():
    """Each client has a weight of its own; the one whose name ends in 3 has no data."""
    app = ClientApp()

    @app.train
    def train(model, task):
        number = int(task.client.split("-")[-1])
        if number % 10 == 3:
            raise ValueError(f"{task.client} has no data")
        return Update({"w": model["w"] + number}, 1.0 + number)

    @app.evaluate
    def evaluate(model, task):
        return Evaluation(1.0, {"number": float(task.client.split("-")[-1])})

    return app


class Operator:
    """The operator's side in short: posts tasks, accepts every update, keeps what was said."""

    def __init__(self):
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker, "operator")
        self.store = ModelStore(self.bus, OURS, Inline())
        self.presence = []
        self.begins = {}
        self.reports = {}
        self.running = []
        self.silent = False

    async def open(self):
        """Make the streams, store a model, listen."""
        await ensure_streams(self.bus, OURS)
        await self.store.put("b", MODEL)
        for pattern, take in (
            (OURS.presence(), self.take_presence),
            (OURS.up("k0"), self.take_begin),
            (OURS.chunks("k0"), self.take_chunk),
            (OURS.report(), self.take_report),
        ):
            self.running.append(asyncio.create_task(self._hear(await self.bus.subscribe(pattern), take)))

    async def _hear(self, subscription, take):
        async for message in subscription:
            await take(message)

    async def take_presence(self, message):
        """Somebody is there."""
        self.presence.append((message.subject, decode(message.data, message.subject).body))

    async def take_begin(self, message):
        """Somebody announces an update."""
        sender = OURS.sender(message.subject, "up", 3, 1)
        self.begins[sender.name] = begin = decode(message.data, message.subject).body
        assert isinstance(begin, UploadBegin)
        await self.tell(sender, begin, "pending")

    async def take_chunk(self, message):
        """The last chunk makes the update whole."""
        address = OURS.address(message.subject)
        begin = self.begins[address.sender.name]
        if address.chunk == begin.chunks - 1 and not self.silent:
            await self.tell(address.sender, begin, "accepted")

    async def tell(self, sender, begin, verdict):
        """Say how an upload stands."""
        state = UploadState(
            session=begin.session,
            round=begin.round,
            attempt=begin.attempt,
            next_chunk=0,
            credit=begin.chunks,
            resend=True,
            verdict=verdict,
        )
        await self.say(OURS.down(sender, "k0"), state)

    async def take_report(self, message):
        """A report is acknowledged to whoever made it."""
        envelope = decode(message.data, message.subject)
        sender = OURS.sender(message.subject, "report", 2, 0)
        self.reports.setdefault(sender, []).append(envelope.body)
        await self.say(OURS.ack(sender), ReportTaken(reports=(envelope.id,)))

    async def say(self, subject, body):
        """Send a plain message."""
        await self.bus.publish(subject, encode(Envelope("i", "default", "operator", body)))

    async def post(self, client, revision, *, receipt=0, session="s", evaluate=False, state=None, counted=True):
        """Put a task on the board."""
        task = self.task(revision, receipt=receipt, session=session, evaluate=evaluate, state=state, counted=counted)
        data = encode(Envelope("i", "default", "operator", task))
        await self.bus.append(OURS.stream("board"), OURS.task(client, session), data)

    @staticmethod
    def task(revision, *, receipt=0, session="s", evaluate=False, state=None, counted=True):
        """A task: to train in round ``revision``, or to evaluate."""
        fields = {"round": revision, "version": "s-0", "blob": "b", "seed": 1, "deadline_at": 9.0}
        train = Train(**fields, attempt=1, combiner="k0", weight_max=1000.0)
        return Task(
            session=session,
            revision=revision,
            state=state or ("evaluate" if evaluate else "train"),
            train=None if evaluate or state else train,
            evaluate=Evaluate(**fields) if evaluate else None,
            receipt=Receipt(round=receipt, counted=counted) if receipt else None,
        )


async def crowd(operator, count, app=None, **fields):
    """A crowd that takes part, and its task."""
    bus = MemoryBus(operator.broker, "crowd")
    made = Crowd(
        bus,
        app or app_of_many(),
        name="m",
        count=count,
        clock=VirtualClock(),
        workers=Inline(),
        incarnation="one",
        **fields,
    )

    async def live():
        async with made:
            await made.run()

    running = asyncio.create_task(live())
    await asyncio.sleep(1)
    operator.running.append(running)
    return made, running


def world(main):
    """Run a story with an operator's side."""

    async def run():
        operator = Operator()
        await operator.open()
        try:
            await main(operator)
            assert not any(task.done() for task in operator.running), "somebody ended by himself"
        finally:
            for task in operator.running:
                task.cancel()
            await asyncio.wait(operator.running)

    run_virtual(run())


def test_one_speaks_for_all_and_idle_clients_cost_no_task():
    """One Hello each heartbeat, of role crowd with its members; as many asyncio tasks for 1,000 clients as for one."""
    tasks = {}

    async def main(operator, count):
        await crowd(operator, count, attributes={"region": "north"}, first=count)
        tasks[count] = len(asyncio.all_tasks())
        await asyncio.sleep(60)
        subjects = {subject for subject, _ in operator.presence}
        assert subjects == {OURS.presence(Peer("crowd", f"m-{count}"))}
        hellos = [body for _, body in operator.presence]
        assert 12 <= len(hellos) <= 14
        assert {(hello.incarnation, hello.members, hello.first) for hello in hellos} == {("one", count, count)}
        assert hellos[0].attributes == {"region": "north"} and hellos[-1].doing == "idle"

    for count in (1, 1000):
        world(lambda operator, count=count: main(operator, count))
    assert tasks[1] == tasks[1000]


def test_leaving_says_bye_once():
    """The crowd leaves for all."""

    async def main(operator):
        _, running = await crowd(operator, 10)
        operator.running.remove(running)
        running.cancel()
        await asyncio.wait([running])
        await asyncio.sleep(1)
        assert [body for _, body in operator.presence if not isinstance(body, Hello)] == [Bye(incarnation="one")]

    world(main)


def test_each_client_trains_and_sends_as_itself_and_one_without_data_disturbs_nobody():
    """Updates, failures and evaluations go out under the name that was asked; acknowledged reports are not repeated."""

    async def main(operator):
        made, _ = await crowd(operator, 20)
        for name in made.clients:
            await operator.post(name, 1)
        await asyncio.sleep(60)
        assert sorted(operator.begins) == sorted(set(made.clients) - {"m-3", "m-13"})
        assert operator.begins["m-7"].weight == 8.0
        assert len({begin.digest for begin in operator.begins.values()}) == 18
        failed = {peer.name: bodies for peer, bodies in operator.reports.items()}
        assert sorted(failed) == ["m-13", "m-3"] and all(len(bodies) == 1 for bodies in failed.values())
        assert isinstance(failed["m-3"][0], TaskFailed) and failed["m-3"][0].reason == "ValueError: m-3 has no data"
        assert sum(begin.fetched for begin in operator.begins.values()) == MODEL["w"].nbytes, "fetched once for all"
        assert made.model.version == "s-0"
        operator.reports.clear()
        for name in made.clients:
            await operator.post(name, 2, evaluate=True)
        await asyncio.sleep(60)
        numbers = {peer.name: bodies[0].metrics["number"] for peer, bodies in operator.reports.items()}
        assert numbers == {name: float(name[2:]) for name in made.clients}
        assert all(len(bodies) == 1 and isinstance(bodies[0], Evaluated) for bodies in operator.reports.values())

    world(main)


def test_updates_are_kept_until_their_receipts_and_no_longer(monkeypatch):
    """What 25 clients hold of 160 KB each goes to the file beyond the bound, and its room is taken again each round."""
    monkeypatch.setattr("fedbus.client.service.MEMORY_BYTES_MAX", 1_000_000)
    shelves = []
    monkeypatch.setattr("fedbus.client.service.Shelf", lambda *bound: shelves.append(Shelf(*bound)) or shelves[-1])

    async def main(operator):
        made, _ = await crowd(operator, 25)
        clients = [name for name in made.clients if name not in ("m-3", "m-13", "m-23")]
        (shelf,) = shelves
        for round_ in (1, 2, 3):
            for name in clients:
                await operator.post(name, round_, receipt=round_ - 1)
            await asyncio.sleep(10)
            assert {begin.round for begin in operator.begins.values()} == {round_} and len(operator.begins) == 22
            assert (shelf.memory_bytes, shelf.file.nbytes) == (6 * 160_000, 16 * 160_000)
        for name in clients:
            await operator.post(name, 4, receipt=3, state="rest")
        await asyncio.sleep(10)
        assert shelf.memory_bytes == 0

    world(main)


def test_only_the_coordinator_gives_tasks():
    """A task that comes on a combiner's subject, or for somebody who is not of the crowd, is nobody's task."""

    async def main(operator):
        await crowd(operator, 2)
        await operator.say(OURS.down(Peer("client", "m-0"), "k9"), operator.task(1))
        await operator.say(OURS.ack(Peer("client", "m-0")), operator.task(1))
        await operator.say(OURS.task("m-5", "s"), operator.task(1))
        await asyncio.sleep(10)
        assert not operator.begins
        await operator.say(OURS.task("m-0", "s"), operator.task(1))
        await asyncio.sleep(10)
        assert list(operator.begins) == ["m-0"]

    world(main)


def test_what_stands_on_the_board_is_read_again_but_not_taken_twice(monkeypatch):
    """A task that was not heard is found on the board; one that stands there unchanged is not even decoded."""
    decoded = []
    monkeypatch.setattr("fedbus.exchange.station.BOARD_PATTERNS_MAX", 25)

    def count(data, origin):
        decoded.append(origin)
        return decode(data, origin)

    async def main(operator):
        made, _ = await crowd(operator, 60)
        for name in made.clients:
            await operator.post(name, 1, state="rest")
        await asyncio.sleep(2 * REFRESH_S * 1.5)
        monkeypatch.setattr("fedbus.exchange.station.decode", count)
        await asyncio.sleep(4 * REFRESH_S)
        assert [origin for origin in decoded if ".task." in origin] == []
        operator.broker.partition("crowd")
        await operator.post("m-59", 2)
        operator.broker.heal("crowd")
        await asyncio.sleep(10)
        assert list(operator.begins) == ["m-59"]
        assert set(decoded) & {OURS.task(name, "s") for name in made.clients} == {OURS.task("m-59", "s")}

    world(main)


def test_tasks_for_which_there_is_no_room_are_left_to_the_board(monkeypatch):
    """While too much waits no task is taken, nor taken for known: the board gives it when there is room."""

    async def main(operator):
        await crowd(operator, 5)
        monkeypatch.setattr("fedbus.client.inbox.TASKS_WAITING_MAX", -10)
        await operator.post("m-1", 1)
        await asyncio.sleep(4 * REFRESH_S)
        assert not operator.begins
        monkeypatch.setattr("fedbus.client.inbox.TASKS_WAITING_MAX", 0)
        await asyncio.sleep(2 * REFRESH_S)
        assert list(operator.begins) == ["m-1"]

    world(main)


def test_a_task_that_was_overtaken_does_not_begin_an_ended_session_anew():
    """Late by seconds it is of the past; a session of the same name a minute later is another one."""

    async def main(operator):
        trained = []
        app = ClientApp()

        @app.train
        def train(model, task):
            trained.append((task.client, task.session))
            return Update({"w": model["w"]}, 1.0)

        await crowd(operator, 2, app)
        for name in ("m-0", "m-1"):
            await operator.post(name, 1)
        await asyncio.sleep(1)
        for name in ("m-0", "m-1"):
            await operator.post(name, 2, state="ended")
        await asyncio.sleep(1)
        assert sorted(trained) == [("m-0", "s"), ("m-1", "s")]
        await operator.say(OURS.task("m-0", "s"), operator.task(1))
        await asyncio.sleep(1)
        assert len(trained) == 2
        await operator.post("m-0", 2, state="ended")  # the board, which took it too, says what it said
        await asyncio.sleep(65)
        await operator.post("m-1", 1)
        await asyncio.sleep(1)
        assert trained[2:] == [("m-1", "s")]

    world(main)


def test_a_session_that_is_restored_from_before_its_end_goes_on():
    """Its tasks are newer than its end: they are done at once, though the client knows that the session has ended."""

    async def main(operator):
        trained = []
        app = ClientApp()

        @app.train
        def train(model, task):
            trained.append(task.client)
            return Update({"w": model["w"]}, 1.0)

        await crowd(operator, 1, app)
        await operator.post("m-0", 1)
        await asyncio.sleep(1)
        await operator.post("m-0", 2, state="ended")
        await asyncio.sleep(1)
        await operator.post("m-0", 1_000_001)
        await asyncio.sleep(1)
        assert trained == ["m-0", "m-0"]

    world(main)


def test_what_a_crowd_does_can_be_seen():
    """Its heartbeat counts clients by what they do."""
    app = ClientApp()

    @app.train
    async def train(model, task):
        await asyncio.sleep(100)
        return Update(dict(model))

    async def main(operator):
        made, _ = await crowd(operator, 50, app)
        for name in made.clients[:30]:
            await operator.post(name, 1)
        await asyncio.sleep(20)
        assert operator.presence[-1][1].doing == "30 training for s"

    world(main)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"count": 0}, "count: expected 1 to 100000 clients"),
        ({"count": 100_001}, "count: expected 1 to 100000"),
        ({"count": 1, "first": -1}, "first: expected a number from 0"),
        ({"count": 1, "name": "a.b"}, "crowd name"),
        ({"count": 11, "name": "x" * 62}, "last client"),
        ({"count": 1, "app": ClientApp()}, "can do nothing"),
        ({"count": 1, "app": "app"}, "expected a fedbus.ClientApp, got str"),
    ],
)
def test_what_cannot_be_a_crowd_is_refused_at_once(fields, said):
    """Before anything is connected, with what was expected."""
    with pytest.raises(ConfigError, match=said):
        Crowd("nats://nowhere", **({"app": app_of_many(), "name": "m"} | fields))


def test_names_of_a_crowd():
    """Numbers go on from the first; a crowd that continues a series has a name of its own."""
    made = Crowd("nats://nowhere", app_of_many(), name="sim", count=3, first=500)
    assert (made.name, list(made.clients)) == ("sim-500", ["sim-500", "sim-501", "sim-502"])
    assert made.model is None


@pytest.mark.parametrize("kind", [Client, Crowd])
def test_who_has_not_entered_cannot_run(kind):
    """The error shows how it is done."""
    made = kind("nats://nowhere", app_of_many(), name="m", **({"count": 2} if kind is Crowd else {}))
    with pytest.raises(ConfigError, match=rf"async with fedbus.{kind.__name__}"):
        run_virtual(made.run())


async def leave(operator, running):
    """End a crowd as kill -9 would: it says nothing any more."""
    operator.running.remove(running)
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_a_crowd_that_returns_sends_what_it_had_made(kind, tmp_path):
    """With a state: each update as it was, not trained again, and one whose round was over meanwhile goes."""
    asked = []
    app = ClientApp()

    @app.train
    def train(model, task):
        asked.append((task.client, task.round))
        return Update({"w": model["w"] + len(asked)}, 1.0 + len(asked))

    state = Memory() if kind == "memory" else Directory(tmp_path)

    async def main(operator):
        operator.silent = True
        made, running = await crowd(operator, 2, app, state=state)
        for name in made.clients:
            await operator.post(name, 1)
        await asyncio.sleep(20)
        assert len(asked) == len(operator.begins) == 2
        before, operator.begins = operator.begins, {}
        await leave(operator, running)
        await operator.post("m-1", 2, receipt=1)
        operator.silent = False
        _, running = await crowd(operator, 2, app, state=state)
        await asyncio.sleep(20)
        assert asked[2:] == [("m-1", 2)]
        again = {name: begin for name, begin in operator.begins.items() if name != "m-1"}
        assert {name: (begin.digest, begin.weight, begin.round) for name, begin in again.items()} == {
            name: (begin.digest, begin.weight, 1) for name, begin in before.items() if name != "m-1"
        }
        for name in made.clients:
            await operator.post(name, 3, receipt=2, state="rest")
        await asyncio.sleep(5)
        await leave(operator, running)
        kept = state.open(Peer("crowd", "m"))
        assert not kept.found
        kept.close()

    world(main)


def counting(asked, *, waits=False):
    """An app that keeps how often each client has trained, and tells in training and evaluation what it was given."""
    app = ClientApp()

    def counted(task):
        assert not waits or not task.kept or not task.kept["count"].flags.writeable
        return {name: array.tolist() for name, array in task.kept.items()}

    async def train_later(model, task):
        return train_now(model, task)

    def train_now(model, task):
        asked.append((task.client, task.round, counted(task)))
        count = task.kept.get("count", np.zeros(1, np.int64)) + 1
        return Update({"w": model["w"]}, 1.0, keep={"count": count})

    app.train(train_later if waits else train_now)

    @app.evaluate
    def evaluate(model, task):
        asked.append((task.client, "measured", counted(task)))
        return Evaluation(1.0, {})

    return app


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", ["none", "memory", "directory"])
def test_what_a_client_keeps_it_has_in_the_next_round(kind, waits, tmp_path):
    """Each client its own, also in evaluation; another process has it where there is a state, none once it ended."""
    asked = []
    app = counting(asked, waits=waits)
    state = {"none": None, "memory": Memory(), "directory": Directory(tmp_path)}[kind]

    async def main(operator):
        made, running = await crowd(operator, 2, app, state=state)
        await operator.post("m-0", 1)
        await asyncio.sleep(5)
        for name in made.clients:
            await operator.post(name, 2, receipt=1)
        await asyncio.sleep(5)
        await operator.post("m-0", 3, receipt=2, evaluate=True)
        await asyncio.sleep(5)
        assert sorted(asked, key=str) == sorted(
            [("m-0", 1, {}), ("m-0", 2, {"count": [1]}), ("m-1", 2, {}), ("m-0", "measured", {"count": [2]})], key=str
        )
        await leave(operator, running)
        asked.clear()
        await operator.post("m-0", 4, receipt=3)
        _, running = await crowd(operator, 2, app, state=state)
        await asyncio.sleep(5)
        assert ("m-0", 4, {"count": [2]} if state else {}) in asked
        for name in made.clients:
            await operator.post(name, 5, state="ended")
        await asyncio.sleep(5)
        await leave(operator, running)
        asked.clear()
        _, running = await crowd(operator, 2, app, state=state)
        await operator.post("m-0", 1_000_006)
        await asyncio.sleep(5)
        assert asked == [("m-0", 1_000_006, {})]

    world(main)


@pytest.mark.parametrize("kind", ["none", "memory", "directory"])
def test_what_was_kept_with_an_update_that_did_not_count_is_forgotten_with_it(kind, tmp_path):
    """So it goes on from what was kept before, in the next process too; who missed the receipt keeps the newest."""
    asked = []
    state = {"none": None, "memory": Memory(), "directory": Directory(tmp_path)}[kind]

    async def main(operator):
        _, running = await crowd(operator, 1, counting(asked), state=state)
        await operator.post("m-0", 1)
        await asyncio.sleep(5)
        await operator.post("m-0", 2, receipt=1)
        await asyncio.sleep(5)
        await operator.post("m-0", 3, receipt=2, counted=False)
        await asyncio.sleep(5)
        await operator.post("m-0", 5, receipt=4, counted=False)
        await asyncio.sleep(5)
        await operator.post("m-0", 6, receipt=5, counted=False, state="rest")
        await asyncio.sleep(5)
        counts = [(round_, kept.get("count")) for _, round_, kept in asked]
        assert counts == [(1, None), (2, [1]), (3, [1]), (5, [2])]
        await leave(operator, running)
        if state is not None:
            kept = state.open(Peer("crowd", "m"))
            assert [keepsake.arrays()["count"].tolist() for keepsake in kept.keepsakes.values()] == [[2]]
            kept.close()

    world(main)


def test_what_was_kept_of_a_session_that_ended_meanwhile_is_forgotten(tmp_path):
    """The one who comes back is told so by the task that stands on the board."""
    state, asked = Directory(tmp_path), []

    async def main(operator):
        _, running = await crowd(operator, 1, counting(asked), state=state)
        await operator.post("m-0", 1)
        await asyncio.sleep(5)
        await operator.post("m-0", 2, receipt=1, state="rest")
        await asyncio.sleep(5)
        await leave(operator, running)
        kept = state.open(Peer("crowd", "m"))
        assert not kept.found and list(kept.keepsakes) == [("m-0", "s")]
        kept.close()
        await operator.post("m-0", 3, state="ended")
        _, running = await crowd(operator, 1, counting(asked), state=state)
        await asyncio.sleep(5)
        await leave(operator, running)
        kept = state.open(Peer("crowd", "m"))
        assert not kept.keepsakes
        kept.close()

    world(main)


def test_what_was_kept_of_another_session_of_the_name_is_forgotten(tmp_path):
    """The store was emptied, and the next session has another model: neither update nor what was kept is its own."""
    state, asked = Directory(tmp_path), []

    async def first(operator):
        operator.silent = True
        _, running = await crowd(operator, 1, counting(asked), state=state)
        await operator.post("m-0", 1)
        await asyncio.sleep(5)
        await leave(operator, running)

    async def second(operator):
        await operator.store.put("b", {"w": MODEL["w"] + 1})
        await crowd(operator, 1, counting(asked), state=state)
        await operator.post("m-0", 1)
        await asyncio.sleep(20)
        await operator.post("m-0", 2, receipt=1)
        await asyncio.sleep(5)

    world(first)
    world(second)
    assert asked == [("m-0", 1, {}), ("m-0", 1, {}), ("m-0", 2, {"count": [1]})]


class _Dead(BaseException):
    """The process is killed here."""


@pytest.mark.parametrize("point", [Point.UPDATE_MADE, Point.UPDATE_SAVED, Point.UPDATE_ANNOUNCED, Point.UPDATE_SENT])
def test_a_crash_leaves_both_the_update_and_what_is_kept_or_neither(point, tmp_path):
    """Killed at each point of an update's way, in its second round: what is kept counts the updates that were made."""
    state, asked, passed = Directory(tmp_path), [], []

    def die(at):
        passed.append(at)
        if at is point and passed.count(point) == 2:
            raise _Dead

    async def main(operator):
        _, running = await crowd(operator, 1, counting(asked), state=state, crash=die)
        await operator.post("m-0", 1)
        await asyncio.sleep(5)
        await operator.post("m-0", 2, receipt=1)
        operator.running.remove(running)
        with pytest.raises(BaseException) as died:
            await running
        assert isinstance(died.value, _Dead)
        kept = state.open(Peer("crowd", "m"))
        ((_, keepsake),) = kept.keepsakes.items()
        made = [one.held.round for one in kept.found]
        assert (keepsake.arrays()["count"].tolist(), made) == (([1], []) if point is Point.UPDATE_MADE else ([2], [2]))
        kept.close()
        asked.clear()
        await crowd(operator, 1, counting(asked), state=state)
        await asyncio.sleep(20)
        await operator.post("m-0", 3, receipt=2)
        await asyncio.sleep(5)
        again = [("m-0", 2, {"count": [1]})] if point is Point.UPDATE_MADE else []
        assert asked == [*again, ("m-0", 3, {"count": [2]})]

    world(main)


def test_without_a_state_it_trains_again():
    """As ever: what a process held is gone with it."""
    asked = []
    app = ClientApp()

    @app.train
    def train(model, task):
        asked.append(task.client)
        return Update(dict(model), 1.0)

    async def main(operator):
        _, running = await crowd(operator, 1, app)
        await operator.post("m-0", 1)
        await asyncio.sleep(5)
        await leave(operator, running)
        await crowd(operator, 1, app)
        await asyncio.sleep(5)
        assert asked == ["m-0", "m-0"]

    world(main)


def test_what_a_client_of_another_crowd_has_left_is_dropped(tmp_path):
    """A crowd of fewer clients, under the same name: who is not there any more sends nothing, and nobody keeps it."""
    state = Directory(tmp_path)

    async def main(operator):
        _, running = await crowd(operator, 3, state=state)
        for number in range(3):
            await operator.post(f"m-{number}", 1)
        await asyncio.sleep(5)
        await leave(operator, running)
        _, running = await crowd(operator, 2, state=state)
        await leave(operator, running)
        kept = state.open(Peer("crowd", "m"))
        assert sorted(one.client for one in kept.found) == ["m-0", "m-1"]
        kept.close()

    world(main)


def test_who_is_told_that_its_name_is_taken_ends():
    """With the reason; who is not meant goes on."""

    async def main(operator):
        _, running = await crowd(operator, 3)
        taken = OURS.ack(Peer("crowd", "m"))
        await operator.say(taken, NameIsTaken(incarnation="another", since_at=0.0))
        await asyncio.sleep(5)
        assert not running.done()
        await operator.say(taken, NameIsTaken(incarnation="one", since_at=0.0))
        operator.running.remove(running)
        with pytest.raises(NameTaken, match=r"crowd m: another process takes part .* stop one of the two"):
            await running
        await asyncio.sleep(1)
        assert any(isinstance(body, Bye) for _, body in operator.presence)

    world(main)


def test_a_client_is_told_too():
    """By its own subject."""

    async def main(operator):
        bus = MemoryBus(operator.broker, "client")
        made = Client(bus, app_of_many(), name="m-1", clock=VirtualClock(), workers=Inline(), incarnation="two")
        async with made:
            running = asyncio.create_task(made.run())
            await asyncio.sleep(5)
            await operator.say(OURS.ack(Peer("client", "m-1")), NameIsTaken(incarnation="two", since_at=0.0))
            with pytest.raises(NameTaken, match="client m-1"):
                await running

    world(main)
