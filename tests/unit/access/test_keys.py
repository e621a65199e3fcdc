"""Keys as NATS writes them: signing, verifying, and what is no key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.access.keys import Key, is_public, verify
from fedbus.errors import ConfigError

KEY, OTHER = Key.new(), Key.new()


@given(st.binary(max_size=500))
def test_what_a_key_signed_is_verified_by_its_public_half_alone(data):
    """The same signature each time; not that of other bytes, nor of another key."""
    signature = KEY.sign(data)
    assert len(signature) == 64
    assert signature == Key.of(KEY.seed).sign(data)
    assert verify(KEY.public, data, signature)
    assert not verify(KEY.public, data + b"x", signature)
    assert not verify(OTHER.public, data, signature)


@given(st.text(max_size=80), st.binary(max_size=80))
def test_whatever_a_stranger_says_is_no_error(public, signature):
    """Any text as a key and any bytes as a signature are just not right."""
    assert not verify(public, b"data", signature)
    assert not is_public(public)


@pytest.mark.parametrize(("kind", "letter"), [("user", "U"), ("account", "A"), ("operator", "O")])
def test_a_key_says_whose_it_is(kind, letter):
    """The first letter of the public half, which is of that kind and of no other."""
    key = Key.new(kind)
    assert key.public.startswith(letter)
    assert [other for other in ("user", "account", "operator") if is_public(key.public, other)] == [kind]


def test_a_mistyped_public_key_is_none():
    """The checksum notices any one letter that was exchanged."""
    for at in range(1, len(KEY.public)):
        wrong = "B" if KEY.public[at] != "B" else "C"
        assert not is_public(KEY.public[:at] + wrong + KEY.public[at + 1 :])


@pytest.mark.parametrize("seed", ["", "S", "SUAB", "U" + "A" * 55, "x" * 58, "é" * 58])
def test_what_is_no_seed_is_refused(seed):
    """With an error that does not show it."""
    with pytest.raises(ConfigError, match="expected the seed"):
        Key.of(seed)


def test_a_key_shows_its_public_half_only():
    """Its seed is in no log line by accident."""
    assert KEY.seed not in repr(KEY)
    assert KEY.public in repr(KEY)
