"""A few secrets on their way to one key, which nobody else can read: not a broker, not who listens on the line.

A NaCl sealed box (X25519, XSalsa20-Poly1305, of a key made for this once) to the Curve25519 form of an nkey. It says
nothing of who has sealed it: that stands in the subject on which it came.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import nkeys
from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from fedbus.access.keys import Key, is_public
from fedbus.errors import BadMessage


def seal(public: str, secrets: Mapping[str, str]) -> bytes:
    """Return named secrets for the holder of a key alone, b'' for none; `BadMessage` for what is no key of a user."""
    if not secrets:
        return b""
    if not is_public(public):
        raise BadMessage("expected the public key of a user")
    raw = base64.b32decode(public.encode() + b"=" * (-len(public) % 8))[1:33]
    box = SealedBox(VerifyKey(raw).to_curve25519_public_key())
    sealed: bytes = box.encrypt(json.dumps(dict(secrets)).encode())
    return sealed


def unseal(key: Key, sealed: bytes) -> dict[str, str]:
    """Return what was sealed for a key; `BadMessage` for anything else."""
    if not sealed:
        return {}
    raw = bytes(nkeys.decode_seed(key.seed.encode())[1])
    try:
        found = json.loads(SealedBox(SigningKey(raw[:32]).to_curve25519_private_key()).decrypt(bytes(sealed)))
    except (CryptoError, ValueError, TypeError, RecursionError) as error:
        raise BadMessage("what the role is trusted with was not sealed for this key") from error
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise BadMessage("what the role is trusted with: expected texts by name")
    return found
