"""Which credentials belong to which broker: so that who has joined once, or runs a broker here, need not say it again.

    remember("nats://127.0.0.1:4222", "default", Path("admin-local.creds"), keys=Path("fedbus-data/keys"))
    find("nats://localhost:4222", "default")                                   # -> that file
    find("nats://localhost:4222", "default", role="client", name="site-1")     # -> None: of it nothing was remembered

One JSON file, ``known.json`` in fedbus's directory in the user's home, with paths only: the credentials stay where they
are. Whoever can write it can name keys that we then use, hence the mode 0600 in a directory of 0700, and a file that
others can write is refused. It is written whole or not at all, one writer after the other. A path behind which nothing
is any more (a demo's, gone with it) counts as not remembered.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedbus.access.credentials import read_credentials, write_secret
from fedbus.errors import ConfigError

ENTRIES_MAX = 1000
"""Then the oldest is forgotten: a crowd of simulated clients may each have had an identity."""

BYTES_MAX = 4 * 2**20

PORTS = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}

LEADING = ("admin", "engineer", "viewer", "auditor", "client")
"""Whose credentials are taken where nobody says which: those with which a person can do the most."""

_LOOPBACK = {"localhost": "127.0.0.1", "::1": "127.0.0.1"}

_chosen: list[Path] = []  # at most one: what `use_home` was told last


@dataclass(frozen=True, slots=True)
class Entry:
    """Credentials that were remembered. ``keys``: of the authority that made them, where that is on this machine."""

    addresses: tuple[str, ...]
    workspace: str
    role: str
    name: str
    credentials: str
    keys: str = ""


def use_home(directory: Path | None) -> None:
    """Choose where is remembered in this process from now on; None: ``~/.fedbus``.

    For the command line, which alone reads the environment (``FEDBUS_HOME``), and for tests. A program that embeds a
    client need not call it.
    """
    _chosen[:] = [] if directory is None else [directory.absolute()]


def home_dir() -> Path:
    """Return fedbus's directory in the user's home; it need not be there."""
    if _chosen:
        return _chosen[0]
    try:
        return Path.home() / ".fedbus"
    except RuntimeError:  # a container's user without a home: nothing is known, and nothing can be remembered
        return Path(os.devnull) / ".fedbus"


def credentials_file(workspace: str, role: str, name: str, account: str, *, home: Path | None = None) -> Path:
    """Return where credentials are kept that were made or got on this machine and nobody has given a place.

    ``account``: public key of the workspace's account: two brokers may each have a workspace ``default``.
    """
    return (home or home_dir()) / "credentials" / account[:12] / f"{workspace}.{role}.{name}.creds"


def remember(url: str, workspace: str, path: Path, *, keys: Path | None = None, home: Path | None = None) -> None:
    """Remember that for a workspace at a broker's address(es) this credentials file is to be used.

    It takes the place of what was remembered there for its role and name. Raises `ConfigError` where the credentials
    cannot be read or nothing can be written.
    """
    found = read_credentials(path)
    addresses = addresses_of(url)
    entry = Entry(
        addresses, workspace, found.role, found.name, str(path.resolve()), "" if keys is None else str(keys.resolve())
    )
    with _changing(home or home_dir()) as entries:
        entries[:] = [entry, *(one for one in entries if not _replaces(entry, one))][:ENTRIES_MAX]


def forget(url: str, *, keys: Path | None = None, home: Path | None = None) -> None:
    """Forget what is known of a broker's address(es), or only what was made with some keys; all files stay."""
    directory, addresses = home or home_dir(), addresses_of(url)

    def is_meant(entry: Entry) -> bool:
        return _is_at(entry, addresses, None) and (keys is None or entry.keys == str(keys.resolve()))

    if not any(map(is_meant, _read(directory))):
        return
    with _changing(directory) as entries:
        entries[:] = [entry for entry in entries if not is_meant(entry)]


def find(
    url: str, workspace: str, *, role: str | None = None, name: str | None = None, home: Path | None = None
) -> Path | None:
    """Return the credentials file that is known for a workspace at a broker's address(es); None where none is.

    Without ``role`` those with which a person can do the most; without ``name`` the ones remembered last.
    """
    entries = [
        entry
        for entry in known_at(url, workspace, home=home)
        if (role is None or entry.role == role) and (name is None or entry.name == name)
    ]
    if role is None:
        entries.sort(key=lambda entry: LEADING.index(entry.role) if entry.role in LEADING else len(LEADING))
    return Path(entries[0].credentials) if entries else None


def keys_at(url: str, workspace: str | None = None, *, home: Path | None = None) -> Path | None:
    """Return the keys directory of the broker's authority, where that is on this machine and ours to read."""
    for entry in known_at(url, workspace, home=home):
        if entry.keys and os.access(entry.keys, os.R_OK | os.X_OK):
            return Path(entry.keys)
    return None


def known_at(url: str, workspace: str | None, *, home: Path | None = None) -> list[Entry]:
    """Return what is known of a workspace at a broker's address(es), the newest first, as far as its files exist."""
    addresses = addresses_of(url)
    return [
        entry
        for entry in _read(home or home_dir())
        if _is_at(entry, addresses, workspace) and os.access(entry.credentials, os.R_OK)
    ]


def addresses_of(url: str) -> tuple[str, ...]:
    """Return ``host:port`` of each address in a broker's URL: schemes, users and names of this machine do not count."""
    return tuple(filter(None, (_address(part.strip()) for part in url.split(","))))


def _address(part: str) -> str:
    try:
        split = urlsplit(part if "://" in part else f"nats://{part}")
        host, port = split.hostname or "", split.port or PORTS.get(split.scheme, 4222)
    except ValueError:
        return ""  # no address: whoever connects there says so
    return f"{_LOOPBACK.get(host, host)}:{port}" if host else ""


def _is_at(entry: Entry, addresses: Sequence[str], workspace: str | None) -> bool:
    return workspace in (None, entry.workspace) and not set(addresses).isdisjoint(entry.addresses)


def _replaces(new: Entry, old: Entry) -> bool:
    return (new.role, new.name) == (old.role, old.name) and _is_at(old, new.addresses, new.workspace)


@contextmanager
def _changing(directory: Path) -> Iterator[list[Entry]]:
    """What is known, to be changed inside the block and written after it; nobody else changes it meanwhile."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "known.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written: {error.strerror}; choose another: FEDBUS_HOME") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _read(directory)
        yield entries
        told = {"version": 1, "known": [asdict(entry) for entry in entries]}
        write_secret(directory / "known.json", json.dumps(told, indent=1) + "\n")
    finally:
        os.close(lock)


def _read(directory: Path) -> list[Entry]:
    path = directory / "known.json"
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_uid not in (os.getuid(), 0) or state.st_mode & 0o022:
                raise ConfigError(f"{path}: others can write it, so it is not believed: chmod 600, or remove it")
            data = file.read(BYTES_MAX)
    except OSError:
        return []  # not there, as on most machines; or not for us
    try:
        told = json.loads(data)
        return [found for each in told["known"] if (found := _entry(each)) is not None]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}): remove it, and join again") from error


def _entry(told: dict[str, Any]) -> Entry | None:
    with suppress(KeyError, TypeError):  # of a later version: not for us
        texts = [told[field] for field in ("workspace", "role", "name", "credentials", "keys")]
        addresses = told["addresses"]
        if all(isinstance(text, str) for text in (*texts, *addresses)):
            return Entry(tuple(addresses), *texts)
    return None
