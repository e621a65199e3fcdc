"""Who starts beside the keys: credentials without a token, on the board like everybody's, and taken back like them."""

from __future__ import annotations

import asyncio
import stat
import time

import pytest

import fedbus
from fedbus.access import known, local
from fedbus.access.credentials import read_credentials, write_credentials
from fedbus.access.local import admitted, enlist
from fedbus.bus.nats import connect
from fedbus.errors import BusDenied, ConfigError
from fedbus.messages.ids import Peer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def beside(wards, tmp_path):
    """The ward, of whose admin and keys a home knows; nothing was made in it yet."""
    ward, home = wards["ward"], tmp_path / "home"
    admin = tmp_path / "admin.creds"
    write_credentials(admin, ward.authority.issue("ward", "admin", "eve"))
    known.remember(ward.url, "ward", admin, keys=ward.authority.directory, home=home)
    return ward, home


async def member(ward, name):
    """What stands on the board of a client."""
    return await ward.members.read(Peer("client", name))


async def test_a_client_beside_the_keys_needs_no_token(beside):
    """It gets credentials of its own, for itself alone, stands on the board, is let in, and keeps them."""
    ward, home = beside
    path = await admitted(ward.url, "ward", "client", "here-1", home=home)
    made = read_credentials(path)
    assert (made.role, made.name, made.trust.workspace) == ("client", "here-1", "ward")
    assert made.secrets == {}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    there = await member(ward, "here-1")
    assert (there.state, there.key, there.by) == ("active", made.claims.key, "admin/eve")
    async with await connect(ward.url, name="here-1", credentials=path) as bus:
        assert bus.member == ("client", "here-1")
    assert await admitted(ward.url, "ward", "client", "here-1", home=home) == path
    assert read_credentials(path).jwt == made.jwt


async def test_where_nothing_is_known_nobody_is_made(wards, tmp_path):
    """Another broker, another workspace, another home: None, and whoever connects is nobody."""
    ward = wards["ward"]
    assert await admitted(ward.url, "ward", "client", "here-2", home=tmp_path) is None
    assert await member(ward, "here-2") is None


async def test_who_was_suspended_is_not_made_anew(beside):
    """Removing one's file is no way around a decision: the board says no, with the reason."""
    ward, home = beside
    path = await admitted(ward.url, "ward", "client", "here-3", home=home)
    await ward.members.suspend(Peer("client", "here-3"), by="eve", reason="sends nonsense")
    path.unlink()
    with pytest.raises(BusDenied, match=r"suspended \(sends nonsense\)"):
        await admitted(ward.url, "ward", "client", "here-3", home=home)


async def test_a_name_that_somebody_has_joined_under_is_theirs(beside):
    """Who came with a token keeps name and key; nobody here takes their place."""
    ward, home = beside
    joined = ward.authority.issue("ward", "client", "away-1")
    await enlist(ward.admin, joined, by="eve")
    await ward.members.change(Peer("client", "away-1"), lambda there: there.model_copy(update={"token": "t1"}))
    with pytest.raises(ConfigError, match="joined from elsewhere"):
        await admitted(ward.url, "ward", "client", "away-1", home=home)
    assert (await member(ward, "away-1")).key == joined.claims.key


async def test_a_lost_file_costs_the_old_key(beside):
    """New credentials under the same name: the key of before is refused from then on, the new one is let in."""
    ward, home = beside
    path = await admitted(ward.url, "ward", "client", "here-4", home=home)
    old = path.read_bytes()
    path.unlink()
    path = await admitted(ward.url, "ward", "client", "here-4", home=home)
    stolen = path.with_name("stolen.creds")
    stolen.write_bytes(old)
    lost = read_credentials(stolen).claims.key
    assert list((await member(ward, "here-4")).revoked) == [lost]
    async with asyncio.timeout(5):
        while lost not in ward.authority.revoked("ward"):  # noqa: ASYNC110 - the registrar writes a file
            await asyncio.sleep(0.02)
        while True:
            try:
                await (await connect(ward.url, name="thief", credentials=stolen)).close()
            except BusDenied:
                break
    async with await connect(ward.url, name="here-4", credentials=path) as bus:
        assert bus.connected


async def test_credentials_that_end_soon_are_made_anew(beside):
    """Nobody starts a training with credentials that end before it does."""
    ward, home = beside
    path = await admitted(ward.url, "ward", "client", "here-5", home=home)
    first = read_credentials(path)
    ending = ward.authority.sign("ward", "client", "here-5", first.claims.key, time.time() + local.ENDING_S / 2)
    write_credentials(path, type(first)(ending, first.seed, first.trust))
    again = read_credentials(await admitted(ward.url, "ward", "client", "here-5", home=home))
    assert not again.expires_at


async def test_programs_find_who_they_are(beside):
    """`fedbus.connect` is the admin, `fedbus.Client` the client of its name; with nothing given as such, nobody."""
    ward, home = beside
    before = known.home_dir()
    known.use_home(home)
    app = fedbus.ClientApp()
    app.train(lambda model, task: fedbus.Update(dict(model), weight=1))
    try:
        async with fedbus.connect(ward.url, workspace="ward") as federation:
            assert federation.bus.member == ("admin", "eve")
        async with fedbus.Client(ward.url, app, name="here-6", workspace="ward"):
            assert (await member(ward, "here-6")).state == "active"
        with pytest.raises(BusDenied):
            async with fedbus.connect(ward.url, workspace="ward", credentials=""):
                pass
    finally:
        known.use_home(before)
