from __future__ import annotations

from rich.console import Console

from fedbus.cli.progress import Progress, lasting, wait_text
from fedbus.config.session import SessionConfig
from fedbus.federation.service import SessionEvent, SessionInfo
from fedbus.messages import records
from fedbus.messages.queries import Wait

DIGEST = "0" * 64


def opened(number):
    """A round of two clients."""
    return records.RoundOpened(
        round=number,
        attempt=1,
        version="s-0",
        blob="b",
        clients={"a": "k", "b": "k"},
        incarnations={"k": "i"},
        target=2,
        deadline_at=60.0,
    )


def wait(since_at, missing=1):
    """Somebody is waited for."""
    on = ("b",) if missing == 1 else ("a", "b")
    return Wait(
        session="s",
        round=1,
        what="waiting for updates",
        on=on,
        missing=missing,
        since_at=since_at,
        until_at=60.0,
        then="it fails",
    )


def told(progress, *facts):
    """The plain lines that these records are worth, one a second."""
    return [
        line for i, fact in enumerate(facts) for line in progress.take(SessionEvent("s", i, float(i), fact.kind, fact))
    ]


def story():
    """A session of two rounds; the second is not evaluated."""
    started = records.SessionStarted(config=SessionConfig(rounds=2), version="s-0", blob="b", digest=DIGEST, nbytes=8)
    refused = records.RefusedUpdate(client="b", by="k", stage="upload", reason="not finite")
    closed = records.RoundClosed(
        round=1, counted=1, metrics={"loss": 0.5}, bytes_up=8, bytes_down=16, opened_at=1.0, not_counted={"b": "no"}
    )
    return [
        started,
        opened(1),
        records.UpdatesRecorded(round=1, refused=(refused,)),
        closed,
        records.RoundEvaluated(round=1, version="s-1", metrics={"accuracy": 0.9}),
        opened(2),
        records.RoundClosed(round=2, counted=2, opened_at=5.0),
        records.SessionEnded(outcome="completed", reason="2 rounds done"),
    ]


def test_each_round_is_one_line_when_all_is_known_of_it():
    """Metrics of training and evaluation stand in the line of their round; a refusal is told when it comes."""
    lines = told(Progress(SessionInfo("s")), *story())
    assert lines == [
        "round 1: b refused: not finite",
        "round   1: 1 clients, 2.00 s, 8 B up, 16 B down  accuracy 0.9  loss 0.5; not counted: b",
        "round   2: 2 clients, 1.00 s, 0 B up, 0 B down",
    ]


def rounds_of_a_minute(progress, count):
    """Play the first rounds of a session of five that take a minute each; returns the plain lines."""
    lines = []
    started = records.SessionStarted(config=SessionConfig(rounds=5), version="s-0", blob="b", digest=DIGEST, nbytes=8)
    facts = [(started, 0.0)]
    for number in range(1, count + 1):
        facts.append((opened(number), 60.0 * (number - 1)))
        facts.append((records.RoundClosed(round=number, counted=2, opened_at=60.0 * (number - 1)), 60.0 * number))
        facts.append((records.RoundEvaluated(round=number, version=f"s-{number}", metrics={}), 60.0 * number))
    for i, (fact, at) in enumerate(facts):
        lines += progress.take(SessionEvent("s", i, at, fact.kind, fact))
    return lines


def test_the_line_of_a_round_says_how_long_the_rest_takes():
    """By the rounds that were: three of five minutes are left after the second, said in words that do not pretend."""
    progress = Progress(SessionInfo("s"), now=lambda: 120.0)
    assert rounds_of_a_minute(progress, 2)[-1].endswith("; about 3 min left")


def test_what_is_replayed_says_nothing_of_time_left():
    """Rounds of an hour ago are told without it: what was left then is no news."""
    assert not any("left" in line for line in rounds_of_a_minute(Progress(SessionInfo("s"), now=lambda: 3600.0), 2))


def test_the_live_head_counts_down():
    """The live table says how long the rest takes, and less as time goes by."""
    now = [120.0]
    progress = Progress(SessionInfo("s"), now=lambda: now[0])
    rounds_of_a_minute(progress, 2)

    def head():
        console = Console(width=100, record=True)
        with console.capture() as capture:
            console.print(progress.render())
        return capture.get().splitlines()[0]

    assert "2 of 5 rounds, about 3 min left" in head()
    now[0] = 200.0
    assert "2 of 5 rounds, about 2 min left" in head()


def test_misfortunes_are_told():
    """A round that fails, and clients that have to send again, are lines."""
    moved = records.ClientsMoved(round=1, attempt=2, moves={"a": "k2"}, incarnations={"k2": "i"}, reason="k is gone")
    failed = records.RoundFailed(round=1, attempt=1, reason="no quorum")
    assert told(Progress(SessionInfo("s")), opened(1), moved, failed) == [
        "round 1: 1 clients send to another combiner: k is gone",
        "round 1 failed: no quorum",
    ]


def test_a_wait_says_on_whom_and_how_long():
    """What, on whom, time left, what then; a deadline that has passed is said too."""
    assert wait_text(wait(0.0), lambda: 46.0) == "waiting for updates (b), 14 s left, then it fails"
    assert "time is up" in wait_text(wait(0.0), lambda: 61.0)


def test_only_waits_that_last_are_lines_and_each_once():
    """A short wait is silent; a long one is told once, and again when fewer are missing."""
    progress = Progress(SessionInfo("s"))
    progress.waits = [wait(0.0, missing=2)]
    assert progress.lasting_waits(1.0) == []
    assert len(progress.lasting_waits(10.0)) == 1
    assert progress.lasting_waits(11.0) == []
    progress.waits = [wait(0.0)]
    assert len(progress.lasting_waits(12.0)) == 1


def test_the_live_table_has_rounds_and_what_is_waited_for():
    """The table shows the latest rounds with their metrics, and the waits below."""
    progress = Progress(SessionInfo("s"))
    told(progress, *story()[:-1])
    progress.waits = [wait(0.0)]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115 - swallowed
    with console.file:
        console.print(progress.render())
        text = console.export_text()
    assert "s: round 2 closed, 2 of 2 rounds" in text
    assert "accuracy" in text
    assert "0.9" in text
    assert "waiting for updates (b)" in text


def test_a_command_that_answers_at_its_end_says_what_it_waits_for():
    """Only when it lasts, each wait once until it is another, and nothing of other sessions."""
    long = wait(0.0).model_copy(update={"session": "evaluation-1"})
    said = {}
    assert lasting([long], "evaluation-", said, 4.0) == []
    (line,) = lasting([long, wait(0.0)], "evaluation-", said, 6.0)
    assert line == "evaluation-1: waiting for updates (b), 54 s left, then it fails"
    assert lasting([long], "evaluation-", said, 7.0) == []
    assert len(lasting([long.model_copy(update={"what": "else"})], "evaluation-", said, 8.0)) == 1
