"""Addresses that name the HTTP proxy on their way: what they say, what they cannot, and what nobody sees of it."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import urlparse

import pytest
from nats.aio.client import Srv

from fedbus.bus import tunnel
from fedbus.bus.nats.client import WireClient
from fedbus.bus.proxy import Proxy, proxies_of, through, with_proxy
from fedbus.bus.tls import TlsFiles, split_url, with_files
from fedbus.errors import ConfigError

SECRET = "p@ss,w:rd&?"
WITH_SECRET = "http://anna:p%40ss%2Cw%3Ard%26%3F@proxy.example:3128"


def test_a_proxy_stands_in_addresses_and_comes_out_of_them():
    """Whatever is in its password, beside files for TLS; nats-py sees neither, and other addresses keep their own."""
    files = TlsFiles(Path("/a,b.pem"))
    told = with_proxy("tls://u:p@one:4222, wss://two?proxy=http://own, nats://three", WITH_SECRET)
    url = with_files(told, files)
    assert split_url(url) == (["tls://u:p@one:4222", "wss://two", "nats://three"], files)
    found = proxies_of(url)
    assert {place: str(proxy) for place, proxy in found.items()} == {
        ("one", 4222): "http://proxy.example:3128",
        ("two", 443): "http://own:80",
        ("three", 4222): "http://proxy.example:3128",
    }
    assert base64.b64decode(found["one", 4222].authorization) == f"anna:{SECRET}".encode()
    assert not found["two", 443].authorization
    assert proxies_of("tls://one,wss://two?ca=/x") == {}
    assert with_proxy("wss://one", None) == with_proxy("wss://one", "") == "wss://one"


def test_a_proxy_over_tls_may_have_an_authority_of_its_own():
    """Its file comes along; of a proxy without TLS, or of none, it is refused."""
    (proxy,) = proxies_of(with_proxy("wss://one", "https://proxy.example", Path("/ca 1.pem"))).values()
    assert (str(proxy), proxy.ca) == ("https://proxy.example:443", Path("/ca 1.pem"))
    with pytest.raises(ConfigError, match="write https://"):
        with_proxy("wss://one", "http://proxy.example", Path("/ca.pem"))
    with pytest.raises(ConfigError, match="names none"):
        proxies_of("wss://one?proxy_ca=/ca.pem")


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://anna:secret@h:1",
        "http://",
        "http://anna:secret@:1",
        "http://anna:sec/ret@h",
        "http://anna:secret@h:port",
        "http://anna:secret@h:0",
        "http://anna:secret@h/x",
        "anna:secret@h/?x",
        "http://[anna:secret@h",
        "http://an%3Ana:secret@h",
    ],
)
def test_what_is_no_proxy_is_refused_without_its_password(proxy):
    """`ConfigError`, of this URL alone, wherever it is said; neither it nor what led to it shows user or password."""
    for refuse in (Proxy.of, lambda text: with_proxy("wss://one", text)):
        with pytest.raises(ConfigError) as caught:
            refuse(proxy)
        error = caught.value
        shown = f"{error!r} {error.__cause__!r}" + ("" if error.__suppress_context__ else repr(error.__context__))
        assert not any(secret in shown for secret in ("anna", "secret", "sec/ret"))


def test_nothing_that_is_shown_holds_the_password():
    """Neither the text nor what a debugger or a log prints of it."""
    proxy = Proxy.of(WITH_SECRET)
    assert all(secret not in f"{proxy} {proxy!r}" for secret in ("anna", SECRET, proxy.authorization))


async def test_other_nodes_of_a_cluster_are_behind_the_same_proxy():
    """A node tells of others: they are reached through its proxy, whatever it calls them; without one, directly."""
    proxies = proxies_of("wss://one?proxy=http://h:1,wss://two")
    for told_by, expected in (("one", proxies["one", 443]), ("two", None)):
        client = WireClient()
        client.go_through(proxies)
        client._server_pool = [Srv(urlparse(f"wss://{name}:443")) for name in ("one", "two")]
        client.options = {"dont_randomize": True}
        client._current_server = client._server_pool[told_by == "two"]
        await client._process_info({"connect_urls": ["10.0.0.3:443", "three:99999999"]})
        assert client._proxies.get(("10.0.0.3", 443)) == expected
        assert ("two", 443) not in client._proxies


@pytest.mark.parametrize(
    ("host", "told"),
    [("my_broker", "my_broker:443"), ("bücher.example", "xn--bcher-kva.example:443"), ("fd00::1", "[fd00::1]:443")],
)
def test_a_proxy_is_told_where_to_in_the_letters_of_http(host, told):
    """Names of containers, names with umlauts, addresses with colons."""
    assert tunnel._target(host, 443) == told


def test_what_is_connected_already_has_no_proxy():
    """A bus stays itself, and refuses one."""
    bus = object()
    assert through(bus, None) is bus
    with pytest.raises(ConfigError, match="connected already"):
        through(bus, "http://proxy.example")
