"""Names of people as names of subjects."""

from __future__ import annotations

from blake3 import blake3

from fedbus.messages.ids import is_name

HASHED = "p_"
"""Before what was made of a name that is not one token, such as an address."""


def id_of(name: str) -> str:
    """Return the id of a person: the name itself where that is one token, else a digest of it; no two share one."""
    if is_name(name) and not name.startswith(HASHED):
        return name
    return HASHED + blake3(name.encode()).hexdigest()[:32]
