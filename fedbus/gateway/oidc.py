"""Signing in with an OIDC provider: authorization code with PKCE (OpenID Connect Core 3.1, RFC 7636, RFC 9700).

    browser: GET /login/oidc            -> to the provider, with state, nonce and code challenge
    provider: GET /login/oidc/callback  -> we exchange the code, check the ID token, and find the person

No gateway remembers who is on the way: a cookie holds a random text, and state, nonce and code verifier are made of it
with a key that all gateways of the workspace have. So any of them may finish what another has begun, in the same
browser, within ten minutes, and in no other browser.

What the provider tells is asked for when it is needed, and again when a token is signed by a key that we do not know.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import aiohttp
from joserfc import jwk
from yarl import URL

from fedbus.clock import Clock
from fedbus.errors import ConfigError, FedbusError
from fedbus.gateway.cookies import key_for
from fedbus.gateway.idtoken import Expected, IdTokenRefused, KeyUnknown, claims_of, keys_of
from fedbus.messages.access import PersonRole

FRESH_S = 60.0
"""How far the provider's clock may be from ours where somebody has just shown it who she is."""

BEGUN_S = 600.0
"""How long somebody may take to sign in at the provider."""

KEPT_S = 3600.0
"""How long what the provider has told about itself is taken for true."""

AGAIN_S = 30.0
"""Not before this are keys asked for again because of a token by an unknown key: anybody could make one."""

FAILED_S = 5.0
"""After a provider did not answer, for how long nobody asks again: whoever wants to sign in is told at once."""

ANSWER_S = 10.0
ANSWER_BYTES_MAX = 2**20
CODE_CHARS_MAX = 2048

FACTOR_CHARS_MAX = 200
"""Of a value of `acr` or `amr`."""

SCOPES = ("openid", "profile", "email")

_BEGUN = re.compile(r"([0-9]{1,12})\.([A-Za-z0-9_-]{43})(?:\.([A-Za-z0-9_.-]{1,1024}))?")
_STRANGE = re.compile(r"[^A-Za-z0-9_@.:+-]")


class SignInRefused(FedbusError):
    """Somebody could not be signed in by the provider. ``word``: which of a few reasons, as the page is told."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """A provider, and who it is for. ``client_id``, ``client_secret``: ours there; '' a client without a secret.

    ``roles_claim``: in which claim of the ID token groups stand, such as ``groups`` or ``realm_access.roles``; '': who
    may sign in, and as what, is decided here (`fedbus person add --login`). ``role_map``: group -> role; with it the
    provider decides: whoever is in none of these groups is refused. ``title``: what the page's button says.

    ``acr``, ``amr``: which values of these claims of an ID token (OpenID Connect Core, 2; RFC 8176) say that somebody
    has shown a second factor: one of each that is given. Then it is demanded of all who come by the provider, or of
    those alone with one of ``factor_roles``, who then cannot come otherwise: no token of theirs has a second factor.
    """

    issuer: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    roles_claim: str = ""
    role_map: Mapping[str, PersonRole] = field(default_factory=dict)
    title: str = ""
    acr: tuple[str, ...] = ()
    amr: tuple[str, ...] = ()
    factor_roles: tuple[PersonRole, ...] = ()

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a provider that cannot be."""
        _check_address("--oidc-issuer", self.issuer)
        if not self.client_id:
            raise ConfigError("--oidc-client-id: expected the id that the provider knows this gateway by")
        if bool(self.roles_claim) != bool(self.role_map):
            raise ConfigError(
                "--oidc-roles-claim and --oidc-role-map belong together: a claim, and what its groups mean"
            )
        for option, values in (("--oidc-acr", self.acr), ("--oidc-amr", self.amr)):
            if not all(0 < len(one) <= FACTOR_CHARS_MAX and one.isprintable() and " " not in one for one in values):
                raise ConfigError(f"{option}: expected a value without blanks, got {' '.join(values)[:200]!r}")
        if self.factor_roles and not (self.acr or self.amr):
            raise ConfigError("--second-factor: expected --oidc-acr or --oidc-amr, which say what one is")
        if not self.title:
            object.__setattr__(self, "title", URL(self.issuer).host or self.issuer)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a provider says somebody is. ``subject``: ``<issuer>#<sub>``, what never changes. ``name``: as she is called.

    ``roles``: that her groups mean here, None where groups decide nothing. ``shown``: when she showed the provider who
    she is, 0 where it does not say; ``factor``: whether with what counts as a second factor, and ``factor_told``: what
    it says of that.
    """

    subject: str
    name: str
    roles: tuple[PersonRole, ...] | None
    shown: float = 0.0
    factor: bool = False
    factor_told: str = ""


@dataclass(frozen=True, slots=True)
class _Provider:
    """What a provider says of itself (OpenID Connect Discovery, 3)."""

    authorize: str
    token: str
    keys: str
    says_issuer: bool
    takes_basic: bool


class Oidc:
    """A provider, as a gateway uses it; ``secret``: of the workspace's gateways."""

    def __init__(self, settings: OidcSettings, secret: bytes, workspace: str, clock: Clock) -> None:
        self.settings = settings
        self._key = key_for(secret, workspace, "oidc")
        self._clock = clock
        self._asking = asyncio.Lock()
        self._provider: tuple[_Provider, float] | None = None
        self._keys: tuple[jwk.KeySet, float] | None = None
        self._failed: tuple[SignInRefused, float] | None = None

    # --- to the provider ---

    async def begin(self, redirect: str, *, again: str = "") -> tuple[str, str]:
        """Return where a browser goes to sign in, and the cookie's text that brings it back to us.

        ``again``: the cookie of who is signed in, and is to show the provider anew who she is.
        """
        provider = await self._known()
        begun = f"{int(self._clock.now())}.{secrets.token_urlsafe(32)}{f'.{again}' if again else ''}"
        challenge = hashlib.sha256(self._of(begun, "verifier").encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": redirect,
            "scope": " ".join(SCOPES),
            "state": self._of(begun, "state"),
            "nonce": self._of(begun, "nonce"),
            "code_challenge": _text(challenge),
            "code_challenge_method": "S256",
        }
        if self.settings.acr:
            query["acr_values"] = " ".join(self.settings.acr)
        if again:
            query |= {"prompt": "login", "max_age": "0"}
        return str(URL(provider.authorize).update_query(query)), begun

    # --- and back ---

    async def finish(self, told: Mapping[str, str], begun: str, redirect: str) -> Identity:
        """Return who has signed in; ``told``: what the provider sent back. `SignInRefused` where it does not count."""
        provider = await self._known()
        self._check_answer(told, begun, provider)
        answer = await self._exchange(provider, told["code"], begun, redirect)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise SignInRefused("failed", "the provider gave no ID token")
        expected = Expected(self.settings.issuer, self.settings.client_id, self._of(begun, "nonce"))
        try:
            identity = self._identity(await self._claims(token, provider, expected))
        except IdTokenRefused as error:
            raise SignInRefused("failed", str(error)) from error
        if again_of(begun) and identity.shown < _begun_at(begun) - FRESH_S:
            raise SignInRefused("failed", "the provider does not say that somebody has shown it just now who she is")
        return identity

    def check_factor(self, identity: Identity, roles: Iterable[PersonRole]) -> None:
        """Raise `SignInRefused` where somebody with these roles needs a second factor, and has shown none."""
        settings = self.settings
        demanded = not settings.factor_roles or not set(roles).isdisjoint(settings.factor_roles)
        if demanded and (settings.acr or settings.amr) and not identity.factor:
            wanted = (("acr", settings.acr), ("amr", settings.amr))
            said = " and ".join(f"{claim} {' or '.join(values)}" for claim, values in wanted if values)
            raise SignInRefused(
                "factor", f"expected {said} of {identity.name}, the provider says {identity.factor_told}"
            )

    def _check_answer(self, told: Mapping[str, str], begun: str, provider: _Provider) -> None:
        """Raise `SignInRefused` unless this browser has asked for this answer, of this provider, a moment ago."""
        if not 0 <= self._clock.now() - _begun_at(begun) <= BEGUN_S:
            raise SignInRefused("expired", "nobody has begun to sign in from this browser in the last ten minutes")
        if not hmac.compare_digest(told.get("state", "").encode(), self._of(begun, "state").encode()):
            raise SignInRefused("failed", "the answer is not to what this browser has asked (state)")
        if told.get("iss", "" if provider.says_issuer else self.settings.issuer) != self.settings.issuer:
            raise SignInRefused("failed", "the answer is of another issuer (iss)")
        if "error" in told:
            word = "cancelled" if told["error"] == "access_denied" else "failed"
            raise SignInRefused(
                word, f"the provider says {told['error'][:100]}: {told.get('error_description', '')[:200]}"
            )
        if not 0 < len(told.get("code", "")) <= CODE_CHARS_MAX:
            raise SignInRefused("failed", "the answer has no code")

    async def _exchange(self, provider: _Provider, code: str, begun: str, redirect: str) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": self._of(begun, "verifier"),
        }
        basic = ""
        if self.settings.client_secret and provider.takes_basic:
            pair = f"{_quoted(self.settings.client_id)}:{_quoted(self.settings.client_secret)}"
            basic = base64.b64encode(pair.encode()).decode()
        else:
            form["client_id"] = self.settings.client_id
            if self.settings.client_secret:
                form["client_secret"] = self.settings.client_secret
        return await _asked("POST", provider.token, data=form, basic=basic)

    async def _claims(self, token: str, provider: _Provider, expected: Expected) -> Mapping[str, Any]:
        keys, at = await self._known_keys(provider)
        try:
            return claims_of(token, keys, expected, self._clock.now())
        except KeyUnknown:
            if self._clock.now() - at < AGAIN_S:
                raise
        keys, _ = await self._known_keys(provider, anew=True)
        return claims_of(token, keys, expected, self._clock.now())

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        settings = self.settings
        roles = None
        if settings.roles_claim:
            groups = groups_in(claims, settings.roles_claim)
            roles = tuple(dict.fromkeys(settings.role_map[group] for group in groups if group in settings.role_map))
        name = claims.get("preferred_username")
        if not isinstance(name, str) or not name:
            name = claims.get("email") if claims.get("email_verified") is True else claims["sub"]
        acr, amr = _texts(claims.get("acr"))[:1], _texts(claims.get("amr"))
        pairs = ((acr, settings.acr), (amr, settings.amr))
        at = claims.get("auth_time")
        return Identity(
            f"{settings.issuer}#{claims['sub']}",
            _STRANGE.sub("_", str(name))[:120],
            roles,
            shown=float(at) if isinstance(at, int) and not isinstance(at, bool) and 0 < at < 2**40 else 0.0,
            factor=any(wanted for _, wanted in pairs)
            and all(not wanted or not set(wanted).isdisjoint(told) for told, wanted in pairs),
            factor_told=f"acr {' '.join(acr) or 'nothing'} and amr {' '.join(amr) or 'nothing'}"[:200],
        )

    # --- what is known of it ---

    async def _known(self) -> _Provider:
        async with self._asking:
            known, now = self._provider, self._clock.now()
            if known is not None and 0 <= now - known[1] < KEPT_S:
                return known[0]
            if self._failed is not None and 0 <= now - self._failed[1] < FAILED_S:
                raise SignInRefused(self._failed[0].word, str(self._failed[0]))
            url = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            try:
                found = _provider_of(await _asked("GET", url), self.settings.issuer)
            except SignInRefused as error:
                self._failed = (error, self._clock.now())
                raise
            self._provider = (found, self._clock.now())
            return found

    async def _known_keys(self, provider: _Provider, *, anew: bool = False) -> tuple[jwk.KeySet, float]:
        async with self._asking:
            known = self._keys
            if anew or known is None or not 0 <= self._clock.now() - known[1] < KEPT_S:
                known = self._keys = (keys_of(await _asked("GET", provider.keys)), self._clock.now())
            return known

    def _of(self, begun: str, purpose: str) -> str:
        """Return a text that only gateways of this workspace can make of what stands in the cookie."""
        return _text(hmac.digest(self._key, f"{purpose}\0{begun}".encode(), "sha256"))


def again_of(begun: str) -> str:
    """Return the cookie of who is to show anew who she is; '' where somebody signs in."""
    match = _BEGUN.fullmatch(begun)
    return match[3] or "" if match is not None else ""


def _begun_at(begun: str) -> float:
    match = _BEGUN.fullmatch(begun)
    return float(match[1]) if match is not None else float("-inf")


def groups_in(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    """Return the groups in a claim, by its name, or by a path of names joined by dots; one text is one group."""
    found: Any = claims.get(claim)
    if found is None:
        found = claims
        for part in claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    return _texts(found)


def _texts(found: object) -> tuple[str, ...]:
    """Return a claim that is a text, or a list of some; what else it is says nothing."""
    if isinstance(found, str):
        return (found,)
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def _provider_of(told: Mapping[str, Any], issuer: str) -> _Provider:
    """Return what a provider's document says; `SignInRefused` where it is another's, or leads to plain HTTP."""
    if told.get("issuer") != issuer:
        raise SignInRefused("failed", f"the document of {issuer} is of another issuer: {str(told.get('issuer'))[:200]}")
    found = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        try:
            found[name] = _check_address(name, told.get(name), issuer)
        except ConfigError as error:
            raise SignInRefused("failed", f"the document of {issuer}: {error}") from error
    methods = told.get("token_endpoint_auth_methods_supported")
    return _Provider(
        found["authorization_endpoint"],
        found["token_endpoint"],
        found["jwks_uri"],
        says_issuer=told.get("authorization_response_iss_parameter_supported") is True,
        takes_basic=not isinstance(methods, list) or "client_secret_basic" in methods,
    )


def _check_address(what: str, url: object, issuer: str = "http:") -> str:
    """Return an address that may be asked: https, or http on this machine (for trying it out).

    Of a provider elsewhere not even that: whoever writes its document would have us ask what listens on this machine.
    """
    try:
        found = URL(url) if isinstance(url, str) else URL()
    except ValueError:
        found = URL()
    if found.scheme == "https" and found.host and not found.user:
        return str(url)
    if (
        found.scheme == "http"
        and issuer.startswith("http:")
        and found.host
        and not found.user
        and _is_loopback(found.host)
    ):
        return str(url)
    raise ConfigError(f"{what}: expected an https:// address, got {str(url)[:200]!r}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def _asked(method: str, url: str, *, data: Mapping[str, str] | None = None, basic: str = "") -> Mapping[str, Any]:
    """Return what a provider answers as JSON; redirects are not followed. `SignInRefused` where it does not answer."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    headers = {"Accept": "application/json", **({"Authorization": f"Basic {basic}"} if basic else {})}
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer,
        ):
            body = await answer.content.read(ANSWER_BYTES_MAX + 1)
            while len(body) <= ANSWER_BYTES_MAX and not answer.content.at_eof():
                body += await answer.content.read(ANSWER_BYTES_MAX + 1 - len(body))
            if answer.status != 200 or len(body) > ANSWER_BYTES_MAX:
                raise SignInRefused("failed", f"{url} answers {answer.status} with {len(body)} bytes")
            found = _json(body)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SignInRefused("failed", f"{url} does not answer: {str(error) or type(error).__name__}") from error
    if not isinstance(found, dict):
        raise SignInRefused("failed", f"{url} answers something else than a JSON object")
    return found


def _json(body: bytes) -> Any:  # noqa: ANN401 - a provider's
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SignInRefused("failed", "the provider answers something else than JSON") from error


def _quoted(text: str) -> str:
    """Return a client's id or secret as Basic has it for OAuth: form-encoded first (RFC 6749, 2.3.1)."""
    return URL.build(query={"a": text}).raw_query_string[2:]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
