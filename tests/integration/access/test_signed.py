"""A federation at a real, secured broker: what is signed is taken, what is not is refused, and all is written down."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import numpy as np
import pytest

import fedbus
from fedbus.access.audit import filter_of
from fedbus.bus.nats import connect
from fedbus.cli import auditing, listing
from fedbus.cli.roles import Place, combine, coordinate
from fedbus.errors import BusDenied

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = {"w": np.zeros(20_000, np.float32), "b": np.ones(3)}


@pytest.fixture
def ward(wards):
    """The workspace that everything happens in."""
    return wards["ward"]


def app_of(seen=None):
    """Return an app that adds one, and keeps the models that it was given."""
    app = fedbus.ClientApp()

    @app.train
    def train(model, task):
        if seen is not None:
            seen.append(model.version)
        return fedbus.Update({name: value + 1 for name, value in model.items()}, 2.0, {"loss": 0.5})

    return app


@asynccontextmanager
async def running(*coroutines):
    """Have roles run; what they raise is told at the end."""
    tasks = [asyncio.create_task(one) for one in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def place_of(ward, role, name):
    """Return where somebody of a role belongs, with new credentials."""
    return Place(ward.url, ward.workspace, str(ward.write(ward.authority.issue(ward.workspace, role, name))))


async def take_part(client):
    """Run a client until cancelled."""
    async with client:
        await client.run()


async def until_signed(models, version):
    """Wait until the coordinator has signed what was brought in."""
    for pause_s in (0.05 * 1.2**n for n in range(25)):
        if (await models.find(version)).signature:
            return
        await asyncio.sleep(pause_s)
    raise AssertionError(f"{version} was not signed")


async def test_a_secured_federation_signs_and_verifies(ward, tmp_path, capsys):
    """Two that sign make the models, one that does not is refused; what is made, brought in and done is verified."""
    places = {name: place_of(ward, "client", name) for name in ("good-1", "good-2", "bare")}
    eve = place_of(ward, "engineer", "eve")
    seen = []
    clients = [
        fedbus.Client(ward.url, app_of(seen), name=name, workspace=ward.workspace, credentials=places[name].credentials)
        for name in ("good-1", "good-2")
    ]
    async with (
        await connect(ward.url, name="bare", credentials=places["bare"].credentials) as bare,
        running(
            coordinate(place_of(ward, "coordinator", "co-1"), "co-1"),
            combine(place_of(ward, "combiner", "k-1"), "k-1"),
            *map(take_part, clients),
            take_part(fedbus.Client(bare, app_of(), name="bare", workspace=ward.workspace)),
        ),
        fedbus.connect(ward.url, credentials=eve.credentials, workspace=ward.workspace) as federation,
        asyncio.timeout(60),
    ):
        config = fedbus.SessionConfig(rounds=2, clients_min=3, quorum=2, round_deadline_s=20.0)
        session = await federation.start_session(config, model=MODEL, name="signed")
        reasons = [
            refused.reason
            async for event in session.events()
            if event.kind == "UpdatesRecorded"
            for refused in event.data.refused
        ]
        result = await session.wait()
        assert reasons and all("it is not signed" in reason and "fedbus join TOKEN" in reason for reason in reasons)
        assert seen.count("signed-0") == 2
        arrays = await federation.models.get(result.model_version)
        assert arrays["w"][0] == 2.0

        verified = await federation.models.verify(result.model_version)
        assert verified.is_genuine and verified.digest == result.digest
        imported = await federation.registry.import_model(MODEL, "brought-in")
        await until_signed(federation.models, imported.version)
        assert (await federation.models.verify(imported.version)).is_genuine

        await federation.registry.promote(imported.version, "production", "a try")
        await ward.audit.write("token.create", by="admin/eve")  # what eve's program knows of the chain is old now
        await federation.registry.promote(result.model_version, "production")

        file = tmp_path / "model.safetensors"
        await listing.download(eve, result.model_version, file, json=True)
        assert await listing.verify_model(eve, str(file), "", json=True)
        damaged = bytearray(file.read_bytes())
        damaged[-1] ^= 1
        file.write_bytes(damaged)
        assert not await listing.verify_model(eve, str(file), "", json=True)

    capsys.readouterr()
    export = tmp_path / "audit.jsonl"
    auditor = place_of(ward, "auditor", "ann")
    assert await auditing.verify(auditor, None, "", json=True)
    head = json.loads(capsys.readouterr().out)["head"]
    await auditing.list_deeds(auditor, lambda found: found.entry.target == "signed", last=50, json=True)
    deeds = [(one["action"], one["by"], one["writer"]) for one in json.loads(capsys.readouterr().out)]
    assert deeds == [
        ("session.end", "coordinator/co-1", "coordinator/co-1"),
        ("session.start", "eve", "coordinator/co-1"),
    ]
    await auditing.list_deeds(auditor, filter_of(by="eve", action="model"), last=3, json=True)
    deeds = [(one["action"], one["target"], one["writer"]) for one in json.loads(capsys.readouterr().out)]
    assert deeds == [
        ("model.promote", "production", "engineer/eve"),
        ("model.promote", "production", "engineer/eve"),
        ("model.import", "brought-in", "engineer/eve"),
    ]
    await auditing.export(auditor, export)
    assert await auditing.verify(auditor, export, head, json=True)
    lines = export.read_text().splitlines()
    export.write_text("\n".join(lines[:-1]))
    assert not await auditing.verify(auditor, export, head, json=False)
    with pytest.raises(BusDenied):
        await auditing.list_deeds(eve, lambda _: True, last=1, json=True)


async def test_nobody_takes_anything_out_of_the_audit(ward):
    """Not even an admin: the broker refuses to delete, to purge, and to describe the stream otherwise."""
    await ward.audit.write("token.create", by="admin/eve")
    before = await ward.audit.verify()
    stream = ward.subjects.stream("audit")
    for remove in (
        lambda: ward.admin.delete(stream, before.sequence),
        lambda: ward.admin.purge(stream, ward.subjects.audit()),
    ):
        with pytest.raises(BusDenied):
            await remove()
    assert (await ward.audit.verify(before.head)).is_whole
