"""An operator's keys: made once, kept from others' eyes, and what follows from them."""

from __future__ import annotations

import base64
import json
import stat
import threading

import pytest

from fedbus.access import authority as module
from fedbus.access.accounts import CONNECTIONS_MAX, connections_for
from fedbus.access.authority import Authority
from fedbus.access.claims import ENDED_AT, read_claims, read_user
from fedbus.access.keys import Key
from fedbus.access.permissions import AT_THE_DOOR, ROLES, SHADOW, contains, door, permissions, template, widest
from fedbus.errors import ConfigError


@pytest.fixture
def keys(tmp_path):
    """An operator with one workspace."""
    made = Authority.open(tmp_path / "keys")
    made.create_workspace("w")
    return made


def test_nobody_else_may_look_into_it(keys):
    """Directories 0700, files 0600, every one of them."""
    paths = list(keys.directory.rglob("*"))
    assert len(paths) > 15
    assert stat.S_IMODE(keys.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}


def test_opening_it_again_changes_nothing(keys):
    """Neither keys nor secrets: members that were signed in stay so."""
    before = {path: path.read_bytes() for path in keys.directory.rglob("*") if path.is_file()}
    again = Authority.open(keys.directory)
    again.create_workspace("w")
    assert {path: path.read_bytes() for path in keys.directory.rglob("*") if path.is_file()} == before
    assert again.trust("w") == keys.trust("w")


def test_no_secret_stands_twice(tmp_path):
    """Two operators, and two workspaces of one, share none."""
    seen = []
    for place in ("a", "b"):
        made = Authority.open(tmp_path / place)
        for workspace in ("v", "w"):
            made.create_workspace(workspace)
        seen += [path.read_text() for path in made.directory.rglob("*.nk")]
        seen += [path.read_text() for path in made.directory.rglob("*.key")]
    assert len(set(seen)) == len(seen) > 50


def test_a_member_is_signed_by_its_roles_key(keys):
    """What is issued reads as that member with the workspace's trust, and has the secrets of its role only."""
    trust = keys.trust("w", ("nats://b:1",), "PEM")
    for role in ROLES:
        if role in ("joiner", "probe"):
            continue
        issued = keys.issue("w", role, "n", ("nats://b:1",), "PEM", expires_at=2e9)
        found = read_user(issued.jwt, trust.signers)
        assert (found.workspace, found.role, found.name, found.expires_at) == ("w", role, "n", 2e9)
        assert issued.trust == trust
    assert dict(keys.issue("w", "client", "n").secrets) == {}
    assert "seal" in keys.issue("w", "engineer", "n").secrets
    assert "model" not in keys.issue("w", "engineer", "n").secrets


def accounts(keys, workspace="w"):
    """What the JWTs of a workspace's accounts say, its own first."""
    middles = [jwt.split(".")[1] for jwt in keys.account_jwts(workspace).values()]
    return [json.loads(base64.urlsafe_b64decode(middle + "=="))["nats"] for middle in middles]


def test_the_accounts_say_what_each_role_may_do(keys):
    """One scoped signing key a role, with the table's template and nothing that is empty, which would mean all."""
    inside, *doors = accounts(keys)
    assert [[scope["role"] for scope in one["signing_keys"]] for one in doors] == [[role] for role in AT_THE_DOOR]
    found = {scope["role"]: scope["template"] for nats in (inside, *doors) for scope in nats["signing_keys"]}
    assert set(found) == set(ROLES)
    assert not {scope["role"] for scope in inside["signing_keys"]} & set(AT_THE_DOOR)
    for role, made in found.items():
        assert made["pub"] == {"allow": list(template(role, "w").publish)}
        assert made["sub"] == {"allow": list(template(role, "w").subscribe)}
        assert made["pub"]["allow"] and made["sub"]["allow"]


def test_only_the_workspaces_own_account_has_streams_and_room_without_a_bound(keys):
    """A door has no JetStream, a bound of connections, and no place for other servers."""
    inside, *doors = (nats["limits"] for nats in accounts(keys))
    assert inside["disk_storage"] == inside["conn"] == -1
    for role, limits in zip(AT_THE_DOOR, doors, strict=True):
        assert "disk_storage" not in limits and limits["leaf"] == 0
        assert limits["conn"] == CONNECTIONS_MAX[role] > 0
    assert sum(CONNECTIONS_MAX.values()) < 20_000


def test_what_passes_a_door_is_what_its_role_may(keys):
    """Each word of the table goes through, as what it is; and what the other side lets out is what is taken there."""
    inside, *doors = accounts(keys)
    exported = {(one["type"], one["subject"]) for one in inside["exports"]}
    taken = {(one["account"], one["subject"]) for one in inside["imports"]}
    names = list(keys.account_jwts("w"))[1:]
    for role, key, nats in zip(AT_THE_DOOR, names, doors, strict=True):
        may, passes = permissions(role, "w", "*"), door(role, "w")
        through = {one["subject"] for one in (*nats["imports"], *nats.get("exports", ()))}
        words = [*may.publish, *(heard for heard in may.subscribe if not heard.startswith("_INBOX."))]
        assert all(any(contains(wide, word) for wide in through) for word in words)
        assert through == {*passes.asked, *passes.said, *passes.heard}
        assert through - {*words} <= {SHADOW}
        for one in nats["imports"]:
            assert any(kind == one["type"] and contains(wide, one["subject"]) for kind, wide in exported)
        assert {(key, one["subject"]) for one in nats.get("exports", ())} == {one for one in taken if one[0] == key}


def test_no_two_exports_of_a_kind_contain_each_other(keys):
    """A nats-server refuses an account that has such."""
    for nats in accounts(keys):
        for kind in ("service", "stream"):
            subjects = [one["subject"] for one in nats.get("exports", ()) if one["type"] == kind]
            assert len(widest(subjects)) == len(subjects) or not subjects


def test_what_is_answered_more_than_once_is_said_to_be(keys):
    """Messages of a consumer and the newest of many; what clients ask is forgotten with its one answer."""
    many = {one["subject"] for one in accounts(keys)[0]["exports"] if one.get("response_type") == "Stream"}
    assert "$JS.API.CONSUMER.MSG.NEXT.fb-w-journal.>" in many and "$JS.API.DIRECT.GET.fb-w-model" in many
    assert not many & {*door("client", "w").asked}


def test_who_was_signed_into_the_workspaces_own_account_is_let_in_there(keys):
    """By a release without those doors: until the keys that signed them are replaced, which no new workspace needs."""
    place = keys.directory / "workspaces" / "w"
    assert not [scope["role"] for scope in accounts(keys)[0]["signing_keys"] if scope["role"] in AT_THE_DOOR]
    for role in AT_THE_DOOR[1:]:
        (place / f"{role}.door.nk").unlink()
    client = (place / "door.nk").read_text()
    again = Authority.open(keys.directory)
    assert (place / "door.nk").read_text() == client, "clients are where they were"
    let_in = {scope["role"] for scope in accounts(again)[0]["signing_keys"]}
    assert let_in & set(AT_THE_DOOR) == set(AT_THE_DOOR[1:])
    again = Authority.open(keys.directory)
    for step in ("begin", "switch", "retire"):
        assert {scope["role"] for scope in accounts(again)[0]["signing_keys"]} == let_in
        again.replace_signers("w", step)
    assert {scope["role"] for scope in accounts(again)[0]["signing_keys"]} == let_in - set(AT_THE_DOOR)


def test_a_revocation_lasts_and_a_later_jwt_is_good(keys, monkeypatch):
    """Up to its time nothing of the key counts; what is signed then is dated behind it, even in the same second."""
    key = Key.new().public
    monkeypatch.setattr(module.time, "time", lambda: 1000.4)
    assert keys.revoke("w", {key: 1000.4})
    assert not keys.revoke("w", {key: 1000.9}), "the same second is no news"
    assert not keys.revoke("w", {key: 900.0}), "an earlier one takes nothing back"
    again = Authority.open(keys.directory)
    assert again.revoked("w") == {key: 1000.0}
    assert [nats["revocations"] for nats in accounts(again)] == [{key: 1000}] * (1 + len(AT_THE_DOOR))
    assert read_claims(again.sign("w", "client", "c", key))["iat"] > 1000


def test_only_the_account_of_its_role_says_that_a_key_is_revoked(keys):
    """Others need not be told anew; where the role is not known, or was at no door before, all that may know it do."""
    client, viewer, combiner, somebody = (Key.new().public for _ in range(4))
    holders = {client: "client", viewer: "viewer", combiner: "combiner"}
    assert keys.revoke("w", dict.fromkeys((client, viewer, combiner, somebody), 5.0), holders)
    inside, *doors = (nats["revocations"].keys() - {somebody} for nats in accounts(keys))
    told = dict(zip(AT_THE_DOOR, doors, strict=True))
    assert inside == {combiner} and told["client"] == {client} and told["viewer"] == {viewer}
    assert told["engineer"] == set()
    assert all(somebody in nats["revocations"] for nats in accounts(keys))
    (keys.directory / "workspaces" / "w" / "viewer.door.nk").unlink()
    again = Authority.open(keys.directory)
    assert accounts(again)[0]["revocations"].keys() == {combiner, viewer, somebody}
    assert again.restore("w", [viewer]) and viewer not in accounts(again)[0]["revocations"]


def test_what_is_ended_for_good_is_neither_restored_nor_signed(keys):
    """Whatever a board says, and whatever a clock that was ahead has signed: also in the account's JWT."""
    gone, away = Key.new().public, Key.new().public
    assert keys.revoke("w", {gone: ENDED_AT, away: 1000.0})
    assert keys.restore("w", [gone, away]) and not keys.restore("w", [gone, away])
    assert keys.revoked("w") == {gone: ENDED_AT}
    assert all(nats["revocations"][gone] > 4e9 for nats in accounts(keys))
    with pytest.raises(ConfigError, match="for good"):
        keys.sign("w", "client", "c", gone)
    assert read_claims(keys.sign("w", "client", "c", away))["name"] == "c"


def test_accounts_are_dated_one_behind_the_other(keys, monkeypatch):
    """Also by a clock that is set back: a cluster keeps the newest that one of its servers has."""
    dates = []
    for now in (5000.0, 5000.0, 1000.0, 6000.0):
        monkeypatch.setattr(module.time, "time", lambda now=now: now)
        accounts = keys.security().accounts
        dates.append(read_claims(accounts[keys.trust("w").account])["iat"])
    assert dates == [5000, 5001, 5002, 6000]


def test_two_who_revoke_at_once_both_do(keys):
    """Reading, changing and writing are one step, whoever else does it."""
    others = [Key.new().public for _ in range(12)]

    def revoke(key):
        Authority.open(keys.directory).revoke("w", {key: 5.0})

    threads = [threading.Thread(target=revoke, args=(key,)) for key in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys.revoked("w") == dict.fromkeys(others, 5.0)


def test_bounds_stand_in_the_accounts(keys):
    """Bytes on disk inside, connections at the door of clients; 0 takes a bound away."""
    assert keys.set_bounds("w", bytes_max=10**9, connections_max=7)
    assert not keys.set_bounds("w", bytes_max=10**9, connections_max=7)
    inside, clients, *others = (nats["limits"] for nats in accounts(keys))
    assert (inside["disk_storage"], inside["conn"], clients["conn"]) == (10**9, -1, 7)
    assert all(one["conn"] == CONNECTIONS_MAX[role] for role, one in zip(AT_THE_DOOR[1:], others, strict=True))
    keys.set_bounds("w")
    inside, clients, *_ = (nats["limits"] for nats in accounts(keys))
    assert (inside["disk_storage"], clients["conn"]) == (-1, CONNECTIONS_MAX["client"])
    assert connections_for(10) > 10 and connections_for(0) == 0


def test_what_is_missing_is_said(tmp_path, keys):
    """A workspace that there is not, half an operator, a role or name that cannot be."""
    with pytest.raises(ConfigError, match="fedbus workspace create"):
        keys.trust("elsewhere")
    with pytest.raises(ConfigError, match="expected one of the roles"):
        keys.sign("w", "root", "n", Key.new().public)
    with pytest.raises(ConfigError, match="expected 1 to 64"):
        keys.sign("w", "client", "a.b", Key.new().public)
    with pytest.raises(ConfigError):
        keys.create_workspace("../../escaped")
    with pytest.raises(ConfigError, match="no workspace yet"):
        Authority.open(tmp_path / "empty").security()
    (keys.directory / "system.nk").unlink()
    with pytest.raises(ConfigError, match="some of an operator's keys"):
        Authority.open(keys.directory)


def test_a_damaged_state_is_not_taken_for_an_empty_one(keys):
    """Or everybody who was shut out would be let in again."""
    keys.revoke("w", {Key.new().public: 5.0})
    (keys.directory / "workspaces" / "w" / "state.json").write_text("{")
    with pytest.raises(ConfigError, match="bring it back from a copy"):
        keys.account_jwts("w")
