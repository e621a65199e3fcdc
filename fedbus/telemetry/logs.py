"""Lines of the log: for people, or one JSON object each, which says in which span it was written.

A line is a line: what a stranger has put into a name or a reason cannot begin another one. In text, control characters
are shown as escapes; JSON escapes them by itself.

Within `Telemetry.span` lines know their span; this is kept in a context variable for the log alone, and no span takes
its parent from it.
"""

from __future__ import annotations

import copy
import json
import logging
import logging.handlers
import re
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from fedbus.errors import ConfigError
from fedbus.telemetry.context import context_of
from fedbus.telemetry.names import ROUND, SESSION, Attributes

LogForm = Literal["text", "json"]

FILE_BYTES_MAX: Final = 32 * 2**20
"""A log file is rotated at this size: some 200,000 lines."""

FILES_KEPT: Final = 5
"""Older files that are kept beside it; in all 192 MiB a role."""

_ABOUT: ContextVar[Mapping[str, object] | None] = ContextVar("fedbus_log_about", default=None)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_BREAK = re.compile(r"\n")


@contextmanager
def about(headers: Mapping[str, str], attributes: Attributes | None) -> Iterator[None]:
    """Let lines that are written within the block name a span, by its headers, and what it is about."""
    found = context_of(headers.get("traceparent", ""))
    said: dict[str, object] = {}
    if found is not None:
        said = {"trace_id": found.trace_id, "span_id": found.span_id}
    for key, name in ((SESSION, "session"), (ROUND, "round")):
        if attributes and key in attributes:
            said[name] = attributes[key]
    token = _ABOUT.set(said)
    try:
        yield
    finally:
        _ABOUT.reset(token)


def handler_of(
    form: LogForm, *, role: str, instance: str, workspace: str, file: Path | None, stream: TextIO
) -> logging.Handler:
    """Return what writes lines in a form to a file, or to a stream where there is none.

    The file is rotated by size, and opened anew where somebody else has moved it away. `ConfigError` where it cannot be
    written.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(stream)
    else:
        try:
            handler = _File(file)
        except OSError as error:
            raise ConfigError(f"--log-file {file}: {error.strerror or error}") from error
    handler.setFormatter(_Json(role, instance, workspace) if form == "json" else _Text(instance))
    return handler


class _File(logging.handlers.RotatingFileHandler):
    """A file that is rotated by us, or by somebody else (logrotate): then it is opened anew.

    Where that cannot be, lines are lost until it can; whoever has something to say goes on.
    """

    def __init__(self, path: Path) -> None:
        # as stderr does: halves of characters, of names of files that are not UTF-8, cost no line
        errors = "backslashreplace"
        super().__init__(path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8", errors=errors)
        self._opened = self._here()

    def _here(self) -> tuple[int, int] | None:
        try:
            found = Path(self.baseFilename).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._here() != self._opened:
                stream, self.stream = self.stream, None
                if stream is not None:
                    stream.close()
                self.stream = self._open()
        except OSError:
            self.handleError(record)
            return
        super().emit(record)
        self._opened = self._here()


class _Text(logging.Formatter):
    """A line for people; it says its level only when it is a warning or worse."""

    def __init__(self, who: str) -> None:
        super().__init__(f"%(asctime)s {who:12s} %(level)s%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)  # another handler's text of the traceback, kept in it, is not ours
        record.exc_text = None
        record.level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        # Of the message alone: a traceback behind it has lines of its own.
        record.message = _BREAK.sub(r"\\n", _shown(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802 - the standard library's
        # Set in: what an error says may have been a stranger's, and no line of it is to look like one of ours.
        return textwrap.indent(_shown(super().formatException(ei)), "  ", lambda _: True)


class _Json(logging.Formatter):
    """A line for programs.

    ``time`` (RFC 3339, UTC), ``level``, ``role``, ``instance``, ``workspace``, ``logger``, ``event``; ``session``,
    ``round``, ``trace_id``, ``span_id`` where they are known, ``error`` where there was one.
    """

    def __init__(self, role: str, instance: str, workspace: str) -> None:
        super().__init__()
        self._who = {"role": role, "instance": instance, "workspace": workspace}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            **self._who,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= _ABOUT.get() or {}
        for name in ("session", "round"):
            if hasattr(record, name):
                line[name] = getattr(record, name)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def _rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}Z"


def _shown(text: str) -> str:
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
