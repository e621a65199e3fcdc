"""A workspace with identities, made of keys in memory: for tests of what is signed, without a broker or a directory.

workspace = Workspace("default")
Combiner(bus, ..., signing=workspace.signing("combiner", "k0"))
"""

from __future__ import annotations

from fedbus.access.claims import user_jwt
from fedbus.access.credentials import Credentials, Trust
from fedbus.access.keys import Key
from fedbus.access.signing import Signing, signing_by
from fedbus.clock import Clock
from fedbus.messages.access import BUS_ROLES
from fedbus.testing.loop import VirtualClock


class Workspace:
    """A workspace and whoever is let into it; two of one name have nothing in common but that."""

    def __init__(self, name: str = "default", clock: Clock | None = None) -> None:
        """Make its keys."""
        self.name = name
        self._clock = clock or VirtualClock()
        self._account = Key.new("account")
        self._model = Key.new()
        self._signers = {role: Key.new("account") for role in BUS_ROLES}
        public = {role: key.public for role, key in self._signers.items()}
        self.trust = Trust(name, self._account.public, public, self._model.public, signs_posts=True)
        self._made: dict[tuple[str, str], Credentials] = {}

    def credentials(self, role: str, name: str, *, expires_at: float = 0.0) -> Credentials:
        """Return the credentials of a member, the same each time for one that does not end."""
        made = self._made.get((role, name))
        if made is None or expires_at:
            made = self._make(role, name, expires_at)
        if not expires_at:
            self._made[role, name] = made
        return made

    def _make(self, role: str, name: str, expires_at: float) -> Credentials:
        key = Key.new()
        jwt = user_jwt(
            self._signers[role], self._account.public,
            workspace=self.name, role=role, name=name, key=key.public, issued_at=1.0, expires_at=expires_at,
        )  # fmt: skip
        secrets = {"model": self._model.seed} if role in ("coordinator", "gateway") else {}
        return Credentials(jwt, key.seed, self.trust, secrets)

    def signing(self, role: str, name: str) -> Signing:
        """Return what a member signs and verifies."""
        return signing_by(self.credentials(role, name), self._clock)
