"""Where in the journal which event stands: a few bytes each, so that a filtered page reads only what it shows."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedbus.messages.records import RECORDS

ROWS_MAX = 4_000_000
"""Events that are known, of 24 bytes each; beyond them the oldest quarter is forgotten."""

KINDS = tuple(RECORDS)
_NUMBER = {kind: number for number, kind in enumerate(KINDS)}


class Position(NamedTuple):
    """Which event: the sequence of its entry of the journal, and the how manieth of its records, from 0 on."""

    sequence: int
    record: int

    def __str__(self) -> str:
        """Return what stands in an event's id."""
        return f"{self.sequence}.{self.record}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events; None, and '': all of them. ``since``, ``until``: seconds since the epoch, both inclusive."""

    session: str = ""
    kinds: frozenset[str] = frozenset()
    since: float | None = None
    until: float | None = None


class Index:
    """Events in the order of the journal."""

    def __init__(self, *, rows_max: int = ROWS_MAX) -> None:
        self._sequence = array("q")
        self._index = array("h")
        self._session = array("i")
        self._kind = array("b")
        self._at = array("d")
        self._numbers: dict[str, int] = {}
        self._rows_max = rows_max

    def __len__(self) -> int:
        return len(self._sequence)

    def add(self, position: Position, session: str, kind: str, at: float) -> None:
        """Note the next event."""
        if len(self) >= self._rows_max:
            for column in self._columns():
                del column[: self._rows_max // 4]
        self._sequence.append(position.sequence)
        self._index.append(position.record)
        self._session.append(self._numbers.setdefault(session, len(self._numbers)))
        self._kind.append(_NUMBER[kind])
        self._at.append(at)

    def _columns(self) -> Iterator[array[int] | array[float]]:
        yield from (self._sequence, self._index, self._session, self._kind, self._at)

    def find(
        self, wanted: Wanted, *, after: Position | None = None, newest: bool = False, limit: int = 100
    ) -> tuple[list[Position], int]:
        """Return the next positions, in the journal's order, or with ``newest`` against it; and how many there are.

        ``after``: the last position of the page before, in the same direction. The count is of all that is wanted.
        """
        mask = self._mask(wanted)
        if mask is None:
            return [], 0
        rows = np.flatnonzero(mask)
        total = len(rows)
        sequences = np.frombuffer(self._sequence, np.int64)[rows]
        indices = np.frombuffer(self._index, np.int16)[rows]
        if after is not None:
            behind = (sequences > after.sequence) | ((sequences == after.sequence) & (indices > after.record))
            before = (sequences < after.sequence) | ((sequences == after.sequence) & (indices < after.record))
            chosen = before if newest else behind
            sequences, indices = sequences[chosen], indices[chosen]
        if newest:
            sequences, indices = sequences[::-1], indices[::-1]
        pairs = zip(sequences[:limit].tolist(), indices[:limit].tolist(), strict=True)
        return [Position(sequence, index) for sequence, index in pairs], total

    def _mask(self, wanted: Wanted) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
        """Return which rows are wanted; None where that is none. Its views end with the call: columns must grow."""
        mask = np.ones(len(self), np.bool_)
        if wanted.session:
            number = self._numbers.get(wanted.session)
            if number is None:
                return None
            mask &= np.frombuffer(self._session, np.int32) == number
        if wanted.kinds:
            numbers = [_NUMBER[kind] for kind in wanted.kinds if kind in _NUMBER]
            mask &= np.isin(np.frombuffer(self._kind, np.int8), numbers)
        if wanted.since is not None:
            mask &= np.frombuffer(self._at, np.float64) >= wanted.since
        if wanted.until is not None:
            mask &= np.frombuffer(self._at, np.float64) <= wanted.until
        return mask
