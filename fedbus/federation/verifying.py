"""Whether a model is what its workspace has published: of a version at the bus, or of a file that was downloaded.

Signed is that a version has a digest (`fedbus.access.signing`), which is of the arrays' bytes in their order. Names and
shapes are not in it: who could change the head of a file could call arrays of one shape by each other's names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedbus.access.signing import ModelVerifier
from fedbus.errors import BadMessage, ConfigError
from fedbus.tensors.digest import Hasher
from fedbus.tensors.files import HEADER_BYTES_MAX

VERSION, DIGEST, SIGNATURE, WORKSPACE = "fedbus.version", "fedbus.digest", "fedbus.signature", "fedbus.workspace"
"""What the head of a downloaded file says, beside the arrays: its digest is not touched by it."""

PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class ModelVerified:
    """What a look at a model found. ``digest``: of its bytes. ``why`` it is not genuine; empty where it is."""

    version: str
    digest: str
    signature: str
    why: str

    @property
    def is_genuine(self) -> bool:
        """Whether its workspace has signed that this version has this digest."""
        return not self.why


def judged(models: ModelVerifier | None, version: str, digest: str, said: str, signature: str) -> ModelVerified:
    """Return what to think of a version whose bytes have ``digest`` and whose entry, or file, says ``said``."""
    if models is None:
        raise ConfigError(
            "a model is verified by the key of a workspace: give credentials of a member (--credentials FILE); "
            "an open workspace signs nothing"
        )
    why = ""
    if digest != said:
        why = f"model {version}: its bytes have the digest {digest}, it was published with {said or 'none'}"
    else:
        try:
            models.check(version, digest, _raw(signature))
        except BadMessage as error:
            why = str(error)
    return ModelVerified(version, digest, signature, why)


def _raw(signature: str) -> bytes:
    try:
        return bytes.fromhex(signature)
    except ValueError:
        return b"?"  # no signature that anybody could have made


def verified_file(models: ModelVerifier | None, path: Path, signature: str = "") -> ModelVerified:
    """Look at a safetensors file as `fedbus model download` writes it; ``signature`` in place of the one in its head.

    Raises `ConfigError` where it is no such file, or says no version.
    """
    told, digest = _read(path)
    version = told.get(VERSION, "")
    if not version:
        raise ConfigError(f"{path.name}: it does not say which version it is; it was not downloaded by `fedbus model`")
    return judged(models, version, digest, told.get(DIGEST, ""), signature or told.get(SIGNATURE, ""))


def _read(path: Path) -> tuple[Mapping[str, str], str]:
    """Return what a safetensors file says of itself, and the digest of its data."""
    wrong = ConfigError(f"{path.name}: expected a safetensors file")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= HEADER_BYTES_MAX:
                raise wrong
            head = json.loads(file.read(size))
            told = head.get("__metadata__", {}) if isinstance(head, dict) else None
            hasher = Hasher()
            while piece := file.read(PIECE_BYTES):
                hasher.update(piece)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise wrong from error
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise wrong
    return told, hasher.hexdigest()
