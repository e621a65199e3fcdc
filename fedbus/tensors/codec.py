"""Arrays to chunks and chunks to arrays, copying no more than must be.

`Source` reads chunks out of a mapping of arrays: a chunk that lies inside one contiguous little-endian array is a view
of the caller's memory, any other is joined. `Assembly` is the way back: one buffer of the model's size whose slots are
filled in any order (by a socket, if you like), over which `unpack` lays read-only arrays. Neither remembers what has
been read or filled: that is the protocol's business.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedbus.errors import BadMessage
from fedbus.tensors.chunks import Layout
from fedbus.tensors.spare import Spare
from fedbus.tensors.spec import Arrays, ModelSpec

Buffer = bytes | bytearray | memoryview
"""What holds the bytes of a chunk."""


class Source:
    """The chunks of a mapping of arrays.

    The arrays are not copied: they must not change while chunks are read or the views given out are in use. Raises
    BadUpdate where names, dtypes or shapes are not those of the layout's spec.
    """

    def __init__(self, layout: Layout, arrays: Arrays) -> None:
        """Check ``arrays`` against the spec; costs nothing per byte."""
        layout.spec.check(arrays)
        self.layout = layout
        self._arrays = [np.asarray(arrays[spec.name]) for spec in layout.spec.arrays]

    def chunk(self, index: int) -> Buffer:
        """The bytes of chunk ``index``: a read-only view where one array holds them as they are, else a copy."""
        pieces = [raw(self._arrays[s.index], s.start, s.stop) for s in self.layout.segments(index)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def raw(array: np.ndarray[Any, Any], start: int, stop: int) -> Buffer:
    """Elements ``start`` to ``stop`` of the array in C order as little-endian bytes, without a copy where possible."""
    little = array.dtype.newbyteorder("<")
    # `flat` walks strides element by element and copies only this piece: a transposed array never needs a second whole.
    piece = array.reshape(-1)[start:stop] if array.flags.c_contiguous else array.flat[start:stop]
    return piece.astype(little, copy=False).view(np.uint8).data.toreadonly()


class Assembly:
    """A buffer of the model's size into which chunks are put, in any order, each as often as you like."""

    def __init__(self, layout: Layout, spare: Spare | None = None) -> None:
        """Take the memory: what is spare, or the system gives it page by page as it is filled."""
        self.layout = layout
        self._bytes = (spare or Spare()).take(layout.spec.nbytes)
        self.buffer: memoryview = self._bytes.data

    def slot(self, index: int) -> memoryview:
        """The writable place of chunk ``index``, to be received into."""
        start, stop = self.layout.bounds(index)
        return self.buffer[start:stop]

    def put(self, index: int, data: Buffer) -> None:
        """Copy chunk ``index`` into its place; BadMessage where its length is not that of the layout."""
        start, stop = self.layout.bounds(index)
        if memoryview(data).nbytes != stop - start:
            raise BadMessage(f"chunk {index}: expected {stop - start} bytes, got {memoryview(data).nbytes}")
        # by numpy, which lets other threads run meanwhile: memory that the system has to find first takes its time
        self._bytes[start:stop] = np.frombuffer(data, np.uint8)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """`unpack` of the buffer as it is now."""
        return unpack(self.layout.spec, self.buffer)


def unpack(spec: ModelSpec, buffer: Buffer) -> dict[str, np.ndarray[Any, Any]]:
    """Lay the arrays of ``spec`` over ``buffer``: read-only views in the spec's order, no copy.

    Arrays lie back to back, so after one of odd size the next may be unaligned: numpy works on it, only slower.
    BadMessage where the buffer's length is not that of the spec.
    """
    view = memoryview(buffer).toreadonly()
    if view.nbytes != spec.nbytes:
        raise BadMessage(f"model: expected {spec.nbytes} bytes, got {view.nbytes}")
    if not spec.nbytes:  # numpy refuses to look at an empty buffer
        return {a.name: _frozen(np.empty(a.shape, a.numpy)) for a in spec.arrays}
    flat = np.frombuffer(view, np.uint8)
    return {a.name: flat[a.offset : a.stop].view(a.numpy).reshape(a.shape) for a in spec.arrays}


def _frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array
