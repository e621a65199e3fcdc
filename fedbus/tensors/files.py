"""Model files: safetensors to write and read, ``.npz`` to read.

A safetensors file is eight bytes of length, a JSON header, and the arrays back to back: its data part *is* the buffer
of `fedbus.tensors.spec`, in the model's order. So a download is `header` followed by the chunks as they come, and
neither the sender nor the receiver ever holds the whole model. Files are written here and not by the ``safetensors``
package, which sorts arrays by dtype and name and would thereby change the model's digest; they are read by it, for its
checks.

Complex numbers came late to the format and most readers lack them: a complex array is stored as ``F32`` or ``F64`` with
one more dimension of length 2 (real, imaginary), and the header's metadata lists its name under ``fedbus.complex``.
Nothing here is executed, and no pickle is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from safetensors import SafetensorError, deserialize, safe_open

from fedbus.errors import BadMessage, ConfigError
from fedbus.tensors.chunks import Layout
from fedbus.tensors.codec import Buffer, Source
from fedbus.tensors.npy import DAMAGED, heads_of
from fedbus.tensors.spec import DTYPES, Arrays, ModelSpec

COMPLEX_KEY = "fedbus.complex"
"""Metadata key with the JSON list of the arrays that are complex, stored as pairs of real numbers."""

HEADER_BYTES_MAX = 100_000_000
"""Longest header that the safetensors format allows."""

_NAMES = {
    "|b1": "BOOL",
    "|i1": "I8",
    "<i2": "I16",
    "<i4": "I32",
    "<i8": "I64",
    "|u1": "U8",
    "<u2": "U16",
    "<u4": "U32",
    "<u8": "U64",
    "<f2": "F16",
    "<f4": "F32",
    "<f8": "F64",
}
SAFETENSORS_DTYPES = {name: DTYPES[text] for text, name in _NAMES.items()}
"""The dtypes of the format that a model may have, by their names there."""


def header(spec: ModelSpec, metadata: Mapping[str, str] | None = None) -> bytes:
    """What a safetensors file of this model has before its data: length and JSON, padded to a multiple of 8 bytes."""
    notes = dict(metadata or {})
    if pairs := [a.name for a in spec.arrays if a.real != a.numpy]:
        notes[COMPLEX_KEY] = json.dumps(pairs)
    entries: dict[str, Any] = {"__metadata__": notes} if notes else {}
    for array in spec.arrays:
        pair = array.real != array.numpy
        entries[array.name] = {
            "dtype": _NAMES[array.real.str],
            "shape": [*array.shape, 2] if pair else list(array.shape),
            "data_offsets": [array.offset, array.stop],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES_MAX:
        raise ConfigError(f"safetensors: expected a header of at most {HEADER_BYTES_MAX} bytes, got {len(text)}")
    return len(text).to_bytes(8, "little") + text


class FileWriter:
    """Writes a safetensors file from chunks in order; the file appears under its name only when it is whole.

    Use as a context manager. It is written beside its place as ``<name>.part`` and renamed when the block ends well and
    all bytes have come (BadMessage if not); otherwise the part is removed. It is not synced to disk.
    """

    def __init__(self, path: Path | str, spec: ModelSpec, metadata: Mapping[str, str] | None = None) -> None:
        """Open nothing yet."""
        self.path = Path(path)
        self._part = self.path.with_name(self.path.name + ".part")
        self._header, self._left = header(spec, metadata), spec.nbytes

    def __enter__(self) -> Self:
        """Open the part and write the header."""
        self._file = self._part.open("wb")
        self._file.write(self._header)
        return self

    def write(self, data: Buffer) -> None:
        """Append the next bytes of the buffer; BadMessage where there are more than the spec says."""
        size = memoryview(data).nbytes
        if size > self._left:
            raise BadMessage(f"{self.path.name}: expected {self._left} more bytes, got {size}")
        self._file.write(data)
        self._left -= size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, and rename or remove the part."""
        self._file.close()
        if kind is None and not self._left:
            self._part.replace(self.path)
            return
        self._part.unlink(missing_ok=True)
        if kind is None:
            raise BadMessage(f"{self.path.name}: {self._left} bytes of the model did not come")


def write(path: Path | str, arrays: Arrays, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model to a safetensors file in the mapping's order, without a copy of the whole."""
    layout = Layout(ModelSpec.of(arrays))
    source = Source(layout, arrays)
    with FileWriter(path, layout.spec, metadata) as file:
        for index in range(layout.count):
            file.write(source.chunk(index))


def to_bytes(arrays: Arrays) -> bytes:
    """Return arrays as the bytes of a safetensors file, in the mapping's order."""
    layout = Layout(ModelSpec.of(arrays))
    source = Source(layout, arrays)
    return b"".join([header(layout.spec), *(source.chunk(index) for index in range(layout.count))])


def from_bytes(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a safetensors file that a peer has sent: read-only, by name.

    BadMessage where it is none, or has a dtype that numpy has not. Complex numbers come as pairs of real ones.
    """
    try:
        entries: list[tuple[str, Mapping[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call] # has no types
        return {name: _laid(entry) for name, entry in entries}
    except (SafetensorError, KeyError, ValueError, OverflowError) as error:
        raise BadMessage(f"expected safetensors, {len(data)} bytes: {error}") from error


def _laid(entry: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(memoryview(entry["data"]).toreadonly(), SAFETENSORS_DTYPES[entry["dtype"]]).reshape(
        entry["shape"]
    )


def read(path: Path | str) -> dict[str, np.ndarray[Any, Any]]:
    """Read a model from a ``.npz`` file, or from a safetensors file whatever its name; arrays are in the file's order.

    ConfigError where the file is not one of these, or holds what a model cannot hold (objects, bfloat16, ...).
    """
    path = Path(path)
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
    ModelSpec.of(arrays)
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with path.open("rb") as start:
        if start.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise ConfigError(f"{path.name}: expected an archive of arrays (.npz), got a single array")
    try:
        with ZipFile(path) as found:
            heads_of(found)  # numpy takes the memory that an array says it needs
        with np.load(path, allow_pickle=False) as file:  # noqa: TID251 - the one door, and it reads no pickle
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise ConfigError(f"{path.name}: expected an .npz file of plain arrays: {error}") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            pairs = set(json.loads((file.metadata() or {}).get(COMPLEX_KEY, "[]")))
            return {name: _restored(file.get_tensor(name), pair=name in pairs) for name in _order(path)}
    except (SafetensorError, TypeError, ValueError) as error:  # TypeError: a dtype that numpy has not, such as bfloat16
        raise ConfigError(f"{path.name}: expected a safetensors file that numpy can hold: {error}") from error


def _order(path: Path) -> list[str]:
    """Names by place in the file; those of no bytes, which share a place, as the header lists them."""
    with path.open("rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    entries.pop("__metadata__", None)
    return sorted(entries, key=lambda name: tuple(entries[name]["data_offsets"]))


def _restored(value: np.ndarray[Any, Any], *, pair: bool) -> np.ndarray[Any, Any]:
    if not pair:
        return value
    if value.dtype not in (np.float32, np.float64) or value.shape[-1:] != (2,):
        raise ValueError(f"expected pairs of F32 or F64 for complex numbers, got {value.dtype} {value.shape}")
    return value.view(np.result_type(value.dtype, np.complex64)).reshape(value.shape[:-1])
