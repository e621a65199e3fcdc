"""When the owner's functions are called, and for whom; what they return or raise comes back as one event each."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fedbus.client.app import ClientApp, Evaluation, Model, Update
from fedbus.client.events import Measured, Trained, WorkFailed
from fedbus.client.held import prepare
from fedbus.client.job import FAILURES_SHOWN, Job, Means
from fedbus.client.newest import Fetched
from fedbus.client.shelf import Shelf
from fedbus.client.work import ALONGSIDE_MAX, UNDER_WAY_MAX, Workshop, updates_under_way_max
from fedbus.crash import Point
from fedbus.errors import BusClosed, NotFound
from fedbus.messages.plans import Encoding
from fedbus.messages.subjects import Subjects
from fedbus.messages.tasks import Evaluate, Train
from fedbus.telemetry import Telemetry
from fedbus.tensors import Manifest
from fedbus.testing.loop import run_virtual
from fedbus.testing.members import Workspace
from fedbus.together import together
from fedbus.workers import Inline, Threads

MODEL = {"w": np.arange(4, dtype=np.float32)}


class Newest:
    """Models that are here at once, or cannot be had."""

    def __init__(self, error=None, pause_s=0.0, model=MODEL):
        self.error = error
        self.model = model
        self.pause_s = pause_s
        self.asked = []
        self.digests = []

    async def fetch(self, store, blob, version, *, aside=False, digest=""):
        """As `NewestModel.fetch`; the first time a blob is asked for it travels."""
        self.asked.append(blob)
        self.digests.append(digest)
        await asyncio.sleep(self.pause_s)
        if self.error is not None:
            raise self.error
        first = self.asked.count(blob) == 1
        return Fetched(Model(self.model, version), Manifest.of(self.model), 16 if first else 0)


class Shop:
    """A workshop, and what it has told; every event is taken in at once, as the hub does."""

    def __init__(self, app, *, newest=None, workers=None, under_way=None, traces=None, models=None):
        self.told = []
        self.points = []
        self.shelf = Shelf()
        self.newest = newest or Newest()
        workers = workers or Inline()
        means = Means(
            store=None,
            newest=self.newest,
            subjects=Subjects("default"),
            shelf=self.shelf,
            workers=workers,
            thread=workers,
            traces=traces or Telemetry.off(),
            crash=self.points.append,
            models=models,
        )
        self.workshop = Workshop(app, means, self._tell, under_way or (lambda _: 0))
        self.group = None

    def _tell(self, made):
        if made is not None:
            self.told.append(made)
        self.workshop.schedule(self.group)

    def add(self, *jobs):
        """Take jobs, and begin what can be begun."""
        for job in jobs:
            self.workshop.add(job)
        self.workshop.schedule(self.group)

    def kinds(self):
        """Who was told of, and what."""
        return [(made.job.client, type(made.event)) for made in self.told]

    async def run(self, *jobs):
        """Do jobs to the end."""
        async with together() as self.group:
            self.add(*jobs)


def training(client, session="s", blob="b", work=1, round_=1):
    """A job."""
    task = Train(
        round=round_,
        attempt=1,
        version=f"{session}-0",
        blob=blob,
        combiner="k0",
        config={"lr": 0.5},
        seed=7,
        deadline_at=9.0,
        weight_max=8.0,
    )
    return Job(client, session, task, work, {})


def measuring(client, session="s"):
    """A job."""
    return Job(client, session, Evaluate(round=1, version=f"{session}-1", blob="b", seed=7, deadline_at=9.0), 0, {})


def shifting(calls=None):
    """An app that trains and evaluates by plain functions."""
    app = ClientApp()

    @app.train
    def train(model, task):
        if calls is not None:
            calls.append((task.client, threading.get_ident()))
        if task.client.startswith("bad"):
            raise ValueError("no data")
        return Update({"w": model["w"] + 1}, 2.0, {"loss": 0.5})

    @app.evaluate
    def evaluate(model, task):
        return Evaluation(3.0, {"sum": float(model["w"].sum())})

    return app


def test_the_function_learns_for_whom_it_is_called():
    """The task names client, session and round, and carries the engineer's settings."""
    seen, app = [], ClientApp()
    app.train(lambda model, task: seen.append(task) or Update(dict(model)))
    run_virtual(Shop(app).run(training("m-3"), training("m-4")))
    assert [(t.client, t.session, t.round, dict(t.config), t.seed) for t in seen] == [
        ("m-3", "s", 1, {"lr": 0.5}, 7),
        ("m-4", "s", 1, {"lr": 0.5}, 7),
    ]


def test_what_was_made_comes_back_with_its_update():
    """A training as an update on the shelf, an evaluation as numbers; the model's bytes count once."""
    shop = Shop(shifting())
    run_virtual(shop.run(training("m-0"), training("m-1", work=5), measuring("m-2")))
    first, second, measured = shop.told
    assert (first.event, second.event) == (Trained(1, 1), Trained(1, 5))
    assert (first.held.fetched, second.held.fetched) == (16, 0)
    assert np.frombuffer(first.held.chunk(0), np.float32).tolist() == [1, 2, 3, 4]
    assert (first.held.weight, first.held.metrics) == (2.0, {"loss": 0.5})
    assert measured.event == Measured(1, "s-1", 3.0, {"sum": 6.0}, 0) and measured.held is None
    assert shop.points == [Point.UPDATE_MADE] * 2 and shop.shelf.memory_bytes == 32


def test_a_model_is_loaded_only_where_its_workspace_has_signed_it():
    """Signed as it stands in the task it is fetched under its digest; else nothing is, and the reason says why."""
    members = Workspace("default")
    signer, models = members.signing("coordinator", "co").model_signer, members.signing("client", "c").models
    digest = "ab" * 32
    good = {"digest": digest, "signature": signer.sign("s-0", digest)}
    told = {
        "good": good,
        "bare": {},
        "other": {**good, "digest": "cd" * 32},
        "forged": {**good, "signature": bytes(64)},
        "older": {**good, "signature": signer.sign("s-1", digest)},
    }
    shop = Shop(shifting(), models=models)
    jobs = [training(client) for client in told]
    for job in jobs:
        job.task = job.task.model_copy(update=told[job.client] | {"blob": f"b-{job.client}"})
    run_virtual(shop.run(*jobs))
    assert shop.newest.asked == ["b-good"] and shop.newest.digests == [digest]
    assert [kind for kind in shop.kinds() if kind[1] is Trained] == [("good", Trained)]
    failed = {made.job.client: made.event for made in shop.told if isinstance(made.event, WorkFailed)}
    assert set(failed) == {"bare", "other", "forged", "older"} and {one.stage for one in failed.values()} == {"fetch"}
    assert "is not signed, and workspace default signs what it publishes" in failed["bare"].reason
    assert all("its signature is not one by the key" in failed[name].reason for name in ("other", "forged", "older"))


def test_one_who_fails_disturbs_nobody(caplog):
    """The reason is the function's own text, the others' updates are made, and many failures do not flood the log."""
    shop = Shop(shifting())
    jobs = [training(f"bad-{n}") for n in range(300)] + [training("m-0")]
    run_virtual(shop.run(*jobs))
    assert shop.told[0].event == WorkFailed(1, "train", "ValueError: no data", 1)
    assert len(shop.told) == 301 and shop.kinds()[-1] == ("m-0", Trained)
    assert len(caplog.records) == FAILURES_SHOWN + 2


def test_plain_functions_run_one_at_a_time_in_one_thread():
    """Of a thousand clients, in the order in which they were asked, and never on the loop."""
    calls = []
    shop = Shop(shifting(calls), workers=Threads(4, "test"))

    async def main():
        await shop.run(*[training(f"m-{n}") for n in range(1000)])
        shop.workshop._means.thread.close()

    busy = threading.Lock()
    original = shop.workshop._in_thread

    def alone(*args):
        assert busy.acquire(blocking=False), "two at once"
        try:
            return original(*args)
        finally:
            busy.release()

    shop.workshop._in_thread = alone
    asyncio.run(main())
    assert [client for client, _ in calls] == [f"m-{n}" for n in range(1000)]
    assert threading.get_ident() not in {thread for _, thread in calls}
    assert len(shop.told) == 1000 and shop.newest.asked.count("b") < 500, "many in one hop"


def test_async_functions_of_several_clients_run_alongside_but_never_two_of_one():
    """At most eight, however many are asked; a client in two sessions is called twice, one after the other."""
    now, most, names, app = [], [], [], ClientApp()

    @app.train
    async def train(model, task):
        assert task.client not in now
        now.append(task.client)
        most.append(len(now))
        await asyncio.sleep(10)
        now.remove(task.client)
        names.append(task.client)
        return Update(dict(model))

    shop = Shop(app)
    jobs = [training(f"m-{n}") for n in range(20)] + [training(f"m-{n}", session="t") for n in range(20)]

    async def main():
        await shop.run(*jobs)
        return asyncio.get_running_loop().time()

    took_s = run_virtual(main())
    assert max(most) == ALONGSIDE_MAX and took_s <= 10 * (40 / ALONGSIDE_MAX + 2)
    assert sorted(names) == sorted(2 * [f"m-{n}" for n in range(20)]) and len(shop.told) == 40


def test_a_plain_function_may_give_something_to_be_awaited():
    """Whatever it is made of, the result counts; from then on it is known to be async."""
    app = ClientApp()

    async def later(model, weight):
        await asyncio.sleep(5)
        return Update(dict(model), weight)

    app.train(lambda model, task: later(model, 4.0))
    shop = Shop(app)
    run_virtual(shop.run(*[training(f"m-{n}") for n in range(20)]))
    assert [made.held.weight for made in shop.told] == [4.0] * 20
    assert {made.job.client for made in shop.told} == {f"m-{n}" for n in range(20)}


def test_what_is_sent_bounds_what_is_trained_ahead_session_by_session():
    """With the line full nobody trains in that session; others do, evaluations do, and room lets the next one go on."""
    sent = {"s": updates_under_way_max(16) - 1}
    shop = Shop(shifting(), under_way=lambda session: sent.get(session, 0))

    async def main():
        async with together() as shop.group:
            shop.add(*[training(f"m-{n}") for n in range(3)])
            # The first batch was taken when the size was not known: two at most.
            await asyncio.sleep(1)
            made = len(shop.told)
            sent["s"] = UNDER_WAY_MAX
            shop.add(*[training(f"n-{n}") for n in range(3)], training("m-0", session="t"))
            await asyncio.sleep(1)
            assert shop.kinds()[made:] == [("m-0", Trained)]
            sent["s"] = 0
            shop.workshop.schedule(shop.group)
            await asyncio.sleep(1)
        return made

    run_virtual(main())
    assert len(shop.told) == 7


@pytest.mark.parametrize(("nbytes", "updates"), [(0, 256), (10_000, 256), (2**20, 32), (45_000_000, 2), (2**31, 2)])
def test_few_large_updates_are_made_ahead_many_small_ones(nbytes, updates):
    """Two of any size, so that one is sent while the next is made; never more than 256."""
    assert updates_under_way_max(nbytes) == updates


def test_what_is_given_up_is_told_to_nobody():
    """Before it begins it never begins; while it runs it is cancelled, or its update forgotten; others go on."""
    app, began, cancelled = ClientApp(), [], []

    @app.train
    async def train(model, task):
        began.append(task.client)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(task.client)
            raise
        return Update(dict(model))

    shop = Shop(app)
    jobs = [training(f"m-{n}") for n in range(12)]

    async def main():
        async with together() as shop.group:
            shop.add(*jobs)
            await asyncio.sleep(1)
            for index in (1, 10):
                shop.workshop.drop(jobs[index])

    run_virtual(main())
    assert cancelled == ["m-1"] and "m-10" not in began
    assert sorted(made.job.client for made in shop.told) == sorted({f"m-{n}" for n in range(12)} - {"m-1", "m-10"})
    assert shop.shelf.memory_bytes == 10 * 16


@pytest.mark.parametrize("later", [False, True])
def test_an_update_that_nobody_wants_any_more_takes_no_room(later, monkeypatch):
    """A job that is given up while its update is made in a thread leaves nothing on the shelf."""
    arrays = {"w": np.zeros(40_000, np.float32)}
    entered, halt = threading.Event(), threading.Event()
    app = ClientApp()

    def slowly(*args):
        entered.set()
        assert halt.wait(10)
        return prepare(*args)

    async def train_later(model, task):
        return Update(arrays)

    monkeypatch.setattr("fedbus.client.job.prepare", slowly)
    app.train(train_later if later else lambda model, task: Update(arrays))

    async def main():
        workers = Threads(1, "test")
        shop = Shop(app, newest=Newest(model=arrays), workers=workers)
        job = training("m-0")
        async with together() as shop.group:
            shop.add(job)
            await asyncio.to_thread(entered.wait, 10)
            shop.workshop.drop(job)
            halt.set()
        await workers.run(int)  # what ran in the thread is over
        await asyncio.sleep(0)
        workers.close()
        return shop

    shop = asyncio.run(main())
    assert (shop.told, shop.shelf.memory_bytes) == ([], 0)


def test_a_model_that_cannot_be_had_fails_all_who_wait_for_it():
    """It is asked for once, not once for each of them; who wants another one is not concerned."""
    shop = Shop(shifting(), newest=Newest(NotFound("gone")))
    jobs = [training(f"m-{n}") for n in range(500)]
    run_virtual(shop.run(*jobs, measuring("m-500")))
    assert [made.event for made in shop.told[:500]] == [WorkFailed(1, "fetch", "gone", 1)] * 500
    assert shop.told[500].event == WorkFailed(1, "evaluate", "gone", 0)
    assert len(shop.newest.asked) == 2


def test_fetching_is_given_up_when_nobody_wants_the_model():
    """The last one who waits for it takes the download with it; the next job begins."""
    shop = Shop(shifting(), newest=Newest(pause_s=1000))
    jobs = [training("m-0"), training("m-1")]

    async def main():
        async with together() as shop.group:
            shop.add(*jobs)
            await asyncio.sleep(1)
            for job in jobs:
                shop.workshop.drop(job)
            await asyncio.sleep(1)
            shop.newest.pause_s = 0
            shop.add(training("m-1", blob="b2", round_=2))
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) < 10
    assert shop.kinds() == [("m-1", Trained)]


def test_an_app_without_the_function_says_so():
    """It takes no model to find out."""
    app = ClientApp()
    app.train(lambda model, task: Update(dict(model)))
    shop = Shop(app)
    run_virtual(shop.run(measuring("m-0")))
    assert shop.told[0].event == WorkFailed(1, "evaluate", "this client's app has no @app.evaluate function", 0)
    assert shop.newest.asked == []


def test_a_closed_bus_ends_the_client():
    """It is terminal: it is raised, not reported as somebody's failure."""
    shop = Shop(shifting(), newest=Newest(BusClosed("closed")))
    with pytest.raises(BusClosed):
        run_virtual(shop.run(training("m-0")))
    assert shop.told == []


def test_a_trace_tells_for_whom_the_function_was_called():
    """One span a client, under the task that asked for it; one fetch for all who are called in one go."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = {"traceparent": f"00-{7:032x}-{8:016x}-01"}
    shop = Shop(shifting(), traces=Telemetry("client", "m", provider))
    jobs = [training("m-0"), training("bad-1")]
    for job in jobs:
        job.headers = parent
    run_virtual(shop.run(*jobs))
    spans = exporter.get_finished_spans()
    told = [(span.name, span.attributes["fedbus.client"], span.status.is_ok) for span in spans]
    assert told == [("fetch model", "m-0", True), ("train", "m-0", True), ("train", "bad-1", False)]
    assert {(span.context.trace_id, span.parent.span_id) for span in spans} == {(7, 8)}
    assert spans[0].attributes["fedbus.bytes"] == 16 and spans[1].attributes["fedbus.weight"] == 2.0


def keeping_app(gate=None):
    """An app that counts its trainings; with a gate it waits there, in its second one."""
    app = ClientApp()

    @app.train
    async def train(model, task):
        count = task.kept.get("count", np.zeros(1))
        if gate is not None and count[0] == 1:
            await gate.wait()
        return Update({"w": model["w"] + 1}, keep={"count": count + 1})

    return app


def count_of(shop, client="m-0"):
    """What is kept."""
    keepsake = shop.workshop._means.keepsakes.of(client, "s")
    return None if keepsake is None else keepsake.arrays()["count"].tolist()


def test_what_is_kept_counts_the_updates_that_were_made():
    """Of each client its own; a training that is given up, and a session that is over, leave nothing."""

    async def main():
        gate = asyncio.Event()
        shop = Shop(keeping_app(gate))
        keepsakes = shop.workshop._means.keepsakes
        for client in ("m-0", "m-1"):
            keepsakes.begin(client, "s")
        await shop.run(training("m-0"), training("m-1"), training("nobody"))
        assert (count_of(shop), count_of(shop, "m-1"), count_of(shop, "nobody")) == ([1.0], [1.0], None)
        again = training("m-0", round_=2)
        async with together() as shop.group:
            shop.add(again)
            await asyncio.sleep(1)
            shop.workshop.drop(again)
        assert count_of(shop) == [1.0]
        gate.set()
        await shop.run(training("m-0", round_=2))
        assert count_of(shop) == [2.0]
        for made in shop.told:
            made.leave()
        assert shop.shelf.memory_bytes == 3 * 8, "what two clients keep, and what may come back"
        keepsakes.settle("m-0", "s", lost=False)
        assert shop.shelf.memory_bytes == 2 * 8 and count_of(shop) == [2.0]

    run_virtual(main())


def test_an_update_has_the_difference_to_the_model_that_it_was_made_of():
    """Also when a newer one has come while it was trained: its own base, and that one's digest, are what it says."""

    async def main():
        gate, app, newest = asyncio.Event(), ClientApp(), Newest()

        @app.train
        async def train(model, task):
            if task.round == 1:
                await gate.wait()
            return Update({"w": model["w"] + 10 * task.round})

        shop = Shop(app, newest=newest)
        difference = {"encoding": Encoding(form="difference")}
        async with together() as shop.group:
            late, timely = training("m-0", blob="b1"), training("m-1", blob="b2", round_=2)
            for job in (late, timely):
                job.task = job.task.model_copy(update=difference)
            shop.add(late)
            await asyncio.sleep(1)
            newest.model = {"w": np.full(4, 100, np.float32)}
            shop.add(timely)
            await asyncio.sleep(1)
            gate.set()
        held = {made.job.client: made.held for made in shop.told}
        for client, step, model in (("m-0", 10, MODEL), ("m-1", 20, newest.model)):
            assert np.frombuffer(held[client].chunk(0), np.float32).tolist() == [step] * 4
            assert held[client].base == Manifest.of(model).digest

    run_virtual(main())


def test_an_update_says_where_its_clients_time_went():
    """Waited since its task came, fetched, trained, by the loop's time; a second job of the same model fetches none."""
    app, shop = ClientApp(), None

    @app.train
    async def train(model, task):
        await asyncio.sleep(3.0)
        return Update(dict(model))

    async def main():
        nonlocal shop
        shop = Shop(app, newest=Newest(pause_s=2.0))
        start = asyncio.get_running_loop().time()
        job = training("m-0")
        job.since = start
        await asyncio.sleep(1.0)
        await shop.run(job)

    run_virtual(main())
    (made,) = shop.told
    assert made.held.spent == pytest.approx((1.0, 2.0, 3.0, 0.0))


def test_who_stands_behind_others_of_a_crowd_waits_and_does_not_train():
    """Of plain functions that run one after the other each has the time of its own call; the rest is waiting."""
    app, now = ClientApp(), [100.0]

    @app.train
    def train(model, task):
        now[0] += 0.004 if task.client == "m-0" else 0.001
        return Update(dict(model))

    shop = Shop(app)
    jobs = [training("m-0"), training("m-1")]
    for job in jobs:
        job.since, job.fetch_s = 98.5, 0.5
    fetched = Fetched(Model(MODEL, "s-0"), Manifest.of(MODEL), 16)
    first, second = shop.workshop._in_thread(jobs, fetched, lambda: now[0])
    assert first.held.spent == pytest.approx((1.0, 0.5, 0.004, 0.0))
    assert second.held.spent == pytest.approx((1.004, 0.5, 0.001, 0.0))
