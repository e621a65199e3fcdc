"""Who guesses waits, longer and longer; nobody else does, and nothing grows without a bound."""

from __future__ import annotations

from fedbus.gateway import guard as module
from fedbus.gateway.guard import FREE, LONGEST_S, Guard


class Watch:
    """A clock that a test sets."""

    def __init__(self):
        self.at = 1000.0

    def now(self):
        """Return what time it is."""
        return self.at


def failing(guard, address, token, count):
    """Fail so often, whenever that is allowed; returns all waits."""
    waits = []
    for _ in range(count):
        guard.failed(address, token)
        waits.append(guard.wait_s(address, token))
    return waits


def test_waits_double_up_to_a_quarter_of_an_hour():
    """Five failures are free; then two seconds, four, eight; never more than the longest."""
    guard = Guard(Watch().now)
    waits = failing(guard, "10.0.0.1", "t", FREE + 12)
    assert waits[: FREE + 4] == [0] * FREE + [2, 4, 8, 16]
    assert waits[-1] == LONGEST_S == max(waits)


def test_a_wait_ends_and_what_was_counted_is_forgotten_later():
    """After the wait one more try; after an hour without one all are free again."""
    watch = Watch()
    guard = Guard(watch.now)
    failing(guard, "10.0.0.1", "t", FREE + 1)
    watch.at += 2
    assert guard.wait_s("10.0.0.1", "t") == 0
    assert failing(guard, "10.0.0.1", "t", 1) == [4]
    watch.at += module.FORGOTTEN_S + 5
    assert failing(guard, "10.0.0.1", "t", FREE) == [0] * FREE


def test_an_address_is_counted_whatever_it_tries_and_a_token_wherever_it_is_tried():
    """Many tokens from one address, and one token from many addresses, wait; another token from elsewhere does not."""
    guard = Guard(Watch().now)
    for number in range(FREE + 1):
        guard.failed("10.0.0.1", f"t{number}")
    assert guard.wait_s("10.0.0.1", "new") == 2 and guard.wait_s("10.0.0.1", "") == 2
    for number in range(FREE + 1):
        guard.failed(f"10.0.1.{number}", "victim")
    assert guard.wait_s("10.9.9.9", "victim") == 2
    assert guard.wait_s("10.9.9.9", "other") == 0


def test_the_owner_of_a_token_that_others_guess_is_not_shut_out():
    """From where it was right before it is asked as ever; until it is no good any more."""
    guard = Guard(Watch().now)
    guard.succeeded("192.0.2.7", "victim")
    for number in range(FREE + 3):
        guard.failed(f"10.0.1.{number}", "victim")
    assert guard.wait_s("192.0.2.7", "victim") == 0
    assert guard.wait_s("192.0.2.8", "victim") > 0
    guard.forget("victim")
    assert guard.wait_s("192.0.2.7", "victim") > 0


def test_an_own_token_buys_no_guesses():
    """Who has one of her own does not begin anew with it."""
    guard = Guard(Watch().now)
    failing(guard, "10.0.0.1", "t", FREE)
    guard.succeeded("10.0.0.1", "own")
    assert failing(guard, "10.0.0.1", "t", 1) == [2]


def test_addresses_of_one_ipv6_network_are_one():
    """A machine has 2^64 of them; another network is another, and an IPv4 address is itself in IPv6's clothes."""
    guard = Guard(Watch().now)
    for number in range(FREE + 1):
        guard.failed(f"2001:db8:1:2::{number + 1:x}", "")
    assert guard.wait_s("2001:db8:1:2:ffff::1", "") == 2
    assert guard.wait_s("2001:db8:1:3::1", "") == 0
    failing(guard, "::ffff:192.0.2.1", "", FREE + 1)
    assert guard.wait_s("192.0.2.1", "") == 2 and guard.wait_s("192.0.2.2", "") == 0


def test_what_is_remembered_is_bounded(monkeypatch):
    """Whoever was not heard of for the longest goes first; one who goes on guessing stays."""
    monkeypatch.setattr(module, "REMEMBERED_MAX", 50)
    guard = Guard(Watch().now)
    failing(guard, "10.0.0.1", "", FREE + 2)
    for number in range(1000):
        guard.failed(f"10.{number // 250}.{number % 250}.9", f"t{number}")
        guard.succeeded(f"10.{number // 250}.{number % 250}.8", "mine")
        if number % 20 == 0:
            guard.failed("10.0.0.1", "")
    assert len(guard._failures) <= 100 and len(guard._known) <= 50
    assert guard.wait_s("10.0.0.1", "") > 0


def test_a_clock_that_is_set_back_shuts_nobody_out_for_longer():
    """A wait is never more than the longest one."""
    watch = Watch()
    guard = Guard(watch.now)
    failing(guard, "10.0.0.1", "", FREE + 1)
    watch.at -= 1_000_000
    assert 0 < guard.wait_s("10.0.0.1", "") <= LONGEST_S
