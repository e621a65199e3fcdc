"""Layouts: who sends where, and along which tree sums meet; laws over any regions, and cases worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.coordinator.layout import candidates, place, region_of, shards_of, tree
from fedbus.messages.ids import SHARDS_MAX

REGIONS = ("", "eu", "eu/north", "eu/north/se", "eu/south", "us", "us/west")
regions = st.sampled_from(REGIONS)
combiners = st.dictionaries(st.sampled_from([f"k{i}" for i in range(12)]), regions, min_size=1)
clients = st.dictionaries(st.sampled_from([f"c{i:02}" for i in range(60)]), regions, min_size=1)
loads = st.dictionaries(st.sampled_from([f"k{i}" for i in range(12)]), st.integers(0, 500))


def inside(region, of):
    """Whether a region is another or within it."""
    return region_of(region)[: len(region_of(of))] == region_of(of)


@pytest.mark.parametrize(
    ("text", "path"),
    [("", ()), ("eu", ("eu",)), ("/eu/north/", ("eu", "north")), ("eu//north", ("eu", "north")), ("/", ())],
)
def test_a_region_is_a_path(text, path):
    """Slashes too many do not make another region."""
    assert region_of(text) == path


@pytest.mark.parametrize(
    ("home", "there", "prefer", "require"),
    [
        ("eu/north", {"k0": "eu/north", "k1": "eu", "k2": ""}, ["k0"], ["k0"]),
        ("eu/north", {"k0": "eu/south", "k1": "eu", "k2": ""}, ["k1"], ["k1"]),
        ("eu/north", {"k0": "us", "k1": "", "k2": ""}, ["k1", "k2"], ["k1", "k2"]),
        ("eu/north", {"k0": "us", "k1": "eu/northern"}, ["k0", "k1"], []),
        ("eu", {"k0": "eu/north", "k1": "us"}, ["k0", "k1"], []),
        ("", {"k0": "eu", "k1": ""}, ["k1"], ["k1"]),
        ("", {"k0": "eu"}, ["k0"], []),
        ("eu", {}, [], []),
    ],
)
def test_the_longest_region_that_fits_takes_an_update(home, there, prefer, require):
    """Its own, else one around it, else - where that is allowed - any."""
    paths = {name: region_of(text) for name, text in there.items()}
    assert candidates(region_of(home), paths, "prefer") == prefer
    assert candidates(region_of(home), paths, "require") == require


@given(clients, combiners, loads, st.integers(0, 50))
def test_everybody_is_placed_where_his_region_fits_best(homes, there, expected, nbytes):
    """With `prefer` nobody is left out; with `require` nobody leaves his region, and who is left out has none."""
    places = place(homes, there, expected, nbytes, "prefer")
    assert list(places) == sorted(homes)
    strict = place(homes, there, expected, nbytes, "require")
    assert list(strict) == sorted(strict)
    for client, home in homes.items():
        around = [name for name, region in there.items() if inside(home, region)]
        best = max((len(region_of(there[name])) for name in around), default=None)
        fitting = {name for name in around if len(region_of(there[name])) == best}
        assert (client in strict) == bool(fitting)
        assert strict.get(client) in fitting | {None}
        assert places[client] in (fitting or there)


@given(st.sets(st.sampled_from([f"c{i:02}" for i in range(60)]), min_size=1), combiners, loads, st.integers(1, 50))
def test_loads_even_out(names, there, expected, nbytes):
    """Nobody who got a client would have expected more with it than another expects in the end with one more."""
    nowhere = dict.fromkeys(there, "")
    counts = Counter(place(dict.fromkeys(names, ""), nowhere, expected, nbytes, "prefer").values())
    after = {name: expected.get(name, 0) + counts[name] * nbytes for name in there}
    for name in counts:
        assert after[name] - nbytes <= min(after.values())


def test_equal_loads_are_shared_out_in_turn():
    """As many as there are, by name: the same on every machine."""
    places = place(dict.fromkeys("abcde", ""), {"k1": "", "k0": ""}, {}, 10, "prefer")
    assert places == {"a": "k0", "b": "k1", "c": "k0", "d": "k1", "e": "k0"}
    assert place(dict.fromkeys("abc", ""), {"k0": "", "k1": ""}, {"k0": 25}, 10, "prefer") == dict.fromkeys("abc", "k1")


def test_a_model_of_nothing_is_shared_out_too():
    """An update of no bytes still is one."""
    assert place(dict.fromkeys("abc", ""), {"k0": "", "k1": ""}, {}, 0, "prefer") == {"a": "k0", "b": "k1", "c": "k0"}


def test_shards():
    """All that are there by name; one alone, and who shares out clients, has none; a bound holds."""
    assert shards_of("chunks", {"k1": "1", "k0": "1"}) == ("k0", "k1")
    assert shards_of("chunks", {"k0"}) == shards_of("clients", {"k0", "k1"}) == ()
    assert len(shards_of("chunks", {f"k{i}" for i in range(SHARDS_MAX + 9)})) == SHARDS_MAX


# --- trees ---


@given(combiners, st.data())
def test_sums_go_up_one_tree_and_leave_a_region_once(there, data):
    """Whoever holds something reaches the root, in no circle; of each region at most one sum crosses the border."""
    holders = data.draw(st.sets(st.sampled_from(sorted(there)), min_size=1))
    held = {name: data.draw(st.integers(1, 9)) for name in sorted(holders)}
    found = tree(held, there)
    assert found == tree(dict(reversed(held.items())), dict(reversed(there.items())))
    nodes = set(held) | set(found.parents) | set(found.parents.values()) | {found.root}
    assert nodes <= set(there) and found.root not in found.parents
    for name in nodes:
        seen = [name]
        while seen[-1] != found.root:
            seen.append(found.parent(seen[-1]))
            assert len(seen) == len(set(seen)), "a circle"
        for region in REGIONS:
            within = [inside(there[one], region) for one in seen]
            assert not within[0] or within == sorted(within, reverse=True), "what left a region does not come back"
    for region in REGIONS:
        within = {name for name in nodes if inside(there[name], region)}
        out = [name for name in within - {found.root} if found.parent(name) not in within]
        if within & set(held):
            assert len(out) == (found.root not in within), "a region's partials cross its border once"
    for name in nodes - set(held) - {found.root}:
        assert any(found.parent(other) == name for other in nodes - {found.root}), (
            "who holds nothing hands on something"
        )


@given(st.dictionaries(st.sampled_from([f"k{i}" for i in range(12)]), st.integers(1, 9), min_size=1))
def test_without_regions_all_send_to_whoever_holds_most(held):
    """One tier, as if there were no tiers."""
    found = tree(held, dict.fromkeys([*held, "k99"], ""))
    assert found.parents == {} and found.root == min(held, key=lambda name: (-held[name], name))


@pytest.mark.parametrize(
    ("there", "held", "root", "parents"),
    [
        # A region's head is who holds most; heads of the inner regions send to the head around them.
        (
            {"a": "eu", "b": "eu/north", "c": "eu/north", "d": "eu/south"},
            {"b": 1, "c": 2, "d": 1},
            "a",
            {"b": "c"},
        ),
        # Two regions without anything around them: the one that holds more is the root.
        ({"a": "eu/north", "b": "eu/south", "c": "us"}, {"a": 1, "b": 2, "c": 2}, "b", {}),
        # Somebody in between who holds nothing hands on; the root is nowhere special.
        ({"h": "", "e": "eu", "n": "eu/north", "u": "us"}, {"n": 5, "u": 1, "h": 1}, "h", {"n": "e"}),
        # What is held in one region only stays there.
        ({"h": "", "e": "eu", "n": "eu/north", "m": "eu/north"}, {"n": 1, "m": 3}, "m", {}),
        # A region without a combiner of its own is headed by the inner one that holds most.
        ({"n": "eu/north", "s": "eu/south", "u": "us", "h": ""}, {"n": 1, "s": 2, "u": 9}, "h", {"n": "s"}),
    ],
)
def test_trees(there, held, root, parents):
    """Worked out by hand."""
    found = tree(held, there)
    assert (found.root, found.parents) == (root, parents)
