"""The keys that sign a workspace's members are replaced in three steps, and nobody is shut out who has renewed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest
import pytest_asyncio

from fedbus.access.claims import claims_of
from fedbus.access.credentials import read_credentials, write_credentials
from fedbus.access.joining import join
from fedbus.access.local import credentials_dir, enlist
from fedbus.access.renewal import renew
from fedbus.access.signing import Members, Own
from fedbus.bus.nats import connect
from fedbus.cli import keyed
from fedbus.clock import SystemClock
from fedbus.errors import BadUpdate, BusDenied, ConfigError
from fedbus.messages.ids import Peer

CLOCK = SystemClock()

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def lets_in(ward, path):
    """Whether the broker lets credentials in."""
    try:
        async with await connect(ward.url, name="try", credentials=path):
            return True
    except BusDenied:
        return False


async def operators(ward):
    """Credentials of a combiner beside the keys, and of one elsewhere, both on the board; where they lie."""
    beside = credentials_dir(ward.authority.directory, "ward")
    beside.mkdir(parents=True, exist_ok=True)
    paths = beside / "combiner.here.creds", ward.place / "away.creds"
    for path, name in zip(paths, ("here", "away"), strict=True):
        made = ward.authority.issue("ward", "combiner", name)
        write_credentials(path, made)
        await enlist(ward.admin, made, by="admin/eve")
    return paths


def believes(verifier, path):
    """Whether what the holder of credentials signs is taken."""
    signer = Own(read_credentials(path))
    try:
        verifier.check(Peer("client", read_credentials(path).name), b"words", signer.identity, signer.sign(b"words"))
    except BadUpdate:
        return False
    return True


@pytest_asyncio.fixture(loop_scope="module")
async def stack():
    """Things that end with the test."""
    async with contextlib.AsyncExitStack() as things:
        yield things


@contextlib.asynccontextmanager
async def lines_of(ward, path):
    """Eight connections of one member; a broker that cuts one off says why or just ends it, as it happens."""
    async with contextlib.AsyncExitStack() as stack:
        opening = [connect(ward.url, name="line", credentials=path) for _ in range(8)]
        yield [await stack.enter_async_context(await one) for one in opening]


async def back(buses):
    """All connections were cut off, and are there again."""
    async with asyncio.timeout(60):
        while not all(bus.connected and bus.reconnects for bus in buses):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)


async def test_signing_keys_are_replaced_step_by_step(wards, capsys, stack):
    """Old and new JWTs are good until the last step; each waits for those who are not ready, and nobody restarts."""
    ward = wards["ward"]
    keys = ward.authority.directory

    async def step(name, *, force=False):
        capsys.readouterr()
        await keyed.rotate_keys(keys, "ward", ward.url, name, force=force, json=True)
        return json.loads(capsys.readouterr().out)

    token = await ward.token(uses_max=0)
    early = [ward.write(await join(ward.request(token, name))) for name in ("early", "lazy")]
    here, away = await operators(ward)
    verifiers = [Members(read_credentials(path).trust, CLOCK, path) for path in (here, away)]
    await asyncio.sleep(1.0 - time.time() % 1.0)  # JWTs count whole seconds
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
    assert read_credentials(here).trust.signers["client"] == f"{before},{coming}"
    with pytest.raises(ConfigError, match=r"1 members have nothing newer yet \(combiner away\)"):
        await step("switch")
    async with await connect(ward.url, name="away", credentials=away) as bus:
        await renew(bus, away)
    await step("switch")
    assert claims_of(read_credentials(here).jwt).issuer == ward.authority.signers("ward", "combiner")[0]
    assert ward.authority.signers("ward", "client") == [coming, before]
    assert ward.authority.trust("ward").signers["client"] == f"{coming},{before}"
    late = ward.write(await join(ward.request(token, "late")))
    with pytest.raises(ConfigError, match="4 members have nothing newer yet"):
        await step("retire")
    lines = await stack.enter_async_context(lines_of(ward, early[0]))
    assert claims_of((await renew(lines[0], early[0])).jwt).issuer == coming
    for path in (*early, late, here, away):
        assert await lets_in(ward, path)
    for verifier in verifiers:  # made before all this, of files that are others now
        assert believes(verifier, early[0]) and believes(verifier, early[1])
    assert {name for _, name in (await step("retire", force=True))["left"]} == {"away", "lazy", "still"}
    await back(lines)  # let in before it had the newer JWT
    assert [await lets_in(ward, path) for path in (*early, late)] == [True, False, True]
    assert ward.authority.signers("ward", "client") == [coming]
