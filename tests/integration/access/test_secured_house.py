"""All that a federation does, with identities, seals and signatures: what comes of it is what comes of it without."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from pathlib import Path

import numpy as np
import pytest

import fedbus
from fedbus.access import known
from fedbus.access.audit import Audit
from fedbus.access.authority import Authority
from fedbus.access.credentials import write_credentials
from fedbus.access.signing import signing_of
from fedbus.aggregation import Contribution, aggregate, find
from fedbus.aggregation.companions import with_companions
from fedbus.aggregation.contributions import weight_max
from fedbus.aggregation.sums import VALUE_FLOOR
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.cli.backups import back_up, restore
from fedbus.cli.roles import Place
from fedbus.clock import SystemClock
from fedbus.errors import ConfigError
from fedbus.federation.analytics import Mean
from fedbus.messages.ids import Peer
from fedbus.messages.plans import fold_weight
from fedbus.messages.subjects import Subjects
from fedbus.planning import plan_of
from fedbus.tensors import model_digest
from fedbus.workers import Threads

COUNT = 7
ROUNDS = 2
CHUNK_BYTES = 4096
MODEL = {"w": np.linspace(-2, 2, 5000, dtype=np.float32), "b": np.linspace(3, 4, 300)}
STRATEGIES = {"fedavg": {}, "fedadam": {}, "krum": {"byzantine_max": 2}, "scaffold": {}}
"""A mean; one with a state beside the model; one that compares updates with each other; one with companions."""


def trained(model, client, round_):
    """What a client makes of a model."""
    rng = np.random.default_rng([round_, int(client.rpartition("-")[2])])
    return {key: (value + rng.normal(size=value.shape) / 8).astype(value.dtype) for key, value in model.items()}


def app_of(stopped=None):
    """An app of such clients, which also measures, and lets its ages be asked about.

    ``stopped`` is set, and nothing else done, when the second round is to be trained.
    """
    app = fedbus.ClientApp()

    @app.train
    async def train(model, task):
        if stopped is not None and task.round == 2:
            stopped.set()
            await asyncio.Event().wait()
        metrics = dict.fromkeys(task.config["metrics"], 0.5)
        return fedbus.Update(trained(model, task.client, task.round), 1.0, metrics)

    @app.evaluate
    def evaluate(model, task):
        return fedbus.Evaluation(1.0, {"first": float(model["w"].flat[0])})

    @app.data
    def data(task):
        return {"age": np.array([10.0, 20.0, 30.0])}

    return app


@pytest.fixture
async def secured(tmp_path, make_house):
    """A house in which everybody has credentials, at a broker that lets in nobody else; two combiners, a crowd."""
    keys = Authority.open(tmp_path / "keys")
    keys.create_workspace("default")

    def issued(role, name):
        path = tmp_path / f"{role}-{name}.creds"
        write_credentials(path, keys.issue("default", role, name))
        return str(path)

    class Secured(make_house):
        async def _role(self, name):
            credentials = issued(name.partition("-")[0], name)
            bus = await self._stack.enter_async_context(await connect(self.url, name=name, credentials=credentials))
            workers = Threads(2, name)
            self._stack.callback(workers.close)
            clock = SystemClock()
            common = {"name": name, "incarnation": secrets.token_hex(8), "workspace": "default", "workers": workers}
            return bus, common | {"clock": clock, "signing": signing_of(credentials, clock)}

    known.use_home(tmp_path / "home")
    try:
        async with (
            EmbeddedBroker(tmp_path / "store", security=keys.security) as broker,
            contextlib.aclosing(Secured(broker.url)) as house,
        ):
            known.remember(broker.url, "default", Path(issued("engineer", "eve")))
            await house.operate(2)
            await house.crowd("phone", app_of(), COUNT, credentials=issued("crowd", "phone"))
            await house.present(COUNT)
            house.broker, house.issued = broker, issued
            yield house
    finally:
        known.use_home(None)


async def test_models_are_those_of_one_call(secured):
    """States and inner products on the bus, chunks shared out, companions: bit by bit what `aggregate` makes."""
    names = [f"phone-{number}" for number in range(COUNT)]
    for strategy, options in STRATEGIES.items():
        plan = plan_of(fedbus.SessionConfig(rounds=1, strategy=strategy, strategy_options=options))
        told = dict.fromkeys(plan.metrics, 0.5)
        _, _, found = await secured.run(
            MODEL,
            chunk_bytes=CHUNK_BYTES,
            rounds=ROUNDS,
            clients_min=COUNT,
            evaluate_every=0,
            strategy=strategy,
            strategy_options=options,
            sharding="chunks" if strategy == "fedadam" else "clients",
            train_config={"metrics": list(plan.metrics)},
            weight_max=weight_max([fold_weight(plan, 1.0, told, 0)] * COUNT),
            value_floor=VALUE_FLOOR,
        )
        model, state = with_companions(MODEL, find(strategy)), None
        for number in range(1, ROUNDS + 1):
            made = [Contribution(trained(model, name, number), 1.0, told) for name in names]
            model, state = aggregate(strategy, model, made, state, chunk_bytes=CHUNK_BYTES, **options)
        assert model_digest(found) == model_digest(model), strategy


async def test_three_tiers_of_members_make_the_model_of_one(secured):
    """Sums go from eu/north by eu to the root, each combiner with credentials of its own: what comes is flat FedAvg."""
    for name, region in {"combiner-north": "eu/north", "combiner-eu": "eu"}.items():
        await secured.combiner(name, attributes={"region": region})
        series = name.removeprefix("combiner-")
        issued = secured.issued("crowd", series)
        await secured.crowd(series, app_of(), 2, credentials=issued, attributes={"region": region})
    await secured.present(4, "combiners")
    await secured.present(COUNT + 4)
    result, facts, found = await secured.run(
        MODEL, chunk_bytes=CHUNK_BYTES, rounds=ROUNDS, clients_min=COUNT + 4, evaluate_every=0, residency="require",
        train_config={"metrics": []}, weight_max=weight_max([1.0] * (COUNT + 4)), value_floor=VALUE_FLOOR,
    )  # fmt: skip
    names = [f"phone-{number}" for number in range(COUNT)] + ["north-0", "north-1", "eu-0", "eu-1"]
    flat, state = MODEL, None
    for number in range(1, ROUNDS + 1):
        made = [Contribution(trained(flat, name, number), 1.0, {}) for name in names]
        flat, state = aggregate("fedavg", flat, made, state, chunk_bytes=CHUNK_BYTES)
    assert result.digest == model_digest(flat) == model_digest(found)
    for closing in [fact for fact in facts if fact.kind == "RoundClosing"]:
        assert closing.parents == {"combiner-north": "combiner-eu"} and closing.root in ("combiner-1", "combiner-2")


async def test_differences_are_sealed_as_models_are(secured):
    """int8 up, fp16 down, frames of zstd: what leads to the next model has the model's key, and is what travels."""
    result, facts, found = await secured.run(
        MODEL, chunk_bytes=CHUNK_BYTES, rounds=3, clients_min=COUNT, evaluate_every=1, codec="int8", downlink="fp16",
        lossless=True, train_config={"metrics": []},
    )  # fmt: skip
    assert result.outcome == "completed" and np.isfinite(found["w"]).all()
    down = [fact.bytes_down for fact in facts if fact.kind == "RoundClosed"]
    assert down[2] < 0.7 * down[0], "the first model comes whole, once for all"
    measured = [fact for fact in facts if fact.kind == "RoundEvaluated"]
    assert [fact.answered for fact in measured] == [COUNT] * 3


async def test_who_measures_and_answers_has_the_model_and_its_signature(secured):
    """A version that was brought in is evaluated as it is; questions about data are answered."""
    async with fedbus.connect(secured.url) as federation:
        await federation.registry.import_model(MODEL, "brought-in")
        result = await federation.analyze([Mean("age")])
    assert result.answered == COUNT and result.answers[0].mean == 20.0
    _, facts, _ = await secured.run("brought-in", rounds=0, clients_min=COUNT)
    (measured,) = [fact for fact in facts if fact.kind == "RoundEvaluated"]
    assert (measured.answered, measured.metrics["first"], measured.missing) == (COUNT, -2.0, {})


async def test_what_was_open_goes_on_secured(secured, make_house, tmp_path):
    """A session that was under way at an open broker goes on with members, to the model of those whom nobody moved.

    What was published before is signed now; without a word that it was open, nothing of it is brought in.
    """
    settings = {"rounds": 3, "clients_min": COUNT, "evaluate_every": 0, "train_config": {"metrics": []}}
    expected, _, _ = await secured.run(MODEL, chunk_bytes=CHUNK_BYTES, name="undisturbed", **settings)
    stopped = asyncio.Event()
    async with EmbeddedBroker(tmp_path / "before") as broker, contextlib.aclosing(make_house(broker.url)) as before:
        await before.operate(1)
        await before.crowd("phone", app_of(stopped), COUNT)
        await before.present(COUNT)
        async with fedbus.connect(broker.url, credentials="") as federation:
            await federation.start_session(
                fedbus.SessionConfig(**settings), model=MODEL, name="moved", chunk_bytes=CHUNK_BYTES
            )
        await asyncio.wait_for(stopped.wait(), 60)
        await back_up(Place(broker.url, credentials=""), tmp_path / "open", None, json=True)
    place = Place(secured.url, credentials=secured.issued("admin", "ann"))
    with pytest.raises(ConfigError, match="nothing was written"):
        await restore(place, tmp_path / "open", json=True)
    await restore(place, tmp_path / "open", from_open=True, json=True)
    async with fedbus.connect(secured.url) as federation, asyncio.timeout(60):
        result = await federation.session("moved").wait()
        assert result.digest == expected.digest
        for version in ("moved-0", "moved-1", "moved-3"):
            while (found := await federation.models.verify(version)).why.endswith("signs what it publishes"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert found.is_genuine
    done, ended = await deeds_of(place, "workspace.restore", "session.end")
    assert (done.by, done.details["sealed"]) == ("admin/ann", "2") and int(done.details["sessions"]) == 1
    assert ended.details["digest"] == expected.digest


async def deeds_of(place, *actions):
    """Return the newest deed of each action, the last about "moved", when all are written down: a moment behind it."""
    async with await connect(place.url, name="reader", credentials=place.credentials) as bus, asyncio.timeout(60):
        audit = Audit(bus, Subjects("default"), Peer("admin", "ann"), SystemClock())
        while True:
            found = {one.entry.action: one.entry async for one in audit.read(newest_first=False)}
            if found.keys() >= {*actions} and found[actions[-1]].target == "moved":
                return [found[action] for action in actions]
            await asyncio.sleep(0.1)


async def test_what_is_backed_up_sealed_is_brought_back_sealed(secured, tmp_path):
    """A broker that has lost its disk: an admin brings journals, models, stages and audit back, and it goes on; who
    reads it as a store has the models, too.
    """
    settings = {"rounds": 1, "clients_min": COUNT, "evaluate_every": 0, "train_config": {"metrics": []}}
    result, _, found = await secured.run(MODEL, chunk_bytes=CHUNK_BYTES, name="before", **settings)
    place = Place(secured.url, credentials=secured.issued("admin", "ann"))
    await back_up(place, tmp_path / "backup", None, json=True)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "backup" / "blobs").iterdir())
    assert len(kept) > 2 * MODEL["w"].nbytes and MODEL["w"].tobytes()[:64] not in kept
    await secured.broker.kill()
    shutil.rmtree(tmp_path / "store" / "jetstream")
    await secured.broker.start()
    await restore(place, tmp_path / "backup", json=True)
    async with fedbus.connect(secured.url) as federation:
        arrays = await federation.models.get(result.model_version)
        np.testing.assert_array_equal(arrays["w"], found["w"])
        assert (await federation.models.verify(result.model_version)).is_genuine
    beside = f"jetstream://127.0.0.1:{secured.broker.port}?credentials={secured.issued('engineer', 'bob')}"
    async with fedbus.connect(secured.url, store=beside) as federation:
        pieces = federation.models.archive.store.read(f"default/{result.model_version}.safetensors")
        assert b"".join([bytes(piece) async for piece in pieces]).endswith(found["b"].tobytes())
    again, _, _ = await secured.run(MODEL, chunk_bytes=CHUNK_BYTES, name="after", **settings)
    assert again.digest == result.digest
