"""Reasons that many have."""

from __future__ import annotations

from fedbus.messages.envelope import Envelope, decode, encode
from fedbus.messages.reasons import by_reason
from fedbus.messages.reports import TaskFailed


def test_a_reason_that_many_have_is_said_once():
    """Most have it, so it comes first; three are named, the others counted."""
    reasons = {"a": "left"} | {f"site-{i}": "KeyError: 'w'" for i in range(5)}
    assert by_reason(reasons) == "site-0, site-1, site-2 and 2 more: KeyError: 'w'; a: left"


def test_reasons_of_equally_many_go_by_name():
    """So a coordinator that takes over writes the same text; nobody's reason is no text."""
    assert by_reason({"b": "x", "a": "y", "c": "y", "d": "x"}) == "a, c: y; b, d: x"
    assert by_reason({}) == ""


def test_more_than_five_reasons_are_not_said():
    """An app may raise something else on each client: the text stays one that is read."""
    assert by_reason({f"site-{i}": str(i) for i in range(9)}).count(";") == 4


def test_a_reason_may_name_any_file():
    """An error of an app's may hold half a character; it travels as a question mark, and ends nobody."""
    body = TaskFailed(session="s", round=1, attempt=0, stage="train", reason="OSError: caf\udce9 é \U0001f4c1")
    assert decode(encode(Envelope("i", "w", "f", body)), "here").body.reason == "OSError: caf? é \U0001f4c1"
