"""What an admin and whoever joins type, against a real broker: what is printed, what is kept, what is written down."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from fedbus.access import known
from fedbus.access.credentials import read_credentials
from fedbus.access.joining import Refused
from fedbus.access.tokens import read_api_token
from fedbus.cli import admitting, joining, keyed
from fedbus.cli.roles import Place, combine
from fedbus.errors import ConfigError, Conflict, NotFound
from fedbus.messages.envelope import decode
from fedbus.messages.ids import Peer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(autouse=True)
def home(tmp_path):
    """A home of its own, so that nothing is remembered of anybody's."""
    known.use_home(tmp_path / "home")
    yield tmp_path / "home"
    known.use_home(None)


@pytest.fixture
def place(wards):
    """Where an admin decides about the workspace."""
    ward = wards["ward"]
    return Place(ward.url, "ward", str(ward.write(ward.authority.issue("ward", "admin", "eve", (ward.url,)))))


def mode(path):
    """Who may read a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def said(capsys, doing):
    """What a command prints as JSON."""
    capsys.readouterr()
    await doing
    return json.loads(capsys.readouterr().out)


async def test_a_token_is_made_used_listed_and_revoked(place, wards, capsys, home):
    """From the admin's terminal to the data owner's: one line is copied, the credentials are for her alone."""
    made = await said(capsys, admitting.create_token(place, admitting.Wanted("client", uses=2), json=True))
    told = await said(capsys, joining.take_token(made["text"], joining.Wanted("site-1", {"site": "Ulm"}), json=True))
    path = Path(told["credentials"])
    assert path.is_relative_to(home) and mode(path) == 0o600
    assert read_credentials(path).name == "site-1" == told["name"]
    assert known.find(place.url, "ward", role="client", name="site-1") == path
    assert not list((home / "joining").iterdir()), "what was asked for is not kept for ever"
    tokens = {one["id"]: one for one in await said(capsys, admitting.list_tokens(place, json=True))}
    assert tokens[made["id"]]["state"] == "good" and len(tokens[made["id"]]["used_by"]) == 1
    assert not {"digest", "jwt", "secret"} & set(tokens[made["id"]])
    assert (await said(capsys, admitting.revoke_token(place, made["id"], "done", json=True)))["state"] == "revoked"
    with pytest.raises(Refused, match="it was revoked: done"):
        await joining.take_token(made["text"], joining.Wanted("site-2"), json=True)
    deeds = [deed[:3] for deed in await wards["ward"].deeds()]
    assert ("token.create", made["id"], "done") in deeds and ("token.revoke", made["id"], "done") in deeds


async def test_a_combiner_that_has_joined_runs_without_being_told_who_it_is(place, wards, capsys):
    """Whoever runs a region's combiner gets a token, as a data owner does; it is there under its name and region."""
    made = await said(capsys, admitting.create_token(place, admitting.Wanted("combiner"), json=True))
    await joining.take_token(made["text"], joining.Wanted("combiner-eu"), json=False)
    assert f"next: fedbus combiner --name combiner-eu --nats {place.url}" in capsys.readouterr().out
    heard = await wards["ward"].hears(wards["ward"].subjects.presence(Peer("combiner", "combiner-eu")))
    running = asyncio.create_task(combine(Place(place.url, "ward"), "combiner-eu", attributes={"region": "eu"}))
    try:
        async with asyncio.timeout(60):
            message = await anext(heard)
        assert decode(message.data, message.subject).body.attributes == {"region": "eu"}
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await heard.close()


async def test_who_waits_is_approved_and_who_left_meanwhile_comes_back(place, capsys, home, eventually):
    """Ctrl-C keeps the key and the request; the same command, later, finds that it was approved."""
    made = await said(capsys, admitting.create_token(place, admitting.Wanted("client", approval="ask"), json=True))
    first = asyncio.create_task(joining.take_token(made["text"], joining.Wanted("patient"), json=True))
    await eventually(lambda: "waits" in capsys.readouterr().err)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert "the same command goes on with it" in capsys.readouterr().err
    (kept,) = (home / "joining").iterdir()
    assert mode(kept) == 0o600
    waiting = await said(capsys, admitting.list_members(place, "", "waiting", json=True))
    assert "patient" in [member["name"] for member in waiting]
    member = await said(capsys, admitting.decide(place, "approve", Peer("client", "patient"), "known", json=True))
    assert member["state"] == "active" and "jwt" not in member
    told = await said(capsys, joining.take_token(made["text"], joining.Wanted(), json=True))
    assert told["name"] == "patient"


async def test_a_member_is_decided_about_and_every_deed_is_written_down(place, wards, capsys):
    """Suspended, resumed, expelled; what cannot be is refused with the state that it is in."""
    made = await said(capsys, admitting.create_token(place, admitting.Wanted("client", name="odd"), json=True))
    await joining.take_token(made["text"], joining.Wanted(), json=True)
    odd = Peer("client", "odd")
    for deed in ("suspend", "resume", "expel"):
        await admitting.decide(place, deed, odd, "why not", json=False)
    with pytest.raises(Conflict, match="is expelled"):
        await admitting.decide(place, "resume", odd, "", json=False)
    with pytest.raises(NotFound, match="no such member"):
        await admitting.show_member(place, Peer("client", "nobody"), json=False)
    capsys.readouterr()
    await admitting.show_member(place, odd, json=False)
    assert "expelled: why not" in capsys.readouterr().out
    deeds = [deed[0] for deed in await wards["ward"].deeds() if deed[1] == "client/odd"]
    assert [deed for deed in deeds if deed in ("member.suspend", "member.resume", "member.expel")] == [
        "member.suspend",
        "member.resume",
        "member.expel",
    ]


async def test_people_get_roles_and_bearers(place, capsys):
    """A bearer for a person needs the person; it is printed once and kept as a digest. Not told: her sign-ins."""
    with pytest.raises(NotFound, match="nobody of this name"):
        await admitting.create_api_token(place, "viewer", "bob", 0.0, json=True)
    await admitting.add_person(place, "bob", ["viewer"], [], json=False)
    capsys.readouterr()
    await admitting.create_api_token(place, "viewer", "bob", 60.0, json=False)
    assert read_api_token(capsys.readouterr().out.strip())
    changed = await said(capsys, admitting.set_person(place, "bob", ["auditor"], None, "suspended", json=True))
    assert (changed["roles"], changed["state"]) == (["auditor"], "suspended")
    assert set(changed) == {"name", "roles", "state", "subjects", "at", "by", "since"}
    await admitting.remove_person(place, "bob", json=False)
    assert "bob" not in [one["name"] for one in await said(capsys, admitting.list_people(place, json=True))]


async def test_bounds_are_shown_and_set(place, capsys):
    """What is not given stays; nothing given is said."""
    told = {"clients_max": 900, "sessions_max": None, "bytes_max": None, "approval": None}
    assert (await said(capsys, admitting.set_bounds(place, told, json=True)))["clients_max"] == 900
    await admitting.set_bounds(place, told | {"clients_max": 0, "approval": "auto"}, json=False)
    assert "any number" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--clients-max"):
        await admitting.set_bounds(place, dict.fromkeys(told), json=False)


async def test_a_workspace_is_made_at_a_broker_that_runs(wards, capsys, tmp_path):
    """By whoever has the keys: an account, streams, an admin; and credentials for roles beside them."""
    ward, keys = wards["ward"], wards["ward"].authority.directory
    ward.authority.create_workspace("annex")  # as by one that was cut short: the broker was away
    made = await said(capsys, keyed.create_workspace(keys, "annex", ward.url, json=True))
    assert known.find(ward.url, "annex", role="admin") == Path(made["credentials"])
    assert "annex" in await said(capsys, keyed.list_workspaces(None, ward.url, json=True))
    with pytest.raises(ConfigError, match="is there already"):
        await keyed.create_workspace(keys, "annex", ward.url, json=True)
    out = tmp_path / "k.creds"
    told = await said(capsys, keyed.issue(keys, "annex", "combiner", "k", (ward.url,), out, json=True))
    assert told["listed"] and read_credentials(out).role == "combiner"
    members = await said(capsys, admitting.list_members(Place(ward.url, "annex"), "", "", json=True))
    assert {(one["role"], one["name"]) for one in members} > {("combiner", "k")}
    with pytest.raises(ConfigError, match="there already"):
        await keyed.issue(keys, "annex", "combiner", "k", (), out, json=True)


async def test_a_members_own_key_is_replaced(place, wards, capsys):
    """`member rotate` with its own credentials: the file has another key, and is good."""
    made = await said(capsys, admitting.create_token(place, admitting.Wanted("client", name="own"), json=True))
    told = await said(capsys, joining.take_token(made["text"], joining.Wanted(), json=True))
    own = Place(place.url, "ward", told["credentials"])
    before = read_credentials(told["credentials"]).key.public
    after = await said(capsys, joining.renew(own, rotate=True, json=True))
    assert after["key"] != before and read_credentials(told["credentials"]).key.public == after["key"]
    assert (await said(capsys, joining.renew(own, rotate=False, json=True)))["key"] == after["key"]


async def test_without_credentials_of_an_admin_nothing_is_decided(wards):
    """In an open workspace, and as anybody else, it says whose credentials are needed."""
    with pytest.raises(ConfigError, match="decided by its admins"):
        await admitting.list_tokens(Place(wards["ward"].url, "ward"), json=False)
