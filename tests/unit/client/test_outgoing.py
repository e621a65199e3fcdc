"""The log of what left: each line names the one before, nothing is lost at a full file, what is changed is found."""

from __future__ import annotations

import json
import math
import os
import stat

import pytest

from fedbus.client.outgoing import OutgoingLog, entries_of, lines_of, verify
from fedbus.errors import BusUnavailable, ConfigError


class FakeClock:
    """Time that a test moves."""

    def __init__(self):
        self.time = 1000.0

    def now(self):
        """Seconds since the epoch."""
        return self.time


@pytest.fixture
def path(tmp_path):
    """Where the log stands."""
    return tmp_path / "state" / "outgoing.jsonl"


def written(path, count, start=0, **bounds):
    """A log with so many lines, closed."""
    log = OutgoingLog(path, FakeClock(), **bounds)
    for number in range(start, start + count):
        log.write("update", {"session": f"s-{number % 2}", "round": number})
    log.close()
    return log


def test_lines_are_chained_and_for_the_owner_alone(path):
    """Numbers from 1 on, each with the digest of the line before; the file is 0600; a second process goes on."""
    written(path, 3)
    written(path, 2, start=3)
    assert [entry["n"] for entry in entries_of(path)] == [1, 2, 3, 4, 5]
    assert [entry["round"] for entry in entries_of(path, "s-1")] == [1, 3]
    found = verify(path)
    assert (found.lines, found.first, found.wrong) == (5, 1, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("change", ["edit", "remove", "insert", "swap", "garbage", "renumber"])
def test_what_is_changed_is_found(path, change):
    """Whatever is done to a line that has a next one."""
    written(path, 6)
    lines = path.read_bytes().splitlines()
    match change:
        case "edit":
            lines[2] = lines[2].replace(b'"round":2', b'"round":9')
        case "remove":
            del lines[2]
        case "insert":
            lines.insert(2, lines[1])
        case "swap":
            lines[2], lines[3] = lines[3], lines[2]
        case "garbage":
            lines[2] = b"{"
        case "renumber":
            entry = json.loads(lines[2])
            lines[2] = json.dumps(entry | {"n": 7}).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert verify(path).wrong
    assert "line 3" in verify(path).wrong[0] or "line 4" in verify(path).wrong[0]


def test_a_full_file_is_followed_by_another_and_the_chain_goes_on(path):
    """Files are bounded in bytes and in number; what is kept is a chain, whose beginning says that there was more."""
    written(path, 60, file_bytes_max=1000, files_max=3)
    written(path, 3, start=60, file_bytes_max=1000, files_max=3)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["outgoing.jsonl", "outgoing.jsonl.1", "outgoing.jsonl.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    found = verify(path)
    assert found.wrong == () and found.first > 1 and found.first + found.lines - 1 == 63


def test_a_new_file_behind_a_full_one_goes_on_from_it(path):
    """A process that ends just after the rename leaves no file of that name; the next goes on all the same."""
    written(path, 4)
    path.rename(path.with_name("outgoing.jsonl.1"))
    written(path, 1, start=4)
    assert verify(path).wrong == () and verify(path).lines == 5


def test_half_a_line_never_left_and_goes(path):
    """A machine that died while it wrote: what the line tells of was not sent."""
    written(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"n":3,"what":"upd')
    written(path, 1, start=2)
    assert path.read_bytes().startswith(whole) and verify(path).lines == 3 and verify(path).wrong == ()


def test_what_cannot_be_logged_is_not_sent(path, monkeypatch):
    """A full disk is an error for the sender, and leaves no half line; afterwards the chain goes on."""
    log = OutgoingLog(path, FakeClock())
    log.write("update", {"round": 1})
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:10]))
    with pytest.raises(BusUnavailable, match="what is not logged is not sent"):
        log.write("update", {"round": 2})
    monkeypatch.undo()
    log.write("update", {"round": 3})
    log.close()
    assert [entry["round"] for entry in entries_of(path)] == [1, 3] and verify(path).wrong == ()


def test_small_words_are_summed_up(path):
    """After ten minutes, and at the end; none is lost between."""
    clock = FakeClock()
    log = OutgoingLog(path, clock)
    for _ in range(5):
        log.count("presence", 100)
    clock.time += 601
    log.count("span", 7)
    log.count("presence", 1)
    log.close()
    log.close()
    told = [entry["of"] for entry in entries_of(path)]
    assert told == [
        {"presence": {"messages": 5, "bytes": 500}, "span": {"messages": 1, "bytes": 7}},
        {"presence": {"messages": 1, "bytes": 1}},
    ]


def test_lines_are_json_whatever_is_told(path):
    """NaN is a text, a line end in a name no line end, what is not ASCII is escaped: nobody forges a line."""
    log = OutgoingLog(path, FakeClock())
    log.write("evaluation", {"metrics": {"loss": math.nan, 'x\n{"n":2}': 1.0, "ü\u2028": math.inf}})
    log.close()
    assert len(list(lines_of(path))) == 1 and path.read_bytes().isascii()
    (entry,) = entries_of(path)
    assert entry["metrics"] == {"loss": "nan", 'x\n{"n":2}': 1.0, "ü\u2028": "inf"}


def test_a_place_that_cannot_be_is_named(tmp_path):
    """A directory in the file's place, and a link that leads elsewhere, are refused; so is a log that is not there."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(ConfigError, match="name another file"):
            OutgoingLog(path, FakeClock())
    with pytest.raises(ConfigError, match="there is no such log"):
        list(entries_of(tmp_path / "none.jsonl"))
