"""Which clients a crowd speaks for."""

from __future__ import annotations

import pytest

from fedbus.messages.ids import is_name
from fedbus.messages.presence import crowd_name, members_of


def test_names_do_not_depend_on_how_a_series_is_cut():
    """Ten clients in one crowd, or in three, have the same names in the same order."""
    whole = members_of("sim", 0, 10)
    assert whole[0] == "sim-0" and whole[-1] == "sim-9"
    parts = [(0, 4), (4, 3), (7, 3)]
    assert [name for first, count in parts for name in members_of(crowd_name("sim", first), first, count)] == whole


def test_crowds_of_one_series_have_names_of_their_own():
    """Two crowds that run at once are two peers, and each name may be a token of a subject."""
    names = [crowd_name("sim", first) for first in (0, 500, 1000)]
    assert names == ["sim", "sim-500", "sim-1000"]
    assert all(map(is_name, names))


@pytest.mark.parametrize(
    ("crowd", "first", "members", "expected"),
    [
        ("site", 0, 0, []),
        ("a-5", 0, 2, ["a-5-0", "a-5-1"]),  # begins at 0: the number is its own
        ("a-5", 5, 1, ["a-5"]),
        ("a", 5, 2, ["a-5", "a-6"]),  # a name that does not end in its number is a series itself
        ("x" * 62, 9, 1, ["x" * 62 + "-9"]),
        ("x" * 62, 9, 2, []),  # the second would have 65 characters
    ],
)
def test_what_a_stranger_may_say_gives_names_or_none(crowd, first, members, expected):
    """Whatever crowd says hello, what comes out may stand in a subject."""
    assert members_of(crowd, first, members) == expected
