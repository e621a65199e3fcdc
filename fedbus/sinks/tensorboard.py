"""Points as TensorBoard's event files, by its own writer; TensorFlow is not needed.

    tensorboard:runs    ->  runs/<session>-<time of its start>/events.out.tfevents...

A process writes a file of its own for each session. What stands in the files of a session already, also in one whose
writer was killed in the middle of a record, is read first and not written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedbus.errors import ConfigError
from fedbus.sinks.base import ClosedRound, Ended, Evaluated, SinkKind, SinkUnavailable, Tracked
from fedbus.sinks.steps import Point, Steps

try:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
except ImportError as missing:
    raise ConfigError("sink tensorboard: it needs tensorboard: pip install 'fedbus[tensorboard]'") from missing

SETTINGS = "_hparams_/session_start_info"
"""What TensorBoard calls the settings of a run; they are written once."""

TAG_CHARS_MAX = 200


class TensorBoard:
    """Event files below a directory, one directory a session."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._runs: dict[tuple[str, float], tuple[Any, Steps]] = {}

    def started(self, session: Tracked) -> None:
        """Read what there is, begin a file, write the settings if they are not there."""
        _, steps = self._run(session)
        if steps.missing({SETTINGS: 0.0}, 0):
            summary = hparams_pb(session.params, trial_id=session.session, start_time_secs=session.at)
            self._write(session, Event(wall_time=session.at, step=0, summary=summary))
            steps.add([SETTINGS], 0)

    def round(self, session: Tracked, closed: ClosedRound) -> None:
        """Write a round's points."""
        self._points(session, closed.round, closed.at, closed.points)

    def evaluated(self, session: Tracked, found: Evaluated) -> None:
        """Write an evaluation's points."""
        self._points(session, found.round, found.at, found.points)

    def ended(self, session: Tracked, end: Ended) -> None:  # noqa: ARG002 - it has no place for an outcome
        """Close the session's file."""
        run = self._runs.pop((session.session, session.at), None)
        if run is not None:
            self._safely(run[0].close)

    def flush(self) -> None:
        """Let all files have what was written."""
        for writer, _ in self._runs.values():
            self._safely(writer.flush)

    def close(self) -> None:
        """Close all files."""
        for writer, _ in self._runs.values():
            self._safely(writer.close)
        self._runs.clear()

    def _points(self, session: Tracked, step: int, at: float, points: Mapping[str, float]) -> None:
        _, steps = self._run(session)
        new = steps.missing({name[:TAG_CHARS_MAX]: value for name, value in points.items()}, step)
        if new:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in sorted(new.items())]
            self._write(session, Event(wall_time=at, step=step, summary=Summary(value=values)))
            steps.add(new, step)

    def _write(self, session: Tracked, event: Any) -> None:  # noqa: ANN401 - its own type
        writer, _ = self._run(session)
        self._safely(lambda: writer.add_event(event))

    def _run(self, session: Tracked) -> tuple[Any, Steps]:
        key = session.session, session.at
        if key not in self._runs:
            stamp = datetime.fromtimestamp(session.at, UTC).strftime("%Y%m%dT%H%M%S")
            directory = self._directory / f"{session.session}-{stamp}"
            try:
                steps = Steps(_there(directory))
                self._runs[key] = EventFileWriter(str(directory)), steps
            except OSError as error:
                raise SinkUnavailable(f"sink tensorboard: {directory}: {error.strerror or error}") from error
        return self._runs[key]

    def _safely(self, call: Any) -> None:  # noqa: ANN401 - a method of theirs
        try:
            call()
        except OSError as error:
            raise SinkUnavailable(f"sink tensorboard: {self._directory}: {error.strerror or error}") from error


def _there(directory: Path) -> Iterator[Point]:
    """Yield every point in a directory's event files, as far as each of them can be read."""
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            for value in event.summary.value:
                yield value.tag, event.step


TENSORBOARD = SinkKind("tensorboard", TensorBoard)
