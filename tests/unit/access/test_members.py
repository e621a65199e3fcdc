"""Boards of who takes part: each change holds, whoever else writes, and a follower knows them all."""

from __future__ import annotations

import asyncio

import pytest

from fedbus.access.keys import Key
from fedbus.access.members import Members
from fedbus.access.names import id_of
from fedbus.access.tokens import JoinToken, digest_of, is_secret_of, read_api_token, state_word
from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.errors import ConfigError, Conflict, NotFound
from fedbus.messages.access import Member, WorkspaceBounds
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import ensure_streams
from fedbus.testing.loop import VirtualClock, run_virtual

OURS = Subjects("w")
CLIENT = Peer("client", "c-1")


class Place:
    """A broker with the streams of a workspace, and members as several programs know them."""

    def __init__(self):
        self.broker = MemoryBroker()
        self.clock = VirtualClock()
        self.bus = MemoryBus(self.broker, "owner")

    async def members(self):
        await ensure_streams(self.bus, OURS)
        return self.another()

    def another(self):
        return Members(self.bus, OURS, self.clock)


def waiting(**fields):
    """A client that waits for approval."""
    fields = {"role": "client", "name": "c-1", "key": Key.new().public, "state": "waiting"} | fields
    return Member(at=1.0, by="client/c-1", **fields)


def in_place(test):
    """Run a test of members, in virtual time."""

    def run():
        async def main():
            place = Place()
            await test(place, await place.members())

        run_virtual(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_place
async def test_a_member_goes_through_its_states_and_nowhere_else(place, members):
    """Each deed leads where the drawing says; from any other state it is refused, with the state in the error."""
    with pytest.raises(NotFound, match="client c-1"):
        await members.approve(CLIENT, by="eve")
    await members.change(CLIENT, lambda _: waiting())
    for deed in ("suspend", "resume"):
        with pytest.raises(Conflict, match="is waiting") as caught:
            await getattr(members, deed)(CLIENT, by="eve")
        assert caught.value.state == "waiting"
    for deed, state in (("approve", "active"), ("suspend", "suspended"), ("resume", "active"), ("expel", "expelled")):
        done = await getattr(members, deed)(CLIENT, by="eve", reason="so")
        assert (done.state, done.by, done.reason) == (state, "eve", "so")
        assert members.get(CLIENT) == done == await members.read(CLIENT)
    for deed in ("approve", "suspend", "resume", "expel"):
        with pytest.raises(Conflict, match="is expelled"):
            await getattr(members, deed)(CLIENT, by="eve")


@in_place
async def test_a_follower_knows_what_was_there_and_what_comes(place, members):
    """`follow` tells what stood there, then what others write; its listeners hear each board once."""
    await members.change(CLIENT, lambda _: waiting())
    await members.set_bounds(by="eve", clients_max=3)
    follower, heard = place.another(), []
    follower.listen(heard.append)
    task = asyncio.create_task(follower.follow())
    await follower.caught_up()
    assert follower.get(CLIENT).state == "waiting" and follower.bounds.clients_max == 3
    await members.approve(CLIENT, by="eve")
    new = await members.tokens.create_api("viewer", by="eve", person="anna@clinic.example")
    person = await members.people.add("anna@clinic.example", ["viewer"], by="eve", subjects=["https://i#1"])
    await asyncio.sleep(1)
    assert follower.get(CLIENT).state == "active" and follower.active_clients() == 1
    assert follower.tokens.get(new.state.id) == new.state
    assert follower.people.get(person.name) == person == follower.people.by_id(new.state.name)
    assert follower.people.by_subject("https://i#1") == person
    kinds = [type(board).__name__ for board in heard]
    assert kinds == ["Member", "WorkspaceBounds", "Member", "TokenState", "Person"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@in_place
async def test_an_empty_workspace_is_known_to_be_empty(place, members):
    """Where nothing stands, `follow` and `load` say so at once."""
    task = asyncio.create_task(members.follow())
    await asyncio.wait_for(members.caught_up(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    other = place.another()
    await other.load()
    assert other.boards.caught_up.is_set() and not other.all()


@in_place
async def test_of_two_who_use_a_last_use_one_loses(place, members):
    """However many ask at the same moment, a token with two uses lets two keys in; the same key asks as it likes."""
    new = await members.tokens.create_join("client", by="eve", uses_max=2)
    keys = [Key.new().public for _ in range(6)]
    asked = [place.another().tokens.use(new.state.id, key) for key in keys + keys]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in ended) == 8
    state = await members.boards.read(OURS.access_token(new.state.id), type(new.state))
    assert len(set(state.used_by)) == len(state.used_by) == 2
    assert state_word(state, place.clock.now()) == "used up"


@in_place
async def test_a_token_is_no_good_when_it_is_over(place, members):
    """Expired and revoked tokens let nobody in, and say why; revoking twice changes nothing."""
    new = await members.tokens.create_join("client", by="eve", expires_s=10)
    revoked = await members.tokens.create_join("client", by="eve")
    first = await members.tokens.revoke(revoked.state.id, by="eve", reason="lost")
    assert await members.tokens.revoke(revoked.state.id, by="bob") == first
    await asyncio.sleep(10)
    for one, why in ((new, "expired"), (revoked, "revoked: lost")):
        with pytest.raises(Conflict, match=why):
            await members.tokens.use(one.state.id, Key.new().public)
    with pytest.raises(NotFound):
        await members.tokens.revoke("none", by="eve")


@in_place
async def test_bounds_say_who_is_asked_about(place, members):
    """A token that says nothing about approval takes what the workspace says at that moment."""
    assert (await members.tokens.create_join("client", by="eve")).state.approval == "auto"
    await members.set_bounds(by="eve", approval="ask")
    assert (await members.tokens.create_join("client", by="eve")).state.approval == "ask"
    assert (await members.tokens.create_join("client", by="eve", approval="auto")).state.approval == "auto"
    bounds = await members.set_bounds(by="eve", sessions_max=2)
    assert (bounds.approval, bounds.sessions_max, bounds.clients_max) == ("ask", 2, 0)


@in_place
async def test_people_come_change_and_go(place, members):
    """A removed person is nobody, and may be added again; what cannot be is refused with what can."""
    anna = await members.people.add("anna@clinic.example", ["auditor", "engineer"], by="eve")
    assert anna.roles == ("engineer", "auditor")
    with pytest.raises(Conflict, match="is there already"):
        await members.people.add(anna.name, ["viewer"], by="eve")
    with pytest.raises(ConfigError, match="roles: expected"):
        await members.people.add("bob", ["root"], by="eve")
    with pytest.raises(ConfigError, match="name: expected"):
        await members.people.add("bob smith", ["viewer"], by="eve")
    assert (await members.people.change(anna.name, by="eve", state="suspended")).roles == anna.roles
    assert (await members.people.remove(anna.name, by="eve")).state == "suspended"
    assert members.people.get(anna.name) is None and members.people.all() == []
    with pytest.raises(NotFound):
        await members.people.change(anna.name, by="eve", roles=["viewer"])
    assert (await members.people.add(anna.name, ["viewer"], by="eve")).state == "active"


@in_place
async def test_a_board_under_anothers_subject_is_passed_over(place, members):
    """What says that it is another than its subject, and what is none at all, changes nothing in memory."""
    member = waiting(name="c-2")
    for data in (
        encode(Envelope("1", "w", "x", member)),
        b"garbage",
        encode(Envelope("2", "w", "x", WorkspaceBounds())),
    ):
        await place.bus.append(OURS.stream("access"), OURS.access_member(CLIENT), data)
    await members.load()
    assert members.all() == []


def test_ids_of_people_are_tokens_of_subjects_and_never_shared():
    """A name that is a token is its own id; nobody can take a name that is another's id."""
    assert id_of("anna") == "anna"
    hashed = id_of("anna@clinic.example")
    assert hashed.startswith("p_") and len(hashed) == 34
    assert id_of(hashed) != hashed


def test_a_join_token_says_what_was_put_in():
    """Text and back, also with line breaks in it; its secrets do not show."""
    token = JoinToken("w", "ab12", "s" * 43, "e30.e30.c2ln", ("tls://bus.example:4222",), "client", "c-1", "PEM", 5.0)
    text = token.text()
    assert JoinToken.read(f" {text[:40]}\n  {text[40:]}\n") == token
    assert "s" * 43 not in repr(token) and "e30.e30" not in repr(token)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected a join token"),
        ("fba_ab_" + "x" * 43, "token for a gateway"),
        ("fbj_!!!", "damaged"),
        ("fbj_AAAA", "damaged"),
        ("fbj_" + "A" * 70_000, "expected a join token"),
    ],
)
def test_what_is_no_join_token_is_refused_with_what_it_is(text, why):
    """Nothing that somebody pastes makes a traceback."""
    with pytest.raises(ConfigError, match=why):
        JoinToken.read(text)


def test_a_join_token_that_unfolds_to_much_is_refused():
    """A bomb of zeros, and a token that was cut short, are damaged tokens."""
    import base64
    import zlib

    bomb = "fbj_" + base64.urlsafe_b64encode(zlib.compress(b"\xc4" * 2**24, 9)).decode()
    token = JoinToken("w", "ab12", "s" * 43, "e30.e30.c2ln", ("nats://h",)).text()
    for text in (bomb, token[:-8], token[:-40]):
        with pytest.raises(ConfigError, match="damaged"):
            JoinToken.read(text)


@in_place
async def test_an_api_token_is_known_by_its_digest_alone(place, members):
    """The text gives id and secret back; another secret is not its own; nothing kept holds the secret."""
    new = await members.tokens.create_api("auditor", by="eve", expires_s=60)
    id_, secret = read_api_token(new.api_text)
    assert id_ == new.state.id and is_secret_of(new.state, secret)
    assert not is_secret_of(new.state, secret[:-1] + ("A" if secret[-1] != "A" else "B")) and not is_secret_of(
        new.state, ""
    )
    assert secret not in new.state.model_dump_json() and new.state.digest == digest_of(secret)
    assert secret not in repr(new)
    for text in ("", "fba_", new.api_text + "=", f"fba_x y_{'a' * 43}", new.api_text[:-1]):
        assert read_api_token(text) is None
