"""Who the processes of `fedbus up` are: a workspace's keys, and a credentials file for each role that it starts.

    <data-dir>/keys/                                         the authority: whoever has it decides who takes part
    <data-dir>/credentials/<workspace>/<role>.<name>.creds   what one process shows to the broker; the admin's is for
                                                             people here, and so are those of clients that start here

Credentials are made once and used again by every later run: a role keeps its key, unless the workspace has new ones.
All of it is for its owner alone (0700, 0600).
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedbus.access import known
from fedbus.access.authority import Authority
from fedbus.access.credentials import read_credentials, write_credentials
from fedbus.access.local import credentials_dir, enlist, is_current
from fedbus.access.members import Members
from fedbus.access.signin import login_link
from fedbus.bus.base import Bus
from fedbus.bus.embedded import BrokerSecurity
from fedbus.clock import SystemClock
from fedbus.errors import BusDenied, ConfigError
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

log = logging.getLogger("fedbus.cli")


@dataclass(frozen=True, slots=True)
class Identities:
    """The identities of one workspace at one broker; `made` in threads, as all of it is files."""

    authority: Authority
    workspace: str
    directory: Path
    admin: str

    @classmethod
    async def made(cls, keys: Path, workspace: str) -> Identities:
        """Take the keys there are, or make new ones; `ConfigError` where that cannot be."""

        def make() -> Identities:
            authority = Authority.open(keys)
            authority.create_workspace(workspace)
            return cls(authority, workspace, credentials_dir(keys.resolve(), workspace), user_name())

        return await asyncio.to_thread(make)

    def security(self) -> BrokerSecurity:
        """Return what a broker that is about to start has to know."""
        return self.authority.security()

    async def issue(self, url: str, who: Iterable[Peer], ca: str = "") -> Mapping[Peer, Path]:
        """Return a credentials file for each, and for the admin, that says where the broker is, and who signed it."""
        everybody = [*who, Peer("admin", self.admin)]
        urls = tuple(part.strip() for part in url.split(","))
        return await asyncio.to_thread(lambda: {peer: self._issued(peer, urls, ca) for peer in everybody})

    def _issued(self, peer: Peer, urls: tuple[str, ...], ca: str) -> Path:
        path = self.directory / f"{peer.role}.{peer.name}.creds"
        trust = self.authority.trust(self.workspace, urls, ca)
        if not is_current(path, trust):
            write_credentials(path, self.authority.issue(self.workspace, *peer, urls, ca))
        else:
            kept = read_credentials(path)
            if (kept.trust.urls, kept.trust.ca) != (urls, ca):
                write_credentials(path, replace(kept, trust=trust))
        return path

    async def remember(self, url: str, issued: Mapping[Peer, Path]) -> None:
        """Have commands and programs of this user find the admin's, and make clients of their own, by the address."""
        path, keys = issued[Peer("admin", self.admin)], self.authority.directory
        try:
            await asyncio.to_thread(known.remember, url, self.workspace, path, keys=keys)
        except ConfigError as error:  # a read-only home, as in a container: this process and its children look here
            log.warning("commands have to be told who you are (--credentials %s): %s", path, error)
            known.use_home(self.directory / "known")
            await asyncio.to_thread(known.remember, url, self.workspace, path, keys=keys)

    async def enlist(self, bus: Bus, issued: Mapping[Peer, Path]) -> None:
        """Write on the board of members who was given credentials, so that they can be taken back like any other's."""
        for peer, path in issued.items():
            try:
                await enlist(bus, await asyncio.to_thread(read_credentials, path), by=f"admin/{self.admin}")
            except (BusDenied, ConfigError) as error:
                log.warning("%s stays as it is: %s", peer.author, error)

    async def link(self, bus: Bus, url: str) -> str:
        """Return an address of the page that signs in whoever runs this, once and soon."""
        members = Members(bus, Subjects(self.workspace), SystemClock())
        return await login_link(members, url, person=self.admin, by=f"admin/{self.admin}")


def of_clients(credentials: str | None) -> str | None:
    """Return credentials that were given to a command, where clients can show them, too: not those of a person."""
    try:
        role = "" if credentials is None else read_credentials(credentials).role
    except ConfigError:
        return credentials  # of another kind than ours: whoever connects says what is wrong with them
    return credentials if role in ("client", "crowd") else None


async def forget(url: str, keys: Path | None = None) -> None:
    """Forget whose credentials were good at an address: another broker listens there now, or none."""
    try:
        await asyncio.to_thread(known.forget, url, keys=keys)
    except ConfigError as error:
        log.warning("%s", error)


def user_name() -> str:
    """Return who runs this, as a name of a member: the system's name for the user, else ``local``."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "local"
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64] or "local"
