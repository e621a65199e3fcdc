"""Where a combiner keeps the updates of a round until it is closed: to undo one exactly, or to read it a second time.

Bytes of one upload are appended in order and read by position. `Directory` writes files and lets the page cache work (a
combiner that is killed may lose nothing by it: the client still has its update); `Memory` is for simulations and for
models that are small. A full disk raises `SpoolFull`: the upload is refused with that reason, the round goes on.
"""

from __future__ import annotations

import errno
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, Protocol, cast

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
        """Forget all."""
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


FILES_MAX = 64
"""Files that are open at once.

Far below a process's usual limit of 1,024, far above the uploads that receive at once.
"""


class Directory:
    """A spool in a directory of its own, one file an upload; what a former process left there is removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._sizes: dict[int, int] = {}
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, mode=0o700)

    def append(self, upload: int, data: Payload) -> None:
        """Append to an upload's file."""
        size = self._sizes.get(upload, 0)
        try:
            file = self._file(upload)
            file.seek(size)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            if error.errno in _FULL:
                raise SpoolFull(f"the combiner's spool {self._path} takes no more: {error.strerror}") from error
            raise
        self._sizes[upload] = size + len(data)

    def read(self, upload: int, start: int, stop: int) -> bytes:
        """Return some of an upload's bytes."""
        file = self._file(upload)
        file.seek(start)
        parts, left = [], stop - start
        while left:
            part = file.read(left)
            assert part, f"spool: upload {upload} has no bytes {start} to {stop}"
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def drop(self, upload: int) -> None:
        """Remove an upload's file."""
        file = self._open.pop(upload, None)
        if file is not None:
            file.close()
        if self._sizes.pop(upload, None) is not None:
            (self._path / str(upload)).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all files."""
        for upload in list(self._sizes):
            self.drop(upload)

    def _file(self, upload: int) -> BinaryIO:
        """Return an upload's file, open; closes the one that was used longest ago where too many are."""
        file = self._open.get(upload)
        if file is None:
            if len(self._open) >= FILES_MAX:
                self._open.popitem(last=False)[1].close()
            mode = "r+b" if upload in self._sizes else "w+b"
            file = self._open[upload] = cast("BinaryIO", (self._path / str(upload)).open(mode, buffering=0))
            self._sizes.setdefault(upload, 0)
        self._open.move_to_end(upload)
        return file


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE})
