"""How a gateway listens, and how long who has signed in stays so: settings, each with the reason for its default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedbus.errors import ConfigError

SIGN_IN_S_MAX = 30 * 86400.0
"""Longest that a sign-in may be set to last: what lasts longer is a token."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a gateway listens, and what it takes.

    ``host``: this machine alone, until somebody decides otherwise. ``port`` 0: a free one.
    ``hosts``: names under which it may be asked for, besides addresses and names of this machine
    (`fedbus.gateway.hosts`); ``*``: any. ``cors_origins``: other pages that may use it, such as
    ``https://lab.example``; none. ``body_bytes_max``: of a JSON body; settings of a session are some KB.
    ``import_bytes_max``: of a model's file; four times the largest model that fedbus is built for. ``rate_per_s``,
    ``burst``: of one address: a page asks some ten times a second when it opens; 0: no limit. ``drain_s``: how long
    requests that run may go on when the gateway is to end: a process manager waits ten seconds before it kills, and
    `Bye` has to be said as well. ``jaeger_url``: where the page's links to traces lead; '' where there is none.
    ``public_url``: where browsers find it, such as ``https://fed.example``, where a proxy in front of it ends their
    TLS; '' where they come to it directly. ``proxies``: addresses and networks of those in front of it, which are
    believed from where a request came (`fedbus.gateway.origins`); none. ``tls_certificate``, ``tls_key``: in PEM; with
    them it serves HTTPS, and nothing else.

    ``sign_in_s``: how long somebody stays signed in: a day's work; it is not prolonged, so that a stolen cookie ends
    too. ``idle_s``: and how long without doing anything on the page: longer than a meal and a meeting, so that what is
    left open is not open all day. ``ask_again_s``: who has not shown who she is for so long is asked again before what
    shuts others out or lets them in: long enough for a form, short enough for a browser that was left unlocked.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    body_bytes_max: int = 2**20
    import_bytes_max: int = 16 * 2**30
    rate_per_s: float = 100.0
    burst: int = 400
    drain_s: float = 5.0
    jaeger_url: str = ""
    public_url: str = ""
    proxies: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    sign_in_s: float = 8 * 3600.0
    idle_s: float = 2 * 3600.0
    ask_again_s: float = 900.0

    def __post_init__(self) -> None:
        """Raise `ConfigError` for spans of time that let nobody in, or for ever."""
        for option, value in (
            ("--sign-in-max", self.sign_in_s), ("--sign-in-idle", self.idle_s), ("--ask-again", self.ask_again_s)
        ):  # fmt: skip
            if not 60 <= value <= SIGN_IN_S_MAX:
                raise ConfigError(f"{option}: expected 1 minute to {SIGN_IN_S_MAX / 86400:g} days, got {value:g} s")
