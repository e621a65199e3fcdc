"""What a session's settings ask of its rounds: `plan_of` checks them all together, and says it as a `Plan`.

Whoever starts a session asks it, so that a mistake is told before anything is sent; the coordinator asks it again,
refuses what cannot be with the reason, and journals what it answered. From then on nobody looks the strategy up but
who folds: a plug-in that is missing, or was upgraded, where a coordinator takes over changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any

from fedbus import aggregation, codecs, selection
from fedbus.aggregation import Aggregator, Family
from fedbus.config.session import SessionConfig
from fedbus.errors import ConfigError, Wrong
from fedbus.messages.plans import STALE_MAX, Encoding, Plan


def plan_of(config: SessionConfig) -> Plan:
    """Return what a session asks of its rounds.

    Raises `ConfigError` for a strategy, codec or selection that is unknown, for options that these do not take (it
    names each, what is allowed, and the paper; its ``wrong`` says in which settings), and for settings that exclude
    each other (it names both).
    """
    try:
        return _plan_of(config)
    except ConfigError:
        raise
    except Exception as error:  # a plug-in's code is run, it may raise anything; no coordinator is to end of it
        what = f"strategy {config.strategy}, codec {config.codec}, downlink {config.downlink}"
        raise ConfigError(f"{what}: one of them raised {type(error).__name__}: {error}"[:2000]) from error


def _plan_of(config: SessionConfig) -> Plan:
    with _setting("strategy"):
        aggregator = aggregation.find(config.strategy)
    with _setting("strategy_options"):
        options = aggregator.parse(config.strategy_options)
    with _setting("selection"):
        selector = selection.find(config.selection)
    with _setting("selection_options"):
        selector.parse(config.selection_options)
    updates_min, why = aggregator.updates_min(options) if aggregator.updates_min else (1, "")
    plan = Plan(
        whole=aggregator.family in (Family.PER_COORDINATE, Family.INNER_PRODUCTS),
        single=aggregator.family is Family.OPAQUE,
        uniform=aggregator.uniform,
        metrics=aggregator.metrics,
        divided_by=aggregator.divided_by,
        updates_min=updates_min,
        updates_why=(f"{why} ({aggregator.paper})" if why and aggregator.paper else why)[:2000],
        buffer=aggregator.buffer(options) if aggregator.buffer else 0,
        stale=_stale(config, aggregator, options),
        encoding=_encoding(config, aggregator),
        downlink=_downlink(config),
    )
    _check_strategy(config, aggregator, plan)
    _check_asynchronous(config, aggregator, plan)
    return plan


@contextmanager
def _setting(name: str) -> Iterator[None]:
    """Say of what is wrong in a setting which one it is."""
    try:
        yield
    except ConfigError as error:
        wrong = error.wrong or (Wrong("", str(error)),)
        error.wrong = tuple(one._replace(where=f"{name}.{one.where}".rstrip(".")) for one in wrong)
        raise


def _stale(config: SessionConfig, aggregator: Aggregator[Any], options: Any) -> tuple[float, ...]:  # noqa: ANN401 - its own type
    """Return what an update's weight is multiplied with by its age; empty where clients lessen it themselves."""
    if aggregator.buffer is None:
        # Where the clients' weights do not count, neither would one that they have lessened.
        return tuple(config.stale_weight**n for n in range(config.stale_max + 1)) if aggregator.uniform else ()
    if aggregator.stale_factor is None:
        return (1.0,) * (config.staleness_max + 1)
    factors: list[float] = []
    for age in range(STALE_MAX + 1):
        factor = float(aggregator.stale_factor(options, age))
        if not (isfinite(factor) and factor <= 1):
            what = f"the factor of an update of {age} versions ago"
            raise ConfigError(f"strategy {aggregator.name}: {what}: expected a number from 0 to 1, got {factor}")
        if factor <= 0:
            break
        factors.append(factor)
    if not factors:
        raise ConfigError(f"strategy {aggregator.name}: expected that an update of the newest version counts, got 0")
    return tuple(factors)


def _encoding(config: SessionConfig, aggregator: Aggregator[Any]) -> Encoding:
    with _setting("codec"):
        codec = codecs.find(config.codec)
    with _setting("codec_options"):
        # As they are now: a default that another release changes must not change what a chunk means.
        options = codec.parse(config.codec_options).model_dump(mode="json")
    if aggregator.family is Family.OPAQUE:
        if config.codec != "none":
            raise ConfigError(f"codec={config.codec}: strategy {aggregator.name} takes payloads of bytes, not arrays")
        return Encoding(form="payload", packed=config.lossless)
    difference = aggregator.difference or config.codec != "none"
    return Encoding(
        form="difference" if difference else "model", codec=config.codec, options=options, packed=config.lossless
    )


def _downlink(config: SessionConfig) -> Encoding:
    with _setting("downlink"):
        codec = codecs.find(config.downlink)
    with _setting("downlink_options"):
        options = codec.parse(config.downlink_options).model_dump(mode="json")
    if config.downlink == "none":
        return Encoding()
    if codec.feedback:
        raise ConfigError(
            f"downlink={config.downlink}: it drops what only a client that sends may add the next time; choose another"
        )
    return Encoding(form="difference", codec=config.downlink, options=options)


def _check_strategy(config: SessionConfig, aggregator: Aggregator[Any], plan: Plan) -> None:
    """Refuse what cannot be with this way to make a model."""
    name = aggregator.name
    if plan.divided_by and plan.divided_by not in plan.metrics:
        raise ConfigError(f"strategy {name}: divided_by={plan.divided_by}: expected one of its metrics")
    if (plan.whole or plan.single) and config.residency == "require":
        needs = "every update" if plan.single else "a part of every update"
        raise ConfigError(f"residency=require: strategy {name} has to bring {needs} to one combiner, whatever region")
    if plan.single and config.downlink != "none":
        raise ConfigError(f"downlink={config.downlink}: with strategy {name} a version is no model with a difference")
    if config.clients_per_round is not None and config.clients_per_round < plan.updates_min:
        least = f"strategy {name} needs {plan.updates_min} updates"
        raise ConfigError(f"clients_per_round={config.clients_per_round}: {least}: {plan.updates_why}")


def _check_asynchronous(config: SessionConfig, aggregator: Aggregator[Any], plan: Plan) -> None:
    """Refuse settings of rounds that have no meaning where nobody is waited for."""
    if not plan.buffer:
        return
    name = aggregator.name
    if aggregator.family is not Family.LINEAR:
        raise ConfigError(f"strategy {name}: asynchronous strategies fold: expected family linear")
    if config.late_updates != "drop":
        raise ConfigError(
            f"late_updates={config.late_updates}: strategy {name} is asynchronous, its own options say how old an "
            "update may be; leave late_updates out"
        )
    if config.oversample != 1.0:
        raise ConfigError(f"oversample={config.oversample:g}: strategy {name} is asynchronous and waits for nobody")
    if config.clients_per_round is not None:
        raise ConfigError(
            f"clients_per_round={config.clients_per_round}: strategy {name} is asynchronous, every client takes part; "
            "client_filter chooses some, buffer_size says how many updates make a version"
        )
