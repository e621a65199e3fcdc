"""What settings ask of rounds: each plan that a strategy leads to, and each combination that cannot be."""

from __future__ import annotations

import math
from typing import Annotated

import pytest
from pydantic import Field

from fedbus import aggregation, codecs
from fedbus.aggregation import Aggregator, Family
from fedbus.aggregation.base import NoOptions, Options
from fedbus.codecs.base import Codec
from fedbus.codecs.base import NoOptions as NoCodecOptions
from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError
from fedbus.messages.plans import Encoding, Plan
from fedbus.planning import plan_of


class Buffered(Options):
    """Of the asynchronous strategies here."""

    buffer_size: Annotated[int, Field(ge=1)] = 4
    staleness_max: Annotated[int, Field(ge=0)] = 2


def root(options, age):
    """As FedBuff lessens weights."""
    return (1 + age) ** -0.5 if age <= options.staleness_max else 0.0


def named(**fields):
    """Return an aggregator called ``mine``."""
    return Aggregator(**({"name": "mine", "family": Family.LINEAR, "options": NoOptions} | fields))


ASYNC = {"options": Buffered, "buffer": lambda options: options.buffer_size, "stale_factor": root}


@pytest.fixture
def planned(monkeypatch):
    """Return a function that plans for an aggregator of such fields, and settings."""

    def plan(aggregator, **settings):
        monkeypatch.setattr("fedbus.aggregation.find", lambda name: aggregator)
        return plan_of(SessionConfig(**({"strategy": "mine"} | settings)))

    return plan


def test_federated_averaging_asks_for_nothing():
    """The plan is that of every journal that was written before there were plans."""
    assert plan_of(SessionConfig()) == Plan()


@pytest.mark.parametrize(
    ("fields", "settings", "found"),
    [
        ({"family": Family.PER_COORDINATE, "across": max}, {}, {"whole": True}),
        ({"family": Family.INNER_PRODUCTS, "choose": max}, {}, {"whole": True}),
        ({"family": Family.OPAQUE}, {}, {"single": True, "encoding": Encoding(form="payload")}),
        ({"difference": True}, {}, {"encoding": Encoding(form="difference")}),
        ({"metrics": ("steps",), "divided_by": "steps"}, {}, {"metrics": ("steps",), "divided_by": "steps"}),
        ({}, {"codec": "fp16"}, {"encoding": Encoding(form="difference", codec="fp16")}),
        ({}, {"lossless": True}, {"encoding": Encoding(packed=True)}),
        ({}, {"downlink": "fp16"}, {"downlink": Encoding(form="difference", codec="fp16")}),
        ({"uniform": True}, {}, {"uniform": True, "stale": (1.0,)}),
        ({"uniform": True}, {"late_updates": "stale"}, {"uniform": True, "stale": (1.0, 0.5)}),
        ({}, {"late_updates": "buffer", "staleness_max": 2}, {}),
        (ASYNC, {}, {"buffer": 4, "stale": (1.0, 2**-0.5, 3**-0.5)}),
        (
            ASYNC | {"stale_factor": None, "difference": True},
            {"staleness_max": 3, "strategy_options": {"buffer_size": 7}},
            {"buffer": 7, "stale": (1.0,) * 4, "encoding": Encoding(form="difference")},
        ),
        (
            {"updates_min": lambda options: (5, "n >= 2f + 3"), "paper": "Blanchard et al. 2017"},
            {},
            {"updates_min": 5, "updates_why": "n >= 2f + 3 (Blanchard et al. 2017)"},
        ),
    ],
)  # fmt: skip
def test_a_strategy_and_settings_lead_to_a_plan(planned, fields, settings, found):
    """Each field of a description and each way to send is a field of the plan; nothing else differs from averaging."""
    assert planned(named(**fields), **settings) == Plan().model_copy(update=found)


def test_a_codecs_defaults_are_part_of_the_plan():
    """Another release's default must not change what a chunk of a session under way means."""
    assert plan_of(SessionConfig(codec="int8")).encoding.options == {"block": 256}


def test_ages_are_bounded_where_a_strategy_has_no_bound(planned):
    """A factor that never ends is cut at the longest list that a plan may hold."""
    plan = planned(named(**ASYNC | {"stale_factor": lambda options, age: 1 / (1 + age)}))
    assert plan.stale_max == 1000 and plan.stale[1000] == 1 / 1001


EVERY = {"family": Family.PER_COORDINATE, "across": max}
FIVE = {"updates_min": lambda options: (5, "n >= 2f + 3")}


@pytest.mark.parametrize(
    ("fields", "settings", "text"),
    [
        (EVERY, {"residency": "require"}, "residency=require: strategy mine has to bring a part of every update"),
        ({"family": Family.OPAQUE}, {"residency": "require"}, "residency=require: strategy mine has to bring every"),
        ({"family": Family.OPAQUE}, {"codec": "fp16"}, "codec=fp16: strategy mine takes payloads"),
        ({"family": Family.OPAQUE}, {"downlink": "fp16"}, "downlink=fp16: with strategy mine"),
        (FIVE, {"clients_per_round": 4}, "clients_per_round=4: strategy mine needs 5 updates: n >= 2f + 3"),
        (ASYNC, {"late_updates": "buffer"}, "late_updates=buffer: strategy mine is asynchronous"),
        (ASYNC, {"oversample": 1.5}, "oversample=1.5: strategy mine is asynchronous"),
        (ASYNC, {"clients_per_round": 3}, "clients_per_round=3: strategy mine is asynchronous"),
        (ASYNC | EVERY, {}, "strategy mine: asynchronous strategies fold"),
        (ASYNC, {"strategy_options": {"buffer_size": 0}}, "mine: option 'buffer_size'"),
        (
            ASYNC | {"stale_factor": lambda options, age: 2.0},
            {},
            "0 versions ago: expected a number from 0 to 1",
        ),
        (ASYNC | {"stale_factor": lambda options, age: math.nan}, {}, "expected a number from 0 to 1, got nan"),
        (
            ASYNC | {"stale_factor": lambda options, age: 0.0},
            {},
            "an update of the newest version counts",
        ),
        ({}, {"codec": "nonesuch"}, "codec 'nonesuch' is unknown"),
        ({}, {"codec": "int8", "codec_options": {"size": 1}}, "codec int8: unknown option 'size'"),
        ({}, {"downlink": "int8", "downlink_options": {"size": 1}}, "codec int8: unknown option 'size'"),
        ({}, {"selection": "nonesuch"}, "selection 'nonesuch' is unknown"),
        ({}, {"selection_options": {"x": 1}}, "selection random: unknown option 'x'"),
        ({"divided_by": "steps"}, {}, "strategy mine: divided_by=steps: expected one of its metrics"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(planned, fields, settings, text):
    """Before anything is sent: the settings that exclude each other are named, with their values."""
    with pytest.raises(ConfigError) as caught:
        planned(named(**fields), **settings)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"updates_min": lambda options: 1 // 0}, "raised ZeroDivisionError"),
        ({"updates_min": lambda options: (2**60, "")}, "raised ValidationError"),
        ({"buffer": lambda options: None}, "raised ValidationError"),
    ],
)
def test_a_plug_in_that_raises_is_refused_with_what_it_raised(planned, fields, text):
    """The coordinator asks it, and would read the same command again after each start."""
    with pytest.raises(ConfigError, match=f"strategy mine, codec none, downlink none: .*{text}"):
        planned(named(**fields))


def test_a_codec_that_needs_feedback_cannot_be_the_way_down(monkeypatch):
    """What it leaves out of one version nobody would add to the next."""
    sparse = Codec("sparse", NoCodecOptions, size=max, encode=max, decode=max, feedback=True)
    monkeypatch.setattr("fedbus.codecs.find", lambda name: sparse)
    with pytest.raises(ConfigError, match="downlink=sparse: it drops"):
        plan_of(SessionConfig(downlink="sparse"))


REQUIRED = {"norm_clipping": {"clip_norm": 1.0}}
"""Options without a default."""


@pytest.mark.parametrize("name", aggregation.names())
def test_every_strategy_has_a_plan(name):
    """It can be read back; who sees updates side by side shares out chunks, who waits for nobody folds."""
    aggregator = aggregation.find(name)
    plan = plan_of(SessionConfig(strategy=name, strategy_options=REQUIRED.get(name, {})))
    assert Plan.model_validate(plan.model_dump()) == plan
    assert (plan.whole or plan.single) == (aggregator.family is not Family.LINEAR)
    assert not plan.buffer or (plan.stale[0] == 1.0 and not plan.whole)
    assert (plan.updates_min > 1) == bool(plan.updates_why)


@pytest.mark.parametrize("name", codecs.names())
def test_every_codec_can_be_the_way_up(name):
    """As a difference, with its defaults; only one that needs no feedback can be the way down."""
    up = plan_of(SessionConfig(codec=name)).encoding
    assert (up.codec, up.form) == (name, "model" if name == "none" else "difference")
    if codecs.find(name).feedback:
        with pytest.raises(ConfigError, match=f"downlink={name}"):
            plan_of(SessionConfig(downlink=name))
    else:
        assert plan_of(SessionConfig(downlink=name)).downlink.options == up.options


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"strategy": "nonesuch"}, "strategy"),
        (
            {"strategy": "fedadam", "strategy_options": {"server_learning_rate": "x"}},
            "strategy_options.server_learning_rate",
        ),
        ({"strategy": "zeroing+fedadam", "strategy_options": {"tau": -1}}, "strategy_options.tau"),
        ({"codec": "int8", "codec_options": {"size": 1}}, "codec_options.size"),
        ({"downlink": "nonesuch"}, "downlink"),
        ({"downlink": "int8", "downlink_options": {"size": 1}}, "downlink_options.size"),
        ({"selection_options": {"x": 1}}, "selection_options.x"),
    ],
)
def test_a_setting_that_cannot_be_is_told_by_name(settings, where):
    """For forms and programs: which setting, and what of it, beside the sentence for people."""
    with pytest.raises(ConfigError) as caught:
        plan_of(SessionConfig(**settings))
    assert [wrong.where for wrong in caught.value.wrong] == [where]
    assert caught.value.wrong[0].problem in str(caught.value)
