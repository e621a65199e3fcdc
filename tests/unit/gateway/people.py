"""A secured gateway in memory, with a person of each role and a token of each: who asks is named by her role.

async def scene():
    async with secured_in(House()) as house:
        answer = await house.ask("viewer", "POST", "/api/v1/sessions", json={})
        assert answer.status == 403

run_virtual(scene())
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from asker import Answer, ask, gateway_in

from fedbus.access.actions import ROLES
from fedbus.access.credentials import Credentials, Trust
from fedbus.gateway.auth import CSRF
from fedbus.gateway.service import Gateway

SECRET = "5e" * 32
OTHER = "0a" * 32
SEAL = "c3" * 32


def credentials_of(workspace="default", secret=SECRET):
    """What makes a gateway a secured one; the broker, in memory, asks for nothing."""
    return Credentials(jwt="", seed="", trust=Trust(workspace, "", {}), secrets={"seal": SEAL, "login": secret})


@dataclass
class Secured:
    """A gateway and those who may use it; ``tokens``: by role, and by what else a test has made."""

    gateway: Gateway
    tokens: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def members(self):
        """Who is known."""
        return self.gateway.members

    async def give(self, key, role, person, **more):
        """Make an API token, known as ``key``."""
        new = await self.members.tokens.create_api(role, by="test", person=person, **more)
        self.tokens[key], self.ids[key] = new.api_text, new.state.id

    async def ask(self, who, method, target, **given) -> Answer:
        """Ask with somebody's token; None: without any."""
        headers = dict(given.pop("headers", None) or {})
        if who is not None:
            headers["Authorization"] = f"Bearer {self.tokens[who]}"
        return await ask(self.gateway, method, target, headers=headers, **given)

    async def sign_in(self, who, **given) -> Page:
        """Sign in as a page does."""
        answer = await self.ask(None, "POST", "/api/v1/login", json={"token": self.tokens[who]}, **given)
        assert answer.status == 200, answer.body
        return Page(self, answer.headers["Set-Cookie"].partition(";")[0], answer.json["csrf"])


@dataclass
class Page:
    """A browser's page with a cookie."""

    house: Secured
    cookie: str
    csrf: str

    async def ask(self, method, target, **given) -> Answer:
        """Ask with the cookie, and what has to come along."""
        headers = {"Cookie": self.cookie, CSRF: self.csrf, **(given.pop("headers", None) or {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        return await ask(self.house.gateway, method, target, headers=headers, **given)

    async def stay(self) -> Answer:
        """Say that somebody uses the page."""
        return self._taken(await self.ask("POST", "/api/v1/me/active"))

    async def again(self, token) -> Answer:
        """Show anew who she is."""
        return self._taken(await self.ask("POST", "/api/v1/login/again", json={"token": token}))

    def _taken(self, answer):
        if answer.status == 200:
            self.cookie, self.csrf = answer.headers["Set-Cookie"].partition(";")[0], answer.json["csrf"]
        return answer


@asynccontextmanager
async def secured_in(house, **given):
    """A secured gateway with a person, ``<role>-person``, and a token of each role."""
    given = {"credentials": credentials_of()} | given
    async with gateway_in(house, **given) as gateway:
        found = Secured(gateway)
        for role in ROLES:
            await found.members.people.add(f"{role}-person", [role], by="test")
            await found.give(role, role, f"{role}-person")
        yield found
