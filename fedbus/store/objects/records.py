"""How a version lies in a store: two objects that people can use without fedbus.

    <workspace>/<version>.safetensors    its arrays, as `fedbus model download` writes them
    <workspace>/<version>.json           what it is: version, digest, session, parent, settings, metrics

The file is written first. A version counts as archived when its record stands there with the right digest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fedbus.errors import BadMessage
from fedbus.messages.ids import check_name
from fedbus.messages.records import ModelPublished
from fedbus.tensors.files import header
from fedbus.tensors.spec import ModelSpec

FILE = ".safetensors"
RECORD = ".json"

RECORD_BYTES_MAX = 2**22
"""Of a record that is read: settings and a few hundred metrics; what is longer is none."""

FIELDS = ModelPublished.model_fields.keys()

FORMAT = 1
"""Of the record; a higher one is refused with that reason."""


def keys_of(workspace: str, version: str) -> tuple[str, str]:
    """Return the keys of a version's file and of its record."""
    stem = f"{check_name('workspace', workspace)}/{check_name('model version', version)}"
    return f"{stem}{FILE}", f"{stem}{RECORD}"


def file_head(entry: ModelPublished, spec: ModelSpec) -> bytes:
    """Return what a version's file has before its data, as a download writes it."""
    return header(spec, {"fedbus.version": entry.version, "fedbus.digest": entry.digest})


def record_of(entry: ModelPublished, more: Mapping[str, Any] | None = None) -> bytes:
    """Return a version's record: what the catalogue says, and ``more`` (settings, metrics) where it is known.

    JSON that people read; numbers that are not finite become null.
    """
    known = {"format": FORMAT, **entry.model_dump(exclude={"removed_at", "removed_why"}), **(more or {})}
    return (json.dumps(_plain(known), indent=1, sort_keys=False, allow_nan=False) + "\n").encode()


def entry_of(key: str, data: bytes) -> ModelPublished:
    """Return what a record says that the catalogue said; `BadMessage` for what is no record."""
    try:
        found = json.loads(data)
        known = dict(found) if isinstance(found, dict) and found.get("format") == FORMAT else {}
        return ModelPublished.model_validate({name: known[name] for name in FIELDS & known.keys()})
    except (ValueError, RecursionError) as error:  # pydantic's and json's
        raise BadMessage(f"{key}: expected the record of a version, of format {FORMAT}: {error}") from error


def _plain(value: Any) -> Any:  # noqa: ANN401 - what JSON can say
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(name): _plain(one) for name, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case _:
            return value
