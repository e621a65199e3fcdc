"""Joining a real, secured broker with a token: who comes in, who does not and why, and what is written down of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fedbus.access.admission import proof_of_join
from fedbus.access.joining import Refused, join
from fedbus.access.keys import Key
from fedbus.bus.nats import Identity, connect
from fedbus.errors import BusDenied, BusUnavailable
from fedbus.messages.access import JoinAsked
from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.ids import Peer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def ward(wards):
    """The workspace that everything happens in."""
    return wards["ward"]


async def test_a_machine_joins_with_a_token_and_its_key_never_travels(ward):
    """What is got lets in as the client of that name, and what stands on the boards holds neither seed nor secret."""
    token = await ward.token(name="c-1", owner="anna@clinic.example")
    request = ward.request(token, attributes={"site": "Ulm"})
    credentials = await join(request)
    assert (credentials.role, credentials.name, credentials.trust.urls) == ("client", "c-1", (ward.url,))
    assert credentials.seed == request.seed and not credentials.secrets
    member = await ward.members.read(Peer("client", "c-1"))
    assert (member.state, member.owner, member.attributes) == ("active", "anna@clinic.example", {"site": "Ulm"})
    await ward.members.load()
    state = ward.members.tokens.get(token.id)
    kept = member.model_dump_json() + state.model_dump_json()
    assert request.seed not in kept and token.secret not in kept
    async with await connect(ward.url, name="c-1", credentials=ward.write(credentials)) as bus:
        await bus.publish(ward.subjects.report(Peer("client", "c-1")), b"mine")
    assert ("member.join", "client/c-1", "done", "is active") in await ward.deeds("member.join")


async def test_asking_again_with_the_same_key_leads_to_the_same(ward):
    """A lost answer costs nothing: the token is used once, and the second answer is the first."""
    request = ward.request(await ward.token(), "again")
    first, second = await join(request), await join(request)
    assert first.jwt == second.jwt
    await ward.members.load()
    assert ward.members.tokens.get(request.token.id).used_by == (Key.of(request.seed).public,)
    assert [deed[1] for deed in await ward.deeds("member.join")].count("client/again") == 1


async def refused(ward, request, why):
    """Ask, expect a refusal with a reason, and find both in the audit."""
    with pytest.raises(Refused, match=why):
        await join(request)
    target = f"{request.token.role}/{request.name}"
    deeds = [deed for deed in await ward.deeds("member.join") if deed[1] == target]
    assert deeds[-1][2] == "refused" and why in deeds[-1][3]


async def test_an_expired_token_lets_nobody_in(ward):
    """Refused with the reason, which stands in the audit."""
    token = await ward.token(expires_s=0.3)
    await asyncio.sleep(0.35)
    await refused(ward, ward.request(token, "late"), "it has expired")


async def test_a_token_is_used_once(ward):
    """A second key with the same token is refused."""
    token = await ward.token()
    await join(ward.request(token, "one"))
    await refused(ward, ward.request(token, "two"), "it is used up")


async def test_a_revoked_token_lets_nobody_in(ward):
    """Also with uses left, and also the one who has used it before."""
    token = await ward.token(uses_max=5)
    first = ward.request(token, "early")
    await join(first)
    await ward.members.tokens.revoke(token.id, by="eve", reason="mailed to the wrong list")
    for request in (first, ward.request(token, "later")):
        await refused(ward, request, "it was revoked: mailed to the wrong list")


async def test_a_wrong_secret_is_refused_and_soon_not_looked_at(ward):
    """Each of the first ten is written down; then nobody is answered with this token for a while, right or wrong."""
    token = await ward.token(uses_max=0)
    guessed = replace(token, secret="x" * 43)
    for _ in range(10):
        await refused(ward, ward.request(guessed, "thief"), "the secret of the token is wrong")
    count = len(await ward.deeds())
    with pytest.raises(Refused, match="too many wrong attempts"):
        await join(ward.request(token, "honest"))
    assert len(await ward.deeds()) == count


async def test_a_token_of_another_workspace_is_refused(wards):
    """Its connection lands in its own workspace: there it is refused and written down; it gets no farther."""
    ward, lab = wards["ward"], wards["lab"]
    token = await lab.token()
    identity = Identity(token.jwt)
    async with await connect(ward.url, name="spy", credentials=identity) as bus:
        key = Key.new()
        asked = JoinAsked(token=token.id, secret=token.secret, role="client", name="spy", key=key.public, proof=b"")
        asked = asked.model_copy(update={"proof": key.sign(proof_of_join("ward", asked))})
        data = encode(Envelope("1", "ward", "spy", asked))
        answer = await bus.request(lab.subjects.join(token.id), data, deadline_s=5)
        body = decode(answer.data, "").body
        assert body.state == "refused" and "does not let into ward" in body.reason
        with pytest.raises(BusDenied):
            await bus.request(ward.subjects.join(token.id), data, deadline_s=5)
    assert any("does not let into ward" in deed[3] for deed in await lab.deeds("member.join"))
    assert not any(deed[1] == "client/spy" for deed in await ward.deeds())


async def test_a_token_lets_in_nobody_but_whom_it_says(ward):
    """Another role or name than the token's, a proof by another key, a name that is taken: refused with the reason."""
    named = await ward.token(name="mine")
    await refused(ward, ward.request(named, "yours"), "the token is for mine, not for yours")
    token = await ward.token(uses_max=0)
    await refused(ward, ward.request(replace(token, role="combiner"), "k-1"), "lets in a client, not a combiner")
    await join(ward.request(token, "taken"))
    await refused(ward, ward.request(token, "taken"), "is taken by another key")
    request = ward.request(token, "double")
    await join(request)
    await refused(ward, replace(request, name="second"), "is, or was, that of another member")


async def test_a_proof_by_another_key_is_refused(ward):
    """Whoever shows somebody else's public key has to have signed with it."""
    token = await ward.token()
    asked = JoinAsked(
        token=token.id, secret=token.secret, role="client", name="x", key=Key.new().public, proof=b"p" * 64
    )
    async with await connect(ward.url, name="x", credentials=Identity(token.jwt)) as bus:
        data = encode(Envelope("1", "ward", "x", asked))
        body = decode((await bus.request(ward.subjects.join(token.id), data, deadline_s=5)).data, "").body
    assert body.state == "refused" and "the proof of the key is wrong" in body.reason


async def test_who_has_to_be_approved_waits_and_may_come_back(ward):
    """Nobody waits at a terminal for it: the same request, later, finds that it was approved."""
    request = ward.request(await ward.token(approval="ask", expires_s=0.6), "asks")
    told = asyncio.Queue()
    waiting = asyncio.create_task(join(request, tell=told.put_nowait))
    assert "has to approve" in await told.get()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0.6)  # approved later than the token lasts
    await ward.members.approve(Peer("client", "asks"), by="eve")
    assert (await join(request)).name == "asks"


async def test_who_was_refused_by_a_person_is_told_so(ward):
    """Expelling somebody who waits refuses it, with the reason."""
    request = ward.request(await ward.token(approval="ask"), "unwanted")
    told = asyncio.Queue()
    waiting = asyncio.create_task(join(request, tell=told.put_nowait))
    await told.get()
    await ward.members.expel(Peer("client", "unwanted"), by="eve", reason="who is it?")
    with pytest.raises(Refused, match="expelled: who is it"):
        await asyncio.wait_for(waiting, 10)


async def test_a_combiner_joins_with_what_its_role_is_trusted_with(ward):
    """The secrets of a role come sealed for the key that asked, and for nobody else."""
    credentials = await join(ward.request(await ward.token("combiner"), "k-9"))
    assert set(credentials.secrets) == {"seal"}
    assert credentials.secrets["seal"] == ward.authority.secret("ward", "seal")


async def test_no_more_clients_come_in_than_the_bounds_say(wards):
    """One beyond the workspace's bound is refused; who leaves makes room."""
    lab = wards["lab"]
    token = await lab.token(uses_max=0)
    await lab.members.set_bounds(by="eve", clients_max=2)
    for name in ("a", "b"):
        await join(lab.request(token, name))
    await refused(lab, lab.request(token, "c"), "its bound is 2")
    await lab.members.expel(Peer("client", "a"), by="eve")
    await join(lab.request(token, "c"))
    await lab.members.set_bounds(by="eve", clients_max=0)


async def test_several_registrars_answer_the_same(wards):
    """Two that hear every request let each key in once, and use a token once for it."""
    lab = wards["lab"]
    _, second = await lab.register("g-2")
    token = await lab.token(uses_max=3)
    requests = [lab.request(token, f"m-{index}") for index in range(4)]
    ended = await asyncio.gather(*(join(one) for one in requests), return_exceptions=True)
    assert sum(isinstance(one, Refused) for one in ended) == 1
    await lab.members.load()
    assert len(lab.members.tokens.get(token.id).used_by) == 3
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


async def test_without_a_registrar_a_token_is_not_handed_out(ward):
    """A token that nobody has signed would let nobody in: it is revoked, and it is said why."""
    new = await ward.members.tokens.create_api("viewer", by="eve")
    with pytest.raises(BusUnavailable, match="nobody has signed it"):
        await ward.members.tokens.join_text(new, [ward.url], deadline_s=0.1)
    state = await ward.members.boards.read(ward.subjects.access_token(new.state.id), type(new.state))
    assert state.revoked_at
