"""Which proxy the command line takes: what a person says, what the environment says, and whom neither is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedbus.access import known
from fedbus.access.claims import user_jwt
from fedbus.access.joining import Refused
from fedbus.access.keys import Key
from fedbus.access.tokens import JoinToken
from fedbus.bus.proxy import proxies_of
from fedbus.bus.tls import TlsFiles, split_url
from fedbus.cli import joining
from fedbus.cli.proxying import is_direct, proxied
from fedbus.cli.tree import run
from fedbus.errors import ConfigError

URL = "wss://one.example,tls://two.example,nats://10.0.0.7,wss://localhost:1,nats://127.0.0.1,wss://[::1]:1"


def through(url, asked=None, environ=()):
    """Which of the addresses go through which proxy."""
    return {host: str(proxy) for (host, _), proxy in proxies_of(proxied(url, asked, None, dict(environ))).items()}


def test_who_says_which_proxy():
    """A person for every address, the environment for websockets over TLS; this machine is reached without either."""
    system = {"https_proxy": "http://lower:1", "HTTPS_PROXY": "http://upper:1", "HTTP_PROXY": "http://other:1"}
    assert through(URL) == {}
    assert through(URL, None, system) == {"one.example": "http://lower:1"}
    assert through(URL, None, {"HTTPS_PROXY": "proxy.example:3128"}) == {"one.example": "http://proxy.example:3128"}
    said = "http://said:3128"
    assert through(URL, said, system) == {"one.example": said, "two.example": said, "10.0.0.7": said}
    assert through(URL, said, {"NO_PROXY": "example,10.0.0.0/8"}) == {}
    assert through(URL, "none", system) == {}
    assert through("wss://localhost?proxy=http://own:1", "none") == {"localhost": "http://own:1"}
    socks = {"HTTPS_PROXY": "socks5h://127.0.0.1:1080", "NO_PROXY": "one.example"}
    assert through("wss://[::ffff:127.0.0.1]:1,wss://one.example,tls://other.example", None, socks) == {}
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        through("wss://other.example", None, socks)


@pytest.mark.parametrize(
    ("host", "bypassed", "direct"),
    [
        ("a.example", "", False),
        ("a.example", "*", True),
        ("a.example", "example", True),
        ("a.example", ".example", True),
        ("a.example", "*.example", True),
        ("A.Example.", " b.test, A.EXAMPLE ", True),
        ("an.example", "n.example", False),
        ("a.example", "a.example:443", True),
        ("a.example", "a.example:444", False),
        ("a.example", "10.0.0.0/8,.,,", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "2.3", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1", "[fd00::1]:443", True),
        ("fd00::1", "[fd00::1]:444", False),
        ("127.0.0.2", "", True),
        ("x.localhost", "", True),
    ],
)
def test_whom_no_proxy_is_asked_for(host, bypassed, direct):
    """NO_PROXY as other programs read it: names and what is below them, addresses, networks, ports, all."""
    assert is_direct(host, 443, bypassed) is direct


def test_a_proxy_that_cannot_be_says_who_named_it(monkeypatch, capsys):
    """From the environment, or before the command; exit code 2, and nothing is connected to."""
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY: expected a proxy like .*--proxy none"):
        proxied("wss://one", None, None, {"HTTPS_PROXY": "socks5://h:1"})
    assert proxied("tls://one", None, None, {"HTTPS_PROXY": "socks5://h:1"}) == "tls://one"
    monkeypatch.setenv("FEDBUS_PROXY", "ftp://anna:secret@h")
    assert run(["session", "list", "--nats", "nats://broker.example"]) == 2
    said = capsys.readouterr().err
    assert "FEDBUS_PROXY" in said
    assert "'ftp://h'" in said
    assert "secret" not in said


def test_joining_takes_the_way_that_other_commands_take(monkeypatch, capsys, tmp_path):
    """A token says where the broker is; by which proxy, and with which certificate, says this machine."""
    account, signer = Key.new("account"), Key.new("account")
    jwt = user_jwt(
        signer, account.public, workspace="ws", role="joiner", name="t1", key=Key.new().public, issued_at=1.0
    )
    token = JoinToken("ws", "t1", "s" * 32, jwt, ("wss://one.example", "wss://two.lan"), "client", "site-1").text()
    asked = []

    async def join(request, *, tell, url):
        asked.append(url)
        raise Refused("enough was seen")

    monkeypatch.setattr(joining, "join", join)
    monkeypatch.setattr(known, "_chosen", [tmp_path])
    monkeypatch.setenv("FEDBUS_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://anna:secret@proxy:3128")
    monkeypatch.setenv("NO_PROXY", ".lan")
    assert run(["--tls-cert", "/c.pem", "--tls-key", "/k.pem", "join", token]) == 1
    assert {place: str(proxy) for place, proxy in proxies_of(asked[0]).items()} == {
        ("one.example", 443): "http://proxy:3128"
    }
    assert split_url(asked[0]) == (
        ["wss://one.example", "wss://two.lan"],
        TlsFiles(None, Path("/c.pem"), Path("/k.pem")),
    )
    told = capsys.readouterr()
    assert "secret" not in told.out + told.err
