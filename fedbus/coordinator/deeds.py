"""What a coordinator writes into the audit: commands that it carried out, refused or had no use for, ends of sessions.

Who gave a command is read from its subject, which the broker guards; which person stands behind a gateway's, the
gateway writes down. It is written of what is journalled, and behind it: where the two differ - a coordinator was killed
in between - the journal is right. In an open workspace nobody is known, and nothing is written.
"""

from __future__ import annotations

from fedbus.access.audit import SESSION_END, SESSION_START, SESSION_STOP, Audit, Result
from fedbus.messages import records
from fedbus.messages.commands import StartSession, StopSession, author_of
from fedbus.messages.ids import Peer
from fedbus.messages.records import Record


class Deeds:
    """Turns what is decided into deeds; ``audit`` None: nothing is written."""

    def __init__(self, audit: Audit | None, name: str) -> None:
        self._audit = audit
        self._own = f"coordinator/{name}"

    async def run(self) -> None:
        """Write them, as the bus takes them; runs until cancelled."""
        if self._audit is not None:
            await self._audit.run()

    async def finish(self) -> None:
        """Write what is left."""
        if self._audit is not None:
            await self._audit.finish()

    def journalled(self, session: str, record: Record, by: str) -> None:
        """Take note of a record that was journalled; ``by``: whose session it is."""
        if self._audit is None:
            return
        match record:
            case records.SessionStarted():
                details = {"strategy": record.config.strategy, "rounds": record.config.rounds, "digest": record.digest}
                self._audit.note(SESSION_START, by=record.by, target=session, origin="bus", details=details)
            case records.SessionEnded(outcome="refused"):
                self._audit.note(
                    SESSION_START, by=by, target=session, origin="bus", result="refused", reason=record.reason
                )
            case records.SessionEnded():
                ended = {"outcome": record.outcome, "version": record.version, "digest": record.digest}
                result: Result = "failed" if record.outcome == "failed" else "done"
                self._audit.note(
                    SESSION_END, by=self._own, target=session, result=result, reason=record.reason, details=ended
                )
            case _:
                pass

    def stop_asked(self, sender: Peer, stop: StopSession) -> None:
        """Take note that a session is stopped."""
        if self._audit is not None:
            self._audit.note(
                SESSION_STOP, by=author_of(sender, stop), target=stop.session, origin="bus", reason=stop.reason
            )

    def of_no_use(self, sender: Peer, command: StartSession | StopSession) -> None:
        """Take note of a command for a session that is over, or never was; also of one that is heard once more."""
        start = isinstance(command, StartSession)
        self.refused(sender, command, "a session of that name has ended" if start else "no such session runs")

    def refused(self, sender: Peer, command: StartSession | StopSession, why: str) -> None:
        """Take note of a command that was not carried out."""
        if self._audit is not None:
            self._audit.note(
                SESSION_START if isinstance(command, StartSession) else SESSION_STOP,
                by=author_of(sender, command),
                target=command.session,
                origin="bus",
                result="refused",
                reason=why,
            )
