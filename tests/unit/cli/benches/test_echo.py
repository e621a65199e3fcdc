from __future__ import annotations

import numpy as np
import pytest

from fedbus.cli.benches import expectation
from fedbus.cli.benches.case import VALUE_FLOOR, WORKLOADS, Case
from fedbus.cli.benches.echo import spread_text, work_text
from fedbus.cli.benches.echoes import echo
from fedbus.cli.benches.observer import Observer
from fedbus.client.app import Model, TrainTask
from fedbus.federation.service import SessionEvent
from fedbus.messages import records


@pytest.mark.parametrize(
    ("clients", "crowd", "asked"), [(100, False, None), (101, True, None), (5, True, True), (500, False, False)]
)
def test_crowds_are_taken_where_connections_would_be_many(clients, crowd, asked):
    """Up to a hundred clients have their own connections, more come as crowds, unless it is said otherwise."""
    assert Case(clients=clients, crowd=asked).cast.crowd is crowd


def test_never_more_processes_than_clients():
    """A process without a client would be waited for in vain."""
    assert Case(clients=1).cast.processes == 1
    assert Case(clients=3, processes=8).cast.processes == 3
    assert Case(clients=3).cast.processes == 2


@pytest.mark.parametrize("clients", [1, 10, 1000, 10_000, 100_000])
def test_no_honest_number_is_too_large(clients):
    """What the last client sends in the last round is in the session's range, however many clients there are."""
    model = expectation.initial(0.001, 2)
    config = Case(clients=clients, rounds=50).config(model)
    last = max(float(array.max()) for array in model.values()) + 50 * expectation.shift_mean(clients)
    assert last + expectation.SHIFT * (clients - 1) <= config.value_floor
    assert config.value_floor >= VALUE_FLOOR
    assert config.quorum == config.clients_min == clients


def test_an_echo_does_what_its_number_says():
    """Client 7 of the series adds 0.07 and weighs 8, in a process of its own or in a crowd."""
    task = TrainTask(session="s", round=1, config={}, seed=1, deadline_at=0.0, client="echo-7")
    update = echo(Model({"w": np.ones(3, np.float32)}), task)
    assert update.weight == 8
    assert update.arrays["w"].dtype == np.float32
    assert update.arrays["w"] == pytest.approx([1.07] * 3)


def test_workloads_say_what_they_are():
    """The four workloads have the sizes by which the pages compare."""
    sizes = {name: (case.clients, case.model_mb, case.arrays) for name, case in WORKLOADS.items()}
    assert sizes == {"W1": (10, 45, 62), "W2": (4, 400, 100), "W3": (100, 1, 20), "W4": (1000, 0.1, 10)}
    run = {"workload": "W4", "clients": 1000, "model_mb": 0.1, "arrays": 10}
    assert work_text(run) == "W4 1,000 x 0.1 MB / 10"
    spread = {"combiners": 2, "sharding": "chunks", "crowd": True}
    assert spread_text({**spread, "access": "open"}) == "2 by chunks, crowds"
    assert spread_text({**spread, "access": "secured"}) == "2 by chunks, crowds, secured"


class Meter:
    """Processor time that a test sets."""

    def __init__(self):
        self.cpu = 0.0

    def cpu_s(self):
        return {"broker": self.cpu}

    def rss_bytes(self):
        return {"broker": 1.0}


class Session:
    """A session of three rounds; each costs the broker more than the one before."""

    def __init__(self, meter, rounds):
        self.meter, self.rounds = meter, rounds

    async def events(self):
        for number in range(1, self.rounds + 1):
            opened = records.RoundOpened(
                round=number, attempt=1, version="v", blob="b", clients={}, incarnations={}, target=1, deadline_at=9.0
            )
            for record in (opened, records.RoundClosed(round=number, counted=1)):
                yield SessionEvent("s", number, float(number), record.kind, record)
                self.meter.cpu += number * 10.0


@pytest.mark.parametrize(("rounds", "steady"), [(1, 20.0), (3, 10.0 + 2 * 20 + 2 * 30)])
async def test_the_first_round_is_not_in_the_steady_cost(rounds, steady):
    """Processor time up to the first closing is left out where there is another round; what follows the end always."""
    meter = Meter()
    meter.cpu = 5.0
    observer = Observer(meter)
    await observer.follow(Session(meter, rounds))
    meter.cpu += 1000.0
    assert observer.steady_cpu_s() == {"broker": steady}
    assert observer.cpu_s() == {"broker": sum(20.0 * number for number in range(1, rounds + 1))}
    assert observer.memory.last == {"broker": 1.0}
