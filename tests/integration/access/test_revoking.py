"""Who is shut out is off the broker at once and does not come back; who is resumed, or has a new key, does."""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import replace

import pytest

import fedbus
from fedbus.access.authority import Authority
from fedbus.access.claims import ENDED_AT
from fedbus.access.joining import Refused, join
from fedbus.access.keys import Key
from fedbus.access.renewal import _credentials as renewed
from fedbus.access.renewal import keep_renewed, renew
from fedbus.access.sealed import seal
from fedbus.bus.nats import connect
from fedbus.clock import SystemClock
from fedbus.errors import BadMessage, BusDenied
from fedbus.messages.access import JoinAnswered
from fedbus.messages.ids import Peer

pytestmark = pytest.mark.asyncio(loop_scope="module")

GENEROUS_S = 10.0
"""For what takes milliseconds: it is not measured here, only that it comes."""


@pytest.fixture
def ward(wards):
    """The workspace that everything happens in."""
    return wards["ward"]


async def until(true, what):
    """Wait until something holds."""
    async with asyncio.timeout(GENEROUS_S):
        while True:
            answer = true()
            if await answer if inspect.isawaitable(answer) else answer:
                break
            await asyncio.sleep(0.01)
    return what


async def joined(ward, name, **fields):
    """Somebody who has joined: the credentials, and their file."""
    credentials = await join(ward.request(await ward.token(**fields), name))
    return credentials, ward.write(credentials)


async def let_in(ward, path):
    """Whether the broker lets credentials in."""
    try:
        async with await connect(ward.url, name="try", credentials=path):
            return True
    except BusDenied:
        return False


@pytest.mark.parametrize("deed", ["suspend", "expel"])
async def test_who_is_shut_out_is_cut_off_and_does_not_come_back(ward, deed):
    """The connection that there is ends, and neither it nor a new one with the same credentials gets in."""
    name = f"out-{deed}"
    _, path = await joined(ward, name)
    bus = await connect(ward.url, name=name, credentials=path)
    try:
        assert bus.connected
        await getattr(ward.members, deed)(Peer("client", name), by="eve", reason="leaked")
        await until(lambda: not bus.connected, "it is cut off")
        assert not await let_in(ward, path)
        await asyncio.sleep(0.5)
        assert not bus.connected
    finally:
        await bus.close()
    deeds = [one for one in await ward.deeds("member.revoke") if one[1] == f"client/{name}"]
    assert len(deeds) == 1 and deeds[0][3].endswith("leaked")


async def test_who_is_resumed_comes_back_with_the_same_credentials(ward):
    """A suspension is not for ever; nothing has to be sent to the one who was suspended."""
    _, path = await joined(ward, "back")
    await ward.members.suspend(Peer("client", "back"), by="eve")
    await until(lambda: _not(let_in(ward, path)), "shut out")
    await ward.members.resume(Peer("client", "back"), by="eve")
    await until(lambda: let_in(ward, path), "let in")


async def _not(answer):
    return not await answer


async def test_who_is_expelled_is_refused_a_jwt_and_its_name_is_free(ward):
    """Neither renewing nor joining again with the key helps; somebody else may take the name with another token."""
    request = ward.request(await ward.token(uses_max=0), "gone")
    await join(request)
    await ward.members.expel(Peer("client", "gone"), by="eve", reason="misbehaved")
    with pytest.raises(Refused, match="was expelled: misbehaved"):
        await join(request)
    credentials, path = await joined(ward, "gone")
    await until(lambda: let_in(ward, path), "the new one is let in")
    member = await ward.members.read(Peer("client", "gone"))
    assert member.key == credentials.key.public and Key.of(request.seed).public in member.revoked


async def test_a_registrar_that_was_away_shuts_out_who_was_shut_out_meanwhile(wards):
    """What was decided while none ran is enforced as soon as one does."""
    lab = wards["lab"]
    _, path = await joined(lab, "meanwhile")
    await lab.stop()
    await lab.members.suspend(Peer("client", "meanwhile"), by="eve")
    assert await let_in(lab, path)
    await lab.register("g-3")
    await until(lambda: _not(let_in(lab, path)), "shut out")


async def test_a_broker_that_comes_back_with_old_settings_is_told_again(ward):
    """An account as it was before a revocation, as in an old backup, lasts until a registrar looks at it."""
    _, path = await joined(ward, "stale")
    await ward.members.suspend(Peer("client", "stale"), by="eve")
    await until(lambda: _not(let_in(ward, path)), "shut out")
    ward.authority.restore("ward", [(await ward.members.read(Peer("client", "stale"))).key])
    await ward.authority.push("ward", ward.url)
    assert await let_in(ward, path)
    await ward.register("g-5")  # as after a reconnect: everything is looked at
    await until(lambda: _not(let_in(ward, path)), "shut out again")


async def test_who_tells_the_broker_late_takes_back_nothing(ward, monkeypatch):
    """A process that stood still before it sent an account's JWT lets nobody in whom another has shut out meanwhile."""
    credentials, path = await joined(ward, "late")
    slow, made = Authority.open(ward.authority.directory), []

    def late(self, workspace):
        made.append(newest(self, workspace))
        if self is slow and len(made) == 1:  # meanwhile, of another process
            ward.authority.revoke(workspace, {credentials.key.public: ENDED_AT})
        return made[-1]

    newest = Authority._newest
    monkeypatch.setattr(Authority, "_newest", late)
    await slow.push("ward", ward.url)
    assert len(made) == 2 and not await let_in(ward, path)


async def test_a_broker_cannot_make_a_member_trust_somebody_else(ward):
    """An answer with another model key, or another account, is not taken; secrets that are known stay what they are."""
    credentials, _ = await joined(ward, "steady")
    evil = replace(credentials.trust, model_key=Key.new().public)
    for trust in (evil, replace(credentials.trust, account=Key.new("account").public)):
        answer = JoinAnswered(state="active", jwt=credentials.jwt, trust=trust.to_json())
        with pytest.raises(BadMessage, match="join anew"):
            renewed(credentials, credentials.key, answer)
    known = replace(credentials, secrets={"seal": "ours"})
    sealed = seal(credentials.key.public, {"seal": "theirs", "login": "new"})
    answer = JoinAnswered(state="active", jwt=credentials.jwt, trust=credentials.trust.to_json(), sealed=sealed)
    assert renewed(known, credentials.key, answer).secrets == {"seal": "ours", "login": "new"}


async def test_a_client_gets_a_new_key_while_it_works(ward):
    """Rotation loses nothing: it is connected again with the new key, and the old one ends."""
    before, path = await joined(ward, "turns")
    async with await connect(ward.url, name="turns", credentials=path) as bus:
        heard = await ward.hears(ward.subjects.report(Peer("client", "turns")))
        after = await renew(bus, path, rotate=True)
        assert after.key.public != before.key.public
        await until(lambda: bus.reconnects >= 1 and bus.connected, "it is back with its new key")
        await bus.publish(ward.subjects.report(Peer("client", "turns")), b"still me")
        assert bytes((await asyncio.wait_for(anext(aiter(heard)), GENEROUS_S)).data) == b"still me"
    old = ward.write(before)
    await until(lambda: _not(let_in(ward, old)), "the old key has ended")
    assert await let_in(ward, path)


async def test_a_key_that_was_asked_for_is_gone_on_with(ward):
    """Whoever dies between asking for a new key and having its JWT asks for the same again."""
    _, path = await joined(ward, "dies")
    pending = path.with_name(f".{path.name}.next")
    key = Key.new()
    pending.write_text(key.seed)
    async with await connect(ward.url, name="dies", credentials=path) as bus:
        assert (await renew(bus, path)).key.public == key.public
    assert not pending.exists()


async def test_a_running_client_outlives_its_jwt(wards):
    """Its credentials are renewed before they end; when the broker ends the connection, the new ones are shown."""
    lab = wards["lab"]
    await lab.stop()
    await lab.register("short", life_s=4.0)
    credentials, path = await joined(lab, "lasting")
    async with await connect(lab.url, name="lasting", credentials=path) as bus:
        keeping = asyncio.create_task(keep_renewed(bus, path, SystemClock()))
        ends = credentials.expires_at
        await until(lambda: time.time() > ends + 1 and bus.connected and bus.reconnects, "it lives on")
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    assert not await let_in(lab, lab.write(credentials))


async def test_a_client_that_runs_waits_to_be_let_in_again(ward, monkeypatch):
    """Being shut out ends no client, however often it asks what there is to do meanwhile: it goes on when it may."""
    monkeypatch.setattr("fedbus.client.service.REFRESH_S", 0.05)
    monkeypatch.setattr("fedbus.exchange.station.BOARD_S_MAX", 0.1)
    monkeypatch.setattr("fedbus.exchange.station.RECONNECT_POLL_S", 0.05)
    _, path = await joined(ward, "patient")
    app = fedbus.ClientApp()
    app.train(lambda model, task: fedbus.Update(dict(model), weight=1.0))
    async with fedbus.Client(ward.url, app, name="patient", workspace=ward.workspace, credentials=str(path)) as client:
        running = asyncio.create_task(client.run())
        await asyncio.sleep(0.3)
        await ward.members.suspend(Peer("client", "patient"), by="eve")
        await until(lambda: not client._bus.connected, "shut out")
        await asyncio.sleep(1.0)
        assert not running.done()
        await ward.members.resume(Peer("client", "patient"), by="eve")
        await until(lambda: client._bus.connected, "let in")
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])
