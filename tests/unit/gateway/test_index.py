"""Where in the journal which event stands: filters, pages in both directions, bounds."""

from __future__ import annotations

from fedbus.gateway.index import Index, Position, Wanted

KINDS = ("SessionStarted", "RoundOpened", "RoundClosed")


def filled(entries=30, **bounds):
    """An index of entries with two records each, of three sessions in turn."""
    index = Index(**bounds)
    for sequence in range(1, entries + 1):
        for record in range(2):
            session = f"s{sequence % 3}"
            index.add(Position(sequence, record), session, KINDS[(sequence + record) % 3], float(sequence))
    return index


def everything(index, wanted, *, newest, limit):
    """All pages of what is wanted, one behind the other."""
    found, after = [], None
    while True:
        page, total = index.find(wanted, after=after, newest=newest, limit=limit)
        found += page
        if len(page) < limit:
            return found, total
        after = page[-1]


def test_pages_have_everything_once_in_both_directions():
    """Whatever the size of a page, also where one ends in the middle of an entry; each says how many there are."""
    index = filled()
    whole = [Position(sequence, record) for sequence in range(1, 31) for record in range(2)]
    for limit in (1, 3, 7, 100):
        assert everything(index, Wanted(), newest=False, limit=limit) == (whole, 60)
        assert everything(index, Wanted(), newest=True, limit=limit) == (whole[::-1], 60)


def test_what_is_wanted_is_found_and_nothing_else():
    """By session, by kinds, by time, and by all of them; what is not known is not found."""
    index = filled()

    def found(**wanted):
        return [tuple(place) for place in index.find(Wanted(**wanted))[0]]

    assert found(session="s1", until=5.0) == [(1, 0), (1, 1), (4, 0), (4, 1)]
    assert found(kinds=frozenset({"SessionStarted"}), until=4.0) == [(2, 1), (3, 0)]
    assert found(since=29.0) == [(29, 0), (29, 1), (30, 0), (30, 1)]
    assert found(session="s1", kinds=frozenset({"RoundOpened"}), since=2.0, until=7.0) == [(4, 0), (7, 0)]
    assert found(session="nobody") == found(kinds=frozenset({"Nothing"})) == []
    assert Index().find(Wanted()) == ([], 0)


def test_the_oldest_are_forgotten_where_there_are_too_many():
    """The newest stay, and pages go on to be right."""
    index = filled(entries=30, rows_max=20)
    found, total = everything(index, Wanted(), newest=False, limit=6)
    assert total == len(index) == len(found) <= 20
    assert found[-1] == Position(30, 1) and found == sorted(found)
    assert index.find(Wanted(session="s1"))[0][-1] == Position(28, 1)


def test_an_index_grows_while_pages_are_read():
    """What a page was made of does not hold the columns."""
    index = filled()
    for sequence in range(31, 200):
        page, total = index.find(Wanted(), newest=True, limit=1)
        assert page == [Position(sequence - 1, 1 if sequence == 31 else 0)]
        index.add(Position(sequence, 0), "s0", "RoundOpened", 1.0)
        assert total == len(index) - 1
