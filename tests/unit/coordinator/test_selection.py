"""Selection and roster: functions of names, seed and time, of nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedbus.coordinator.roster import MISSED_HEARTBEATS_MAX, Roster
from fedbus.coordinator.selection import draw, select
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Bye, Hello

names = st.sets(st.from_regex(r"[a-z0-9_-]{1,8}", fullmatch=True), min_size=1, max_size=30)


def test_a_draw_is_the_same_for_ever():
    """These numbers are what clients see as their seed: a release that changes them changes every result."""
    assert draw(0, "task", 1, "a") == 1168574049262589
    assert draw(1, "task", 1, "a") != draw(0, "task", 1, "a") != draw(0, "task", 2, "a")
    assert all(0 <= draw(0, i) < 2**53 for i in range(1000))


@given(names, st.integers(1, 40) | st.none(), st.floats(1, 10), st.integers(0, 2**63 - 1), st.randoms())
def test_select(clients, count, oversample, seed, rng):
    """As many as asked for, of those who are there, whatever their order."""
    chosen, target = select(clients, count, oversample, seed, 1)
    mixed = list(clients)
    rng.shuffle(mixed)
    assert (chosen, target) == select(mixed, count, oversample, seed, 1)
    assert set(chosen) <= clients and len(set(chosen)) == len(chosen) and chosen == sorted(chosen)
    assert 1 <= target <= len(chosen) <= len(clients)


def test_everybody_is_chosen_about_as_often():
    """1,000 rounds of 5 of 20: each some 250 times, within five standard deviations (14)."""
    clients = [f"c{i}" for i in range(20)]
    chosen = [name for round_ in range(1000) for name in select(clients, 5, 1.0, 7, round_)[0]]
    assert all(180 < chosen.count(name) < 320 for name in clients)


def test_a_roster():
    """New, another incarnation and gone are told; a heartbeat is not; silence ends after three and a half of them."""
    roster, peer = Roster(), Peer("client", "a")
    hello = Hello(incarnation="1", heartbeat_s=2.0)
    assert roster.hello(peer, hello, 0.0) and not roster.hello(peer, hello, 1.0)
    assert roster.hello(peer, hello.model_copy(update={"incarnation": "2"}), 2.0)
    assert not roster.bye(peer, Bye(incarnation="1")), "a late word of a former process"
    assert roster.names("client") == {"a": "2"} and roster.names("combiner") == {}
    assert not roster.expire(2.0 + 2.0 * MISSED_HEARTBEATS_MAX)
    roster.excuse(100.0)
    assert not roster.expire(101.0)
    assert roster.expire(100.1 + 2.0 * MISSED_HEARTBEATS_MAX) and not roster.peers
    roster.hello(peer, hello, 0.0)
    assert roster.bye(peer, Bye(incarnation="1")) and not roster.bye(peer, Bye(incarnation="1"))
