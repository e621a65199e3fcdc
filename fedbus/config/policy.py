"""What a data owner lets a client do, as a TOML file says it, and the decision that follows from it.

    [allow]
    purposes = ["research/*"]
    [outgoing]
    metrics = ["loss", "accuracy"]
    [hours]
    time_zone = "Europe/Berlin"
    begin = "22:00"
    end = "06:00"

Pure: no file is read here and no clock; `parse` takes text, `decide` a moment. What is not in the file is allowed, what
is in it and unknown is refused: a key that is misspelt must not be a hole. All that is asked is decided anew for each
task, so a policy that changes holds from the next task on, and for what is under way.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedbus.errors import ConfigError

What = Literal["train", "evaluate", "query"]
"""What a client may be asked for: to train, to measure a model on its data, to answer questions about them."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

DAYS: tuple[Day, ...] = get_args(Day)
"""All of them, Monday first."""

BYTES_MAX = 2**53
"""Largest bound of bytes: what survives JSON."""

GLOBS_MAX = 1000
"""Patterns of one list: a person keeps them."""

POLICY_CHARS_MAX = 1_000_000
"""Longest file: whoever reads it at each change must come to an end."""

Globs = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=GLOBS_MAX)]
"""Texts in which ``*`` stands for any characters, ``?`` for one, ``[ab]`` for one of some; case counts."""

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")


class _Table(BaseModel):
    # Without `use_attribute_docstrings`: to read its own source eight times would cost each client 0.1 s at its start.
    model_config = ConfigDict(frozen=True, extra="forbid")


class Allow(_Table):
    """``[allow]``: what is let in; each list has to match."""

    workspaces: Globs = ("*",)
    """Workspaces."""

    sessions: Globs = ("*",)
    """Names of sessions."""

    purposes: Globs = ("*",)
    """What sessions say they are for (`SessionConfig.purpose`). One that says nothing is matched by ``*`` alone."""

    starters: Globs = ("*",)
    """Who started the session: a person's name, or ``gateway/NAME`` where a gateway did it for somebody."""

    strategies: Globs = ("*",)
    """How updates are combined: the name of a strategy, or of a chain (``norm_clipping+fedavg``)."""


class Deny(_Table):
    """``[deny]``: what is not let in, though ``[allow]`` would."""

    workspaces: Globs = ()
    """Workspaces."""

    sessions: Globs = ()
    """Names of sessions."""

    purposes: Globs = ()
    """What sessions say they are for."""

    starters: Globs = ()
    """Who started the session."""

    strategies: Globs = ()
    """How updates are combined."""


class Tasks(_Table):
    """``[tasks]``: what the data may be used for."""

    train: bool = True
    """Whether the client trains."""

    evaluate: bool = True
    """Whether it measures models on its data."""

    query: bool = True
    """Whether it answers questions about its data, with counts and sums."""


class Outgoing(_Table):
    """``[outgoing]``: what may leave beside updates."""

    metrics: Globs = ("*",)
    """Metrics, and names of an evaluation's sums, that may leave; others are dropped, and the log says so."""

    errors: bool = True
    """Whether the text of an error leaves: it may quote data. If not, that there was one does."""

    spans: bool = True
    """Whether traces leave: how long fetching, training and sending took."""


class Privacy(_Table):
    """``[privacy]``: what a session has to promise."""

    cohort_min: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Fewest updates that a model may be made of, and fewest answers that an evaluation or a question may be kept of.
    1: what a session that says nothing has."""

    sums_only: bool = False
    """Whether an evaluation's own numbers may be kept together with others' alone (`SessionConfig.reveal` = ``sums``).
    """


class Hours(_Table):
    """``[hours]``: when the client works."""

    time_zone: Annotated[str, Field(max_length=64)] = "UTC"
    """In which zone hours and days are meant (`Europe/Berlin`); also where a day of the limits begins."""

    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7)] = DAYS
    """Weekdays on which the hours begin."""

    begin: str = "00:00"
    """When they begin, ``HH:MM`` of the clock on the wall there."""

    end: str = "24:00"
    """When they end; a time before ``begin`` is one of the next day."""

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError("expected a time zone as Europe/Berlin that this machine knows") from error
        return value

    @field_validator("begin", "end")
    @classmethod
    def _clock(cls, value: str) -> str:
        if not _CLOCK.fullmatch(value):
            raise ValueError("expected a time as 06:30, from 00:00 to 24:00")
        return value


class Limits(_Table):
    """``[limits]``: how much, in a day of ``[hours] time_zone``; 0: without a limit."""

    rounds_per_day: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Rounds that are begun in a day, of all sessions together."""

    bytes_up_per_day: Annotated[int, Field(ge=0, lt=BYTES_MAX)] = 0
    """Bytes sent in a day; a task whose update would go beyond is declined until the next. A round that is begun goes
    on."""

    bytes_down_per_day: Annotated[int, Field(ge=0, lt=BYTES_MAX)] = 0
    """Bytes of models fetched in a day."""

    bytes_up_per_s: Annotated[int, Field(ge=0, lt=BYTES_MAX)] = 0
    """Bytes of updates sent in a second; heartbeats and reports do not wait."""


class Policy(_Table):
    """All of a file. Frozen; what is missing has its default, and with all defaults everything is allowed."""

    allow: Allow = Allow()
    deny: Deny = Deny()
    tasks: Tasks = Tasks()
    outgoing: Outgoing = Outgoing()
    privacy: Privacy = Privacy()
    hours: Hours = Hours()
    limits: Limits = Limits()

    @property
    def zone(self) -> ZoneInfo:
        """Where its days begin."""
        return ZoneInfo(self.hours.time_zone)

    def lets_out(self, metric: str) -> bool:
        """Whether a metric may leave."""
        return _matches(metric, self.outgoing.metrics)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client is asked for; ``told``: whether the coordinator says what the session is.

    ``metrics``: without which an update is worth nothing. ``nbytes_down``: of the model, 0 where it is here.
    ``nbytes_up``: what would be sent, as far as that is known before. ``updates_min``, ``answers_min``: of how many a
    model, or an evaluation, is made at least.
    """

    what: What
    workspace: str
    session: str
    round: int = 0
    told: bool = True
    purpose: str = ""
    by: str = ""
    strategy: str = ""
    metrics: tuple[str, ...] = ()
    updates_min: int = 1
    answers_min: int = 1
    reveal: str = "clients"
    nbytes_down: int = 0
    nbytes_up: int = 0


@dataclass(slots=True)
class Spent:
    """What was used of a day's limits; ``rounds``: session and number of those that were begun."""

    day: date = date.min
    bytes_up: int = 0
    bytes_down: int = 0
    rounds: set[tuple[str, int]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something may be; if not why, as others may read it, and until when (0: until the policy changes)."""

    allowed: bool
    reason: str = ""
    until_at: float = 0.0


YES = Decision(True)


def parse(text: str, origin: str) -> Policy:
    """Return what a file says; `ConfigError` names ``origin``, line, key and what was expected."""
    if len(text) > POLICY_CHARS_MAX:
        raise ConfigError(f"{origin}: expected at most {POLICY_CHARS_MAX} characters, got {len(text)}")
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{origin}: expected TOML: {error}") from error
    try:
        return Policy.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = [str(part) for part in first["loc"]]
        line = _line_of(text, place)
        at = f"{origin}, line {line}" if line else origin
        raise ConfigError(f"{at}: {'.'.join(place)}: {_said(first, place)}, got {first['input']!r:.80}") from error


def _said(error: Mapping[str, Any], place: list[str]) -> str:
    if error["type"] != "extra_forbidden":
        return str(error["msg"]).removeprefix("Value error, ")
    tables = {name: type(getattr(Policy(), name)) for name in Policy.model_fields}
    known: Iterable[str] = tables if len(place) == 1 or place[0] not in tables else tables[place[0]].model_fields
    return f"expected one of {', '.join(known)}"


def _line_of(text: str, place: list[str]) -> int:
    """Return in which line a key stands, 0 where that is not known: tables in one line, quoted keys."""
    table, key = place[0], place[1] if len(place) > 1 else ""
    header = re.compile(rf"\s*\[\s*{re.escape(table)}\s*\]")
    entry = re.compile(rf"\s*{re.escape(key or table)}\s*=")
    inside, found = not key, 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            inside = bool(header.match(line))
            found = number if inside and not found else found
        elif inside and entry.match(line):
            return number
    return found


def decide(policy: Policy, asked: Asked, now: float, spent: Spent) -> Decision:
    """Return whether a client may do what it is asked for at a moment (seconds since the epoch), and why not."""
    for reason in (*_kept_out(policy, asked), *_too_little_privacy(policy, asked)):
        return Decision(False, reason)
    for decision in (_outside_hours(policy, now), _beyond_limits(policy, asked, now, spent)):
        if decision is not None:
            return decision
    return YES


def _kept_out(policy: Policy, asked: Asked) -> Iterator[str]:
    """Say what is not allowed of a session; the owner's own patterns are nobody's business."""
    if not asked.told:
        yield "its owner has a policy, and the coordinator does not say what the session is (it is of an older release)"
    for table, value, name in (
        ("workspaces", asked.workspace, "workspace"),
        ("sessions", asked.session, "session"),
        ("purposes", asked.purpose, "purpose"),
        ("starters", asked.by, "starter"),
        ("strategies", asked.strategy, "strategy"),
    ):
        if not _matches(value, getattr(policy.allow, table)) or _matches(value, getattr(policy.deny, table)):
            yield f"its owner does not allow the {name} {value!r}" if value else f"its owner wants a {name} to be given"
    if not getattr(policy.tasks, asked.what):
        yield f"its owner does not let it {_WHAT[asked.what]}"
    for metric in asked.metrics if asked.what == "train" else ():
        if not policy.lets_out(metric):
            yield f"the strategy needs the metric {metric!r}, which its owner does not let out"


_WHAT = {"train": "train", "evaluate": "evaluate", "query": "answer questions about its data"}


def _too_little_privacy(policy: Policy, asked: Asked) -> Iterator[str]:
    least = policy.privacy.cohort_min
    if asked.what == "train":
        if asked.updates_min < least:
            few = f"a model may be made of {asked.updates_min} updates (quorum)"
            yield f"{few}, and its owner wants at least {least}"
        return
    if asked.answers_min < least:
        few = f"answers may be kept of {asked.answers_min} clients (answers_min)"
        yield f"{few}, and its owner wants at least {least}"
    if policy.privacy.sums_only and asked.reveal != "sums":
        yield "its owner's numbers may be kept in sums alone (reveal=sums)"


# --- hours and limits ---


def _outside_hours(policy: Policy, now: float) -> Decision | None:
    if is_within(policy.hours, now):
        return None
    hours = policy.hours
    days = "" if len(hours.days) == len(DAYS) else f" on {', '.join(hours.days)}"
    reason = f"its owner lets it work from {hours.begin} to {hours.end}{days} ({hours.time_zone})"
    return Decision(False, reason, next_within(hours, now))


def is_within(hours: Hours, now: float) -> bool:
    """Whether a moment lies within the hours, by the clock on the wall there."""
    there = datetime.fromtimestamp(now, ZoneInfo(hours.time_zone))
    minute, begin, end = there.hour * 60 + there.minute, _minutes(hours.begin), _minutes(hours.end)
    today, yesterday = DAYS[there.weekday()], DAYS[there.weekday() - 1]
    if begin < end:
        return today in hours.days and begin <= minute < end
    return (today in hours.days and minute >= begin) or (yesterday in hours.days and minute < end)


def next_within(hours: Hours, now: float) -> float:
    """Return the next moment after ``now`` at which the hours begin; 0 where none does within nine days.

    A time that the clock on the wall leaves out, or has twice, is the one that is really there.
    """
    zone, begin = ZoneInfo(hours.time_zone), _minutes(hours.begin) % 1440
    today = datetime.fromtimestamp(now, zone).date()
    found: list[float] = []
    for days in range(-1, 10):
        day = today + timedelta(days=days)
        for minute, fold in ((begin, 0), (begin, 1), (0, 0)):  # at midnight, where a day's hours go on from the last
            there = datetime.combine(day, time(minute // 60, minute % 60, fold=fold), zone)
            at = there.astimezone(UTC).timestamp()
            if at > now and is_within(hours, at):
                found.append(at)
    return min(found, default=0.0)


def _minutes(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


def _beyond_limits(policy: Policy, asked: Asked, now: float, spent: Spent) -> Decision | None:
    limits, today = policy.limits, day_of(policy, now)
    used = spent if spent.day == today else Spent(today)
    begun = (asked.session, asked.round) in used.rounds
    per_day = [
        (limits.bytes_up_per_day, used.bytes_up, 0 if begun else asked.nbytes_up, "bytes sent"),
        (limits.bytes_down_per_day, used.bytes_down, 0 if begun else asked.nbytes_down, "bytes fetched"),
    ]
    if asked.what == "train" and not begun:
        per_day.append((limits.rounds_per_day, len(used.rounds), 1, "rounds"))
    for most, so_far, more, name in per_day:
        if most and so_far + more > most:
            reason = f"its owner allows {most} {name} a day, {so_far} are used and {more} are asked for"
            return Decision(False, reason, _tomorrow(policy, today))
    return None


def day_of(policy: Policy, now: float) -> date:
    """Return which day it is where the policy's days begin."""
    return datetime.fromtimestamp(now, policy.zone).date()


def _tomorrow(policy: Policy, today: date) -> float:
    return datetime.combine(today + timedelta(days=1), time(), policy.zone).astimezone(UTC).timestamp()


def _matches(value: str, globs: Globs) -> bool:
    return any(fnmatchcase(value, glob) for glob in globs)
