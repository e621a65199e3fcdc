"""Who was told to wait goes on waiting, whoever is restarted meanwhile."""

from __future__ import annotations

import pytest

from fedbus.access.joining import AWAY, TRIES, Refused, Request, ask
from fedbus.access.keys import Key
from fedbus.access.tokens import JoinToken
from fedbus.bus.base import Message
from fedbus.errors import BusUnavailable
from fedbus.messages.access import JoinAnswered
from fedbus.messages.envelope import Envelope, encode
from fedbus.testing.loop import run_virtual

WAITS = JoinAnswered(state="waiting", reason="a person has to approve")
REFUSED = JoinAnswered(state="refused", reason="we are full")


class _Gateway:
    """A bus whose requests are answered in this order; None: by nobody."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def request(self, subject, data, *, deadline_s):
        """Give the next answer."""
        answer = self.answers.pop(0)
        if answer is None:
            raise BusUnavailable("nobody listens")
        return Message("_INBOX.x", encode(Envelope("id", "ward", "gateway", answer)))


def test_a_gateway_that_is_restarted_ends_no_waiting():
    """Nobody answers for a while, twice: it is told each time, once; where nobody ever answered that is the end."""
    request = Request(JoinToken("ward", "0" * 16, "secret", "jwt", ("nats://b",)), "site-1", Key.new().seed)
    away = [None] * (2 * TRIES)
    told = []
    with pytest.raises(Refused, match="we are full"):
        run_virtual(ask(_Gateway(WAITS, WAITS, *away, WAITS, *away, REFUSED), request, tell=told.append))
    waits = "client site-1 waits: a person has to approve"
    assert [one.partition(", asking on")[0] for one in told] == [waits, AWAY, waits, AWAY]
    with pytest.raises(BusUnavailable, match="is there a gateway"):
        run_virtual(ask(_Gateway(*away), request))
