"""A sink that keeps a table of each session's evaluations in a Markdown file.

A sink is told everything again whenever somebody begins to track. This one takes the easy way: it holds what it was
told and writes the whole file anew, under another name first, so that a reader always finds a whole one.
"""

from __future__ import annotations

from pathlib import Path

from fedbus.sinks import ClosedRound, Ended, Evaluated, SinkKind, SinkUnavailable, Tracked

Row = dict[str, float]


class Markdown:
    """Tables of evaluations, one below the other."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._rounds: dict[str, dict[int, Row]] = {}
        self._ends: dict[str, str] = {}

    def started(self, session: Tracked) -> None:
        """Begin an empty table."""
        self._rounds[session.session] = {}

    def round(self, session: Tracked, closed: ClosedRound) -> None:
        """Begin a row."""
        self._rounds[session.session].setdefault(closed.round, {})["updates"] = closed.counted

    def evaluated(self, session: Tracked, found: Evaluated) -> None:
        """Fill in a row."""
        self._rounds[session.session].setdefault(found.round, {}).update(found.metrics)

    def ended(self, session: Tracked, end: Ended) -> None:
        """Say what came of it."""
        self._ends[session.session] = f"{end.outcome}: {end.reason}; the newest version is `{end.version}`."

    def flush(self) -> None:
        """Write the file."""
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            part.write_text("\n".join(map(self._table, sorted(self._rounds))), encoding="utf-8")
            part.replace(self._path)
        except OSError as error:
            raise SinkUnavailable(f"{self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Nothing is held."""

    def _table(self, session: str) -> str:
        rows = self._rounds[session]
        columns = sorted({name for row in rows.values() for name in row})
        lines = [f"## {session}", "", *(f"| {' | '.join(cells)} |" for cells in _cells(rows, columns)), ""]
        return "\n".join([*lines, self._ends.get(session, "It goes on."), ""])


def _cells(rows: dict[int, Row], columns: list[str]) -> list[list[str]]:
    found = [["round", *columns], ["---"] * (1 + len(columns))]
    for number, row in sorted(rows.items()):
        found.append([str(number), *(f"{row[name]:.6g}" if name in row else "" for name in columns)])
    return found


MARKDOWN = SinkKind("markdown", Markdown)
