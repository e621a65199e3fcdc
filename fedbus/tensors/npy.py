"""The arrays in an ``.npz`` file by their heads: a zip file of a stranger, which says more than it holds where it can.

Sizes are believed only as far as bytes bear them out: a head is at most `HEAD_BYTES_MAX` long before it is unpacked, an
array fits into what its member unpacks to, and that into what deflate can make of its bytes. Objects are refused: to
read them would be to run them.
"""

from __future__ import annotations

import io
import lzma
import struct
import tokenize
import zlib
from math import prod
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from fedbus.tensors.spec import ARRAYS_MAX

HEAD_BYTES_MAX = 64 * 1024
"""Of an array's head, some 100 bytes as a rule: numpy unpacks all that one says it has before it finds it too long."""

RATIO_MAX = 1032
"""Most bytes that deflate makes of one (RFC 1951: 258 bytes of a match of two bits)."""

UNPACKED_BYTES_MIN = 4096
"""Of a member however few its bytes are: blocks have a beginning and an end."""

DAMAGED = (
    BadZipFile,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
)
"""What zip files and heads of arrays raise that are damaged, or were made to be; RecursionError is a RuntimeError."""

Head = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether it lies in Fortran's order, and dtype."""


def heads_of(file: ZipFile) -> list[tuple[str, Head]]:
    """Return the members of an ``.npz`` file with their heads; raises one of `DAMAGED` for what is none."""
    members = file.infolist()
    if len(members) > ARRAYS_MAX:
        raise ValueError(f"{len(members)} arrays, expected {ARRAYS_MAX} at most")
    return [(member.filename, _head_of(file, member)) for member in members]


def _head_of(file: ZipFile, member: ZipInfo) -> Head:
    name = member.filename
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError(f"{name!r:.80} is packed in another way than numpy does")
    if member.file_size > UNPACKED_BYTES_MIN + RATIO_MAX * member.compress_size:
        raise ValueError(f"{name!r:.80} says that it unpacks to {member.file_size} bytes, which cannot be")
    with file.open(member) as opened:
        shape, fortran, dtype = read_head(opened)
    if dtype.hasobject:
        raise ValueError(f"{name!r:.80} holds objects")
    if prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{name!r:.80} says that it has {prod(shape)} elements, and holds {member.file_size} bytes")
    return tuple(int(dim) for dim in shape), fortran, dtype


def read_head(member: IO[bytes]) -> Head:
    """Read the head of an array, up to where its bytes begin."""
    major, _ = npy.read_magic(member)
    packed = member.read(2 if major == 1 else 4)
    length = int.from_bytes(packed, "little")
    if length > HEAD_BYTES_MAX:
        raise ValueError(f"the head of an array has {length} bytes, expected {HEAD_BYTES_MAX} at most")
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, fortran, dtype = read(io.BytesIO(packed + member.read(length)))
    return shape, fortran, dtype
