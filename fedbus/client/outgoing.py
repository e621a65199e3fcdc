"""What has left this machine: one line of JSON each, in a file that is only ever added to, chained by digests.

    {"n":7,"at":..,"what":"update","client":"site-1","session":"s","round":3,"bytes":..,"digest":..,"norm":..,"before":..}

A line is in the file (in the system's hands, as after `write`) before the first byte of what it tells of is sent;
where it cannot be written, nothing is sent. ``before`` is the BLAKE3 of the line before it, so that none can be
changed, taken out or put in without all that follow being written anew; an update's ``digest`` stands in the session's
journal too.

Files are bounded: a full one is renamed to ``.1``, and so on; the oldest goes, and the chain then begins where that
ended.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from fedbus.clock import Clock
from fedbus.errors import BadMessage, BusUnavailable, ConfigError
from fedbus.tensors.digest import Hasher

FILE_BYTES_MAX = 16 * 2**20
"""Of one file: some 30,000 updates."""

FILES_MAX = 8
"""Files that are kept, the one that is written included."""

SUMMARY_S = 600.0
"""How often heartbeats and other small words are summed up in a line; also when the client ends."""

TAIL_BYTES = 1 << 20
"""Within so many bytes of the end the last line begins: 256 metrics of 128 characters are 40 KB."""


class OutgoingLog:
    """The log of one client, or of one crowd; raises `ConfigError` where there can be no such file."""

    def __init__(
        self, path: Path, clock: Clock, *, file_bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX
    ) -> None:
        self.path = path
        self._clock = clock
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._counted: dict[str, list[int]] = {}
        self._since = clock.now()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._opened()
            self._number, self._before = self._last()
            self._size = os.fstat(self._file).st_size
        except OSError as error:
            raise ConfigError(f"log of what leaves {path}: {error.strerror or error}; name another file") from error

    def _opened(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _last(self) -> tuple[int, str]:
        """Return number and digest of the last line; what was half written when a machine died never left, and goes."""
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, TAIL_BYTES, max(0, size - TAIL_BYTES))
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            os.ftruncate(self._file, size - (len(tail) - whole))
        if not whole:
            older = _files(self.path)[:-1]
            return (0, "") if not older else _end_of(older[-1])
        return _told(tail[:whole].splitlines()[-1])

    def write(self, what: str, fields: Mapping[str, Any]) -> None:
        """Add a line; raises `BusUnavailable` where that is impossible, so that nothing is sent."""
        line = _line({"n": self._number + 1, "at": self._clock.now(), "what": what, **fields, "before": self._before})
        try:
            if self._size and self._size + len(line) > self._file_bytes_max:
                self._rotate()
                self._size = 0
            self._put(line)
        except OSError as error:
            raise BusUnavailable(f"{self.path}: {error.strerror or error}: what is not logged is not sent") from error
        self._number, self._before = self._number + 1, digest_of(line[:-1])

    def _put(self, line: bytes) -> None:
        if os.write(self._file, line) != len(line):
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, "no room for a line")
        self._size += len(line)

    def count(self, what: str, nbytes: int) -> None:
        """Take note of something small, which a later line sums up."""
        counted = self._counted.setdefault(what, [0, 0])
        counted[0] += 1
        counted[1] += nbytes
        if self._clock.now() >= self._since + SUMMARY_S:
            self.summarise()

    def summarise(self) -> None:
        """Write what was counted, if anything."""
        counted, self._counted = self._counted, {}
        self._since = self._clock.now()
        if counted:
            told = {what: {"messages": count, "bytes": nbytes} for what, (count, nbytes) in sorted(counted.items())}
            self.write("others", {"of": told})

    def _rotate(self) -> None:
        os.close(self._file)
        for number in range(self._files_max - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if number == self._files_max - 1:
                older.unlink(missing_ok=True)
            elif older.exists():
                older.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
        if self._files_max > 1:
            self.path.rename(self.path.with_name(f"{self.path.name}.1"))
        else:
            self.path.unlink()
        self._file = self._opened()

    def close(self) -> None:
        """Sum up, and let the file go; idempotent."""
        if self._file >= 0:
            try:
                self.summarise()
            except BusUnavailable:
                pass  # a full disk at the end: these were heartbeats
            finally:
                os.close(self._file)
                self._file = -1


def digest_of(line: bytes) -> str:
    """Return the digest of a line, without its end."""
    hasher = Hasher()
    hasher.update(line)
    return hasher.hexdigest()


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(_plain(fields), ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Say what JSON has no number for as a text: metrics may be NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


# --- reading ---


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at all files found: so many ``lines`` from number ``first`` on; ``wrong``: what does not fit."""

    lines: int
    first: int
    wrong: tuple[str, ...] = ()


def lines_of(path: Path) -> Iterator[tuple[Path, int, bytes]]:
    """Yield every line that is kept, oldest first: its file, its number in it from 1 on, its bytes."""
    for file in _files(path):
        with file.open("rb") as opened:
            for number, line in enumerate(opened, 1):
                yield file, number, line.removesuffix(b"\n")


def entries_of(path: Path, session: str = "") -> Iterator[dict[str, Any]]:
    """Yield what was sent, oldest first; of one session, where that is named. Raises `ConfigError`, `BadMessage`."""
    if not _files(path):
        raise ConfigError(f"{path}: there is no such log; it is in the state directory, or where --outgoing-log says")
    for file, number, line in lines_of(path):
        entry = _parsed(line, f"{file}, line {number}")
        if not session or entry.get("session") == session:
            yield entry


def verify(path: Path) -> Verified:
    """Read all and see whether each line names the one before it; the first that is kept may name one that is gone."""
    wrong: list[str] = []
    before, number, count, first = "", 0, 0, 0
    for file, at, line in lines_of(path):
        place = f"{file.name}, line {at}"
        try:
            entry = _parsed(line, place)
        except BadMessage as error:
            wrong.append(str(error))
            before, number, count = digest_of(line), number + 1, count + 1
            continue
        found, chained = entry.get("n"), entry.get("before")
        if not count:
            first = found if isinstance(found, int) else 0
            if first == 1 and chained:
                wrong.append(f"{place}: the first line names one before it")
        elif found != number + 1 or chained != before:
            wrong.append(f"{place}: expected number {number + 1} behind {before[:12]}, got {found} behind {chained}")
        before, number, count = digest_of(line), found if isinstance(found, int) else number + 1, count + 1
    return Verified(count, first, tuple(wrong[:100]))


def _files(path: Path) -> list[Path]:
    """Return the files that are there, oldest first."""
    found: Iterable[tuple[int, Path]] = (
        (int(file.suffix[1:]), file) for file in path.parent.glob(f"{path.name}.*") if file.suffix[1:].isdigit()
    )
    return [file for _, file in sorted(found, reverse=True)] + ([path] if path.exists() else [])


def _end_of(file: Path) -> tuple[int, str]:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - TAIL_BYTES))
        return _told(opened.read().splitlines()[-1])


def _told(line: bytes) -> tuple[int, str]:
    """Return what the next line has to go on from."""
    try:
        number = _parsed(line, "").get("n")
    except BadMessage:
        number = 0  # somebody has written into it: `verify` says so
    return number if isinstance(number, int) else 0, digest_of(line)


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise BadMessage(f"{place}: expected a line of JSON") from error
    if not isinstance(entry, dict):
        raise BadMessage(f"{place}: expected an object of JSON, got {type(entry).__name__}")
    return entry
