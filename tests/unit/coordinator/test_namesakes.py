"""Two processes under one name: the later one is told; a restart, an echo of the dead, or a late word is nothing."""

from __future__ import annotations

import pytest

from fedbus.coordinator.namesakes import WORDS_MIN, number_of
from fedbus.coordinator.roster import MISSED_HEARTBEATS_MAX, Roster
from fedbus.messages.ids import Peer
from fedbus.messages.presence import Bye, Hello

HEARTBEAT_S = 2.0
GONE_S = MISSED_HEARTBEATS_MAX * HEARTBEAT_S


class Name:
    """A roster, and what is said under one name."""

    def __init__(self, role="client"):
        self.roster, self.peer = Roster(), Peer(role, "x")
        self.counts = {}

    def say(self, incarnation, now, number=None):
        """Say hello, as the next word of that process or as an old one; returns who is told to end."""
        self.counts[incarnation] = self.counts.get(incarnation, 0) + 1
        id_ = f"{incarnation}-{number or self.counts[incarnation]}"
        members = {"members": 2} if self.peer.role == "crowd" else {}
        hello = Hello(incarnation=incarnation, heartbeat_s=HEARTBEAT_S, **members)
        self.changed = self.roster.hello(self.peer, hello, now, id_)
        told, self.roster.taken = self.roster.taken, []
        assert all(peer == self.peer for peer, _ in told)
        return [(one.incarnation, one.since_at) for _, one in told]

    @property
    def there(self):
        """Who counts as being there."""
        return self.roster.peers[self.peer].hello.incarnation if self.peer in self.roster.peers else None


@pytest.mark.parametrize("role", ["client", "crowd", "combiner", "gateway"])
def test_of_two_that_live_the_later_is_told(role):
    """It took the other's place; when that goes on speaking, word by word, it is told, again and again."""
    name = Name(role)
    assert name.say("old", 0.0) == [] and name.say("new", 1.0) == [] and name.there == "new"
    told = [name.say("old", 2.0 + HEARTBEAT_S * i) for i in range(5)]
    assert told == [[]] * (WORDS_MIN - 1) + [[("new", 0.0)]] * (6 - WORDS_MIN)
    assert name.there == "new" and not name.changed, "whose place was taken does not take it back and forth"


def test_when_the_later_has_gone_the_first_is_there_again():
    """As if it had never been disturbed; nobody is told any more."""
    name = Name()
    for incarnation, now in (("old", 0.0), ("new", 1.0), ("old", 2.0), ("old", 4.0), ("old", 6.0)):
        name.say(incarnation, now)
    assert name.roster.bye(name.peer, Bye(incarnation="new"), 7.0)
    assert name.say("old", 8.0) == [] and name.there == "old"
    assert all(name.say("old", 8.0 + 2 * i) == [] for i in range(1, 6))


def test_a_restart_tells_nobody():
    """The old one never speaks again, however often it happens."""
    name = Name()
    for life in range(12):
        for word in range(4):
            assert name.say(f"i{life}", 10.0 * life + HEARTBEAT_S * word) == []
    assert name.there == "i11"


def test_an_overlapping_restart_tells_nobody():
    """The new one was started before the old one had ended: it says a word or two more, and good-bye."""
    name = Name()
    name.say("old", 0.0)
    assert name.say("new", 1.0) == []
    assert all(name.say("old", now) == [] for now in (2.0, 4.0)[: WORDS_MIN - 1])
    assert not name.roster.bye(name.peer, Bye(incarnation="old"), 5.0) and name.there == "new"
    assert name.say("new", 6.0) == []


def test_echoes_of_the_dead_are_no_life():
    """Repeated, late, played back in any order: none is of a higher number than what was heard while it lived."""
    name = Name()
    for i in range(20):
        name.say("old", HEARTBEAT_S * i)
    name.say("new", 40.0)
    for i, number in enumerate((20, 20, 3, 19, 20, 1, 7, 20)):
        assert name.say("old", 41.0 + i, number) == []
        name.say("new", 41.0 + i)
    assert name.there == "new"


def test_words_in_a_burst_are_one():
    """What was held up on the way arrives at once when a link is back: a life is several words over some time."""
    name = Name()
    name.say("old", 0.0)
    name.say("new", 1.0)
    assert all(name.say("old", 2.0 + 0.01 * i) == [] for i in range(10))


def test_who_returns_after_it_was_gone_is_the_later_one():
    """A process that stood still and was replaced: it is told at once, and takes nobody's place."""
    name = Name()
    name.say("zombie", 0.0)
    name.say("new", 5.0)
    for i in range(1, 10):
        assert name.say("new", 5.0 + HEARTBEAT_S * i) == []
    assert name.say("zombie", GONE_S + 0.1) == [("zombie", 5.0)] and name.there == "new"
    assert name.say("zombie", GONE_S + 2.1) == [("zombie", 5.0)], "again, should the word have been lost"


def test_who_returns_after_all_were_gone_is_alone():
    """Nobody is there under its name: it is as good as new."""
    name = Name()
    name.say("a", 0.0)
    name.say("b", 1.0)
    assert name.roster.expire(2.0 + GONE_S) and name.there is None
    assert name.say("a", 30.0) == [] and name.there == "a"


def test_coordinators_are_not_told():
    """Of two under one name the lease decides who leads."""
    name = Name("coordinator")
    name.say("old", 0.0)
    name.say("new", 1.0)
    assert all(name.say("old", 2.0 + 2 * i) == [] for i in range(6))


@pytest.mark.parametrize(
    ("id_", "number"),
    [("abc-7", (1, 7)), ("abc.3-7", (3, 7)), ("abc-r7", (0, 0)), ("", (0, 0)), ("other-7", (0, 0)), ("abc-", (0, 0))],
)
def test_the_number_of_a_word(id_, number):
    """Its life, and its how manieth word: as `Station` gives ids; anything else is none."""
    assert number_of(id_, "abc") == number


def test_the_clock_may_jump():
    """Whoever takes over goes on by another time: nobody is gone, or told, for it."""
    name = Name()
    name.say("old", 0.0)
    name.say("new", 1.0)
    name.roster.shift(3600.0)
    assert not name.roster.expire(3601.0) and name.say("old", 3602.0) == [] and name.say("new", 3602.0) == []
    assert name.there == "new" and name.roster.expire(3602.1 + GONE_S)
