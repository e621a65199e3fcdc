"""What a model is made of: names, dtypes and shapes, in order, and where each array lies in the buffer.

A model is an ordered mapping of names to arrays. Its *buffer* is the little-endian bytes of the arrays in that order,
back to back, without holes; chunks are cut out of it and digests are taken over it. `ModelSpec` describes the buffer
without holding it. On the wire it is a list of ``[name, dtype, shape]``: offsets and sizes follow from these, so no
peer can send offsets that lie.

Promises: a `ModelSpec` from `ModelSpec.of` or `ModelSpec.from_wire` is within the limits below. Values are not looked
at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from blake3 import blake3

from fedbus.errors import BadMessage, BadUpdate, ConfigError
from fedbus.foreign import shown

Arrays = Mapping[str, np.ndarray[Any, Any]]
"""A model or an update as users hold it: names to arrays, in order."""

ARRAYS_MAX = 100_000
"""Arrays in one model: a large language model has some thousands; beyond this a manifest outgrows a message."""

NAME_CHARS_MAX = 512
"""Characters of an array's name: the deepest module paths seen have some 150."""

NDIM_MAX = 64
"""Dimensions of an array: numpy's own limit."""

MODEL_BYTES_MAX = 1 << 40
"""Bytes of one model, 1 TiB: a guard against nonsense from the wire, far above the 4 GB that fedbus is built for."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    text: np.dtype(text)
    for text in ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16")
}
"""The dtypes that a model may have, by their little-endian string: the same width and meaning on every machine."""

RESERVED_NAME = "__metadata__"
"""Taken by the header of safetensors files, hence not a name for an array."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array: its name, dtype (little-endian string such as ``'<f4'``), shape, and place in the buffer in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def stop(self) -> int:
        """The byte of the buffer behind this array's last."""
        return self.offset + self.nbytes

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype as numpy's object."""
        return DTYPES[self.dtype]

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a zero-dimensional array."""
        return self.nbytes // self.numpy.itemsize

    @property
    def real(self) -> np.dtype[Any]:
        """The dtype of one *part*: for complex arrays that of the real (or imaginary) part, else the dtype itself."""
        return _REAL.get(self.dtype, self.numpy)

    @property
    def parts(self) -> int:
        """Number of real numbers: the elements, where a complex element counts two."""
        return self.nbytes // self.real.itemsize

    def __str__(self) -> str:
        """As an error names it: ``float32 (64, 10)``."""
        return f"{self.numpy} {self.shape}"


_REAL = {"<c8": DTYPES["<f4"], "<c16": DTYPES["<f8"]}


@dataclass(frozen=True)
class ModelSpec:
    """The arrays of a model in order. Make it by `of` or `from_wire`, which lay the arrays out back to back."""

    arrays: tuple[ArraySpec, ...]

    @staticmethod
    def of(arrays: Arrays) -> ModelSpec:
        """Describe a mapping of names to numpy arrays, in its order; ConfigError for what a model cannot hold."""
        try:
            return _lay_out((name, _dtype_of(name, value), value.shape) for name, value in arrays.items())
        except _UnfitError as error:
            raise ConfigError(f"not a model: {error}") from error

    @staticmethod
    def from_wire(obj: object) -> ModelSpec:
        """Read what `to_wire` made, trusting nothing; BadMessage says what was expected and what came."""
        if not isinstance(obj, list | tuple):
            raise BadMessage(f"model spec: expected a list of [name, dtype, shape], got {_kind(obj)}")
        try:
            return _lay_out(_entry(item) for item in obj)
        except _UnfitError as error:
            raise BadMessage(f"model spec: {error}") from error

    def to_wire(self) -> list[list[Any]]:
        """``[[name, dtype, [dim, ...]], ...]``: lists, strings and integers only."""
        return [[a.name, a.dtype, list(a.shape)] for a in self.arrays]

    @cached_property
    def nbytes(self) -> int:
        """Length of the buffer in bytes."""
        return self.arrays[-1].stop if self.arrays else 0

    @cached_property
    def elements(self) -> int:
        """Elements of all arrays."""
        return sum(a.elements for a in self.arrays)

    @cached_property
    def parts(self) -> int:
        """Real numbers of all arrays: a complex element counts two. The length of an accumulator."""
        return sum(a.parts for a in self.arrays)

    @cached_property
    def digest(self) -> str:
        """BLAKE3 (hex) of `to_wire` as ASCII JSON without spaces: equal means equal names, dtypes, shapes and order."""
        return blake3(json.dumps(self.to_wire(), separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def _by_name(self) -> dict[str, ArraySpec]:
        return {a.name: a for a in self.arrays}

    def check(self, arrays: Arrays) -> None:
        """Raise BadUpdate, naming the array, unless names, dtypes and shapes are these; neither order matters."""
        for array in self.arrays:
            if array.name not in arrays:
                raise BadUpdate(f"array {array.name!r}: expected {array}, but it is missing")
        if len(arrays) > len(self.arrays):
            name = next(name for name in arrays if name not in self._by_name)
            raise BadUpdate(f"array {name!r}: unexpected, the model has no array of this name")
        for array in self.arrays:
            value = arrays[array.name]
            try:
                dtype = _dtype_of(array.name, value)
            except _UnfitError as error:
                raise BadUpdate(str(error)) from error
            if (dtype, value.shape) != (array.dtype, array.shape):
                raise BadUpdate(f"array {array.name!r}: expected {array}, got {DTYPES[dtype]} {value.shape}")


class _UnfitError(Exception):
    """What a model cannot hold; whose fault that is, the caller knows."""


def _lay_out(entries: Iterable[tuple[str, str, tuple[int, ...]]]) -> ModelSpec:
    specs: list[ArraySpec] = []
    names: set[str] = set()
    offset = 0
    for name, dtype, shape in entries:
        _check_name(name, names)
        nbytes = _nbytes(name, dtype, shape)
        specs.append(ArraySpec(name, dtype, shape, offset, nbytes))
        offset += nbytes
        if len(specs) > ARRAYS_MAX:
            raise _UnfitError(f"expected at most {ARRAYS_MAX} arrays, got more")
        if offset > MODEL_BYTES_MAX:
            raise _UnfitError(f"expected at most {MODEL_BYTES_MAX} bytes, array {name!r} passes that")
    return ModelSpec(tuple(specs))


def _check_name(name: object, seen: set[str]) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
        shown = f"{len(name)} characters" if isinstance(name, str) else _kind(name)
        raise _UnfitError(f"expected an array name of 1 to {NAME_CHARS_MAX} characters, got {shown}")
    if name == RESERVED_NAME:
        raise _UnfitError(f"array name {name!r} is reserved by the safetensors format, choose another")
    if any("\ud800" <= c <= "\udfff" for c in name):  # a lone surrogate has no UTF-8, hence no wire form
        raise _UnfitError(f"array name {name!r} is not valid Unicode")
    if name in seen:
        raise _UnfitError(f"expected distinct array names, {name!r} comes twice")
    seen.add(name)


def _nbytes(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    if dtype not in DTYPES:
        raise _UnfitError(f"array {name!r}: expected a dtype of {', '.join(DTYPES)}, got {dtype!r:.80}")
    if len(shape) > NDIM_MAX:
        raise _UnfitError(f"array {name!r}: expected at most {NDIM_MAX} dimensions, got {len(shape)}")
    itemsize = DTYPES[dtype].itemsize
    # numpy refuses a shape whose non-zero dimensions overflow even where another one is zero: so must we, before numpy.
    if prod(max(dim, 1) for dim in shape) * itemsize > MODEL_BYTES_MAX:
        raise _UnfitError(f"array {name!r}: expected at most {MODEL_BYTES_MAX} bytes, got shape {shown(shape, 200)}")
    return prod(shape) * itemsize


def _entry(item: object) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(item, list | tuple) or len(item) != 3:
        raise _UnfitError(f"expected [name, dtype, shape], got {_kind(item)}")
    name, dtype, shape = item
    if not isinstance(dtype, str):
        raise _UnfitError(f"array {shown(name)}: expected a dtype string, got {_kind(dtype)}")
    if not isinstance(shape, list | tuple) or not all(type(dim) is int and dim >= 0 for dim in shape):
        raise _UnfitError(f"array {shown(name)}: expected a shape of integers >= 0, got {shown(shape)}")
    return name, dtype, tuple(shape)


def _dtype_of(name: str, value: object) -> str:
    if not isinstance(value, np.ndarray | np.generic):
        raise _UnfitError(f"array {name!r:.80}: expected a numpy array, got {_kind(value)}")
    text = value.dtype.newbyteorder("<").str
    if text not in DTYPES:
        raise _UnfitError(f"array {name!r:.80}: expected a number or bool of at most 64 bits a part, got {value.dtype}")
    return text


def _kind(obj: object) -> str:
    return f"{type(obj).__name__} {shown(obj)}"
