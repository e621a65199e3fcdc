"""Points as lines of a file: JSON lines with everything that a sink is told, or CSV with one point a row.

    jsonl:points.jsonl    {"session": ..., "started_at": ..., "kind": "round", "step": 3, "points": {...}, ...}
    csv:points.csv        workspace,session,started_at,step,at,metric,value

One file takes all sessions. It is read when it is opened: what stands there is not written again, and a last line that
a process was killed in the middle of is cut off. So one process at a time has the file; it may track all sessions.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedbus.errors import ConfigError
from fedbus.sinks.base import ClosedRound, Ended, Evaluated, SinkKind, SinkUnavailable, Tracked

log = logging.getLogger("fedbus.sinks")

COLUMNS = ("workspace", "session", "started_at", "step", "at", "metric", "value")

Key = tuple[str, ...]
"""What makes a line one of its own."""


class _Lines:
    """A file that grows by whole lines, each once by its key; ``flush`` makes them last."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            self._lock()
            self._cut()
            self._file.seek(0)
            self._there = {key for key in map(self._key, self._read(self._file.read().decode())) if key}
        except UnicodeDecodeError as error:
            raise ConfigError(f"sink: {path}: expected a file of ours, got one that is no text") from error
        except OSError as error:
            raise ConfigError(f"sink: {path}: {error.strerror or error}") from error

    def _lock(self) -> None:
        """Keep others out: lines are written some at a time, and what another has not ended would be cut off."""
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ConfigError(f"sink: {self.path}: another process writes to it: choose another file") from error
        except OSError as error:
            log.warning("sink: %s: it cannot be locked, let nobody else write to it: %s", self.path, error)

    def _cut(self) -> None:
        """Cut off what stands behind the last end of a line."""
        size = end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            self._file.truncate(end)

    def _read(self, text: str) -> Iterable[Any]:
        raise NotImplementedError

    def _key(self, line: Any) -> Key | None:  # noqa: ANN401 - whatever stands in the file
        raise NotImplementedError

    def _add(self, key: Key, line: str) -> None:
        if key in self._there:
            return
        try:
            self._file.write(line.encode())
        except OSError as error:
            raise SinkUnavailable(f"sink: {self.path}: {error.strerror or error}") from error
        self._there.add(key)

    def flush(self) -> None:
        """Let all lines be on the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SinkUnavailable(f"sink: {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JsonLines(_Lines):
    """One JSON object a line: a beginning, a round, an evaluation, an end."""

    def _read(self, text: str) -> Iterable[Any]:
        for line in text.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # whoever wrote it, it is not ours

    def _key(self, line: Any) -> Key | None:  # noqa: ANN401 - whatever stands in the file
        try:
            return tuple(str(line[name]) for name in ("workspace", "session", "started_at", "kind", "step"))
        except (KeyError, TypeError):
            return None

    def started(self, session: Tracked) -> None:
        """Write the settings."""
        more = {"by": session.by, "version": session.version, "digest": session.digest, "base": session.base}
        self._line(session, "started", 0, session.at, {**more, "config": session.config})

    def round(self, session: Tracked, closed: ClosedRound) -> None:
        """Write a round."""
        more = {"version": closed.version, "digest": closed.digest, "points": closed.points}
        self._line(session, "round", closed.round, closed.at, more)

    def evaluated(self, session: Tracked, found: Evaluated) -> None:
        """Write an evaluation."""
        more = {"version": found.version, "answered": found.answered, "points": found.points}
        self._line(session, "evaluated", found.round, found.at, more)

    def ended(self, session: Tracked, end: Ended) -> None:
        """Write the end."""
        more = {"outcome": end.outcome, "reason": end.reason, "version": end.version, "digest": end.digest}
        self._line(session, "ended", 0, end.at, more)

    def _line(self, session: Tracked, kind: str, step: int, at: float, more: Mapping[str, Any]) -> None:
        line = {
            "workspace": session.workspace,
            "session": session.session,
            "started_at": session.at,
            "kind": kind,
            "step": step,
            "at": at,
            **more,
        }
        key = self._key(line)
        assert key is not None, "a line of ours has a key"
        self._add(key, json.dumps(_finite(line), separators=(",", ":"), allow_nan=False) + "\n")


class CsvRows(_Lines):
    """One point a row, below the columns' names."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._add(COLUMNS, _row(COLUMNS))

    def _read(self, text: str) -> Iterable[Any]:
        return csv.reader(io.StringIO(text))

    def _key(self, line: Any) -> Key | None:  # noqa: ANN401 - whatever stands in the file
        row = tuple(line)
        if row == COLUMNS:
            return COLUMNS
        return (*row[:4], row[5]) if len(row) == len(COLUMNS) else None

    def started(self, session: Tracked) -> None:
        """Nothing: settings are no points."""

    def round(self, session: Tracked, closed: ClosedRound) -> None:
        """Write a round's points."""
        self._rows(session, closed.round, closed.at, closed.points)

    def evaluated(self, session: Tracked, found: Evaluated) -> None:
        """Write an evaluation's points."""
        self._rows(session, found.round, found.at, found.points)

    def ended(self, session: Tracked, end: Ended) -> None:
        """Nothing: it is no point."""

    def _rows(self, session: Tracked, step: int, at: float, points: Mapping[str, float]) -> None:
        start = (session.workspace, session.session, repr(session.at), str(step))
        for name, value in sorted(points.items()):
            metric = " ".join(name.splitlines())  # a row is a line
            self._add((*start, metric), _row((*start, repr(at), metric, repr(value))))


def _row(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _finite(value: Any) -> Any:  # noqa: ANN401 - what JSON can say
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(name): _finite(one) for name, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case _:
            return value


JSONL = SinkKind("jsonl", JsonLines)
CSV = SinkKind("csv", CsvRows)
