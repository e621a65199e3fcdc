"""Patterns: the compiled matcher and the tree agree with each other and with a matcher that is plainly right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.bus.patterns import PatternTree, check_pattern, check_subject, matcher, overlap
from fedbus.errors import ConfigError

tokens = st.sampled_from(["a", "b", "ab"])
subjects = st.lists(tokens, min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda parts, rest: ".".join([*parts, *rest]),
    st.lists(st.one_of(tokens, st.just("*")), min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
) | st.just(">")


def _plainly(pattern, subject):
    def fits(wanted, found):
        if not wanted:
            return not found
        if wanted[0] == ">":
            return bool(found)
        return bool(found) and wanted[0] in ("*", found[0]) and fits(wanted[1:], found[1:])

    return fits(pattern.split("."), subject.split("."))


@given(patterns, subjects)
def test_the_matcher_matches(pattern, subject):
    """A compiled pattern says what the plain recursion says."""
    check_pattern(pattern)
    check_subject(subject)
    assert matcher(pattern)(subject) == _plainly(pattern, subject)


@given(st.lists(patterns, max_size=8), st.lists(st.integers(0, 7), max_size=4), subjects)
def test_the_tree_finds_what_matches(filed, removed, subject):
    """The tree finds exactly the patterns that match, also after some were removed, and is empty when all are."""
    tree = PatternTree()
    for i, pattern in enumerate(filed):
        tree.add(pattern, i)
    left = {i: pattern for i, pattern in enumerate(filed) if i not in removed}
    for i in removed:
        if i < len(filed):
            tree.remove(filed[i], i)
            tree.remove(filed[i], i)
    assert sorted(tree.match(subject)) == [i for i, pattern in left.items() if _plainly(pattern, subject)]
    assert sorted(tree.everything()) == sorted(left)
    for i, pattern in left.items():
        tree.remove(pattern, i)
    assert tree._root.empty()


@given(patterns, patterns, subjects)
def test_patterns_that_share_a_subject_overlap(one, other, subject):
    """Where one subject matches both, they overlap."""
    if _plainly(one, subject) and _plainly(other, subject):
        assert overlap([one], ["zzz", other])


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("a.*", "a"), ("a.>", "a"), ("*.a", "*.b"), ("a.b.>", "a.c.>")])
def test_patterns_without_a_common_subject_do_not_overlap(one, other):
    """Patterns that no subject matches both of are told apart."""
    assert not overlap([one], [other])


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nb", "a\0", "x" * 513])
def test_what_is_no_subject_is_refused(text):
    """Empty tokens, blanks, control characters and endless subjects are mistakes, for subjects and patterns alike."""
    for check in (check_subject, check_pattern):
        with pytest.raises(ConfigError):
            check(text)


@pytest.mark.parametrize("pattern", ["a*", "*a", "a.>.b", ">.a", "a>"])
def test_wildcards_in_the_wrong_place_are_refused(pattern):
    """A wildcard is a whole token, and '>' the last."""
    with pytest.raises(ConfigError):
        check_pattern(pattern)
