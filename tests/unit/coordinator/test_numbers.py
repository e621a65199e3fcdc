"""What a coordinator counts has as many time series as there are kinds of things, whoever says what."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from fedbus import telemetry
from fedbus.coordinator.numbers import Numbers
from fedbus.coordinator.roster import Roster
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Hello
from fedbus.telemetry import metrics
from fedbus.telemetry.meters import Counting


def test_roles_that_somebody_has_made_up_are_one():
    """A stranger that says Hello as a thousand roles is one more series of numbers, and a crowd's clients are many."""
    reader, roster = InMemoryMetricReader(), Roster()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    numbers = Numbers(Counting("coordinator", provider))
    numbers.watch(leads=lambda: True, inbox=lambda: 0)
    for number in range(1000):
        roster.hello(Peer(f"role-{number}", "x"), Hello(incarnation="i", heartbeat_s=5.0), 1.0)
    roster.hello(Peer("combiner", "k"), Hello(incarnation="i", heartbeat_s=5.0), 1.0)
    numbers.look(roster, list, 2.0)
    found = {
        point.attributes[telemetry.ROLE]: point.value
        for of in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        if of.name == metrics.PEERS.name
        for point in of.data.data_points
    }
    assert found == {"client": 0, "combiner": 1, "coordinator": 0, "gateway": 0, "other": 1000}
    provider.shutdown()
