"""What a data owner's policy says, and what follows from it: by tables, and by properties over any moment."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbus.config import policy as policies
from fedbus.config.policy import (
    DAYS,
    YES,
    Asked,
    Hours,
    Policy,
    Spent,
    day_of,
    decide,
    is_within,
    next_within,
    parse,
)
from fedbus.errors import ConfigError

DOCS = Path(__file__).parents[3]
BERLIN = ZoneInfo("Europe/Berlin")
TRAIN = Asked("train", "clinic", "s-1", 1, purpose="research/sleep", by="eve", strategy="fedavg", updates_min=5)
EVALUATE = replace(TRAIN, what="evaluate", answers_min=5)


def at(text, zone=BERLIN, fold=0):
    """A moment, from what a clock on a wall shows."""
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


NOON = at("2026-03-04 12:00")


def judged(text, asked=TRAIN, now=NOON, spent=None):
    """What a file's text decides."""
    return decide(parse(text, "policy.toml"), asked, now, spent or Spent())


def test_an_empty_file_allows_everything():
    """What is not in it is as it was before there was one."""
    for what in ("train", "evaluate", "query"):
        assert judged("", replace(TRAIN, what=what)) == YES


@pytest.mark.parametrize(
    ("text", "asked", "reason"),
    [
        ('[allow]\nworkspaces = ["lab-*"]', TRAIN, "workspace 'clinic'"),
        ('[deny]\nsessions = ["s-?"]', TRAIN, "session 's-1'"),
        ('[allow]\npurposes = ["ads/*"]', TRAIN, "purpose 'research/sleep'"),
        ('[allow]\npurposes = ["research/*"]', replace(TRAIN, purpose=""), "wants a purpose to be given"),
        ('[allow]\nstarters = ["anna"]', TRAIN, "starter 'eve'"),
        ('[deny]\nstrategies = ["fedavg"]', TRAIN, "strategy 'fedavg'"),
        ("[tasks]\ntrain = false", TRAIN, "does not let it train"),
        ("[tasks]\nquery = false", replace(TRAIN, what="query"), "answer questions"),
        ('[outgoing]\nmetrics = ["acc*"]', replace(TRAIN, metrics=("loss",)), "needs the metric 'loss'"),
        ("[privacy]\ncohort_min = 6", TRAIN, "made of 5 updates (quorum), and its owner wants at least 6"),
        ("[privacy]\ncohort_min = 6", EVALUATE, "of 5 clients (answers_min), and its owner wants at least 6"),
        ("[privacy]\nsums_only = true", EVALUATE, "in sums alone"),
        ("[limits]\nrounds_per_day = 1", replace(TRAIN, told=False), "does not say what the session is"),
    ],
)
def test_what_is_not_allowed_is_declined_with_the_reason(text, asked, reason):
    """For good: no time is named; and without the line it would have been allowed."""
    found = judged(text, asked)
    assert not found.allowed and reason in found.reason and found.until_at == 0
    assert judged("", replace(asked, told=True)).allowed


@pytest.mark.parametrize(
    "text",
    [
        '[allow]\npurposes = ["ads/*", "research/*"]\nstarters = ["e?e"]\nstrategies = ["fed*"]',
        '[deny]\npurposes = ["Research/*", "research"]',
        "[privacy]\ncohort_min = 5",
        "[tasks]\nevaluate = false\nquery = false",
        '[outgoing]\nmetrics = ["accuracy"]',
    ],
)
def test_what_matches_is_allowed(text):
    """Case counts, `*` goes over `/`, a bound is met by what equals it, other tasks are other questions."""
    assert judged(text) == YES


def test_a_reason_does_not_tell_the_owners_patterns():
    """It travels to the coordinator: what was refused may be told, not what would be accepted."""
    found = judged('[allow]\npurposes = ["secret-project/*"]')
    assert "secret" not in found.reason


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[allow\n", "policy.toml: expected TOML: .*line 1"),
        ("a = [" * 2000, "policy.toml: expected TOML"),
        ("\n[allow]\npurpose = ['x']", r"policy.toml, line 3: allow.purpose: expected one of workspaces, .*purposes"),
        ("[allowed]\n", r"policy.toml, line 1: allowed: expected one of allow, deny, tasks"),
        ("[allow]\npurposes = 'x'", r"policy.toml, line 2: allow.purposes: .*, got 'x'"),
        (
            "[limits]\n\nrounds_per_day = -1",
            r"policy.toml, line 3: limits.rounds_per_day: .*than or equal to 0",
        ),
        ("[limits]\nrounds_per_day = '1000000000000000'", r"line 2: limits.rounds_per_day"),
        ("[hours]\nbegin = '6:00'", r"line 2: hours.begin: expected a time as 06:30, from 00:00 to 24:00, got '6:00'"),
        ("[hours]\nend = '24:01'", r"line 2: hours.end: expected a time"),
        ("[hours]\ndays = []", r"line 2: hours.days"),
        ("[hours]\ndays = ['monday']", r"line 2: hours.days.0"),
        ("[hours]\ntime_zone = 'Berlin'", r"line 2: hours.time_zone: expected a time zone as Europe/Berlin"),
        ("[hours]\ntime_zone = '../../etc/passwd'", r"line 2: hours.time_zone: expected a time zone"),
        ("allow = 3", r"policy.toml, line 1: allow"),
        ("x" * 1_000_001, "at most 1000000 characters"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_key(text, says):
    """And what was expected there; an unknown key is never passed over."""
    with pytest.raises(ConfigError, match=says):
        parse(text, "policy.toml")


# --- hours ---

NIGHT = Hours(time_zone="Europe/Berlin", begin="22:00", end="06:00")
WORK = Hours(time_zone="Europe/Berlin", days=("mon", "fri"), begin="09:00", end="17:00")


@pytest.mark.parametrize(
    ("hours", "moment", "within"),
    [
        (NIGHT, "2026-03-04 21:59", False),
        (NIGHT, "2026-03-04 22:00", True),
        (NIGHT, "2026-03-05 05:59", True),
        (NIGHT, "2026-03-05 06:00", False),
        (WORK, "2026-03-02 09:00", True),  # a Monday
        (WORK, "2026-03-03 09:00", False),
        (WORK, "2026-03-06 16:59", True),
        (WORK, "2026-03-06 17:00", False),
        (NIGHT.model_copy(update={"days": ("fri",)}), "2026-03-07 05:00", True),  # Saturday: Friday's night
        (NIGHT.model_copy(update={"days": ("fri",)}), "2026-03-06 05:00", False),
        (Hours(time_zone="Europe/Berlin", begin="02:00", end="03:00"), "2026-03-29 03:00", False),  # 02:00 is not
    ],
)
def test_hours_are_those_of_the_clock_on_the_wall(hours, moment, within):
    """Across midnight they belong to the day on which they begin."""
    assert is_within(hours, at(moment)) is within


def test_who_asks_outside_of_the_hours_hears_until_when():
    """The next time at which they begin, also over the days between, and over the hour that a spring night lacks."""
    found = decide(Policy(hours=WORK), TRAIN, at("2026-03-06 17:00"), Spent())
    assert not found.allowed and "from 09:00 to 17:00 on mon, fri (Europe/Berlin)" in found.reason
    assert found.until_at == at("2026-03-09 09:00")
    assert next_within(NIGHT, at("2026-03-29 12:00")) == at("2026-03-29 22:00")
    gap = Hours(time_zone="Europe/Berlin", begin="02:10", end="02:40")
    assert next_within(gap, at("2026-03-28 12:00")) == at("2026-03-30 02:10"), "on the 29th there is no 02:10"
    twice = Hours(time_zone="Europe/Berlin", begin="02:10", end="02:40")
    assert next_within(twice, at("2026-10-25 02:45")) == at("2026-10-25 02:10", fold=1), "it is 02:10 again"


clocks = st.builds(lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59))
hours_of_any = st.builds(
    Hours,
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    days=st.lists(st.sampled_from(DAYS), min_size=1, unique=True).map(tuple),
    begin=clocks,
    end=clocks,
)
moments = st.integers(int(at("2025-01-01 00:00")), int(at("2028-01-01 00:00"))).map(float)


@settings(max_examples=200, deadline=None)
@given(hours_of_any, moments)
def test_hours_begin_when_they_are_said_to(hours, now):
    """Outside of them the named moment lies ahead, within them, and nothing between is."""
    if is_within(hours, now):
        assert decide(Policy(hours=hours), TRAIN, now, Spent()) == YES
        return
    until = decide(Policy(hours=hours), TRAIN, now, Spent()).until_at
    if not until:  # hours that lie wholly within an hour that the clock leaves out, once in the week
        return
    assert now < until and is_within(hours, until)
    assert not any(is_within(hours, now + step * (until - now) / 97) for step in range(97))


# --- limits ---

LIMITS = '[hours]\ntime_zone = "Europe/Berlin"\n[limits]\n'
TODAY = date(2026, 3, 4)
MIDNIGHT = at("2026-03-05 00:00")


@pytest.mark.parametrize(
    ("limit", "asked", "spent", "allowed"),
    [
        ("rounds_per_day = 2", TRAIN, Spent(TODAY, rounds={("a", 1)}), True),
        ("rounds_per_day = 2", TRAIN, Spent(TODAY, rounds={("a", 1), ("b", 1)}), False),
        ("rounds_per_day = 2", TRAIN, Spent(TODAY, rounds={("a", 1), ("s-1", 1)}), True),  # it is begun
        ("rounds_per_day = 2", EVALUATE, Spent(TODAY, rounds={("a", 1), ("b", 1)}), True),
        ("rounds_per_day = 2", TRAIN, Spent(TODAY - timedelta(1), rounds={("a", 1), ("b", 1)}), True),
        ("bytes_up_per_day = 100", replace(TRAIN, nbytes_up=60), Spent(TODAY, bytes_up=40), True),
        ("bytes_up_per_day = 100", replace(TRAIN, nbytes_up=60), Spent(TODAY, bytes_up=41), False),
        ("bytes_up_per_day = 100", replace(TRAIN, nbytes_up=60), Spent(TODAY, bytes_up=45, rounds={("s-1", 1)}), True),
        ("bytes_up_per_day = 100", TRAIN, Spent(TODAY, bytes_up=101, rounds={("s-1", 1)}), False),  # sent too often
        ("bytes_down_per_day = 100", replace(TRAIN, nbytes_down=101), Spent(TODAY), False),
        ("bytes_down_per_day = 100", replace(TRAIN, nbytes_down=99), Spent(TODAY, bytes_down=1), True),
    ],
)
def test_limits_hold_for_a_day(limit, asked, spent, allowed):
    """Up to the bound and not beyond; until midnight where the owner is; what is begun is not counted twice."""
    found = judged(LIMITS + limit, asked, NOON, spent)
    assert found.allowed is allowed
    if not allowed:
        assert found.until_at == MIDNIGHT and "a day" in found.reason


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6), moments), max_size=30))
def test_no_day_has_more_rounds_than_allowed(most, wanted):
    """Whatever is asked for in whatever order of time, as an owner's client does it."""
    policy = parse(f'[hours]\ntime_zone = "America/New_York"\n[limits]\nrounds_per_day = {most}', "p")
    begun, spent = {}, Spent()
    for session, number, now in sorted(wanted, key=lambda one: one[2]):
        if decide(policy, replace(TRAIN, session=session, round=number), now, spent).allowed:
            today = day_of(policy, now)
            spent = spent if spent.day == today else Spent(today)
            spent.rounds.add((session, number))
            begun.setdefault(today, set()).add((session, number))
    assert all(len(rounds) <= most for rounds in begun.values())
    if wanted:
        assert begun, "the first is always allowed"


def test_metrics_are_let_out_by_name():
    """Globs, as everywhere."""
    policy = parse('[outgoing]\nmetrics = ["loss", "val_*"]', "p")
    assert [name for name in ("loss", "val_f1", "patients", "LOSS") if policy.lets_out(name)] == ["loss", "val_f1"]


# --- the page ---


def attributes_of(path):
    """The texts below the attributes of a module's classes, by class and name."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            for one, text in pairwise(node.body):
                if isinstance(one, ast.AnnAssign) and isinstance(text, ast.Expr):
                    found[node.name, one.target.id] = text.value.value
    return found


def test_every_key_stands_in_the_page_with_its_default():
    """docs/reference/policy.md has each key of each table, its default as TOML writes it, and what it does."""
    page = (DOCS / "docs" / "reference" / "policy.md").read_text()
    described = attributes_of(Path(policies.__file__))
    for table, of_policy in Policy.model_fields.items():
        for key, of_table in type(of_policy.default).model_fields.items():
            (row,) = re.findall(rf"^\| `{table}\.{key}` \| `([^`]*)` \| (.*) \|$", page, re.MULTILINE)
            default = of_table.default
            shown = list(default) if isinstance(default, tuple) else default
            assert row[0] == str(shown).replace("'", '"').replace("True", "true").replace("False", "false"), key
            said = described[type(of_policy.default).__name__, key]
            assert re.sub(r"\W", "", said) == re.sub(r"\W", "", row[1]), key


def test_the_example_is_a_policy():
    """examples/policy.toml can be taken as it is, and says something."""
    assert parse((DOCS / "examples" / "policy.toml").read_text(), "example") != Policy()
