"""Workspaces at one broker: nobody of one sees, writes or even names anything of another; each has its bounds."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from fedbus.access.accounts import CONNECTIONS_MAX, connections_for
from fedbus.access.authority import Authority
from fedbus.access.claims import account_user_jwt, read_claims, user_jwt
from fedbus.access.joining import join
from fedbus.access.keys import Key
from fedbus.access.permissions import ROLES
from fedbus.bus.nats import Identity, connect
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.identity import identify_by
from fedbus.errors import BusDenied, BusError, BusFull, BusUnavailable
from fedbus.messages.ids import Peer
from fedbus.store.streams import ensure_streams

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = ("journal", "command", "board", "blob", "model", "registry", "access", "audit", "span")


class Ear:
    """Hears what is refused."""

    def __init__(self):
        self.denied = set()

    def on_reconnected(self): ...

    def on_closed(self, reason): ...

    def on_denied(self, action, subject, reason):
        del reason
        self.denied.add(subject)


@pytest.mark.parametrize("role", [role for role in ROLES if role not in ("joiner", "probe")])
async def test_nobody_of_one_workspace_reaches_another(wards, role):
    """Every subject of the other, its streams and JetStream's API for them: denied to each role of this one."""
    ward, lab = wards["ward"], wards["lab"]
    await lab.admin.append(lab.subjects.stream("registry"), lab.subjects.registry_state(), b"theirs")
    issued = ward.authority.issue("ward", role, "spy")
    connection, ear = Connection(ward.url, "spy"), Ear()
    await connection.open(
        identify=identify_by(Identity(issued.jwt, issued.seed)), tls=None, inbox_prefix="_INBOX", deadline_s=10
    )
    connection.listeners.append(ear)
    theirs = lab.subjects
    said = [theirs.journal("s"), theirs.registry_state(), theirs.join("t"), theirs.access_bounds(), theirs.lead()]
    said += [theirs.presence(Peer(role, "spy")), theirs.report(Peer(role, "spy")), theirs.renew(Peer(role, "spy"))]
    said += [theirs.command(Peer(role, "spy")), theirs.audit(Peer(role, "spy")), theirs.blob("b", 0)]
    for name in STREAMS:
        stream = theirs.stream(name)
        said += [f"$JS.API.STREAM.{call}.{stream}" for call in ("INFO", "CREATE", "PURGE", "MSG.GET", "DELETE")]
        said += [f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.CONSUMER.CREATE.{stream}.c"]
    heard = [theirs.journal(), theirs.task(), theirs.presence(), theirs.access(), "fb.lab.>", ">"]
    try:
        for pattern in heard:
            await connection.ignore(await connection.receive((pattern,), lambda message: None))
        for subject in said:
            await connection.send(subject, b"{}")
        await connection.flush(10)
    finally:
        await connection.close()
    assert ear.denied == {subject.lower() for subject in (*said, *heard)}


async def test_even_who_may_name_anothers_streams_finds_nothing(wards):
    """Accounts keep streams apart, not names: under the very names of the other there is nothing of it."""
    ward, lab = wards["ward"], wards["lab"]
    await lab.admin.append(lab.subjects.stream("registry"), lab.subjects.registry_state(), b"theirs")
    # as if the permissions of one workspace had been written for the other: a key of its account, unbounded
    issued = _unbounded(ward.authority, "ward")
    async with await connect(ward.url, name="spy", credentials=issued) as bus:
        assert await bus.usage(lab.subjects.stream("registry")) is None
        heard = await bus.subscribe("fb.lab.>")
        await lab.admin.publish(lab.subjects.presence(Peer("admin", "eve")), b"here")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(aiter(heard)), 0.2)
        with pytest.raises(BusUnavailable):
            await bus.request(lab.subjects.join("t"), b"x", deadline_s=0.2)
    kept = await lab.admin.last(lab.subjects.stream("registry"), lab.subjects.registry_state())
    assert bytes(kept.data) == b"theirs"


def _unbounded(authority: Authority, workspace: str) -> Identity:
    """An identity of a workspace's account that its owner's key has signed: it may do all in the account."""
    key = Key.new()
    account = Key.of((authority.directory / "workspaces" / workspace / "account.nk").read_text())
    return Identity(account_user_jwt(account, "spy", key.public, 1.0), key.seed)


async def test_credentials_of_one_workspace_are_none_in_another(wards):
    """A member's JWT says its account: with another's key it is refused, whatever else it says."""
    ward, lab = wards["ward"], wards["lab"]
    ours = await join(ward.request(await ward.token(), "ours"))
    theirs = await join(lab.request(await lab.token(), "theirs"))
    for jwt, seed in ((ours.jwt, theirs.seed), (theirs.jwt, ours.seed)):
        with pytest.raises(BusDenied):
            await connect(ward.url, name="mixed", credentials=Identity(jwt, seed))


async def test_a_new_workspace_is_there_at_a_broker_that_runs(wards):
    """Its account is told to the broker; streams, a registrar and a member follow, and no restart."""
    ward = wards["ward"]
    ward.authority.create_workspace("late")
    await ward.authority.push("late", ward.url)
    late = await type(ward)(ward.url, ward.authority, "late", ward.place, ward.stack).open()
    await late.register()
    assert (await join(late.request(await late.token(), "first"))).trust.workspace == "late"
    await late.stop()


async def test_who_fills_a_door_locks_out_nobody_inside(wards):
    """At the bound of connections the next client is refused with a reason; a coordinator and a joiner come in."""
    ward = wards["ward"]
    authority = ward.authority
    authority.create_workspace("narrow")
    authority.set_bounds("narrow", connections_max=2)
    await authority.push("narrow", ward.url)
    at = ward.url

    def member(role, name):
        issued = authority.issue("narrow", role, name)
        return connect(at, name=name, credentials=Identity(issued.jwt, issued.seed))

    async with await member("client", "a"), await member("client", "b"):
        with pytest.raises(BusError, match=r"maximum account.*--clients-max"):
            await member("client", "c")
        for role in ("coordinator", "combiner", "viewer"):
            async with await member(role, "in"):
                pass
        jwt = authority.joiner("narrow", "token")
        async with await connect(at, name="joiner", credentials=Identity(jwt, "")):
            pass
    async with await member("client", "c"):
        pass


async def test_who_is_one_too_many_by_a_new_bound_comes_back_when_there_is_room(wards):
    """A broker cuts off whom a lower bound leaves no room: that connection waits for it, and is not closed for good."""
    ward = wards["ward"]
    authority = ward.authority
    authority.create_workspace("shrunk")
    await authority.push("shrunk", ward.url)
    issued = [authority.issue("shrunk", "client", name) for name in "ab"]
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        there = [
            await stack.enter_async_context(await connect(ward.url, name="c", credentials=Identity(one.jwt, one.seed)))
            for one in issued
        ]
        for most, connected in ((1, 1), (0, 2)):
            authority.set_bounds("shrunk", connections_max=most)
            await authority.push("shrunk", ward.url)
            while sum(bus.connected for bus in there) != connected:  # noqa: ASYNC110 - a connection says so to nobody
                await asyncio.sleep(0.02)
        assert sum(bus.reconnects for bus in there) == 1


async def test_only_who_has_to_know_is_told(wards):
    """A broker that is told an account forgets where answers go: that of the streams is not told of a client's key."""
    ward = wards["ward"]
    authority = ward.authority
    authority.create_workspace("still")
    await authority.push("still", ward.url)
    system = Key.of((authority.directory / "system.nk").read_text())
    key = Key.new()
    identity = Identity(account_user_jwt(system, "reader", key.public, time.time()), key.seed)
    async with await connect(ward.url, name="reader", credentials=identity) as bus:

        async def dates():
            found = []
            for account in authority.account_jwts("still"):
                answer = await bus.request(f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP", b"", deadline_s=10)
                found.append(read_claims(bytes(answer.data).decode())["iat"])
            return found

        before = await dates()
        gone = Key.new().public
        authority.revoke("still", {gone: time.time()}, {gone: "client"})
        await authority.push("still", ward.url)
        inside, client, *others = await dates()
        assert [inside, *others] == [before[0], *before[2:]] and client > before[1]


async def test_a_quota_of_clients_bounds_their_connections(wards):
    """What a workspace's board says of clients stands at their door, with room for connections that have died."""
    lab = wards["lab"]
    for clients_max in (30, 0):
        await lab.members.set_bounds(by="eve", clients_max=clients_max)
        wanted = connections_for(clients_max) or CONNECTIONS_MAX["client"]
        async with asyncio.timeout(20):
            while True:
                door = list(lab.authority.account_jwts("lab").values())[1]
                if read_claims(door)["nats"]["limits"]["conn"] == wanted:
                    break
                await asyncio.sleep(0.02)


async def test_who_was_signed_by_an_earlier_release_goes_on_until_its_key_is_replaced(wards):
    """A viewer among the streams, as it was: in while its signing key counts, refused when that is retired."""
    ward = wards["ward"]
    authority = ward.authority
    authority.create_workspace("older")
    place = authority.directory / "workspaces" / "older"
    (place / "viewer.door.nk").unlink()
    again = Authority.open(authority.directory)
    key, signer = Key.new(), Key.of((place / "viewer.nk").read_text())
    said = {"workspace": "older", "role": "viewer", "name": "eye", "key": key.public, "issued_at": time.time()}
    before = Identity(user_jwt(signer, again.trust("older").account, **said), key.seed)
    new = again.issue("older", "viewer", "new")
    await again.push("older", ward.url)
    for identity in (before, Identity(new.jwt, new.seed)):
        async with await connect(ward.url, name="eye", credentials=identity):
            pass
    for step in ("begin", "switch", "retire"):
        again.replace_signers("older", step)
    await again.push("older", ward.url)
    with pytest.raises(BusDenied):
        await connect(ward.url, name="eye", credentials=before)
    renewed = again.issue("older", "viewer", "new")
    async with await connect(ward.url, name="eye", credentials=Identity(renewed.jwt, renewed.seed)):
        pass


async def test_what_does_not_fit_into_a_workspaces_bytes_is_refused(wards):
    """At the bound an append says that the store is full; nothing old goes, and a higher bound makes room."""
    lab = wards["lab"]
    coordinator = await lab.bus("coordinator", "writer")
    await ensure_streams(coordinator, lab.subjects)
    combiner = await lab.bus("combiner", "writer")
    stream, blob = lab.subjects.stream("blob"), lab.subjects.blob
    await combiner.append(stream, blob("old", 0), b"x" * 1000)
    for more in range(15, -1, -1):  # decisions that others have overtaken: what can make room
        await lab.members.set_bounds(by="eve", bytes_max=300_000 + more)
    with pytest.raises(BusFull):
        await _fill(combiner, stream, blob)
    assert bytes((await combiner.last(stream, blob("old", 0))).data) == b"x" * 1000
    for index in range(5):  # whoever is to be shut out of a full store has to be: history makes room
        await lab.members.people.add(f"anna-{index}", ["viewer"], by="eve")
    await lab.members.set_bounds(by="eve", bytes_max=0)
    async with asyncio.timeout(20):
        while True:
            try:
                await combiner.append(stream, blob("more", 0), b"x" * 50_000)
            except BusFull:
                await asyncio.sleep(0.02)
            else:
                break


async def _fill(bus, stream, blob):
    """Append until nothing more fits."""
    async with asyncio.timeout(20):
        for index in range(1000):
            await bus.append(stream, blob("new", index), b"x" * 50_000)
