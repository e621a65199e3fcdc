"""The chain of the audit: what one deed says of the one before it, and where a chain does not hold.

    message 1            message 2                      message 3
    number 1             number 2                       number 3
    before ""       <--  before BLAKE3(message 1)  <--  before BLAKE3(message 2)      head = BLAKE3(message 3)

Whoever changes, takes out, adds or swaps a deed changes what the next one would have to say. Whoever can write all of
it anew from there on, on the broker's own disk, cannot be caught by the chain alone, nor can a cut at its end: that
takes a *head* that was noted elsewhere (`Walk`'s ``head``), of this moment or of any before it.

An export is JSON lines: of each deed what a person reads, and ``raw``, the bytes that the broker has, of which the
digests are. Lines verify without a broker.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from fedbus.bus.base import Payload
from fedbus.errors import BadMessage
from fedbus.messages.access import AuditEntry
from fedbus.messages.envelope import decode
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import Subjects

FAULTS_MAX = 100
"""Faults that are told one by one: a chain that was rewritten would have one in each line."""

LINE_CHARS_MAX = 1_000_000
"""Of one line of an export: a deed has some 10 KB at most."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A deed as it stands in the stream. ``writer``: who wrote it, from the subject that a broker guards.

    ``digest``: BLAKE3 of its message, which the next one has as its ``before``.
    """

    sequence: int
    writer: Peer
    entry: AuditEntry
    digest: str
    subject: str = ""
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a chain does not hold: at which ``sequence``, in which way, and in words."""

    sequence: int
    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at a whole chain found.

    ``count`` deeds, the last at ``sequence`` with the digest ``head``; ``pinned_at``: where the head stands that was to
    be found, 0 where none was asked for or it is not there. At most `FAULTS_MAX` ``faults``, of ``faults_count``.
    """

    count: int
    sequence: int
    head: str
    pinned_at: int
    faults: tuple[Fault, ...]
    faults_count: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, changed, out of order or put in, as far as can be told."""
        return not self.faults_count


def digest_of(data: Payload) -> str:
    """Return the digest of a message as the next one has it."""
    return str(blake3(data).hexdigest())


def recorded(subjects: Subjects, subject: str, sequence: int, data: Payload) -> Recorded:
    """Read one message of the stream; `BadMessage` where it is no deed of this workspace."""
    envelope = decode(data, subject)
    if not isinstance(envelope.body, AuditEntry):
        raise BadMessage(f"{subject}: expected AuditEntry, got {envelope.body.kind}")
    writer = subjects.sender(subject, "audit", 2, 0)
    return Recorded(sequence, writer, envelope.body, digest_of(data), subject, bytes(data))


class Walk:
    """Goes along a chain from its first deed to its last. ``head``: a digest that has to be on the way."""

    def __init__(self, subjects: Subjects, head: str = "") -> None:
        self._subjects = subjects
        self._pinned = head
        self._pinned_at = 0
        self._count = 0
        self._number = 0
        self._sequence = 0
        self._digest = ""
        self._faults: list[Fault] = []
        self._faults_count = 0

    def step(self, subject: str, sequence: int, data: Payload) -> Recorded | None:
        """Take the next message; returns it where it is a deed."""
        digest = digest_of(data)
        try:
            found = recorded(self._subjects, subject, sequence, data)
        except BadMessage as error:
            self._fault(sequence, "changed", f"this is no deed: {error}")
            found = None
        if found is not None:
            self._compare(found)
        self._count += 1
        self._number = found.entry.number if found is not None else self._number + 1
        self._sequence, self._digest = sequence, digest
        if digest == self._pinned:
            self._pinned_at = sequence
        return found

    def _compare(self, found: Recorded) -> None:
        entry, expected = found.entry, self._number + 1
        if entry.number > expected:
            lacking = f"{expected}" if entry.number == expected + 1 else f"{expected} to {entry.number - 1}"
            self._fault(found.sequence, "missing", f"number {lacking} of the chain, before {entry.number}")
        elif entry.number < expected:
            self._fault(
                found.sequence,
                "moved",
                f"number {entry.number} stands behind {self._number}: out of its order, or put in",
            )
        elif entry.before != self._digest:
            what = f"number {self._number}" if self._number else "what stood before the first"
            self._fault(found.sequence, "changed", f"{what} is not what number {entry.number} was written behind")

    def damaged(self, sequence: int, what: str) -> None:
        """Note something that is wrong with the file that the chain is read from."""
        self._fault(sequence, "changed", what)

    def _fault(self, sequence: int, kind: str, what: str) -> None:
        self._faults_count += 1
        if len(self._faults) < FAULTS_MAX:
            self._faults.append(Fault(sequence, kind, what))

    def end(self) -> Verified:
        """Return what was found."""
        if self._pinned and not self._pinned_at:
            what = f"no deed has the digest {self._pinned}: the end of the chain was cut, or all behind it is rewritten"
            self._fault(self._sequence, "missing", what)
        return Verified(
            self._count, self._sequence, self._digest, self._pinned_at, tuple(self._faults), self._faults_count
        )


# --- lines ---


def line_of(found: Recorded) -> str:
    """Return a deed as a line of an export, without its end."""
    told = {
        "sequence": found.sequence,
        "subject": found.subject,
        "writer": f"{found.writer.role}/{found.writer.name}",
        "digest": found.digest,
        "entry": found.entry.model_dump(mode="json"),
        "raw": base64.b64encode(found.raw).decode(),
    }
    return json.dumps(told, ensure_ascii=True, separators=(",", ":"))


def verify_lines(lines: Iterable[str], head: str = "") -> Verified:
    """Go along an exported chain; `BadMessage` where the lines are not those of an export."""
    walk: Walk | None = None
    for at, line in enumerate(lines, 1):
        if not line.strip():
            continue
        told, raw = _read_line(at, line)
        subject, sequence = told["subject"], told["sequence"]
        if walk is None:
            walk = Walk(Subjects(_workspace(subject)), head)
        found = walk.step(subject, sequence, raw)
        if found is not None and json.loads(line_of(found)) != told:
            walk.damaged(sequence, f"line {at} shows something else than the bytes of its deed say")
    return (walk or Walk(Subjects("none"), head)).end()


def _read_line(at: int, line: str) -> tuple[dict[str, Any], bytes]:
    wrong = BadMessage(f"line {at}: expected a line of `fedbus audit export`, got {line[:60]!r}")
    if len(line) > LINE_CHARS_MAX:
        raise wrong
    try:
        told = json.loads(line)
        raw = base64.b64decode(told["raw"], validate=True)
        fits = isinstance(told["subject"], str) and type(told["sequence"]) is int
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise wrong from error
    if not fits or not _workspace(told["subject"]):
        raise wrong
    return told, raw


def _workspace(subject: str) -> str:
    tokens = subject.split(".")
    return tokens[1] if len(tokens) == 5 and tokens[0] == "fb" and tokens[2] == "audit" else ""
