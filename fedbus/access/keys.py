"""Ed25519 keys in the form that NATS gives them (nkeys): base32 with a prefix that says whose they are, and a checksum.

A seed stays on the machine on which it was made; what travels is the public half.
"""

from __future__ import annotations

import base64
import binascii
import os
from functools import lru_cache
from typing import Literal

import nkeys
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from fedbus.errors import ConfigError

Kind = Literal["user", "account", "operator"]

_PREFIX = {
    "user": nkeys.PREFIX_BYTE_USER,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
}

_LETTER = {"user": "U", "account": "A", "operator": "O"}

SIGNATURE_BYTES = 64


class Key:
    """A key pair; it never shows its seed by accident."""

    def __init__(self, seed: str) -> None:
        """Take a seed; `ConfigError` for what is none."""
        try:
            self._pair = nkeys.from_seed(seed.strip().encode())
            self.public = self._pair.public_key.decode()
        except (nkeys.NkeysError, ValueError, TypeError) as error:
            raise ConfigError(f"expected the seed of a key (S...), got {len(seed)} characters that are none") from error
        self.seed = seed.strip()

    @classmethod
    def new(cls, kind: Kind = "user") -> Key:
        """Make a key from 32 random bytes of the system."""
        return cls(nkeys.encode_seed(os.urandom(32), _PREFIX[kind]).decode())

    @classmethod
    def of(cls, seed: str) -> Key:
        """Return the key of a seed; `ConfigError` for what is none."""
        return cls(seed)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of some bytes: 64 bytes, the same each time."""
        signed: bytes = self._pair.sign(data)
        return signed

    def __repr__(self) -> str:
        """Show the public half."""
        return f"Key({self.public})"


def verify(public: str, data: bytes, signature: bytes) -> bool:
    """Whether some bytes were signed by the key with this public half; False for whatever is no key or signature."""
    key = _verifier(public)
    if key is None or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        key.verify(data, bytes(signature))
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def is_public(text: str, kind: Kind = "user") -> bool:
    """Whether a text is the public half of a key of this kind, its checksum right."""
    return text[:1] == _LETTER[kind] and _verifier(text) is not None


@lru_cache(maxsize=4096)
def _verifier(public: str) -> VerifyKey | None:
    # nkeys verifies with pairs only: of a public half alone it takes no key
    try:
        raw = base64.b32decode(public.encode() + b"=" * (-len(public) % 8))
    except (binascii.Error, ValueError):
        return None
    if len(raw) != 35 or raw[0] not in _PREFIX.values():
        return None
    if nkeys.crc16(bytearray(raw[:33])) != int.from_bytes(raw[33:], "little"):
        return None
    return VerifyKey(raw[1:33])
