"""Models sealed on the bus: who was not given a blob's key reads noise, and cannot change it unseen.

A broker lets a client get any blob by its name, and names can be guessed: subjects alone cannot tell who may have which
model. So each message of a blob is sealed with AES-256-GCM under a key of that blob, which is derived from the
workspace's secret; the operator's side and engineers have that secret, a client is given the key of the model that it
is to work on, in its task. What `down_of` a blob holds has the blob's key: it is another form of the same model.

    sealed = nonce (12 random bytes) + ciphertext + tag (16 bytes); bound to the blob's name and the part's

Without a seal (no credentials) blobs are stored as they are. AES-GCM runs at more than 10 GB/s where the processor has
instructions for it; a chunk is sealed where it is, without another hop to a thread.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedbus.bus.base import Payload
from fedbus.errors import BadMessage

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
"""By which a sealed message is longer."""

KEYS_KEPT = 256
"""Of the blobs that a client was given the key of, the newest: those of rounds under way, in all of its sessions."""

CONTEXT = "fedbus 2026-11 key of a sealed blob"
"""What keys are derived for: the same secret gives other keys for other uses."""

_DOWN = "-down"


class Seal(Protocol):
    """Knows the keys of blobs."""

    def key_of(self, blob: str) -> bytes | None:
        """Return the key of a blob, `KEY_BYTES` long; None for one that is stored as it is, or is not known."""
        ...


class WorkspaceSeal:
    """Derives every blob's key from the workspace's secret."""

    def __init__(self, secret: str) -> None:
        """``secret``: 32 bytes in hexadecimal (`Credentials.secrets`)."""
        self._secret = blake3(bytes.fromhex(secret), derive_key_context=CONTEXT).digest()

    def key_of(self, blob: str) -> bytes:
        """Return the key of a blob: the same for the difference that leads to it."""
        return blake3(blob.removesuffix(_DOWN).encode(), key=self._secret).digest(KEY_BYTES)


class GivenKeys:
    """The keys that a client was given in its tasks; `KEYS_KEPT` of them."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, bytes] = OrderedDict()

    def give(self, blob: str, key: bytes) -> None:
        """Remember a blob's key; b'' says that it is stored as it is."""
        if len(key) != KEY_BYTES:
            return
        self._keys[blob] = key
        self._keys.move_to_end(blob)
        while len(self._keys) > KEYS_KEPT:
            self._keys.popitem(last=False)

    def key_of(self, blob: str) -> bytes | None:
        """Return the key, where it was given."""
        return self._keys.get(blob.removesuffix(_DOWN))


def sealed(seal: Seal | None, blob: str, part: str | int, data: Payload) -> Payload:
    """Return a message of a blob as it is stored."""
    key = seal.key_of(blob) if seal is not None else None
    if key is None:
        return data
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, _bound_to(blob, part))


def opened(seal: Seal | None, blob: str, part: str | int, data: Payload) -> Payload:
    """Return a message of a blob as it was before `sealed`; `BadMessage` where it is not what was sealed there."""
    key = seal.key_of(blob) if seal is not None else None
    if key is None:
        return data
    view = memoryview(data)
    try:
        return AESGCM(key).decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], _bound_to(blob, part))
    except (InvalidTag, ValueError) as error:
        raise BadMessage(
            f"blob {blob}, part {part}: {len(data)} bytes that were not sealed with its key: they were changed, were "
            "stored before this workspace had identities, or belong to another one"
        ) from error


def _bound_to(blob: str, part: str | int) -> bytes:
    return f"{blob}/{part}".encode()
