"""A client gets its own session's model, and of another's nothing but noise, at a real broker."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import fedbus
from fedbus.access.authority import Authority
from fedbus.access.credentials import write_credentials
from fedbus.bus.embedded import EmbeddedBroker
from fedbus.bus.nats import connect
from fedbus.cli.roles import Place, combine, coordinate
from fedbus.errors import BadMessage
from fedbus.messages.subjects import Subjects
from fedbus.store.models import ModelStore
from fedbus.workers import Inline

MODEL = {"w": np.linspace(-1.0, 1.0, 30_000, dtype=np.float32)}


async def test_members_train_and_a_client_of_another_session_reads_nothing(tmp_path):
    """Every role with its own credentials: the session goes through, its models are noise for who is not in it."""
    keys = Authority.open(tmp_path / "keys")
    keys.create_workspace("default")

    def issued(role: str, name: str) -> str:
        path = tmp_path / f"{role}-{name}.creds"
        write_credentials(path, keys.issue("default", role, name))
        return str(path)

    app = fedbus.ClientApp()

    @app.train
    def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
        return fedbus.Update({name: array + 1 for name, array in model.items()}, weight=1.0)

    async with EmbeddedBroker(tmp_path / "broker", security=keys.security) as broker, asyncio.TaskGroup() as group:

        async def take_part(name: str) -> None:
            async with fedbus.Client(broker.url, app, name=name, credentials=issued("client", name)) as client:
                await client.run()

        roles = [
            group.create_task(coordinate(Place(broker.url, credentials=issued("coordinator", "co")), "co")),
            group.create_task(combine(Place(broker.url, credentials=issued("combiner", "k")), "k", tmp_path)),
            *(group.create_task(take_part(f"site-{number}")) for number in range(2)),
        ]
        async with fedbus.connect(broker.url, credentials=issued("engineer", "eve")) as federation:
            config = fedbus.SessionConfig(rounds=2, clients_min=2)
            session = await federation.start_session(config, model=MODEL)
            result = await asyncio.wait_for(session.wait(), 60)
            assert result.outcome == "completed"
            arrays = await federation.models.get(result.model_version)
            assert np.allclose(arrays["w"], MODEL["w"] + 2, atol=1e-6)
            entry = await federation.store.find(result.model_version)
        async with await connect(broker.url, name="x", credentials=issued("client", "outsider")) as bus:
            subjects = Subjects("default")
            whole = subjects.blob(entry.blob, "*")
            # a broker answers a direct get of a pattern too, with the newest message: names are no secret
            stolen = await bus._jetstream.last(subjects.stream("blob"), whole, 5.0)
            assert stolen is not None
            assert arrays["w"].tobytes()[:32] not in bytes(stolen[0].data)
            with pytest.raises(BadMessage):
                await ModelStore(bus, subjects, Inline()).read(entry.blob)
        for role in roles:
            role.cancel()
