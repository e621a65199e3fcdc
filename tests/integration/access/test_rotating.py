"""Clients that joined with tokens train; a new key, a JWT that ends, a suspension in mid-session lose nothing."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import fedbus
from fedbus.access.joining import join
from fedbus.access.renewal import renew
from fedbus.bus.nats import connect
from fedbus.cli.roles import Place, combine, coordinate
from fedbus.messages.ids import Peer

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUNDS = 4
MODEL = {"w": np.zeros(30_000, np.float32)}


class Turns:
    """An app that adds one, and stops in a round until it is told to go on."""

    def __init__(self):
        self.app = fedbus.ClientApp()
        self.reached = {number: asyncio.Event() for number in range(1, ROUNDS + 1)}
        self.goes_on = {number: asyncio.Event() for number in range(1, ROUNDS + 1)}

        @self.app.train
        async def train(model: fedbus.Model, task: fedbus.TrainTask) -> fedbus.Update:
            self.reached[task.round].set()
            await self.goes_on[task.round].wait()
            return fedbus.Update({name: array + 1 for name, array in model.items()}, weight=1.0)


async def test_a_session_goes_on_while_a_key_changes_and_a_member_is_shut_out_for_a_while(wards, tmp_path):
    """Every round counts both clients, and the model is what it has to be."""
    ward = wards["ward"]
    turns = Turns()
    token = await ward.token(uses_max=2)
    paths = [ward.write(await join(ward.request(token, name))) for name in ("one", "two")]

    async def take_part(name, path):
        async with fedbus.Client(ward.url, turns.app, name=name, credentials=path, workspace="ward") as client:
            await client.run()

    def issued(role, name):
        return str(ward.write(ward.authority.issue("ward", role, name)))

    async with asyncio.TaskGroup() as group:
        roles = [
            group.create_task(coordinate(Place(ward.url, "ward", issued("coordinator", "lead")), "lead")),
            group.create_task(combine(Place(ward.url, "ward", issued("combiner", "fold")), "fold", tmp_path)),
            *(group.create_task(take_part(name, path)) for name, path in zip(("one", "two"), paths, strict=True)),
        ]
        async with fedbus.connect(ward.url, credentials=issued("engineer", "ann"), workspace="ward") as federation:
            config = fedbus.SessionConfig(rounds=ROUNDS, clients_min=2)
            session = await federation.start_session(config, model=MODEL)
            async with asyncio.timeout(60):
                await turns.reached[1].wait()
                turns.goes_on[1].set()
                await turns.reached[2].wait()
                async with await connect(ward.url, name="beside", credentials=paths[0]) as bus:
                    await renew(bus, paths[0], rotate=True)  # as `fedbus member rotate` does, beside the client
                turns.goes_on[2].set()
                await turns.reached[3].wait()
                await ward.members.suspend(Peer("client", "two"), by="eve")
                turns.goes_on[3].set()
                await asyncio.sleep(0.3)
                await ward.members.resume(Peer("client", "two"), by="eve")
                turns.goes_on[4].set()
                result = await session.wait()
            assert result.outcome == "completed"
            info = await session.info()
            assert [(found.counted, list(found.not_counted)) for found in info.rounds] == [(2, [])] * ROUNDS
            arrays = await federation.models.get(result.model_version)
            assert np.allclose(arrays["w"], float(ROUNDS), atol=1e-5)
        for role in roles:
            role.cancel()
