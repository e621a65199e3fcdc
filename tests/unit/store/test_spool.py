"""Spools: bytes come back as they were appended, a full one says so and stays usable, files and handles are bounded."""

from __future__ import annotations

import errno
import io

import pytest

from fedbus.store import spool
from fedbus.store.spool import Directory, Memory, SpoolFull


@pytest.fixture(params=["memory", "directory"])
def make(request, tmp_path):
    """Either spool."""
    made = []

    def fresh():
        made.append(Memory() if request.param == "memory" else Directory(tmp_path / "spool"))
        return made[-1]

    yield fresh
    for one in made:
        one.clear()


def test_bytes_come_back(make):
    """Appended in pieces of any kind, read by position, several uploads beside each other."""
    one = make()
    one.append(1, b"abc")
    one.append(2, memoryview(b"xyz"))
    one.append(1, bytearray(b"defg"))
    assert (one.read(1, 0, 7), one.read(1, 2, 5), one.read(2, 1, 3), one.read(1, 3, 3)) == (
        b"abcdefg",
        b"cde",
        b"yz",
        b"",
    )
    one.append(1, b"h")
    assert one.read(1, 6, 8) == b"gh"


def test_what_is_not_there_is_an_error_of_ours(make):
    """Reading beyond the end is a defect, never a short answer."""
    one = make()
    one.append(1, b"abc")
    with pytest.raises(AssertionError, match="no bytes 2 to 4"):
        one.read(1, 2, 4)


def test_dropped_is_gone(make):
    """A number may be used again after its upload was dropped; dropping twice is no error."""
    one = make()
    one.append(1, b"abc")
    one.drop(1)
    one.drop(1)
    one.drop(7)
    one.append(1, b"z")
    assert one.read(1, 0, 1) == b"z"
    one.append(2, b"y")
    one.clear()
    one.clear()
    one.append(2, b"x")
    assert one.read(2, 0, 1) == b"x"


def test_memory_has_a_bound():
    """Full is full, an append that does not fit changes nothing, and what is dropped makes room."""
    one = Memory(5)
    one.append(1, b"abc")
    with pytest.raises(SpoolFull, match="room for 2 bytes, 3 came"):
        one.append(2, b"xyz")
    one.append(1, b"de")
    assert one.read(1, 0, 5) == b"abcde"
    one.drop(1)
    one.append(2, b"vwxyz")


def test_a_directory_begins_empty_and_is_private(tmp_path):
    """What a killed process left is removed; nobody else may read updates."""
    path = tmp_path / "spool"
    path.mkdir()
    (path / "1").write_bytes(b"old")
    one = Directory(path)
    assert list(path.iterdir()) == [] and path.stat().st_mode & 0o077 == 0
    one.append(1, b"new")
    assert (path / "1").read_bytes() == b"new"
    one.clear()
    assert list(path.iterdir()) == []


def test_open_files_are_bounded(tmp_path, monkeypatch):
    """More uploads than files may be open at once: the one used longest ago is closed and opened again."""
    monkeypatch.setattr(spool, "FILES_MAX", 3)
    one = Directory(tmp_path / "spool")
    for turn in range(3):
        for upload in range(10):
            one.append(upload, b"%d%d" % (upload, turn))
            assert len(one._open) <= 3
    for upload in range(10):
        assert one.read(upload, 0, 6) == b"%d0%d1%d2" % (upload, upload, upload)
    one.clear()
    assert one._open == {} and list((tmp_path / "spool").iterdir()) == []


class Disk(io.BytesIO):
    """A file on a disk that is full after some bytes; takes less than it is given before that, as files may."""

    left = 5
    error = errno.ENOSPC

    def write(self, data):
        if Disk.left <= 0:
            raise OSError(Disk.error, "No space left on device")
        taken = bytes(data)[: min(2, Disk.left)]
        Disk.left -= len(taken)
        return super().write(taken)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_upload_as_it_was(tmp_path, monkeypatch, error):
    """Half a chunk was written when the disk was full: when there is room it is written again in its place."""
    one = Directory(tmp_path / "spool")
    monkeypatch.setattr(Disk, "error", error)
    monkeypatch.setattr(Disk, "left", 5)
    one._open[1], one._sizes[1] = Disk(), 0
    one.append(1, b"abc")
    with pytest.raises(SpoolFull, match="takes no more"):
        one.append(1, b"defg")
    assert one.read(1, 0, 3) == b"abc"
    Disk.left = 100
    one.append(1, b"XYZ")
    assert one.read(1, 0, 6) == b"abcXYZ"


def test_other_errors_of_a_disk_are_not_called_full(tmp_path, monkeypatch):
    """A disk that breaks is not a client's refusal."""
    one = Directory(tmp_path / "spool")
    monkeypatch.setattr(Disk, "error", errno.EIO)
    monkeypatch.setattr(Disk, "left", 0)
    one._open[1], one._sizes[1] = Disk(), 0
    with pytest.raises(OSError, match="No space"):
        one.append(1, b"x")
