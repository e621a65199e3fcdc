"""What a stream holds, for the memory bus: sequences, subjects, limits, repeats. No I/O, no loop; time is an argument.

The rules are those of JetStream as the NATS bus uses it: a repeat of a message id answers with the first's sequence,
unless an expected sequence is given and somebody has written since; then the expected sequence is compared; then the
limits; only then a sequence is spent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from fedbus.bus.base import Message, StreamSpec, Usage
from fedbus.bus.checks import REPEAT_WINDOW_S
from fedbus.bus.patterns import matcher
from fedbus.errors import BusDenied, BusFull, ConfigError, Conflict

RECORD_OVERHEAD_BYTES = 30
"""What JetStream's file store adds to each message, so that ``bytes_max`` means about the same here."""


SUBJECTS_KNOWN_MAX = 1024
"""Of so many subjects a stream remembers whether it takes them."""


class Expected(NamedTuple):
    """The sequence that an append expects to be the last, of its own subject or of those of a pattern."""

    last: int
    pattern: str | None = None

    @classmethod
    def of(cls, last: int | None, pattern: str | None) -> Expected | None:
        """Return what is expected, if anything."""
        return None if last is None else cls(last, pattern)


class MemoryStream:
    """One stream: messages by sequence, and for each subject its sequences in order."""

    def __init__(self, spec: StreamSpec, removed: Callable[[str, Message], None]) -> None:
        self.spec = spec
        self.last_sequence = 0
        self._removed = removed
        self._messages: dict[int, Message] = {}
        # ordered ones, as plain dicts that are emptied from the front are searched ever longer
        self._stored_at: OrderedDict[int, float] = OrderedDict()
        self._subjects: dict[str, OrderedDict[int, None]] = {}
        self._ids: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._bytes = 0
        self._takes = _taking(spec)

    @property
    def usage(self) -> Usage:
        """How full it is."""
        return Usage(self.spec.storage, len(self._messages), self._bytes, self.spec.bytes_max)

    def takes(self, subject: str) -> bool:
        """Whether this stream stores messages of a subject."""
        return self._takes(subject)

    def adopt(self, spec: StreamSpec) -> None:
        """Bring the stream to a new description; only the storage can't change."""
        if spec.storage is not self.spec.storage:
            here, asked = self.spec.storage.value, spec.storage.value
            raise ConfigError(f"stream {spec.name!r} is kept in {here}, asked for {asked}: delete it first")
        if self.spec.append_only and not spec.append_only:
            raise ConfigError(f"stream {spec.name!r} is append-only, which is never taken back")
        self.spec = spec
        self._takes = _taking(spec)
        for subject in list(self._subjects):
            self._trim(subject)

    def append(self, message: Message, expected: Expected | None, message_id: str | None, now: float) -> int:
        """Store; returns the sequence. Raises `Conflict`, `BusFull`."""
        self.expire(now)
        subject = message.subject
        held = self._subjects.get(subject, OrderedDict())
        last = next(reversed(held), 0)
        first = self._ids.get(message_id, (0, 0.0))[0] if message_id is not None else 0
        if first and (expected is None or last == first):
            return first
        if expected is not None:
            self._check_expected(subject, expected, last)
        self._make_sure_it_fits(message, held)
        self.last_sequence += 1
        sequence = self.last_sequence
        self._messages[sequence] = Message(subject, message.data, message.headers, sequence)
        self._stored_at[sequence] = now
        self._subjects.setdefault(subject, OrderedDict())[sequence] = None
        self._bytes += _size(message)
        if message_id is not None:
            self._ids[message_id] = (sequence, now)
        self._trim(subject)
        return sequence

    def _check_expected(self, subject: str, expected: Expected, last: int) -> None:
        if expected.pattern is not None:
            last = self._last(expected.pattern)
        if expected.last != last:
            what = expected.pattern or subject
            raise Conflict(f"{what}: expected last sequence {expected.last}, it is {last}: read again, then decide")

    def _make_sure_it_fits(self, message: Message, held: OrderedDict[int, None]) -> None:
        spec = self.spec
        if spec.bytes_max < 0:
            return
        replaces = 0 < spec.per_subject_max <= len(held)
        freed = _size(self._messages[next(iter(held))]) if replaces else 0
        if spec.drop_oldest:
            while self._messages and self._bytes + _size(message) > spec.bytes_max:
                self.remove(next(iter(self._stored_at)))
        elif self._bytes - freed + _size(message) > spec.bytes_max:
            held_bytes = f"{self._bytes} of at most {spec.bytes_max} bytes"
            raise BusFull(f"stream {spec.name!r} holds {held_bytes}: free room or raise bytes_max")

    def _trim(self, subject: str) -> None:
        limit = self.spec.per_subject_max
        while limit and len(self._subjects.get(subject, ())) > limit:
            self.remove(next(iter(self._subjects[subject])))

    def expire(self, now: float) -> None:
        """Forget what is too old: messages by ``age_max_s``, ids by the window of repeats."""
        while self._ids and next(iter(self._ids.values()))[1] + REPEAT_WINDOW_S < now:
            self._ids.popitem(last=False)
        age = self.spec.age_max_s
        while age and self._stored_at and next(iter(self._stored_at.values())) + age < now:
            self.remove(next(iter(self._stored_at)))

    def remove(self, sequence: int) -> None:
        """Remove one message; none there is not an error."""
        message = self._messages.pop(sequence, None)
        if message is None:
            return
        del self._stored_at[sequence]
        held = self._subjects[message.subject]
        del held[sequence]
        if not held:
            del self._subjects[message.subject]
        self._bytes -= _size(message)
        self._removed(self.spec.name, message)

    def delete(self, sequence: int) -> None:
        """Remove one message for somebody who asks; `BusDenied` where nothing may be removed."""
        self._check_removable()
        self.remove(sequence)

    def _check_removable(self) -> None:
        if self.spec.append_only:
            raise BusDenied(f"stream {self.spec.name!r} is append-only: nothing is removed from it")

    def purge(self, pattern: str) -> None:
        """Remove every message of a pattern; `BusDenied` where nothing may be removed."""
        self._check_removable()
        for sequence in [m.sequence for m in self.select(pattern)]:
            self.remove(sequence)

    def advance(self, sequence: int) -> None:
        """Let the next message of an empty stream have at least this sequence."""
        if self.last_sequence + 1 >= sequence:
            return
        if self._messages:
            held = f"it holds {len(self._messages)} messages up to {self.last_sequence}"
            raise Conflict(f"advance {self.spec.name} to {sequence}: {held}")
        self._check_removable()  # a broker advances by a purge
        self.last_sequence = sequence - 1

    def last(self, subject: str) -> Message | None:
        """Return the newest message of a subject, or of a pattern."""
        return self._messages.get(self._last(subject))

    def _last(self, pattern: str) -> int:
        """Return the last sequence of a subject, or of a pattern; 0 where there is none."""
        return max((next(reversed(self._subjects[subject])) for subject in self._matching(pattern)), default=0)

    def newest(self, pattern: str) -> list[Message]:
        """Return the newest of each subject, in order of sequence."""
        found = [self._messages[next(reversed(self._subjects[s]))] for s in self._matching(pattern)]
        return sorted(found, key=lambda m: m.sequence)

    def select(self, pattern: str, from_sequence: int = 1) -> list[Message]:
        """Return every message of a pattern from a sequence on, in order."""
        found = [n for s in self._matching(pattern) for n in self._subjects[s] if n >= from_sequence]
        return [self._messages[n] for n in sorted(found)]

    def get(self, sequence: int) -> Message | None:
        """Return one message by its sequence."""
        return self._messages.get(sequence)

    def count(self, pattern: str) -> int:
        """Count the messages of a pattern."""
        return sum(len(self._subjects[s]) for s in self._matching(pattern))

    def _matching(self, pattern: str) -> Iterator[str]:
        if "*" not in pattern and ">" not in pattern:
            return iter([pattern] if pattern in self._subjects else [])
        return filter(matcher(pattern), self._subjects)


def _taking(spec: StreamSpec) -> Callable[[str], bool]:
    """Whether a stream takes a subject: asked of every stream for every message, mostly for the same few subjects."""
    patterns = [matcher(pattern) for pattern in spec.subjects]
    return lru_cache(SUBJECTS_KNOWN_MAX)(lambda subject: any(take(subject) for take in patterns))


def _size(message: Message) -> int:
    headers = sum(len(k) + len(v) + 4 for k, v in message.headers.items())
    return len(message.data) + len(message.subject) + headers + RECORD_OVERHEAD_BYTES
