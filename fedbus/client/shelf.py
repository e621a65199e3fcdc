"""Where the bytes of updates stand until their receipts: in memory, and beyond a bound in a temporary file.

A client holds one update a session, as it always could: it has no bound. A crowd holds one for each of its clients, and
25 of 45 MB would be 1.1 GB. The file is written and read by system calls, not mapped: a full disk is then an error and
not the end of the process, and what the system caches of it is not counted as ours. Places that were left are taken
again before the file grows, for pages that the system has to find first cost many times what writing over them does.

Places are taken and filled in threads, read and left on the loop.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from fedbus.bus.base import Payload
from fedbus.errors import FedbusError
from fedbus.tensors.spare import Spare

MEMORY_BYTES_MAX = 64 * 2**20
"""What a crowd holds in memory: thousands of small updates, or one that is sent while the next is made."""


class NoRoomError(FedbusError):
    """The temporary directory is full: free room there, or name another (``TMPDIR``)."""


class Place(Protocol):
    """Room for the bytes of one update."""

    def put(self, offset: int, data: Payload) -> Payload:
        """Copy ``data`` to ``offset`` and return the copy; raises `NoRoomError`."""
        ...

    def get(self, offset: int, nbytes: int) -> Payload:
        """Return what was put there."""
        ...

    def leave(self) -> None:
        """Give the room back; idempotent."""
        ...


class Shelf:
    """All places of a process; ``memory_bytes_max`` None: all of them in memory, where ``spare`` may have some."""

    def __init__(self, memory_bytes_max: int | None = None, spare: Spare | None = None) -> None:
        self.memory_bytes = 0
        self.file = _File()
        self._memory_bytes_max = memory_bytes_max
        self._spare = spare or Spare()
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> Place:
        """Find room for so many bytes; raises `NoRoomError`."""
        with self._lock:
            if self._memory_bytes_max is None or self.memory_bytes + nbytes <= self._memory_bytes_max:
                self.memory_bytes += nbytes
                return _InMemory(self, self._spare.take(nbytes))
        return _InFile(self.file, nbytes)

    def left(self, memory: memoryview) -> None:
        """A place in memory is free again."""
        self._spare.give(memory)
        with self._lock:
            self.memory_bytes -= len(memory)

    def close(self) -> None:
        """Forget everything; idempotent."""
        self._spare.forget()
        self.file.close()


class _InMemory:
    """A buffer."""

    __slots__ = ("_buffer", "_shelf")

    def __init__(self, shelf: Shelf, memory: NDArray[np.uint8]) -> None:
        self._shelf: Shelf | None = shelf
        self._buffer: memoryview = memory.data

    def put(self, offset: int, data: Payload) -> Payload:
        """Copy."""
        slot = self._buffer[offset : offset + len(data)]
        slot[:] = data
        return slot

    def get(self, offset: int, nbytes: int) -> Payload:
        """Return a view."""
        return self._buffer[offset : offset + nbytes].toreadonly()

    def leave(self) -> None:
        """Forget the buffer: whoever still looks at it keeps it."""
        shelf, self._shelf = self._shelf, None
        if shelf is not None:
            buffer, self._buffer = self._buffer, memoryview(b"")
            shelf.left(buffer)


class _InFile:
    """A stretch of the file."""

    __slots__ = ("_file", "_nbytes", "_offset")

    def __init__(self, file: _File, nbytes: int) -> None:
        self._file: _File | None = file
        self._nbytes = nbytes
        self._offset = file.take(nbytes)

    def put(self, offset: int, data: Payload) -> Payload:
        """Copy first: what is digested must be what is written, though the app may write into its arrays."""
        assert self._file is not None
        copied = bytes(data)
        self._file.write(self._offset + offset, copied)
        return copied

    def get(self, offset: int, nbytes: int) -> Payload:
        """Read."""
        assert self._file is not None
        return self._file.read(self._offset + offset, nbytes)

    def leave(self) -> None:
        """Let another take it."""
        file, self._file = self._file, None
        if file is not None:
            file.left(self._offset, self._nbytes)


class _File:
    """A temporary file, made when it is first needed, without a name.

    All that touches it holds the lock: a training that nobody waits for any more may still write when it is closed, and
    must not write to whatever file the system gave the same number since.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._lock = threading.Lock()
        self._open: IO[bytes] | None = None
        self._closed = False
        self._used = 0
        self._free: dict[int, list[int]] = {}

    def take(self, nbytes: int) -> int:
        """Return where there is room."""
        with self._lock:
            if not self._used and nbytes not in self._free:
                self._free.clear()  # another model: what the places of the last one took is given back
                self.nbytes = 0
                os.truncate(self._descriptor(), 0)
            self._used += 1
            free = self._free.setdefault(nbytes, [])
            if free:
                return free.pop()
            offset, self.nbytes = self.nbytes, self.nbytes + nbytes
            return offset

    def left(self, offset: int, nbytes: int) -> None:
        """There is room again."""
        with self._lock:
            self._used -= 1
            self._free[nbytes].append(offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write all; raises `NoRoomError`."""
        with self._lock:
            descriptor, written = self._descriptor(), 0
            while written < len(data):
                try:
                    written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)
                except OSError as error:
                    raise _no_room(error) from error

    def read(self, offset: int, nbytes: int) -> bytes:
        """Read what was written."""
        with self._lock:
            found = os.pread(self._descriptor(), nbytes, offset)
            while len(found) < nbytes:  # a signal may cut a reading short
                more = os.pread(self._descriptor(), nbytes - len(found), offset + len(found))
                assert more, "a place is written before it is read"
                found += more
            return found

    def close(self) -> None:
        """Remove it; idempotent."""
        with self._lock:
            self._closed = True
            if self._open is not None:
                self._open.close()
                self._open = None

    def _descriptor(self) -> int:
        if self._closed:
            raise NoRoomError("the client is leaving, its updates are forgotten")
        if self._open is None:
            try:
                self._open = tempfile.TemporaryFile(prefix="fedbus-updates-")  # noqa: SIM115 - closed by `close`
            except OSError as error:
                raise _no_room(error) from error
        return self._open.fileno()


def _no_room(error: OSError) -> NoRoomError:
    return NoRoomError(
        f"updates that wait for their receipts do not fit into {tempfile.gettempdir()}: {error.strerror or error}; "
        "free room there, or name another place by TMPDIR"
    )
