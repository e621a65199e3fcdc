"""A policy in a file, read anew when that has changed; one that is not valid leaves the last good one in force."""

from __future__ import annotations

import logging
from pathlib import Path

from fedbus.config.policy import POLICY_CHARS_MAX, Policy, parse
from fedbus.errors import ConfigError
from fedbus.tensors.digest import Hasher

log = logging.getLogger("fedbus.client")


class PolicyFile:
    """What holds now; ``path`` None: it never changes. Raises `ConfigError` where it cannot be read at first."""

    def __init__(self, path: Path | None, policy: Policy | None = None) -> None:
        self._path = path
        self._seen: object = self._stamp()
        self.policy = policy if policy is not None else self._read()

    @classmethod
    def of(cls, policy: Path | Policy) -> PolicyFile:
        """Take a policy, or the file that has one."""
        return cls(None, policy) if isinstance(policy, Policy) else cls(policy)

    @property
    def digest(self) -> str:
        """What tells this policy from another; comments and the order of keys do not."""
        hasher = Hasher()
        hasher.update(self.policy.model_dump_json().encode())
        return hasher.hexdigest()

    def look(self) -> bool:
        """Take the file anew if it has changed; whether another policy holds now."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen, before = stamp, self.policy
        try:
            self.policy = self._read()
        except ConfigError as error:
            log.log(logging.ERROR, "the policy cannot be taken, THE ONE BEFORE HOLDS: %s", error)
            return False
        if self.policy != before:
            log.warning("another policy holds from now on: %s", self._path)
        return self.policy != before

    def _stamp(self) -> object:
        """Return what is another when the file is; also of one that was replaced by a rename within a second."""
        try:
            found = self._path.stat() if self._path is not None else None
        except OSError as error:
            return error.errno
        return found and (found.st_mtime_ns, found.st_size, found.st_ino)

    def _read(self) -> Policy:
        assert self._path is not None, "a policy, or a file that has it"
        try:
            with self._path.open(encoding="utf-8") as file:
                text = file.read(POLICY_CHARS_MAX + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "expected UTF-8"
            raise ConfigError(f"policy {self._path}: {reason}") from error
        return parse(text, str(self._path))
