"""The keys that sign a workspace's members are replaced in three steps, and nobody is shut out who has renewed."""

from __future__ import annotations

import json

import pytest

from fedbus.access.claims import claims_of
from fedbus.access.joining import join
from fedbus.access.renewal import renew
from fedbus.bus.nats import connect
from fedbus.cli import keyed
from fedbus.errors import BusDenied, ConfigError

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def lets_in(ward, path):
    """Whether the broker lets credentials in."""
    try:
        async with await connect(ward.url, name="try", credentials=path):
            return True
    except BusDenied:
        return False


async def test_signing_keys_are_replaced_step_by_step(wards, capsys):
    """Old and new JWTs are good until the last step, which waits for those who have nothing newer."""
    ward = wards["ward"]
    keys = ward.authority.directory

    async def step(name, *, force=False):
        capsys.readouterr()
        await keyed.rotate_keys(keys, "ward", ward.url, name, force=force, json=True)
        return json.loads(capsys.readouterr().out)

    token = await ward.token(uses_max=0)
    early = [ward.write(await join(ward.request(token, name))) for name in ("early", "lazy")]
    (before,) = ward.authority.signers("ward", "client")
    for name, why in (("switch", "begin first"), ("nonsense", "expected a step")):
        with pytest.raises(ConfigError, match=why):
            await step(name)
    await step("begin")
    await step("begin")
    current, coming = ward.authority.signers("ward", "client")
    assert current == before != coming
    with pytest.raises(ConfigError, match="switch first"):
        await step("retire")
    still = await join(ward.request(token, "still"))
    assert claims_of(still.jwt).issuer == before
    await step("switch")
    assert ward.authority.signers("ward", "client") == [coming, before]
    assert ward.authority.trust("ward").signers["client"] == f"{coming},{before}"
    late = ward.write(await join(ward.request(token, "late")))
    with pytest.raises(ConfigError, match="3 members have nothing newer yet"):
        await step("retire")
    async with await connect(ward.url, name="early", credentials=early[0]) as bus:
        assert claims_of((await renew(bus, early[0])).jwt).issuer == coming
    for path in (*early, late):
        assert await lets_in(ward, path)
    assert [name for _, name in (await step("retire", force=True))["left"]] == ["lazy", "still"]
    assert [await lets_in(ward, path) for path in (*early, late)] == [True, False, True]
    assert ward.authority.signers("ward", "client") == [coming]
