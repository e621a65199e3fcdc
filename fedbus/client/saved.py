"""What the index of a state says of an update that is saved: where it lies, and all that is to be known of it.

A disk may give back anything: what is read is looked at before it is believed, and each chunk by its digest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from fedbus.client.cut import cut_of
from fedbus.client.file import File
from fedbus.client.held import Deposit, Held, Part
from fedbus.client.keptfile import Entry, Stretch
from fedbus.errors import BadMessage
from fedbus.foreign import unpacked
from fedbus.messages.plans import Encoding
from fedbus.tensors import CHUNK_BYTES, Layout, ModelSpec
from fedbus.tensors.digest import chunk_digest

CUT_FACTOR_MAX = 1_000_000
"""Most bytes of a model for one of its encoded update: the smallest fraction of a codec, and some. A model is cut into
chunks before its update is looked at, and one of a terabyte is easily written down."""

DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, EOFError, OSError, struct.error)
"""What reading raises of what a disk has changed."""


class Saved(NamedTuple):
    """An entry of the index; ``nbytes``: of the stretch, of which a payload may leave some unused."""

    client: str
    session: str
    offset: int
    nbytes: int
    at: float
    spec: str
    about: bytes


def fits(kind: type[Saved | Entry], fields: Sequence[Any], end: int) -> bool:
    """Whether an entry's fields are of their types, and name a place in a file that ends there.

    A disk may give back anything. What lies far behind the end would be taken for room between that is free: all of it
    is noted, and a number of 64 bits has more than there is memory.
    """
    named = dict(zip(kind._fields, fields, strict=False))
    whole, numbers = ("offset", "nbytes", "lost", "digest"), ("at",)
    return (
        len(named) == len(kind._fields)
        and all(type(value) is int and value >= 0 for name, value in named.items() if name in whole)
        and all(isinstance(named[name], int | float) for name in numbers)
        and all(isinstance(named[name], str) for name in named.keys() & {"client", "session", "spec"})
        and isinstance(named.get("about", b""), bytes)
        and named["offset"] <= end
        and named["nbytes"] <= 2 * end
    )


def held_of(saved: Saved, wire: Any, file: File, deposit: Deposit) -> Held:  # noqa: ANN401 - whatever was read
    """Return an update as it was saved, of a model of the spec ``wire``; raises `DAMAGED`, and errors of fedbus."""
    about = unpacked(saved.about, "what is known of it")
    spec, nbytes = ModelSpec.from_wire(wire), int(about.get("nbytes", saved.nbytes))
    if nbytes > saved.nbytes or spec.nbytes > CUT_FACTOR_MAX * (saved.nbytes + CHUNK_BYTES):
        raise BadMessage(f"a model of {spec.nbytes} bytes, an update of {nbytes}, in a place of {saved.nbytes}")
    layout = Layout(spec, about["chunk_bytes"])
    cut = cut_of(layout, Encoding.model_validate(about.get("encoding", {})), nbytes)
    digests = struct.unpack(f"<{cut.count}Q", about["chunks"])
    if cut.nbytes != nbytes:
        raise BadMessage(f"expected {cut.nbytes} bytes, got {nbytes}")
    place = Stretch(file, saved.offset)
    for index, digest in enumerate(digests):
        if chunk_digest(place.get(cut.edges[index], cut.size(index))) != digest:
            raise BadMessage(f"chunk {index} is not what was written")
    return Held(
        int(about["round"]),
        cut,
        place,
        digests,
        tuple(Part(*part) for part in about["parts"]),
        float(about["weight"]),
        dict(about["metrics"]),
        int(about["fetched"]),
        base=str(about["base"]),
        deposit=deposit,
        adopted=True,
    )


def about_of(held: Held) -> bytes:
    """All that is to be known of an update but where it lies."""
    about: dict[str, Any] = {
        "round": held.round,
        "base": held.base,
        "chunk_bytes": held.layout.chunk_bytes,
        "chunks": struct.pack(f"<{held.cut.count}Q", *held.chunk_digests),
        "parts": [[part.first, part.stop, part.digest] for part in held.parts],
        "weight": held.weight,
        "metrics": dict(held.metrics),
        "fetched": held.fetched,
    }
    if held.encoding.form != "model":
        about |= {"encoding": held.encoding.model_dump(), "nbytes": held.cut.nbytes}
    packed: bytes = msgpack.packb(about)
    return packed
