"""Who the processes of `fedbus up` are: made once, used again, told apart; all of it files of one owner."""

from __future__ import annotations

import pytest

from fedbus.access import known
from fedbus.access.credentials import read_credentials
from fedbus.cli import identities
from fedbus.cli.identities import Identities, of_clients, user_name
from fedbus.messages.ids import Peer

COORDINATOR = Peer("coordinator", "c-1")


@pytest.fixture
async def made(tmp_path):
    """The identities of a workspace whose keys are new."""
    return await Identities.made(tmp_path / "keys", "default")


async def test_a_role_keeps_its_key_wherever_the_broker_listens(made):
    """A later run on another port changes the address in the credentials, and neither key nor JWT."""
    first = await made.issue("nats://127.0.0.1:4222", [COORDINATOR])
    before = read_credentials(first[COORDINATOR])
    again = await made.issue("nats://127.0.0.1:4333", [COORDINATOR])
    after = read_credentials(again[COORDINATOR])
    assert (after.jwt, after.seed, after.secrets) == (before.jwt, before.seed, before.secrets)
    assert (before.trust.urls, after.trust.urls) == (("nats://127.0.0.1:4222",), ("nats://127.0.0.1:4333",))
    assert set(first) == {COORDINATOR, Peer("admin", user_name())}


async def test_each_has_what_its_role_is_trusted_with(made):
    """A coordinator signs and seals models, a combiner seals; an admin's file signs no model."""
    combiner = Peer("combiner", "k-1")
    issued = await made.issue("nats://h:1", [COORDINATOR, combiner])
    kept = {peer.role: set(read_credentials(path).secrets) for peer, path in issued.items()}
    assert {"seal", "model"} <= kept["coordinator"]
    assert kept["combiner"] == {"seal"}
    assert "model" not in kept["admin"]


async def test_credentials_of_other_keys_are_made_anew(made, tmp_path):
    """Keys that were replaced make all credentials of before useless: none is shown to the broker again."""
    issued = await made.issue("nats://h:1", [COORDINATOR])
    before = read_credentials(issued[COORDINATOR])
    (tmp_path / "keys").rename(tmp_path / "old")
    other = await Identities.made(tmp_path / "keys", "default")
    after = read_credentials((await other.issue("nats://h:1", [COORDINATOR]))[COORDINATOR])
    assert after.seed != before.seed
    assert after.trust.account == other.authority.trust("default").account


async def test_where_nothing_can_be_remembered_this_process_still_finds_itself(made, tmp_path, caplog):
    """A read-only home, as in a container: a line says what to give commands, and what runs here goes on."""
    before = known.home_dir()
    (tmp_path / "file").write_text("no directory")
    known.use_home(tmp_path / "file" / "home")
    try:
        issued = await made.issue("nats://h:1", [])
        await made.remember("nats://h:1", issued)
        assert "--credentials" in caplog.text
        assert known.find("nats://h:1", "default") == issued[Peer("admin", user_name())]
    finally:
        known.use_home(before)


async def test_workers_are_not_given_a_persons_credentials(made, tmp_path):
    """Only what clients can show goes on to them; a file of another kind too: whoever connects says what is wrong."""
    crowd = Peer("crowd", "sim-0")
    issued = await made.issue("nats://h:1", [crowd])
    assert of_clients(str(issued[Peer("admin", user_name())])) is None
    assert of_clients(str(issued[crowd])) == str(issued[crowd])
    assert of_clients(str(tmp_path / "nothing")) == str(tmp_path / "nothing")
    assert of_clients(None) is None


@pytest.mark.parametrize(("told", "name"), [("ada", "ada"), ("ada.l@lab", "ada-l-lab"), (None, "local")])
def test_an_admin_is_named_like_the_user(monkeypatch, told, name):
    """The system's name, made a name of a member; a user whom the system does not know is ``local``."""

    class Entry:
        pw_name = told

    def look(_uid):
        if told is None:
            raise KeyError("no such user")
        return Entry

    monkeypatch.setattr(identities.pwd, "getpwuid", look)
    assert user_name() == name
