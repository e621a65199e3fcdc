"""Where a combiner keeps the updates of a round until it is closed: to undo one exactly, or to read it a second time.

Bytes of one upload are appended in order and read by position. `Directory` writes one log file, over and over from its
start, and lets the page cache work (a combiner that is killed may lose nothing by it: the client still has its update);
`Memory` is for simulations and for models that are small. A full disk raises `SpoolFull`: the upload is refused with
that reason, the round goes on.

Why a log that is written again: a page of a file that was not there costs up to forty times a page that is
(docs/decisions/0009), and an update of some kilobytes is not worth a file. What a dropped upload leaves is written over
first, so the log is never longer than what was held at once; what a round did not need of it, the next does not keep.
"""

from __future__ import annotations

import errno
import os
import shutil
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedbus.bus.base import Payload
from fedbus.errors import FedbusError


class SpoolFull(FedbusError):
    """There is no room for more: free some, or give the combiner another directory."""


class Spool(Protocol):
    """Bytes of uploads by number."""

    def append(self, upload: int, data: Payload) -> None:
        """Append to an upload's bytes; `SpoolFull` leaves it as it was."""
        ...

    def read(self, upload: int, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to, not including, ``stop``."""
        ...

    def drop(self, upload: int) -> None:
        """Forget an upload; one that is not there is no error."""
        ...

    def clear(self) -> None:
        """Forget all; the room is kept for the next round."""
        ...

    def release(self) -> None:
        """Forget all and give the room back; it may be used again."""
        ...


class Memory:
    """A spool in memory, of ``bytes_max`` bytes."""

    def __init__(self, bytes_max: int = 2**62) -> None:
        self._uploads: dict[int, bytearray] = {}
        self._left = bytes_max

    def append(self, upload: int, data: Payload) -> None:
        """Append to an upload's bytes."""
        if len(data) > self._left:
            raise SpoolFull(f"the spool in memory has room for {self._left} bytes, {len(data)} came")
        self._left -= len(data)
        self._uploads.setdefault(upload, bytearray()).extend(data)

    def read(self, upload: int, start: int, stop: int) -> bytes:
        """Return some of an upload's bytes."""
        found = bytes(self._uploads[upload][start:stop])
        assert len(found) == stop - start, f"spool: upload {upload} has no bytes {start} to {stop}"
        return found

    def drop(self, upload: int) -> None:
        """Forget an upload."""
        self._left += len(self._uploads.pop(upload, b""))

    def clear(self) -> None:
        """Forget all."""
        for upload in list(self._uploads):
            self.drop(upload)

    def release(self) -> None:
        """Forget all."""
        self.clear()


EXTENTS_MAX = 4_000_000
"""Pieces of uploads that the log's index holds: 64 MB of index, for 2 TB in chunks of the default size."""

SPARE_BYTES = 64 * 2**20
"""How much longer than its round a log may stay: rounds differ, and pages that are there are cheap."""


@dataclass(slots=True)
class _Extents:
    """Where an upload lies: its bytes from ``starts[i]`` on stand in the log from ``places[i]`` on."""

    size: int = 0
    starts: array[int] = field(default_factory=lambda: array("q"))
    places: array[int] = field(default_factory=lambda: array("q"))

    def length(self, index: int) -> int:
        stop = self.starts[index + 1] if index + 1 < len(self.starts) else self.size
        return stop - self.starts[index]

    def add(self, place: int, length: int) -> int:
        """Append an extent; returns by how many the index has grown: none where it goes on where the last ended."""
        grown = not self.starts or self.places[-1] + self.length(len(self.starts) - 1) != place
        if grown:
            self.starts.append(self.size)
            self.places.append(place)
        self.size += length
        return int(grown)


class Directory:
    """A spool in a directory of its own; what a former process left there is removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._uploads: dict[int, _Extents] = {}
        self._free: list[tuple[int, int]] = []
        self._extents = 0
        self._end = 0
        self._used = 0
        self._length = 0
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, mode=0o700)

    def append(self, upload: int, data: Payload) -> None:
        """Append to an upload's bytes, where there is room: in what others left, then at the log's end."""
        view = memoryview(data)
        if self._extents + len(self._free) >= EXTENTS_MAX:
            raise SpoolFull(f"the combiner's spool {self._path} holds {EXTENTS_MAX} pieces of updates already")
        end, pieces = self._end, self._claim(view.nbytes)
        try:
            done = 0
            for place, length in pieces:
                self._write(view[done : done + length], place)
                done += length
        except OSError as error:
            self._free += [piece for piece in reversed(pieces) if piece[0] < end]
            self._end = end
            if error.errno in _FULL:
                raise SpoolFull(f"the combiner's spool {self._path} takes no more: {error.strerror}") from error
            raise
        extents = self._uploads.get(upload)
        if extents is None:
            extents = self._uploads[upload] = _Extents()
        for place, length in pieces:
            self._extents += extents.add(place, length)

    def _claim(self, size: int) -> list[tuple[int, int]]:
        """Return where so many bytes go, as (place, length)."""
        pieces: list[tuple[int, int]] = []
        while size and self._free:
            place, length = self._free.pop()
            taken = min(size, length)
            if taken < length:
                self._free.append((place + taken, length - taken))
            pieces.append((place, taken))
            size -= taken
        if size:
            pieces.append((self._end, size))
            self._end += size
        return pieces

    def _write(self, view: memoryview, place: int) -> None:
        if self._file < 0:
            self._file = os.open(self._path / "log", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while view:
            written = os.pwrite(self._file, view, place)
            view, place = view[written:], place + written
            self._used = max(self._used, place)

    def read(self, upload: int, start: int, stop: int) -> bytes:
        """Return some of an upload's bytes."""
        extents = self._uploads[upload]
        assert 0 <= start <= stop <= extents.size, f"spool: upload {upload} has no bytes {start} to {stop}"
        parts: list[bytes] = []
        index = bisect_right(extents.starts, start) - 1
        while start < stop:
            inside = start - extents.starts[index]
            length = min(stop - start, extents.length(index) - inside)
            part = os.pread(self._file, length, extents.places[index] + inside)
            assert part, f"spool: the log of upload {upload} was cut"
            parts.append(part)
            start += len(part)
            if start == extents.starts[index] + extents.length(index):
                index += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop(self, upload: int) -> None:
        """Forget an upload; its place is written over next."""
        extents = self._uploads.pop(upload, None)
        if extents is None:
            return
        self._extents -= len(extents.starts)
        self._free += [(extents.places[i], extents.length(i)) for i in range(len(extents.starts)) if extents.length(i)]
        if not self._uploads:
            self._free, self._end = [], 0

    def clear(self) -> None:
        """Set the end back to the start, and cut what this round did not need."""
        if not self._used:
            return  # cleared already, and nothing is known of what a round needs
        self._length = max(self._length, self._used)
        if self._file >= 0 and self._length > self._used + SPARE_BYTES:
            os.ftruncate(self._file, self._used)
            self._length = self._used
        self._uploads, self._free = {}, []
        self._extents = self._end = self._used = 0

    def release(self) -> None:
        """Remove the log; the next append makes another."""
        self.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file, self._length = -1, 0
            (self._path / "log").unlink(missing_ok=True)


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE})
