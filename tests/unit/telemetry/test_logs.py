"""Lines of the log: for people and for programs, in a file that is rotated, and each a line."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil

import pytest
from opentelemetry.sdk.trace import TracerProvider

from fedbus import telemetry
from fedbus.errors import ConfigError
from fedbus.telemetry import Telemetry, logs
from fedbus.telemetry.logs import handler_of


@pytest.fixture
def written():
    """``written(form)``: a logger, and a function that returns its lines."""
    made = []

    def make(form="json", **how):
        stream = io.StringIO()
        about = {"role": "combiner", "instance": "k-1", "workspace": "lab", "file": None, "stream": stream}
        handler = handler_of(form, **(about | how))
        logger = logging.Logger("fedbus.test", "INFO")  # noqa: LOG001 - one that nobody else listens to
        logger.addHandler(handler)
        made.append((logger, handler))
        return logger, lambda: stream.getvalue().splitlines()

    yield make
    for logger, handler in made:
        logger.removeHandler(handler)
        handler.close()


def test_a_line_of_json_says_who_and_when(written):
    """RFC 3339 in UTC, level, role, instance, workspace, the event; session and round where the line knows them."""
    log, lines = written()
    log.warning("%s: round %d: %s", "s", 3, "late", extra={"session": "s", "round": 3})
    (line,) = map(json.loads, lines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "role": "combiner",
        "instance": "k-1",
        "workspace": "lab",
        "logger": "fedbus.test",
        "event": "s: round 3: late",
        "session": "s",
        "round": 3,
    }


def test_within_a_span_a_line_names_it(written):
    """Trace, span, session and round of the innermost span; behind it nothing is left."""
    log, lines = written()
    traces = Telemetry("combiner", "k-1", TracerProvider(shutdown_on_exit=False))
    with traces.span("outer") as outer:
        with traces.span("merge", attributes={telemetry.SESSION: "s", telemetry.ROUND: 7}) as inner:
            log.info("within")
        log.info("around")
    log.info("behind")
    within, around, behind = map(json.loads, lines())
    _, trace, span, _ = inner.headers["traceparent"].split("-")
    assert (within["trace_id"], within["span_id"], within["session"], within["round"]) == (trace, span, "s", 7)
    assert around["span_id"] == outer.headers["traceparent"].split("-")[2] and "session" not in around
    assert "trace_id" not in behind


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_strangers_words_begin_no_line(written, form):
    """Line ends, returns, terminal escapes and Unicode's separators in a name or a reason stay within the line."""
    log, lines = written(form)
    log.error("refused: %s", "a\nERROR forged\r\n\x1b[31mred\u2028more\x85\x00end")
    (line,) = lines()
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028]", line)
    assert "forged" in line and "end" in line
    if form == "json":
        assert json.loads(line)["event"].startswith("refused: a\nERROR forged")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_is_told(written, form):
    """In text on lines of its own, in JSON within the object."""
    log, lines = written(form)
    try:
        int("no data")
    except ValueError:
        log.exception("failed")
    if form == "json":
        (line,) = map(json.loads, lines())
        assert "ValueError: invalid literal" in line["error"] and line["event"] == "failed"
    else:
        assert len(lines()) > 2 and lines()[-1].startswith("  ValueError: ") and "error: failed" in lines()[0]


def test_what_an_error_says_begins_no_line(written):
    """Lines of a traceback are set in, so that none that a stranger has put into an error looks like one of ours."""
    log, lines = written("text")
    log.error("failed", exc_info=ValueError("bad\n\n12:00:00 coordinator forged"))
    assert len(lines()) == 4 and all(line.startswith("  ") for line in lines()[1:])


def test_a_file_whose_place_is_gone_ends_nobody(written, tmp_path, capsys):
    """Lines are lost, which stderr is told, until the directory is there again; who writes them never hears of it."""
    place = tmp_path / "logs"
    place.mkdir()
    log, _ = written("text", file=place / "k.log")
    log.info("before")
    shutil.rmtree(place)
    log.info("lost")
    log.info("lost, too")
    assert "FileNotFoundError" in capsys.readouterr().err
    place.mkdir()
    log.info("after")
    assert (place / "k.log").read_text().endswith("after\n")


def test_a_file_is_rotated_and_opened_anew_when_it_was_moved(written, tmp_path, monkeypatch):
    """By size by us, and where logrotate has moved it away the next line begins a new one."""
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 400)
    file = tmp_path / "k.log"
    log, _ = written("text", file=file)
    for number in range(20):
        log.info("line %d of some length", number)
    assert file.stat().st_size <= 400 and (tmp_path / "k.log.1").exists()
    file.rename(tmp_path / "moved.log")
    log.info("the name is \udcff")
    log.info("after the move")
    assert "the name is \\udcff\n" in file.read_text()
    assert file.read_text().endswith("after the move\n") and "after" not in (tmp_path / "moved.log").read_text()


def test_a_file_that_cannot_be_is_an_error(tmp_path):
    """A directory that is not there is said at the start, with the option."""
    with pytest.raises(ConfigError, match="--log-file"):
        handler_of("text", role="", instance="", workspace="", file=tmp_path / "no" / "k.log", stream=io.StringIO())
