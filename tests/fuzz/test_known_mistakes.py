"""Mistakes that others were known for: what is read is run, and a name leads out of its directory.

CVE-2026-24178 and CVE-2026-24186 (NVIDIA FLARE: its dashboard and its deserialiser) are of these classes: whoever could
send bytes or choose a name could run code, or write and read elsewhere. Here every decoder is fed what would do that.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import msgpack
import numpy as np
import pytest
from pydantic import ValidationError

from fedbus.access.authority import Authority
from fedbus.access.tokens import JoinToken
from fedbus.client.directory import Directory
from fedbus.errors import FedbusError
from fedbus.federation.importing import check_version
from fedbus.messages.access import Member, TokenState
from fedbus.messages.commands import StopSession
from fedbus.messages.ids import Peer, check_name
from fedbus.messages.subjects import Subjects
from fedbus.store.archive import BlobFile, JournalFile
from fedbus.store.objects.records import keys_of

NAMES = [
    "../../etc/cron.d/x",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\0.txt",
    "a\n",
    "a b",
    "a.b",
    "~root",
    "$(id)",
    "-rf*",
    "%2e%2e%2f",
    "\u2025",
    "\uff0e\uff0e\uff0f",
    "\uff41",
    "\u202ename",
    "",
    "x" * 65,
    ">",
    "*",
]
KEY = "U" + "A2" * 27 + "A"


class Canary:
    """A pickle that makes a directory when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def hostile(pickled):
    """Yield what would run if somebody unpickled, evaluated or built an object of what they read."""
    yield pickled
    yield msgpack.packb(pickled)
    yield msgpack.packb(msgpack.ExtType(1, pickled))
    yield msgpack.packb({"v": 1, "id": "a", "ws": "w", "from": "x", "kind": "Task", "body": pickled})
    yield b"__import__('os').system('true')"
    yield b"!!python/object/apply:os.system ['true']"
    yield b'{"py/object": "os.system", "__class__": "os.system", "$type": "os"}'
    out = io.BytesIO()
    np.savez(out, w=np.array([pickled], dtype=object))
    yield out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("data.pkl", pickled)  # as torch.save writes it
        file.writestr("../../w.npy", pickled)
    yield out.getvalue()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_that_is_read_is_run(protocol, tmp_path):
    """Pickles of each form, alone and in every wrapping that is read here, reach every decoder: none makes the mark."""
    import targets

    mark = tmp_path / "run"
    pickled = pickle.dumps(Canary(mark), protocol=protocol)
    for name in targets.TARGETS:
        for data in hostile(pickled):
            targets.feed(name, data)
            targets.feed(name, b"\0" + data)
    assert not mark.exists()
    pickle.loads(pickled)
    assert mark.exists(), "the mark is made where somebody unpickles"


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_its_directory(name, tmp_path):
    """Provisioning, joining, sessions, versions, stores and backups take tokens of A-Z a-z 0-9 _ - and nothing else."""
    keys = Authority.open(tmp_path / "keys")
    keys.create_workspace("w")
    before = sorted(tmp_path.rglob("*"))
    digest = "0" * 64
    for take in (
        lambda: check_name("name", name),
        lambda: Subjects(name),
        lambda: keys.create_workspace(name),
        lambda: keys.issue("w", "client", name),
        lambda: keys.issue("w", name, "a"),
        lambda: keys_of("w", name),
        lambda: keys_of(name, "v"),
        lambda: check_version(name),
        lambda: JoinToken.read(JoinToken("w", "t", "s", "j", ("nats://a",), "client", name or "/", "").text()),
        lambda: JoinToken.read(JoinToken(name, "t", "s", "j", ("nats://a",)).text()),
        lambda: StopSession(session=name),
        lambda: Member(role="client", name=name, key=KEY, state="active", at=1.0, by="a"),
        lambda: TokenState(id=name, what="join", role="client", digest=digest, at=1.0, by="a"),
        lambda: JournalFile(session="s", file=f"journals/{name}"),
        lambda: BlobFile(blob=name, file=f"blobs/{name}.blob", nbytes=1, count=1),
        lambda: Directory(tmp_path).open(Peer("client", check_name("client", name))),
    ):
        with pytest.raises((FedbusError, ValidationError)):
            take()
    assert sorted(tmp_path.rglob("*")) == before
