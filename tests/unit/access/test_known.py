"""What is remembered of brokers and credentials: found again, by any of a broker's names, by nobody else."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from fedbus.access import known
from fedbus.access.claims import user_jwt
from fedbus.access.credentials import Credentials, Trust, write_credentials
from fedbus.access.keys import Key
from fedbus.errors import ConfigError

URL = "nats://127.0.0.1:4222"
ACCOUNT, SIGNER = Key.new("account"), Key.new("account")


@pytest.fixture
def home(tmp_path):
    """A home in which nothing is known yet."""
    return tmp_path / "home"


@pytest.fixture
def made(tmp_path):
    """``made(role, name)``: a file with credentials."""

    def make(role="admin", name="local", workspace="default"):
        key = Key.new()
        jwt = user_jwt(SIGNER, ACCOUNT.public, workspace=workspace, role=role, name=name, key=key.public, issued_at=1)
        path = tmp_path / f"{workspace}-{role}-{name}.creds"
        trust = Trust(workspace, ACCOUNT.public, {role: SIGNER.public})
        write_credentials(path, Credentials(jwt, key.seed, trust))
        return path

    return make


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "nats://localhost",
        "tls://LOCALHOST:4222",
        "127.0.0.1",
        "nats://user:secret@127.0.0.1:4222",
        "nats://[::1]:4222",
        "nats://10.0.0.1:4222, nats://localhost:4222",
    ],
)
def test_a_broker_is_known_by_any_of_its_names(home, made, url):
    """Scheme, user, spelling of this machine and further addresses of a cluster change nothing."""
    path = made()
    known.remember(URL, "default", path, home=home)
    assert known.find(url, "default", home=home) == path


@pytest.mark.parametrize(("url", "workspace"), [("nats://127.0.0.1:4223", "default"), (URL, "other"), ("", "default")])
def test_what_was_said_of_another_is_not_found(home, made, url, workspace):
    """Another port and another workspace are others."""
    known.remember(URL, "default", made(), home=home)
    assert known.find(url, workspace, home=home) is None


def test_those_who_may_most_are_found_first(home, made):
    """Without a role it is the admin's, whoever was remembered later; with role and name exactly that one."""
    admin, viewer, first, second = made(), made("viewer", "v"), made("client", "a"), made("client", "b")
    for path in (admin, viewer, first, second):
        known.remember(URL, "default", path, home=home)
    assert known.find(URL, "default", home=home) == admin
    assert known.find(URL, "default", role="client", home=home) == second
    assert known.find(URL, "default", role="client", name="a", home=home) == first
    assert known.find(URL, "default", role="client", name="c", home=home) is None


def test_later_credentials_of_the_same_take_the_place_of_earlier_ones(home, made, tmp_path):
    """Joining again leaves one entry."""
    old = made()
    known.remember(URL, "default", old, home=home)
    new = old.rename(tmp_path / "new.creds")
    known.remember(URL, "default", new, home=home)
    assert [entry.credentials for entry in known.known_at(URL, "default", home=home)] == [str(new)]


def test_what_is_gone_is_not_known(home, made):
    """Credentials whose file was removed, as those of a demo, count for nothing."""
    path = made()
    known.remember(URL, "default", path, home=home)
    path.unlink()
    assert known.find(URL, "default", home=home) is None


def test_forgetting_keeps_the_others(home, made, tmp_path):
    """A broker's address is forgotten, or only what was made with some keys there; the files stay."""
    keys = tmp_path / "keys"
    keys.mkdir()
    ours, joined = made(), made("client", "joined")
    known.remember(URL, "default", ours, keys=keys, home=home)
    known.remember(URL, "default", joined, home=home)
    known.remember("nats://far:4222", "default", ours, home=home)
    known.forget(URL, keys=keys, home=home)
    assert known.find(URL, "default", role="admin", home=home) is None
    assert known.find(URL, "default", home=home) == joined
    known.forget(URL, home=home)
    assert known.find(URL, "default", home=home) is None
    assert known.find("nats://far", "default", home=home) == ours
    assert ours.exists() and joined.exists()


def test_forgetting_where_nothing_is_known_writes_nothing(home):
    """Whoever never joined anything gets no directory."""
    known.forget(URL, home=home)
    assert not home.exists()


def test_nobody_else_reads_it(home, made):
    """The directory is its owner's alone, and so is the file."""
    known.remember(URL, "default", made(), home=home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "known.json").stat().st_mode) == 0o600


def test_what_others_can_write_is_not_believed(home, made):
    """A file that somebody else could have changed names no keys for us."""
    known.remember(URL, "default", made(), home=home)
    (home / "known.json").chmod(0o666)
    with pytest.raises(ConfigError, match="others can write it"):
        known.find(URL, "default", home=home)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"known": 3}', '{"known": [3', "[" * 10_000])
def test_a_damaged_file_is_said(home, text):
    """What is no list of what is known is refused with its path."""
    home.mkdir()
    (home / "known.json").write_text(text)
    (home / "known.json").chmod(0o600)
    with pytest.raises(ConfigError, match=r"known\.json is damaged"):
        known.find(URL, "default", home=home)


def test_entries_of_a_later_version_are_passed_over(home, made):
    """What this version cannot read does not hide what it can."""
    path = made()
    known.remember(URL, "default", path, home=home)
    told = json.loads((home / "known.json").read_text())
    told["known"].insert(0, {"addresses": ["127.0.0.1:4222"], "workspace": "default", "secret_store": "elsewhere"})
    (home / "known.json").write_text(json.dumps(told))
    assert known.find(URL, "default", home=home) == path


def test_two_who_remember_at_once_are_both_remembered(home, made):
    """One writer comes after the other: nothing that was said is lost."""
    paths = [made("client", f"c{number}") for number in range(12)]
    threads = [
        threading.Thread(target=known.remember, args=(URL, "default", path), kwargs={"home": home}) for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in known.known_at(URL, "default", home=home)} == {f"c{n}" for n in range(12)}
    assert sorted(path.name for path in home.iterdir()) == ["known.json", "known.lock"]


def test_the_oldest_makes_room(home, made, monkeypatch):
    """The file has a bound."""
    monkeypatch.setattr(known, "ENTRIES_MAX", 3)
    for number in range(5):
        known.remember(URL, "default", made("client", f"c{number}"), home=home)
    assert [entry.name for entry in known.known_at(URL, "default", home=home)] == ["c4", "c3", "c2"]


def test_keys_on_this_machine_are_found(home, made, tmp_path):
    """Whoever runs the broker finds its authority; a directory that is gone is none."""
    keys = tmp_path / "keys"
    keys.mkdir()
    known.remember(URL, "default", made("viewer", "v"), home=home)
    known.remember(URL, "default", made(), keys=keys, home=home)
    assert known.keys_at(URL, "default", home=home) == keys
    keys.rmdir()
    assert known.keys_at(URL, "default", home=home) is None


def test_the_home_is_chosen_by_whoever_runs_the_process(made, tmp_path):
    """`use_home` says where is remembered; it is what this suite's own process does, so nobody's home is touched."""
    before = known.home_dir()
    assert before == known.home_dir() != Path("~/.fedbus").expanduser()
    try:
        known.use_home(tmp_path / "chosen")
        path = made()
        known.remember(URL, "default", path)
        assert known.find(URL, "default") == path
        assert (tmp_path / "chosen" / "known.json").exists()
        known.use_home(None)
        assert known.home_dir().name == ".fedbus"
    finally:
        known.use_home(before)


def test_without_a_home_nothing_is_known(monkeypatch, made):
    """A container's user that has no home can connect, and is told what to set where something is to be remembered."""
    before = known.home_dir()

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(known.Path, "home", no_home)
    try:
        known.use_home(None)
        assert known.find(URL, "default") is None
        with pytest.raises(ConfigError, match="FEDBUS_HOME"):
            known.remember(URL, "default", made())
    finally:
        known.use_home(before)
