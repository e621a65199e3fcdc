"""A version, or a file of it, is genuine where its workspace has signed that it has these bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedbus.bus.memory import MemoryBroker, MemoryBus
from fedbus.errors import ConfigError
from fedbus.federation.models import Models
from fedbus.federation.verifying import DIGEST, SIGNATURE, VERSION, verified_file
from fedbus.messages.records import ModelPublished
from fedbus.messages.subjects import Subjects
from fedbus.store.journal import Journal
from fedbus.store.models import ModelStore
from fedbus.store.streams import ensure_streams
from fedbus.tensors import files, model_digest
from fedbus.testing.loop import run_virtual
from fedbus.testing.members import Workspace
from fedbus.workers import Inline

OURS = Subjects("default")
MEMBERS = Workspace("default")
MODEL = {"w": np.arange(6, dtype=np.float32), "b": np.ones(2)}
TRUSTED = MEMBERS.signing("engineer", "eve").models
SIGNED = MEMBERS.signing("coordinator", "co").model_signer.sign("s-1", model_digest(MODEL)).hex()


@pytest.mark.parametrize(
    ("signature", "digest", "why"),
    [
        (SIGNED, model_digest(MODEL), ""),
        ("", model_digest(MODEL), "is not signed"),
        ("00" * 64, model_digest(MODEL), "not one by the key"),
        (SIGNED, "ab" * 32, "its bytes have the digest"),
    ],
)
def test_a_version_at_the_bus(signature, digest, why):
    """The entry's signature is compared with the bytes that are there."""

    async def main():
        bus = MemoryBus(MemoryBroker(), "one")
        await ensure_streams(bus, OURS)
        store = ModelStore(bus, OURS, Inline())
        await store.put("b-1", MODEL)
        entry = ModelPublished(
            round=1, version="s-1", parent="s-0", session="s", blob="b-1", digest=digest, nbytes=40, signature=signature
        )
        await store.enter(entry)
        found = await Models(store, Journal(bus, OURS), None, TRUSTED).verify("s-1")
        assert (found.version, found.digest) == ("s-1", model_digest(MODEL))
        assert found.is_genuine is (not why) and why in found.why
        with pytest.raises(ConfigError, match="key of a workspace"):
            await Models(store, Journal(bus, OURS)).verify("s-1")

    run_virtual(main())


def test_a_file_that_was_downloaded(tmp_path):
    """What its head says is compared with its bytes; a signature may come beside it; what is no download is refused."""
    path, digest = tmp_path / "m.safetensors", model_digest(MODEL)
    head = {VERSION: "s-1", DIGEST: digest, SIGNATURE: SIGNED}
    files.write(path, MODEL, head)
    found = verified_file(TRUSTED, path)
    assert found.is_genuine and found.digest == digest
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "its bytes have the digest" in verified_file(TRUSTED, path).why
    files.write(path, MODEL, head | {VERSION: "s-2"})
    assert "not one by the key" in verified_file(TRUSTED, path).why
    files.write(path, MODEL, {VERSION: "s-1", DIGEST: digest})
    assert "is not signed" in verified_file(TRUSTED, path).why
    assert verified_file(TRUSTED, path, SIGNED).is_genuine
    assert not verified_file(TRUSTED, path, "no hexadecimal").is_genuine
    files.write(path, MODEL)
    with pytest.raises(ConfigError, match="does not say which version"):
        verified_file(TRUSTED, path)
    odd = json.dumps({"__metadata__": {VERSION: 3}}).encode()
    for wrong in (b"", b"x" * 9, (2**60).to_bytes(8, "little"), len(odd).to_bytes(8, "little") + odd):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match="expected a safetensors file"):
            verified_file(TRUSTED, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        verified_file(TRUSTED, tmp_path / "none")
