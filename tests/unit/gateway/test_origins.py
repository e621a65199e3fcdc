"""Who asks behind a proxy is told apart; who makes an address up is not believed; nobody shuts others out by it."""

from __future__ import annotations

import logging

import pytest
from aiohttp.test_utils import make_mocked_request
from asker import ask, gateway_in
from multidict import CIMultiDict
from people import secured_in
from whole_house import House

from fedbus.errors import ConfigError
from fedbus.gateway.operations import API
from fedbus.gateway.origins import FORWARDED, HOPS_MAX, Origins, net_of
from fedbus.testing.loop import run_virtual

PROXIES = ("10.0.0.0/8", "fd00::/8")


class _From:
    """A transport from somewhere."""

    def __init__(self, address):
        self._address = address

    def get_extra_info(self, name, default=None):
        """Only its address is asked for."""
        return (self._address, 1) if name == "peername" else default


def origin(peer, *told, proxies=PROXIES):
    """Where a request from a peer with these headers comes from."""
    headers = CIMultiDict([(FORWARDED, one) for one in told])
    return Origins(proxies).of(make_mocked_request("GET", "/", headers=headers, transport=_From(peer)))


@pytest.mark.parametrize(
    ("peer", "told", "expected"),
    [
        ("203.0.113.7", ("1.2.3.4",), "203.0.113.7"),  # no proxy of ours
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.7",), "203.0.113.7"),
        ("10.0.0.1", ("1.2.3.4, 203.0.113.7",), "203.0.113.7"),  # what stands before it, it has written itself
        ("10.0.0.1", ("1.2.3.4", "203.0.113.7, 10.0.0.2"), "203.0.113.7"),
        ("10.0.0.1", ("203.0.113.7, unknown",), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.7:4711",), "203.0.113.7"),
        ("fd00::1", ("[2001:db8::7]:4711",), "2001:db8::7"),
        ("::ffff:10.0.0.1", ("203.0.113.7",), "203.0.113.7"),
        ("10.0.0.1", ("203.0.113.7" + ", 10.0.0.2" * HOPS_MAX,), "10.0.0.2"),
        ("10.0.0.1", ("\x1b[2J",), "10.0.0.1"),
    ],
)
def test_a_proxy_is_believed_and_nobody_else(peer, told, expected):
    """From the right, as far as proxies are; what cannot be an address ends it."""
    assert origin(peer, *told) == expected


def test_without_a_proxy_nothing_is_believed():
    """The address of the connection counts; a proxy that cannot be is refused."""
    assert origin("10.0.0.1", "203.0.113.7", proxies=()) == "10.0.0.1"
    for wrong in ("proxy.example", "10.0.0.0/33", ""):
        with pytest.raises(ConfigError, match="--proxy"):
            Origins([wrong])


def test_an_ipv6_network_is_one_asker():
    """A machine that takes another address of its network for each request is limited, and is a deed a minute."""
    assert net_of("2001:db8::1") == net_of("2001:db8::ffff:1") != net_of("2001:db8:0:1::1")
    assert net_of("::ffff:192.0.2.1") == net_of("192.0.2.1") == "192.0.2.1"

    async def scene():
        async with gateway_in(House(), rate_per_s=1.0, burst=2) as gateway:
            return [(await ask(gateway, "GET", "/healthz", remote=f"2001:db8::{n}")).status for n in range(1, 5)]

    assert run_virtual(scene()) == [200, 200, 429, 429]

    async def refused():
        async with secured_in(House()) as house:
            for n in range(1, 20):
                await house.ask(None, "GET", f"{API}/sessions", remote=f"2001:db8::{n}")
            return [found.entry.origin async for found in house.gateway.audit.read()]

    assert run_virtual(refused()) == ["2001:db8::1"]


def test_who_guesses_behind_a_proxy_shuts_nobody_else_out():
    """Others sign in for the first time through the same proxy, who is named; the audit has the address of each."""

    async def scene(proxies):
        async with secured_in(House(), proxies=proxies) as house:
            guess = {"token": f"fba_none_{'x' * 43}"}

            async def sign_in(token, told):
                headers = {FORWARDED: told}
                return await house.ask(None, "POST", f"{API}/login", json=token, headers=headers, remote="10.0.0.1")

            there = [await sign_in(guess, "203.0.113.7") for _ in range(8)]
            hers = await sign_in({"token": house.tokens["viewer"]}, "198.51.100.1")
            return there[-1].status, hers.status, {found.entry.origin async for found in house.gateway.audit.read()}

    assert run_virtual(scene(("10.0.0.1",))) == (429, 200, {"203.0.113.7", "198.51.100.1"})
    guessed, hers, _ = run_virtual(scene(()))
    assert (guessed, hers) == (429, 429), "without the proxy's name they are one asker"


def test_no_log_has_what_a_provider_sends_along(caplog):
    """A code and a state stand in an address: a line of the log has its path alone, on one line."""
    caplog.set_level(logging.DEBUG, "fedbus.gateway")

    async def scene():
        async with secured_in(House()) as house:
            await house.ask(None, "GET", f"{API}/login/oidc/callback?code=c0de&state=5tate")
            await house.ask(None, "GET", f"{API}/a%0Ab")

    run_virtual(scene())
    assert f"GET {API}/login/oidc/callback -> 404" in caplog.text
    assert "c0de" not in caplog.text and "5tate" not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)
