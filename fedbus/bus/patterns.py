"""Subjects and patterns: what they may look like, and which pattern matches which subject.

A subject is tokens joined by dots. In a pattern a token may be ``*`` (exactly one token) and the last may be ``>`` (one
token or more). `PatternTree` finds all patterns that match a subject in time proportional to the subject's tokens, so
ten thousand subscribers cost a publisher nothing; `matcher` compiles one pattern for many subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from fedbus.errors import ConfigError

T = TypeVar("T")

SUBJECT_BYTES_MAX = 512
"""Longest subject or pattern: nats-server's control line holds 4,096 bytes, and two of them travel in it."""


def check_subject(subject: str) -> None:
    """Raise `ConfigError` unless this is a subject that may be published to (no wildcards)."""
    for token in _tokens(subject):
        if "*" in token or ">" in token:
            raise ConfigError(f"subject {subject!r} has a wildcard: name one subject")


def check_pattern(pattern: str) -> None:
    """Raise `ConfigError` unless this is a pattern that may be subscribed to."""
    tokens = _tokens(pattern)
    for i, token in enumerate(tokens):
        whole = token == "*" or (token == ">" and i == len(tokens) - 1)
        if not whole and ("*" in token or ">" in token):
            raise ConfigError(f"pattern {pattern!r}: '*' must be a whole token, '>' the whole last token")


def _tokens(text: str) -> list[str]:
    tokens = text.split(".")
    # a control character is not printable: a line end inside a subject would be a command of its own to the broker
    if not all(tokens) or " " in text or not text.isprintable():
        raise ConfigError(f"{text!r} is no subject: tokens joined by dots, none empty, no blanks or control characters")
    if len(text.encode()) > SUBJECT_BYTES_MAX:
        raise ConfigError(f"subject of {len(text.encode())} bytes: at most {SUBJECT_BYTES_MAX} ({text[:60]!r}...)")
    return tokens


def matcher(pattern: str) -> Callable[[str], bool]:
    """Compile a pattern into a function of a subject."""
    if pattern == ">":
        return lambda _subject: True
    if "*" not in pattern:
        if not pattern.endswith(".>"):
            return pattern.__eq__
        prefix = pattern[:-1]
        return lambda subject: subject.startswith(prefix) and len(subject) > len(prefix)
    wanted = pattern.split(".")
    return lambda subject: _fits(wanted, subject.split("."))


def _fits(wanted: list[str], tokens: list[str]) -> bool:
    if wanted[-1] == ">":
        if len(tokens) < len(wanted):
            return False
        wanted = wanted[:-1]
    elif len(tokens) != len(wanted):
        return False
    return all(want in ("*", token) for want, token in zip(wanted, tokens, strict=False))


def overlap(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether a subject could match patterns of both kinds."""
    return any(_meet(a.split("."), b.split(".")) for a in some for b in others)


def _meet(a: list[str], b: list[str]) -> bool:
    for x, y in zip(a, b, strict=False):
        if ">" in (x, y):
            return True
        if x != y and "*" not in (x, y):
            return False
    return len(a) == len(b)


class _Node(Generic[T]):
    """One token of depth; dicts, not sets, so that the order is that of insertion and runs repeat exactly."""

    __slots__ = ("below", "here", "rest", "star")

    def __init__(self) -> None:
        self.below: dict[str, _Node[T]] = {}
        self.star: _Node[T] | None = None
        self.here: dict[T, None] = {}
        self.rest: dict[T, None] = {}

    def empty(self) -> bool:
        return not (self.below or self.star or self.here or self.rest)


class PatternTree(Generic[T]):
    """Values filed under patterns, found by subject."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, value: T) -> None:
        """File a value (hashable) under a pattern; twice is once."""
        node = self._root
        for token in pattern.split("."):
            if token == ">":
                node.rest[value] = None
                return
            if token == "*":
                node.star = node.star or _Node()
                node = node.star
            else:
                node = node.below.setdefault(token, _Node())
        node.here[value] = None

    def remove(self, pattern: str, value: T) -> None:
        """Take a value away; none there is not an error. Empty branches are pruned, or inboxes would pile up."""
        self._remove(self._root, pattern.split("."), value)

    def _remove(self, node: _Node[T], tokens: list[str], value: T) -> None:
        if not tokens:
            node.here.pop(value, None)
            return
        token, rest = tokens[0], tokens[1:]
        if token == ">":
            node.rest.pop(value, None)
            return
        child = node.star if token == "*" else node.below.get(token)
        if child is None:
            return
        self._remove(child, rest, value)
        if child.empty():
            if token == "*":
                node.star = None
            else:
                del node.below[token]

    def everything(self) -> list[T]:
        """Return every value filed, each once, in a repeatable order."""
        found: dict[T, None] = {}
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            found.update(node.here)
            found.update(node.rest)
            nodes.extend(node.below.values())
            if node.star is not None:
                nodes.append(node.star)
        return list(found)

    def match(self, subject: str) -> list[T]:
        """Return every value whose pattern matches, in an order that depends only on what was filed and when."""
        found: list[T] = []
        nodes = [self._root]
        for token in subject.split("."):
            deeper: list[_Node[T]] = []
            for node in nodes:
                if node.rest:
                    found.extend(node.rest)
                child = node.below.get(token)
                if child is not None:
                    deeper.append(child)
                if node.star is not None:
                    deeper.append(node.star)
            nodes = deeper
            if not nodes:
                return found
        for node in nodes:
            found.extend(node.here)
        return found
