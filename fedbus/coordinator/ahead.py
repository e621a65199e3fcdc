"""Whether a report speaks of what our copy of the journal does not know yet.

A coordinator may be behind: another one leads, or has led, and has written what has not been read here. So a report is
acknowledged - its sender then forgets it for good - only when what it says is journalled, or when it can never be of
use again, *whatever the journal may say by now*. The journal only grows, so these stay true for ever: a round that is
closed, an attempt below the known one, an evaluation that has ended, a session that has ended. What is ahead of all
that is not taken and not acknowledged; the journal is read again instead, and the report comes again.
"""

from __future__ import annotations

from fedbus.coordinator.events import Report
from fedbus.coordinator.state import Phase, SessionState
from fedbus.messages import reports


def is_ahead(state: SessionState, report: Report) -> bool:
    """Whether the journal may have grown by what this report is about."""
    if state.phase is Phase.ENDED:
        return False
    match report:
        case reports.Evaluated():
            return _is_evaluation_ahead(state, report.round)
        case reports.TaskFailed() if report.stage == "evaluate":
            return _is_evaluation_ahead(state, report.round)
        case reports.UpdatesJudged():
            return _is_attempt_ahead(state, report.round, max((one.attempt for one in report.verdicts), default=0))
        case reports.TaskFailed() | reports.Withdrawn():
            return _is_attempt_ahead(state, report.round, report.attempt)
        case reports.ModelStored() | reports.MergeFailed():
            return _is_attempt_ahead(state, report.round, report.revision)


def _is_attempt_ahead(state: SessionState, number: int, attempt: int) -> bool:
    """Rounds are opened one after the other; openings, moves and closings of one count its attempts, upwards only."""
    following = state.rounds_closed + 1
    return number > following or (number == following and attempt > state.attempt)


def _is_evaluation_ahead(state: SessionState, number: int) -> bool:
    """A version is evaluated at most once: behind its round's end, before the next round is opened."""
    if number > state.rounds_closed:
        return True
    waits = state.phase is Phase.GATHERING and state.evaluated < number
    return waits and number == state.rounds_closed
