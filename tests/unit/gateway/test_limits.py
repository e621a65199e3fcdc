"""The bucket of each address: an even rate up to a burst, in bounded memory."""

from __future__ import annotations

from fedbus.gateway import limits
from fedbus.gateway.limits import Rate


def test_tokens_come_back_at_an_even_rate():
    """Two a second, three at once: after the burst one each half second."""
    now = [0.0]
    rate = Rate(2.0, 3, lambda: now[0])
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 1]
    now[0] = 0.5
    assert [rate.take("a") for _ in range(2)] == [0, 1]
    now[0] = 100.0
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 1]


def test_who_asks_in_vain_waits_no_longer():
    """A refused request takes no token: waiting as long as was said is enough."""
    now = [0.0]
    rate = Rate(0.1, 1, lambda: now[0])
    assert rate.take("a") == 0
    assert [rate.take("a") for _ in range(5)] == [10] * 5
    now[0] = 10.0
    assert rate.take("a") == 0


def test_no_rate_is_no_limit():
    """0 switches it off."""
    rate = Rate(0.0, 1, lambda: 0.0)
    assert not any(rate.take("a") for _ in range(1000))


def test_memory_is_bounded(monkeypatch):
    """The address that was not heard of for the longest is forgotten; one that asks goes on being limited."""
    monkeypatch.setattr(limits, "ADDRESSES_MAX", 2)
    rate = Rate(0.001, 1, lambda: 0.0)
    assert [rate.take(one) for one in ("a", "b")] == [0, 0]
    assert rate.take("a") > 0
    assert rate.take("c") == 0
    assert rate.take("a") > 0
    assert rate.take("b") == 0
    assert len(rate._buckets) == 2


def test_a_clock_that_is_set_back_locks_nobody_out():
    """Tokens go by the time of day: an hour back takes none away, and they come back from there on."""
    now = [5000.0]
    rate = Rate(1.0, 2, lambda: now[0])
    assert rate.take("a") == 0
    now[0] -= 3600.0
    assert [rate.take("a") for _ in range(2)] == [0, 1]
    now[0] += 1.0
    assert rate.take("a") == 0
