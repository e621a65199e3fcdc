"""A session whose models are known before it runs: what five clients send, and what must come of it, bit for bit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

import fedbus
from fedbus.messages import records
from fedbus.tensors import model_digest
from fedbus.testing.learning import mean_of, update_of

SESSION = "layout"
ROUNDS = 3
CLIENTS = tuple(f"c-{number}" for number in range(5))
CHUNK_BYTES = 32 * 1024
CONFIG = {"rounds": ROUNDS, "clients_min": len(CLIENTS), "evaluate_every": 1, "seed": 3}


def first_model():
    """800 KB in 25 chunks: too much for an announcement, more than a window, and no third of it ends with an array."""
    ramp = np.arange(200_000, dtype=np.float32).reshape(400, 500) / 1000
    return {"w": ramp, "b": np.array([0.5, -2.0], np.float64)}


@dataclass(slots=True)
class Learners:
    """The app of all five clients; ``training`` is set when each of them trains, ``pause_s`` is how long they do."""

    pause_s: float = 0.0
    training: asyncio.Event = field(default_factory=asyncio.Event)
    at_work: set[str] = field(default_factory=set)

    def app(self):
        """Make an app: it tells its clients apart by ``task.client``."""
        app = fedbus.ClientApp()

        @app.train
        async def train(model, task):
            self.at_work.add(task.client)
            if self.at_work == set(CLIENTS):
                self.training.set()
            await asyncio.sleep(self.pause_s)
            arrays, weight = update_of(task.session, model, task.client, task.round)
            return fedbus.Update(arrays, weight=weight)

        @app.evaluate
        async def evaluate(model, task):
            return fedbus.Evaluation(weight=1.0, metrics={"sum": float(model["b"].sum())})

        return app


@pytest.fixture(scope="session")
def regions():
    """Three tiers: the regions of four combiners and of those clients that are somewhere special."""
    combiners = {"north-1": "eu/north", "north-2": "eu/north", "eu-1": "eu", "root": ""}
    return combiners, {"c-0": "eu/north", "c-1": "eu/north", "c-2": "eu", "c-4": "eu/north"}


@pytest.fixture
def learners():
    """What the clients do."""
    return Learners()


@pytest.fixture
async def live(house, learners):
    """Start the five clients, each in its region, with a connection of its own: call it with the regions by name."""

    async def start(regions=None):
        for name in CLIENTS:
            region = (regions or {}).get(name, "")
            await house.client(name, learners.app(), attributes={"region": region} if region else {})
        await house.present(len(CLIENTS))

    return start


@pytest.fixture(scope="session")
def expected():
    """The digest of the last model and the metric of each round, computed without any of the roles."""
    model, sums = first_model(), []
    for round_ in range(1, ROUNDS + 1):
        updates = [update_of(SESSION, model, name, round_) for name in CLIENTS]
        model = mean_of(model, updates, fedbus.SessionConfig(**CONFIG))
        sums.append(float(model["b"].sum()))
    return model_digest(model), sums


@pytest.fixture
def run_session(house, expected):
    """Run the session with these settings; returns its records. Its models and metrics must be those expected."""

    async def run(within_s=60.0, **config):
        async with fedbus.connect(house.url) as federation, asyncio.timeout(within_s):
            session = await federation.start_session(
                fedbus.SessionConfig(**CONFIG | config), model=first_model(), name=SESSION, chunk_bytes=CHUNK_BYTES
            )
            result = await session.wait()
            facts = [event.data async for event in session.events()]
            arrays = await federation.models.get(result.model_version)
        house.check()
        digest, sums = expected
        measured = [fact.metrics["sum"] for fact in facts if isinstance(fact, records.RoundEvaluated)]
        assert result.digest == model_digest(arrays) == digest
        assert measured == pytest.approx(sums)
        closed = [fact for fact in facts if isinstance(fact, records.RoundClosed)]
        assert [fact.counted for fact in closed] == [len(CLIENTS)] * ROUNDS
        return facts

    return run
