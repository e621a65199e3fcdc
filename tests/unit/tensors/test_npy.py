from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from fedbus.errors import ConfigError
from fedbus.tensors import files
from fedbus.tensors.incoming import NpzFile
from fedbus.tensors.npy import HEAD_BYTES_MAX


def archive(data, *, method=zipfile.ZIP_DEFLATED):
    """Return a zip file with one member as the bytes of a file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("w.npy", data)
    return out.getvalue()


def head(shape, descr="<f4", length=None):
    """Return the head of an array as numpy writes it, or with another length."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    return b"\x93NUMPY\x02\x00" + (len(text) if length is None else length).to_bytes(4, "little") + text


def both(data, tmp_path):
    """Read an archive as it comes over HTTP and from a disk: each has to refuse it; returns the peak of memory."""
    path = tmp_path / "model.npz"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="npz"):
            list(NpzFile(io.BytesIO(data)).pieces())
        with pytest.raises(ConfigError, match="npz"):
            files.read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        head((1,), length=2**28) + bytes(2**28),
        head((2**34,)) + bytes(16),
        head((4,), descr="|O") + b"cos\nsystem\n(S'true'\ntR.",
        head((4,)) + bytes(7),
    ],
    ids=["a head of 256 MB", "64 GB that are not there", "a pickle", "bytes missing"],
)
def test_what_an_archive_says_is_not_believed(data, tmp_path):
    """A head that unpacks to 256 MB, an array larger than its member, objects, too few bytes: refused, and cheaply."""
    assert both(archive(data), tmp_path) < 2 * 2**20 + 4 * HEAD_BYTES_MAX


def test_other_ways_of_packing_are_refused(tmp_path):
    """Numpy stores or deflates; what others unpack to has no such bound."""
    both(archive(head((4,)) + bytes(16), method=zipfile.ZIP_LZMA), tmp_path)


def test_a_size_that_deflate_cannot_reach_is_refused(tmp_path):
    """The directory of a zip file says what a member unpacks to: more than a thousandfold is a lie."""
    honest = archive(head((4,)) + bytes(16))
    size = (len(head((4,))) + 16).to_bytes(4, "little")
    both(honest.replace(size, (2**30).to_bytes(4, "little")), tmp_path)


def test_honest_archives_are_read(tmp_path):
    """Zeros, which pack a thousandfold, among them; packed or not."""
    arrays = {"z": np.zeros(2_000_000, np.float32), "w": np.arange(6, dtype="<f4").reshape(2, 3)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "model.npz", **arrays)
        found = files.read(tmp_path / "model.npz")
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
        with (tmp_path / "model.npz").open("rb") as file:
            assert sum(len(piece) for piece in NpzFile(file).pieces()) == 8_000_024
