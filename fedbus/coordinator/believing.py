"""Whose word counts: reports and commands of a secured workspace are signed by whoever they are said to be from.

The broker guards subjects; this guards against the broker. What is signed wrongly is passed over, with a line in the
log and a number: whoever it is said to be from may have said nothing, and says its own word yet. What is not signed at
all may be of a client of an earlier release, whom nobody has told: the round goes on without it, with that as the
reason. That is no more than a broker could do by losing what it says. What takes an update back is never made of that,
and is not acknowledged: its owner would believe that it was taken back.
"""

from __future__ import annotations

from collections.abc import Callable

from fedbus.access.envelopes import Verifier, check_sender
from fedbus.coordinator.events import Report
from fedbus.errors import BadMessage, BadUpdate
from fedbus.exchange.station import Heard, Station
from fedbus.messages import reports
from fedbus.messages.ids import Peer


class Believing:
    """Looks at signatures; ``verifier`` None: everybody is believed, as the broker lets everybody in.

    ``refused``: called with the role of whoever is not believed in a report.
    """

    def __init__(self, station: Station, verifier: Verifier | None, refused: Callable[[str], None]) -> None:
        self._station = station
        self._verifier = verifier
        self._refused = refused

    def report(self, sender: Peer, heard: Heard, body: Report) -> Report | None:
        """Return what to take for a report: itself, that its sender failed, or None."""
        flaw = self.flaw(sender, heard)
        if not flaw:
            return body
        self._refused(sender.role)
        self._station.refuse(BadMessage(f"{heard.message.subject}: {body.kind} of {_about(body)}: {flaw}"))
        return _failure(body, flaw) if heard.envelope.signed is None else None

    def flaw(self, sender: Peer, heard: Heard) -> str:
        """Return why a message does not count as its sender's; '' where it does."""
        if self._verifier is None:
            return ""
        try:
            check_sender(self._verifier, sender, heard.message.subject, heard.envelope)
        except BadUpdate as error:
            return str(error)
        return ""


def _about(body: Report) -> str:
    return f"session {body.session}, round {body.round}"


def _failure(body: Report, flaw: str) -> Report | None:
    """Return what a report that is not signed comes down to: its sender has no part, and this is why."""
    match body:
        case reports.Evaluated():
            attempt, stage = 0, "evaluate"
        case reports.TaskFailed():
            # not that the model could not be fetched: then it would be looked for
            attempt, stage = body.attempt, "evaluate" if body.stage == "evaluate" else "train"
        case _:
            return None
    return reports.TaskFailed(
        session=body.session,
        round=body.round,
        attempt=attempt,
        stage=stage,
        reason=f"its report does not count: {flaw}",
    )
