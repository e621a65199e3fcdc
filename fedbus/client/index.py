"""A file of entries, each with a checksum, one behind the other; what follows a torn one is nothing."""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

from fedbus.errors import BadMessage
from fedbus.foreign import unpacked
from fedbus.tensors.digest import chunk_digest

log = logging.getLogger("fedbus.client")

FIRST = ["fedbus state", 1]
"""The first entry: what it is, and which version; another one's is not read."""

ENTRY_BYTES_MAX = 2**30
"""Longest entry: a model of a million chunks has digests of 8 MB, and names of arrays."""

_HEAD = struct.Struct("<IQ")


class Index:
    """Entries, each with a checksum, one behind the other; what follows a torn one is nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = 0

    def read(self) -> list[list[Any]]:
        """Return what there is, and cut the rest; another version's is nothing."""
        data = self._path.read_bytes()
        entries = list(_entries(data))
        if entries and entries[0][0] != FIRST:
            log.warning("%s: expected an index that begins with %s: what it names is dropped", self._path, FIRST)
            entries = []
        self._end = entries[-1][1] if len(entries) > 1 else 0
        if self._end < len(data) and len(entries) != 1:
            log.warning("%s: %d bytes at its end are torn and dropped", self._path, len(data) - self._end)
        os.ftruncate(self._file, self._end)
        return [entry for entry, _ in entries[1:]]

    def append(self, entry: list[Any]) -> None:
        """Append an entry, or nothing: `OSError`."""
        data = _packed(entry) if self._end else _packed(FIRST) + _packed(entry)
        self._write(self._file, data, self._end)
        self._end += len(data)

    def replace(self, entries: list[list[Any]]) -> None:
        """Write it anew, under another name first; `OSError` leaves it as it was."""
        data = b"".join(map(_packed, [FIRST, *entries]))
        new = self._path.with_suffix(".new")
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._write(file, data, 0)
            os.fsync(file)  # it takes the place of one that may be on the disk already
            new.replace(self._path)
        except OSError:
            os.close(file)
            new.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file, self._end = file, len(data)

    @staticmethod
    def _write(file: int, data: bytes, offset: int) -> None:
        written = 0
        while written < len(data):
            some = os.pwrite(file, data[written:], offset + written)
            if not some:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += some

    def again(self) -> int:
        """Return another descriptor of it, to be closed."""
        return os.dup(self._file)

    def close(self) -> None:
        """Close."""
        os.close(self._file)


def _packed(entry: list[Any]) -> bytes:
    body: bytes = msgpack.packb(entry)
    return _HEAD.pack(len(body), chunk_digest(body)) + body


def _entries(data: bytes) -> Iterator[tuple[list[Any], int]]:
    """Return entries, each with where it ends, up to the first that is torn."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, digest = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        body = data[at : at + length]
        if length > ENTRY_BYTES_MAX or len(body) < length or chunk_digest(body) != digest:
            return
        at += length
        try:
            entry = unpacked(body, "an entry of the index")
        except BadMessage:
            return  # a disk may give back anything, and the checksum is no lock
        if isinstance(entry, list):
            yield entry, at
