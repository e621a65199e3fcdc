"""The registrar makes the broker know what the boards say, whatever fails on the way, and fills no audit."""

from __future__ import annotations

import asyncio

import pytest

from fedbus.access.admission import FAILURES_MAX, proof_of_join, proof_of_renewal
from fedbus.access.audit import Audit
from fedbus.access.authority import Authority
from fedbus.access.claims import ENDED_AT
from fedbus.access.joining import Refused, Request, ask
from fedbus.access.keys import Key
from fedbus.access.members import Members
from fedbus.access.registrar import ROTATION_S, ROTATIONS_MAX, Registrar
from fedbus.access.tokens import JoinToken
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.errors import BusUnavailable
from fedbus.messages.access import JoinAsked, Member, RenewAsked
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual
from fedbus.together import together

OURS = Subjects("w")
CLIENT = Peer("client", "c-1")


class Place:
    """A registrar on the memory bus, with real keys. ``pushed``: whom the broker does not let in, at each push."""

    def __init__(self, directory):
        self.broker = MemoryBroker()
        self.clock = VirtualClock()
        self.bus = MemoryBus(self.broker, "g-1")
        self.members = Members(MemoryBus(self.broker, "eve"), OURS, self.clock)
        self.audit = Audit(self.bus, OURS, Peer("gateway", "g-1"), self.clock)
        self.pushed = []
        self.failures = 0
        self.authority = Authority.open(directory)
        self.authority.create_workspace("w")

    async def push(self):
        """Tell the broker, which does not answer a few times."""
        if self.failures:
            self.failures -= 1
            raise BusUnavailable("it is away")
        self.pushed.append(set(self.authority.revoked("w")))

    async def run(self):
        """Run a registrar until cancelled."""
        await ensure_streams(self.bus, OURS)
        members = Members(self.bus, OURS, self.clock)
        registrar = Registrar(
            self.bus, OURS, members, self.authority, self.audit, self.clock,
            push=self.push, writer=Peer("gateway", "g-1"),
        )  # fmt: skip
        async with together() as group:
            group.create_task(members.follow())
            group.create_task(registrar.run())

    async def token(self, **fields):
        """A join token, signed."""
        new = await self.members.tokens.create_join("client", by="eve", **fields)
        return JoinToken.read(await self.members.tokens.join_text(new, ["nats://h"]))

    async def join(self, token, name="c-1"):
        """Join over the memory bus."""
        return await ask(MemoryBus(self.broker, name), Request(token, name, Key.new().seed))

    async def deeds(self):
        """Actions and results that were written down."""
        return [(one.entry.action, one.entry.result) async for one in self.audit.read()][::-1]


@pytest.fixture
def in_place(tmp_path, monkeypatch):
    """Run steps in virtual time, with a registrar at work; threads have no virtual time."""

    async def inline(call, *args, **kwargs):
        return call(*args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", inline)

    def run(steps):
        async def main():
            place = Place(tmp_path / "keys")
            running = asyncio.create_task(place.run())
            await asyncio.sleep(1)
            await steps(place)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        run_virtual(main())

    return run


def test_a_push_that_fails_is_tried_again_and_told_once_in_the_audit(in_place):
    """The keys know it at once, the broker as soon as it answers, the audit when the broker does."""

    async def steps(place):
        key = (await place.join(await place.token())).key.public
        place.failures = 3
        await place.members.suspend(CLIENT, by="eve")
        await asyncio.sleep(0.2)
        assert key in place.authority.revoked("w") and ("member.revoke", "done") not in await place.deeds()
        await asyncio.sleep(10)
        assert place.failures == 0 and key in place.pushed[-1]
        assert (await place.deeds()).count(("member.revoke", "done")) == 1

    in_place(steps)


def test_a_broker_that_came_back_is_told_again(in_place):
    """After a reconnect it is told what it may have forgotten, also where nothing has changed."""

    async def steps(place):
        await asyncio.sleep(5)
        count = len(place.pushed)
        await asyncio.sleep(60)
        assert len(place.pushed) == count, "nobody is told what he knows"
        place.broker.restart()
        await asyncio.sleep(10)
        assert len(place.pushed) == count + 1

    in_place(steps)


def test_a_key_that_was_replaced_ends_when_its_time_is_over(in_place):
    """Also where nobody has said that the new one is there."""

    async def steps(place):
        credentials = await place.join(await place.token())
        ends_at = place.clock.now() + ROTATION_S

        def rotate(known: Member) -> Member:
            return known.model_copy(update={"key": Key.new().public, "revoked": {credentials.key.public: ends_at}})

        await place.members.change(CLIENT, rotate)
        await asyncio.sleep(ROTATION_S - 10)
        assert credentials.key.public not in place.authority.revoked("w")
        await asyncio.sleep(20)
        assert credentials.key.public in place.pushed[-1]

    in_place(steps)


def test_a_key_of_before_ends_with_its_member(in_place):
    """Whoever is suspended just after its key was replaced comes in with neither, and is resumed with the new one."""

    async def steps(place):
        first, second = (await place.join(await place.token())).key.public, Key.new().public
        ends_at = place.clock.now() + ROTATION_S
        told = {"key": second, "revoked": {first: ends_at}}
        await place.members.change(CLIENT, lambda known: known.model_copy(update=told))
        await place.members.suspend(CLIENT, by="eve")
        await asyncio.sleep(1)
        assert {first, second} <= place.pushed[-1]
        await place.members.resume(CLIENT, by="eve")
        await asyncio.sleep(1)
        assert first in place.pushed[-1] and second not in place.pushed[-1]

    in_place(steps)


def test_boards_that_are_lost_let_nobody_back_in(in_place):
    """What the keys directory has as revoked stays so, whatever happens to the broker."""

    async def steps(place):
        key = (await place.join(await place.token())).key.public
        await place.members.suspend(CLIENT, by="eve")
        await asyncio.sleep(1)
        await place.bus.purge(OURS.stream("access"), OURS.access())
        place.broker.restart()
        await asyncio.sleep(10)
        assert key in place.pushed[-1]

    in_place(steps)


def test_an_older_state_of_the_boards_brings_back_nobody_who_was_expelled(in_place):
    """A disk that is brought back as it was says active again; the keys know better, and sign nothing for that key."""

    async def steps(place):
        token = await place.token()
        request = Request(token, "c-1", Key.new().seed)
        await ask(MemoryBus(place.broker, "c-1"), request)
        key, before = Key.of(request.seed).public, await place.members.read(CLIENT)
        await place.members.expel(CLIENT, by="eve")
        await asyncio.sleep(1)
        await place.members.change(CLIENT, lambda _: before)
        await asyncio.sleep(1)
        assert place.authority.revoked("w")[key] == ENDED_AT and key in place.pushed[-1]
        with pytest.raises(Refused, match="for good"):
            await ask(MemoryBus(place.broker, "c-1"), request)

    in_place(steps)


def test_a_clock_that_was_ahead_leaves_no_key_behind(in_place):
    """What was signed in a future that did not come is over with its key, once that is replaced."""

    async def steps(place):
        first = (await place.join(await place.token())).key.public
        told = {"key": Key.new().public, "issued_at": 0.0, "revoked": {first: place.clock.now()}}
        await place.members.change(CLIENT, lambda known: known.model_copy(update=told))
        await asyncio.sleep(1)
        assert place.authority.revoked("w")[first] > 4e9

    in_place(steps)


def test_nobody_replaces_his_key_without_end(in_place):
    """Each key stays in the account's JWT, which has to fit into one message, and in the audit: ten within a day."""

    async def steps(place):
        await place.join(await place.token())
        bus = MemoryBus(place.broker, "c-1")

        async def rotate():
            key = Key.new()
            asked = RenewAsked(new_key=key.public, proof=key.sign(proof_of_renewal("w", CLIENT, key.public)))
            answers = [
                await bus.request(OURS.renew(CLIENT), encode(Envelope("1", "w", "c-1", one)), deadline_s=5)
                for one in (asked, asked.model_copy(update={"taken": True}))
            ]
            return decode(answers[0].data, "").body

        assert [(await rotate()).state for _ in range(ROTATIONS_MAX + 3)].count("active") == ROTATIONS_MAX
        assert "enough" in (await rotate()).reason and len(place.authority.revoked("w")) == ROTATIONS_MAX
        await asyncio.sleep(86400 + ROTATION_S)
        assert (await rotate()).state == "active"

    in_place(steps)


def test_whoever_holds_an_old_token_fills_no_audit(in_place):
    """Refusals are answered as long as somebody asks, and written down a few times."""

    async def steps(place):
        token = await place.token(expires_s=1)
        await asyncio.sleep(2)
        for index in range(3 * FAILURES_MAX):
            with pytest.raises(Refused, match="expired"):
                await place.join(token, f"c-{index}")
        assert (await place.deeds()).count(("member.join", "refused")) == FAILURES_MAX

    in_place(steps)


def test_what_is_no_request_is_answered_and_ends_nothing(in_place):
    """Garbage, and words that do not belong there, are refused; the next request is served."""

    async def steps(place):
        token = await place.token()
        bus = MemoryBus(place.broker, "x")
        member = Member(role="client", name="x", key=Key.new().public, state="active", at=1.0, by="x")
        for data in (b"garbage", encode(Envelope("1", "w", "x", member))):
            answer = await bus.request(OURS.join(token.id), data, deadline_s=5)
            assert decode(answer.data, "").body.state == "refused"
        key = Key.new()
        asked = JoinAsked(token=token.id, secret=token.secret, role="client", name="x", key=key.public, proof=b"")
        asked = asked.model_copy(update={"proof": key.sign(proof_of_join("w", asked))})
        other = await bus.request(OURS.join("other"), encode(Envelope("2", "w", "x", asked)), deadline_s=5)
        assert "over the connection of token other" in decode(other.data, "").body.reason
        assert (await place.join(token)).name == "c-1"

    in_place(steps)


def test_who_was_given_credentials_before_anything_ran_can_be_shut_out(tmp_path, in_place):
    """They stand on the board of members from a registrar's start on; one that was expelled stays so at the next."""

    async def steps(place):
        founder = Authority.open(tmp_path / "keys").issue("w", "combiner", "k-1")
        place.authority.note_founder("w", founder.jwt)
        async with together() as group:
            again = group.create_task(place.run())
            peer = Peer("combiner", "k-1")
            await asyncio.sleep(5)
            member = await place.members.read(peer)
            assert (member.state, member.key, member.jwt) == ("active", founder.key.public, founder.jwt)
            await place.members.expel(peer, by="eve", reason="stolen")
            await asyncio.sleep(5)
            assert founder.key.public in place.pushed[-1]
            again.cancel()
            await asyncio.wait([again])
            again = group.create_task(place.run())
            await asyncio.sleep(5)
            assert (await place.members.read(peer)).state == "expelled"
            again.cancel()

    in_place(steps)


def test_a_name_that_somebody_has_joined_under_stays_theirs(tmp_path, in_place):
    """Credentials that were made for it at the beginning do not take it away, however much later they are."""

    async def steps(place):
        peer, key = Peer("combiner", "k-2"), Key.new().public
        theirs = Member(
            role="combiner", name="k-2", key=key, state="active", at=1.0, by="eve", token="t-1", issued_at=1.0
        )
        await place.members.change(peer, lambda known: theirs)
        founder = Authority.open(tmp_path / "keys").issue("w", "combiner", "k-2")
        place.authority.note_founder("w", founder.jwt)
        again = asyncio.create_task(place.run())
        await asyncio.sleep(5)
        assert await place.members.read(peer) == theirs
        again.cancel()
        await asyncio.wait([again])

    in_place(steps)
