"""Processor time and memory of processes by name, from /proc, the children that they have now included.

Names are those of roles and their numbers: ``broker``, ``coordinator``, ``combiner-1``, ``clients-2``; what stands
before the first dash is the role.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from fedbus.errors import FedbusError

MB = 1e6
GB = 1e9

TICKS_PER_S = os.sysconf("SC_CLK_TCK")

SERVER = frozenset({"broker", "coordinator", "combiner"})
"""The operator's side."""


def role(name: str) -> str:
    """Return the role of a process."""
    return name.partition("-")[0]


def of_server(values: Mapping[str, float]) -> float:
    """Return the sum over the operator's side."""
    return sum(value for name, value in values.items() if role(name) in SERVER)


def by_role(values: Mapping[str, float]) -> dict[str, float]:
    """Return sums over the processes of each role."""
    sums: dict[str, float] = {}
    for name, value in values.items():
        sums[role(name)] = sums.get(role(name), 0.0) + value
    return sums


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each figure grew; a process that is new began at nothing."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


class Meter:
    """Reads the processes ``pids``."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids

    def cpu_s(self) -> dict[str, float]:
        """Return the processor seconds that each process has used so far."""
        return self._read(lambda pid: _cpu_s(pid, slice(11, 15)))

    def kernel_s(self) -> dict[str, float]:
        """Return how many of these seconds the kernel has spent for each process: sockets, files, pages."""
        return self._read(lambda pid: _cpu_s(pid, slice(12, 15, 2)))

    def rss_bytes(self) -> dict[str, float]:
        """Return the memory that each process holds now (VmRSS)."""
        return self._read(lambda pid: _status_bytes(pid, "VmRSS"))

    def rss_peak_bytes(self) -> dict[str, float]:
        """Return the most memory that each process has held (VmHWM)."""
        return self._read(lambda pid: _status_bytes(pid, "VmHWM"))

    def _read(self, figure: Callable[[int], float]) -> dict[str, float]:
        found = {}
        for name, pid in sorted(self._pids.items()):
            try:
                found[name] = _with_children(pid, figure)
            except (OSError, LookupError) as error:
                raise FedbusError(f"{name}, process {pid}, has ended: its figures are lost") from error
        return found


class Memory:
    """What processes hold over time, and how much more at the end than at the beginning."""

    def __init__(self) -> None:
        self._samples: list[dict[str, float]] = []

    def take(self, sample: dict[str, float]) -> None:
        """Take note of a reading."""
        self._samples.append(sample)

    @property
    def first(self) -> dict[str, float]:
        """Median by process over the first tenth; the very first, when memory is still being filled, left out."""
        count = max(1, len(self._samples) // 10)
        return _medians(self._samples[1 : 1 + count] or self._samples)

    @property
    def last(self) -> dict[str, float]:
        """Median by process over the last tenth."""
        return _medians(self._samples[-max(1, len(self._samples) // 10) :])


def _medians(samples: list[dict[str, float]]) -> dict[str, float]:
    names = samples[-1] if samples else {}
    return {name: statistics.median(sample[name] for sample in samples if name in sample) for name in names}


def _with_children(pid: int, figure: Callable[[int], float]) -> float:
    """Return a figure of a process and of its descendants that live."""
    total = figure(pid)
    for child in _children(pid):
        with suppress(OSError, LookupError):  # it has ended since it was listed
            total += _with_children(child, figure)
    return total


def _children(pid: int) -> Iterable[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = path.read_text().split()
        except OSError:
            continue  # a thread that has ended since it was listed
        yield from (int(text) for text in found)


def _status_bytes(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"process {pid} has no memory any more")


def _cpu_s(pid: int, fields: slice) -> float:
    """Return the sum of fields of /proc/PID/stat: user, system, and both again of children that ended, from 11 on."""
    # the name of the command stands in parentheses and may hold anything, also spaces
    found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in found[fields]) / TICKS_PER_S
