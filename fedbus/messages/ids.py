"""The names of things, and what a name may look like.

Every name becomes a token of a subject, a file or a page, so all have one form: 1 to 64 of ``A-Z a-z 0-9 _ -``. Names
from users are checked at the door (`check_name`) and refused with what was expected; nothing is silently rewritten.
"""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple
from unicodedata import category

from pydantic import AfterValidator, BeforeValidator, Field

from fedbus.errors import ConfigError
from fedbus.foreign import shallow

NAME = r"^[A-Za-z0-9_-]{1,64}$"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Shallow = AfterValidator(shallow)
"""Of a field with any values: they nest no deeper than what packs and prints them can go."""

Name = Annotated[str, Field(pattern=NAME)]
"""A workspace, session, client, combiner, blob or version: one token."""

MaybeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
"""A name, or nothing."""

StrategyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}(\+[A-Za-z0-9_-]{1,64}){0,7}$")]
"""An aggregator, or several in a chain, joined by ``+``."""

SESSION_CHARS_MAX = 40
"""Longest name of a session: versions and blobs are named after it, its round and its attempt, and have 64."""

SessionName = Annotated[str, Field(pattern=rf"^[A-Za-z0-9_-]{{1,{SESSION_CHARS_MAX}}}$")]
"""A new session."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A BLAKE3 digest in hexadecimal."""


PolicyDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
"""A digest of what a data owner has decided, empty where that is nothing."""


def sayable(text: object) -> object:
    """Replace what no line of a terminal, a log or a page may hold, one character for one: texts are a stranger's.

    Line ends and blanks of all kinds become a space; what moves a cursor, colours, turns the direction of writing or is
    half a character (of a file whose name is not UTF-8) becomes the sign for what cannot be shown.
    """
    return _shown(text, keep="") if isinstance(text, str) and not text.isprintable() else text


def sayable_lines(text: object) -> object:
    """Do the same, but leave line ends."""
    return _shown(text, keep="\n") if isinstance(text, str) and not text.isprintable() else text


def _shown(text: str, keep: str) -> str:
    return "".join(char if char.isprintable() or char in keep else _instead(char) for char in text)


def _instead(char: str) -> str:
    if "\ud800" <= char <= "\udfff":
        return "?"
    return " " if char in "\t\n\r" or category(char).startswith("Z") else "\ufffd"


Said = BeforeValidator(sayable)
"""Of a field with free text that somebody reads in one line."""

SaidLines = BeforeValidator(sayable_lines)
"""Of one with several lines."""

Reason = Annotated[str, Said, Field(max_length=2000)]
"""A sentence for a person."""

Number = Annotated[float, Field(allow_inf_nan=False)]
"""A finite number."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A whole number from 0 on that survives JSON."""

SECONDS_MAX = 1e9
"""Thirty years: a span of time beyond it is a clock that was set."""

Seconds = Annotated[float, Field(ge=0, le=SECONDS_MAX, allow_inf_nan=False)]
"""A span of time."""


class Spent(NamedTuple):
    """Where a client's time of a round went, in seconds, each by the clock of who measured it.

    ``wait_s``: from the task's arrival until the app was called, without ``fetch_s``, in which the model came;
    ``train_s``: until the app had made the update, and it was copied and digested (the client says so); ``upload_s``:
    from the first announcement until the last byte was folded (the combiner).
    """

    wait_s: Seconds = 0.0
    fetch_s: Seconds = 0.0
    train_s: Seconds = 0.0
    upload_s: Seconds = 0.0


def _known(spent: object) -> object:
    """Leave out what a newer peer says behind what we know: it is ignored, as unknown fields are."""
    return spent[: len(Spent._fields)] if isinstance(spent, list) else spent


SpentTold = Annotated[Spent, BeforeValidator(_known)]
"""A `Spent` in a message: in years, an entry of the journal must not be passed over for one number more."""

SHARDS_MAX = 256
"""Most combiners that share a model's chunks out among themselves."""

METRICS_MAX = 256
"""Metrics of one report, and of one mean over clients."""

Metrics = Annotated[
    dict[Annotated[str, Said, Field(min_length=1, max_length=128)], float], Field(max_length=METRICS_MAX)
]
"""Named numbers that a client chose to report; NaN and infinities are allowed and shown as such."""


NumberName = Annotated[str, Said, Field(min_length=1, max_length=128)]
"""A metric, or numbers to be summed."""

SUMS_NUMBERS_MAX = 20_000
"""Numbers of all sums of one report together."""

SUMS_MAX = 256
"""Sums of one report."""

Sums = Annotated[
    dict[NumberName, Annotated[tuple[Number, ...], Field(max_length=SUMS_NUMBERS_MAX)]], Field(max_length=SUMS_MAX)
]
"""Named lists of numbers that are added up over clients: confusion matrices, histograms, counts."""


class Peer(NamedTuple):
    """Who sent something, read from the subject that the broker guards."""

    role: str
    name: str

    @property
    def author(self) -> str:
        """Who it is where somebody's deed is written down: an engineer's name, or ``gateway/<name>``."""
        return self.name if self.role == "engineer" else f"{self.role}/{self.name}"


def is_name(value: str) -> bool:
    """Whether it may be a name."""
    return _NAME.fullmatch(value) is not None


def check_name(what: str, value: object) -> str:
    """Return ``value`` if it may be a name; `ConfigError` says what may."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigError(
            f"{what}: expected 1 to 64 of the characters A-Z a-z 0-9 _ -, got {value!r}; choose another name"
        )
    return value
