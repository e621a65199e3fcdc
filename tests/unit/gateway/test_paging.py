"""Lists by pages: every item once, whatever comes and goes between two pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.gateway.paging import Paged, cursor_of, page_of, parts_of
from fedbus.gateway.problems import Refused
from fedbus.gateway.views import HealthView

NAMES = st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=30)


def views(names):
    """Items with these keys, in their order."""
    return [HealthView(status="ok", reason=name) for name in names]


def read(names, limit, *, descending=False, between=None):
    """Read all pages; returns the keys. ``between``: what the names are after the first page."""
    found, cursor = [], None
    while True:
        items = views(sorted(names, reverse=descending))
        query = Paged(limit=limit, cursor=cursor)
        page = page_of(items, query, key=lambda view: view.reason, descending=descending)
        found += [view.reason for view in page.items]
        assert len(page.items) <= limit
        assert page.total == len(items)
        cursor = page.next
        if cursor is None:
            return found
        names = names if between is None else between


@given(NAMES, st.integers(1, 8), st.booleans())
def test_every_item_comes_once(names, limit, descending):
    """In their order, whatever the limit."""
    assert read(names, limit, descending=descending) == sorted(names, reverse=descending)


@given(NAMES, NAMES)
def test_what_stays_comes_once_whatever_changes(before, after):
    """Items that are there all the time come exactly once, also where others come and go between pages."""
    found = read(before, 2, between=after)
    for name in set(before) & set(after):
        assert found.count(name) == 1


@given(st.lists(st.text(max_size=10) | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False), min_size=1))
def test_a_cursor_gives_back_what_it_was_made_of(parts):
    """Texts and numbers, unchanged, and its characters need no quoting in an address."""
    cursor = cursor_of(*parts)
    assert parts_of(cursor, *map(type, parts)) == parts
    assert cursor.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("cursor", ["x", "!!", "eyJ", cursor_of(1), cursor_of("a", "b"), "bnVsbA", "ä", "W1td" * 200])
def test_a_cursor_of_something_else_is_refused(cursor):
    """404: there is no page behind it; and which parameter was meant."""
    with pytest.raises(Refused, match=r"query\.cursor") as refused:
        parts_of(cursor, str)
    assert refused.value.status == 404
