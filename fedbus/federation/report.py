"""The report of a round: who was waited for, for how long, why, and what became of each update.

`fedbus.federation.rounds` makes it of the journal. Of a client of which nothing came the journal says what was known
when the set of updates was fixed (`fedbus.messages.records.Missing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedbus.messages.ids import Spent
from fedbus.messages.records import Missing
from fedbus.telemetry import context_of

Outcome = Literal["counted", "stale", "late", "refused", "lost", "missed", "accepted", "waiting"]
"""What became of a client's update.

``counted``: it is part of the model; ``stale``: so too, though made for an earlier round. ``refused``: it cannot
count. ``late``: nothing came in time, or what came was lost, and it may count in a later round. ``lost``: it was
accepted, lost with its combiner, and does not count; ``missed``: nothing came in time. Of a round that is open, or
failed: ``accepted``, and ``waiting`` for those of which nothing came yet.
"""

NAMED_MAX = 5
"""Clients that the sentence on a round names."""

REASON_CHARS_MAX = 120


@dataclass(frozen=True, slots=True)
class ClientReport:
    """One client in one round.

    ``seconds``: from the round's opening to the verdict's entry in the journal; None where none came. ``what``: why it
    was refused (``by`` whom), or what was known of it when nothing had come. ``stale``: for how many rounds ago its
    update was made. ``moves``: how often it was given to another combiner. ``nbytes``, ``fetched``: of its update, and
    of what it fetched for it; ``norm``: of its update, as it was folded; ``spent``: where its time went; both None
    where nobody said so.
    """

    client: str
    outcome: Outcome
    seconds: float | None
    combiner: str
    what: str = ""
    by: str = ""
    weight: float = 0.0
    stale: int = 0
    moves: int = 0
    nbytes: int = 0
    fetched: int = 0
    norm: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    spent: Spent | None = None


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One round; ``clients`` slowest first, those of which nothing came before all others.

    ``why``: in a sentence, when and with what it ended. ``earlier``: why earlier attempts at it failed. ``fixed_at``:
    when it was decided what counts; ``ended_at``: when the model was published, or the round failed; 0 before. Times
    are seconds since the epoch. ``trace_id``: of the trace of its last attempt, '' where it has none.
    """

    session: str
    round: int
    state: Literal["training", "closing", "closed", "failed"]
    why: str
    opened_at: float
    deadline_at: float
    fixed_at: float
    ended_at: float
    asked: int
    target: int
    quorum: int
    earlier: tuple[str, ...]
    clients: tuple[ClientReport, ...]
    trace_id: str = ""

    @property
    def outcomes(self) -> dict[str, int]:
        """How many clients each outcome has."""
        found: dict[str, int] = {}
        for one in self.clients:
            found[one.outcome] = found.get(one.outcome, 0) + 1
        return found


def trace_of(traceparent: str) -> str:
    """Return the id of the trace that a W3C ``traceparent`` names; '' where it names none, or one that is not kept."""
    found = context_of(traceparent)
    return found.trace_id if found is not None and found.sampled else ""


def why(verb: str, reason: str, missing: Missing | None, refused: Mapping[str, str]) -> str:
    """Say why a round ended as it did: ``closed at its deadline with 7 of 10 updates: c-3 was training``.

    ``refused``: clients, and why.
    """
    head = f"{verb} at its {reason}" if reason.startswith("deadline") else f"{verb}: {reason}"
    named = [f"{client} {text}" for client, text in _was(missing)]
    named += [f"{client} was refused: {text[:REASON_CHARS_MAX]}" for client, text in sorted(refused.items())]
    if not named:
        return head
    more = f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""
    return f"{head}{';' if ': ' in head else ':'} {', '.join(named[:NAMED_MAX])}{more}"


def _was(missing: Missing | None) -> list[tuple[str, str]]:
    """Return what those of whom nothing came were doing, as the rest of a sentence."""
    if missing is None:
        return []
    return [
        *((client, "was training") for client in missing.training),
        *((client, "was sending") for client in missing.sending),
        *((client, "was connected, and sent nothing") for client in missing.there),
        *((client, f"was not connected since {ago} s") for client, ago in missing.silent.items()),
        *((client, f"had left {ago} s before") for client, ago in missing.left.items()),
        *((client, "was not heard of") for client in missing.unheard),
    ]


def known(missing: Missing | None) -> dict[str, str]:
    """Return what was known of those of whom nothing came."""
    if missing is None:
        return {}
    return {
        **dict.fromkeys(missing.training, "connected, training"),
        **dict.fromkeys(missing.sending, "connected, uploading"),
        **dict.fromkeys(missing.there, "connected"),
        **{client: f"not connected since {ago} s" for client, ago in missing.silent.items()},
        **{client: f"left {ago} s before" for client, ago in missing.left.items()},
        **dict.fromkeys(missing.unheard, "not heard of since the coordinator came"),
    }
