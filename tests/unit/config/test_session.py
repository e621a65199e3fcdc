"""SessionConfig: what is out of range is refused by the name of its setting, before it can end a coordinator."""

from __future__ import annotations

import math

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedbus.config.session import OPTIONS_CHARS_MAX, OPTIONS_DEPTH_MAX, SessionConfig

BOUNDS = {
    "rounds": (0, 1_000_000),
    "clients_min": (1, 100_000),
    "clients_per_round": (1, 50_000),
    "oversample": (1.0, 10.0),
    "quorum": (1, 100_000),
    "round_deadline_s": (0.001, 30 * 86_400),
    "close_deadline_s": (0.001, 86_400),
    "gather_deadline_s": (0.001, 30 * 86_400),
    "round_attempts_max": (1, 1000),
    "seed": (0, 2**63 - 1),
    "evaluate_every": (0, 1_000_000),
    "evaluate_deadline_s": (0.001, 86_400),
    "weight_max": (1.0, 2.0**40),
    "value_floor": (2.0**-64, 2.0**64),
    "headroom": (1.0, 2.0**64),
    "versions_kept": (2, 1_000_000),
    "stale_weight": (2.0**-20, 1.0),
    "staleness_max": (1, 1000),
    "patience": (1, 1_000_000),
    "answers_min": (1, 100_000),
}

NEEDS = {"patience": {"best_metric": "max accuracy"}}
"""What a setting does not go without."""


def test_every_number_has_bounds_that_are_tested():
    """A setting that is a number and is added without bounds here fails this test."""
    texts = {"strategy", "strategy_options", "train_config", "target_metric", "sharding", "residency", "late_updates"}
    texts |= {"codec", "codec_options", "downlink", "downlink_options", "lossless", "client_filter", "selection"}
    texts |= {"selection_options", "best_metric", "queries", "reveal", "purpose", "description"}
    assert set(SessionConfig.model_fields) == set(BOUNDS) | texts


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name):
    """Both ends are allowed, what is beyond is refused by name; so are NaN, infinities and texts."""
    low, high = BOUNDS[name]
    for value in (low, high):
        assert getattr(SessionConfig(**{name: value} | NEEDS.get(name, {})), name) == value
    below = 0 if name.endswith("_s") else low / 2 if name in ("value_floor", "stale_weight") else low - 1
    for value in (below, high + 1 if high < 2**53 else high * 2 + 2, math.nan, math.inf, -math.inf, "many", [1]):
        with pytest.raises(ValidationError, match=rf"(?m)^{name}$"):
            SessionConfig(**{name: value} | NEEDS.get(name, {}))


def test_defaults_run_with_one_client():
    """The defaults make a session that a single client can finish."""
    config = SessionConfig()
    assert (config.clients_min, config.quorum_effective, config.clients_per_round) == (1, 1, None)


def test_unknown_settings_are_refused():
    """A misspelt setting is not ignored."""
    with pytest.raises(ValidationError, match="round_deadline\n"):
        SessionConfig(round_deadline=5)


def test_a_config_is_frozen():
    """Nobody changes the settings of a session that runs."""
    with pytest.raises(ValidationError):
        SessionConfig().rounds = 3


@pytest.mark.parametrize(
    ("fields", "quorum"),
    [
        ({}, 1),
        ({"clients_min": 5}, 5),
        ({"clients_min": 5, "quorum": 3}, 3),
        ({"clients_min": 5, "clients_per_round": 2}, 2),
        ({"clients_min": 2, "clients_per_round": 5}, 2),
        ({"clients_per_round": 5, "quorum": 5}, 5),
        ({"clients_min": 5, "quorum": 7}, 7),
    ],
)
def test_quorum(fields, quorum):
    """By default as many as must be there, but never more than a round asks for."""
    assert SessionConfig(**fields).quorum_effective == quorum


def test_a_quorum_that_no_round_can_reach_is_refused():
    """More than a round asks for could never arrive."""
    with pytest.raises(ValidationError, match=r"quorum \(6\) must not exceed clients_per_round \(5\)"):
        SessionConfig(clients_per_round=5, quorum=6)


@pytest.mark.parametrize(("late", "rounds"), [("drop", 0), ("stale", 1), ("buffer", 7)])
def test_how_old_an_update_may_be(late, rounds):
    """Not at all, one round, or as many as the session says."""
    assert SessionConfig(late_updates=late, staleness_max=7).stale_max == rounds


@pytest.mark.parametrize("name", ["", "a.b", "x" * 65, "fed avg", "a\n"])
def test_a_strategy_is_a_name(name):
    """It is looked up by name, and shown."""
    with pytest.raises(ValidationError, match="strategy"):
        SessionConfig(strategy=name)


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [
        ("accuracy>=0.95", 0.95, True),
        ("accuracy>=0.95", 0.9499, False),
        (" accuracy >= .95 ", 0.96, True),
        ("accuracy<=1e-3", 0.001, True),
        ("accuracy<=1E+2", 100.5, False),
        ("accuracy>=-5", -4.0, True),
        ("accuracy>=5.", 5.0, True),
        ("accuracy>=0", math.nan, False),
        ("accuracy<=0", math.nan, False),
        ("accuracy>=1e999", 1e300, False),
    ],
)
def test_target(target, value, reached):
    """The bound itself counts as reached; NaN reaches nothing; another metric says nothing."""
    config = SessionConfig(target_metric=target)
    assert config.reached({"accuracy": value, "loss": 0.0}) is reached
    assert not config.reached({"loss": 0.0}) and not config.reached({})


def test_without_a_target_nothing_is_reached():
    """None means: run all rounds."""
    assert not SessionConfig().reached({"accuracy": 1.0, "": 1.0})


@pytest.mark.parametrize(
    "target",
    ["accuracy", "accuracy>0.9", ">=0.9", "accuracy>=", "accuracy>=high", "a b>=1", "accuracy>=1.2.3", "accuracy>=.",
     "accuracy>=...", "accuracy>=1e", "accuracy>=nan", "a>=1;b>=2", "x" * 201, "accuracy>=--1", "accuracy>=1_0"],
)  # fmt: skip
def test_what_is_no_target_is_refused(target):
    """Whatever passes here can be compared: 1.2.3 once did, and ended the coordinator a round later."""
    with pytest.raises(ValidationError, match="target_metric"):
        SessionConfig(target_metric=target)


@given(st.text(alphabet="ab.0123456789<>=eE+- ", max_size=12))
def test_any_target_that_passes_can_be_compared(target):
    """No text passes the door and fails behind it."""
    try:
        config = SessionConfig(target_metric=target)
    except ValidationError:
        return
    assert config.reached({"a": 1.0, "b": 1.0}) in (True, False)


def nested(depth):
    """Lists in one another."""
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def circular():
    """A list that holds itself."""
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize("setting", ["train_config", "strategy_options"])
@pytest.mark.parametrize(
    "value",
    [
        *(object(), {1, 2}, 2**64, -(2**63) - 1, b"bytes", np.float32(1), np.zeros(2), {1: 2}, "\ud800", 1j),
        *(nested(OPTIONS_DEPTH_MAX), nested(2000), circular(), "x" * OPTIONS_CHARS_MAX, [0] * OPTIONS_CHARS_MAX),
    ],
    ids=lambda value: type(value).__name__,
)
def test_options_that_cannot_travel_are_refused(setting, value):
    """Values that msgpack or JSON has not, that nest too deep or are too large end here and not in the journal."""
    with pytest.raises(ValidationError, match=setting):
        SessionConfig(**{setting: {"x": value}})


@pytest.mark.parametrize("setting", ["train_config", "strategy_options"])
def test_options_that_can_travel_are_kept(setting):
    """JSON values come through packing as they were given."""
    value = {"lr": 0.1, "n": [1, 2**64 - 1, None, True], "deep": nested(OPTIONS_DEPTH_MAX - 2), "ü": {"a": ""}}
    config = SessionConfig(**{setting: value})
    again = SessionConfig.model_validate(msgpack.unpackb(msgpack.packb(config.model_dump())))
    assert again == config and getattr(again, setting) == value
    with pytest.raises(ValidationError, match=setting):
        SessionConfig(**{setting: {f"{i}": 0 for i in range(1001)}})


def test_layouts_that_contradict_each_other_are_refused():
    """Sharing out chunks sends parts of every update everywhere: then no update can be kept in its region."""
    assert SessionConfig(sharding="chunks").residency == "prefer"
    with pytest.raises(ValidationError, match="residency cannot be kept"):
        SessionConfig(sharding="chunks", residency="require")
    for setting in ("sharding", "residency", "late_updates"):
        with pytest.raises(ValidationError, match=rf"(?m)^{setting}$"):
            SessionConfig(**{setting: "perhaps"})


@pytest.mark.parametrize("purpose", ["research\nnight", "a\x1b[31m", "x" * 201, "søvn", "a;b"])
def test_a_purpose_is_plain_text(purpose):
    """What stands in policies, logs and terminals has no line ends, no escapes, and an end."""
    with pytest.raises(ValidationError, match=r"(?m)^purpose$"):
        SessionConfig(purpose=purpose)


def test_a_description_is_printable():
    """It may have lines, and no character that a terminal obeys."""
    assert SessionConfig(description="Für alle:\nSchlaf").description == "Für alle:\nSchlaf"
    for text in ("a\x1b[2Jb", "a\rb", "a\u202eb", "x" * 1001):
        with pytest.raises(ValidationError, match=r"(?m)^description$"):
            SessionConfig(description=text)
