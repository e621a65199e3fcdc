"""What became true, as lines of the log: for who watches a coordinator without a page."""

from __future__ import annotations

import logging

from fedbus.messages import records
from fedbus.messages.records import Record

log = logging.getLogger("fedbus.coordinator")


def log_record(name: str, record: Record) -> None:
    """One line for what became true."""
    about = {"session": name, "round": getattr(record, "round", 0)}
    match record:
        case records.RoundOpened():
            log.info("%s: round %d: %d clients asked", name, record.round, len(record.clients), extra=about)
        case records.UpdatesRecorded():
            for refused in record.refused:
                log.warning(
                    "%s: round %d: %s refused: %s", name, record.round, refused.client, refused.reason, extra=about
                )
        case records.RoundClosing() | records.RoundFailed() | records.ClientsMoved():
            log.info("%s: round %d: %s: %s", name, record.round, record.kind, record.reason, extra=about)
        case records.ModelPublished():
            log.info(
                "%s: round %d: published %s (%d bytes)", name, record.round, record.version, record.nbytes, extra=about
            )
        case records.RoundEvaluated():
            log.info("%s: round %d: %s", name, record.round, record.metrics, extra=about)
        case _:
            log.debug("%s: %s", name, record.kind, extra=about)
