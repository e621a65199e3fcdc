"""Which rounds are traced, and of large ones which clients: decided once, and told to everybody in one flag."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fedbus.config.session import SessionConfig
from fedbus.coordinator.rounds import RoundTraces, Sampling
from fedbus.messages import records
from fedbus.telemetry import Telemetry
from fedbus.telemetry.outlet import Outlet

OPENED = records.RoundOpened(
    round=1, attempt=1, version="s-0", blob="b", clients={"a": "k"}, incarnations={"k": "k1"}, target=1, deadline_at=9.0
)


class Scene:
    """The traces of a coordinator, by a clock that is set by hand."""

    def __init__(self, **sampling):
        self.now = 0.0
        self.outlet = Outlet()
        traces = Telemetry("coordinator", "c", outlet=self.outlet)
        self.rounds = RoundTraces(traces, "lab", Sampling(**sampling), lambda: self.now)
        self.waits = 0

    def machine(self, session="s"):
        """As much of a machine as is looked at."""

        def waits():
            self.waits += 1
            return [SimpleNamespace(what="waiting for updates")]

        return SimpleNamespace(session=session, state=SimpleNamespace(config=SessionConfig()), waits=waits)

    def open(self, session="s", clients=1):
        """Open a round; returns its record as it is journalled."""
        places = {f"client-{number}": "k" for number in range(clients)}
        record = OPENED.model_copy(update={"clients": places})
        (decided,) = self.rounds.begun(self.machine(session), [record])
        self.rounds.changed_to_next(session, [decided])
        self.rounds.journalled(self.machine(session), (decided,))
        return decided


def test_rounds_beyond_the_rate_are_not_sampled_and_say_so():
    """Twice the rate at once, then as fast as it is; an unsampled round has a context all the same, with flag 00."""
    scene = Scene(rounds_per_s=2.0)
    flags = [scene.open(f"s{number}").traceparent[-2:] for number in range(6)]
    assert flags == ["01"] * 4 + ["00"] * 2
    scene.now = 1.0
    assert [scene.open(f"t{number}").traceparent[-2:] for number in range(3)] == ["01", "01", "00"]
    assert len(scene.open("u").traceparent) == 55, "without one a client would begin a trace of its own"


def test_none_are_sampled_at_a_rate_of_none():
    """`--trace-rounds 0` turns tracing off for the federation."""
    assert Scene(rounds_per_s=0.0).open().traceparent.endswith("-00")


@pytest.mark.parametrize("clients", [150, 2_000, 10_000])
def test_about_so_many_clients_of_a_round_are_traced(clients):
    """All of a small round; of a large one some, the same whoever asks, others in the next round; orders are."""
    scene = Scene(clients_max=200)

    def chosen():
        traceparent = scene.open(clients=clients).traceparent
        headers = {name: scene.rounds.headers("s", name) for name in (f"client-{n}" for n in range(clients))}
        assert all(of["traceparent"][:53] == traceparent[:53] for of in headers.values()), (
            "one trace, whatever the flag"
        )
        assert scene.rounds.headers("s") == {"traceparent": traceparent}
        assert headers == {name: scene.rounds.headers("s", name) for name in headers}
        return {name for name, of in headers.items() if of["traceparent"].endswith("-01")}

    first, second = chosen(), chosen()
    if clients <= 200:
        assert len(first) == clients
    else:
        assert 120 < len(first) < 290 and first != second


def test_an_evaluation_of_many_more_has_a_share_of_its_own():
    """A round of ten may be evaluated by thousands."""
    scene = Scene(clients_max=200)
    scene.open(clients=10)
    evaluation = records.EvaluationOpened(
        round=1, version="s-1", blob="b", clients=tuple(f"client-{n}" for n in range(5000)), deadline_at=9.0
    )
    scene.rounds.changed_to_next("s", [evaluation])
    traced = [n for n in range(5000) if scene.rounds.headers("s", f"client-{n}")["traceparent"].endswith("1")]
    assert 120 < len(traced) < 290


def test_what_is_waited_for_is_looked_up_rarely():
    """Of a hundred entries about updates seven are told of: what is waited for costs a look at every client."""
    scene = Scene()
    scene.open()
    scene.waits = 0
    for _ in range(100):
        scene.rounds.journalled(scene.machine(), (records.UpdatesRecorded(round=1),))
    assert scene.waits == 7
    scene.rounds.close()
    (span,) = scene.outlet.take(5)
    assert [event.name for event in span.events] == ["RoundOpened"] + ["UpdatesRecorded"] * 7


def test_an_unsampled_round_looks_nothing_up():
    """Nobody would see it."""
    scene = Scene(rounds_per_s=0.0)
    scene.open()
    scene.rounds.journalled(scene.machine(), (records.UpdatesRecorded(round=1),))
    assert scene.waits == 0 and len(scene.outlet) == 0
