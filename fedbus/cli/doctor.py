"""The way from here to the clients, hop by hop: what works, where it breaks, what to do.

    DNS -> (proxy ->) TCP -> TLS -> authentication -> permission -> JetStream -> payload -> streams
                                                      -> coordinator -> combiners -> clients -> clocks

A hop that depends on a broken one is not looked at: its failure would tell nothing. What a role may not ask is not
asked: of a client it is looked at whether the broker and the coordinator answer it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fedbus.bus.checks import BROKER_HEADERS_BYTES, HEADERS_BYTES_MAX
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.jetstream import JetStream
from fedbus.bus.nats.requests import NobodyListens, Requests
from fedbus.bus.tls import client_context, split_url
from fedbus.cli import reaching
from fedbus.cli.output import names_text, print_json, size
from fedbus.cli.proving import Permitted, Standing, check_clock, enter, standing_of
from fedbus.cli.reaching import Address, BrokenError
from fedbus.cli.roles import Place
from fedbus.errors import BusError, FedbusError
from fedbus.federation.service import Federation
from fedbus.messages.access import BoardAsked
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.ids import Peer
from fedbus.messages.queries import Seen
from fedbus.messages.subjects import Subjects
from fedbus.store.streams import streams_of
from fedbus.tensors import CHUNK_BYTES

DEADLINE_S = 5.0

CLOCK_S_MAX = 2.0
"""Deadlines are wall time: a clock that is off by this gives a client that much less, or more, of every round."""

HEARD_S_MAX = 6.0
"""How old the coordinator's news of a client that lives may be: a heartbeat of 5 s and its way."""


@dataclass(frozen=True, slots=True)
class Check:
    """One hop: what was found, and what to do where it is not well."""

    hop: str
    ok: bool
    found: str
    advice: str = ""


async def examine(place: Place) -> list[Check]:
    """Look at every hop in its order, until one that others depend on is broken."""
    return await _Examination(place).run()


def report(checks: list[Check], *, json: bool) -> None:
    """Print what was found."""
    if json:
        print_json({"ok": all(check.ok for check in checks), "checks": checks})
        return
    for check in checks:
        print(f"{'ok    ' if check.ok else 'FAILED'}  {check.hop:14s} {check.found}")
        if check.advice:
            print(f"        {'':14s} -> {check.advice}")


class _Examination:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._subjects = Subjects(place.workspace)
        self._connection = Connection(place.url, "fedbus-doctor")
        self._addresses: Sequence[Address] = ()
        self._greetings: dict[Address, dict[str, Any]] = {}
        self._standing = Standing()
        self._clocks: dict[str, float] = {}
        self._checks: list[Check] = []

    async def run(self) -> list[Check]:
        try:
            for hop, look in (
                ("DNS", self._names),
                ("proxy", self._proxies),
                ("TCP", self._ports),
                ("TLS", self._tls),
                ("authentication", self._who),
                ("permission", self._permission),
                ("JetStream", self._storage),
                ("payload", self._payload),
                ("streams", self._streams),
            ):
                if hop == "proxy" and all(address.proxy is None for address in self._addresses):
                    continue
                if not await self._hop(hop, look):
                    return self._checks
            if self._standing.may_publish(self._subjects.query("clients")):
                await self._roles()
            else:
                await self._asked()
        finally:
            await self._connection.close()
        return self._checks

    async def _hop(self, hop: str, look: Callable[[], Awaitable[str]]) -> bool:
        try:
            check = Check(hop, True, await look())
        except BrokenError as broken:
            check = Check(hop, False, broken.found, broken.advice)
        except FedbusError as error:
            check = Check(hop, False, str(error))
        self._checks.append(check)
        return check.ok

    # ---- below the broker's protocol: one of several addresses is enough

    async def _each(self, look: Callable[[Address], Awaitable[str]]) -> str:
        told, broken, reached = [], [], []
        for address in self._addresses:
            try:
                told.append(await look(address))
                reached.append(address)
            except BrokenError as error:
                broken.append(error)
        if not reached:
            found = "; ".join(dict.fromkeys(error.found for error in broken))
            raise BrokenError(found, broken[0].advice)
        self._addresses = reached
        away = f"; not: {'; '.join(error.found for error in broken)}" if broken else ""
        return ", ".join(dict.fromkeys(told)) + away

    async def _names(self) -> str:
        self._addresses = reaching.addresses_of(self._place.url)
        return await self._each(reaching.look_up)

    async def _proxies(self) -> str:
        return await self._each(reaching.pass_proxy)

    async def _ports(self) -> str:
        async def greeted(address: Address) -> str:
            took = await reaching.dial(address)
            self._greetings[address] = await reaching.greet(address)
            return took

        return await self._each(greeted)

    async def _tls(self) -> str:
        # credentials bring along whom to trust; what is wrong with them is the next hop's to say
        try:
            credentials = standing_of(self._place).credentials
        except BrokenError:
            credentials = None
        _, files = split_url(self._place.url)
        context = client_context(files, ca="" if credentials is None else credentials.trust.ca)

        async def shaken(address: Address) -> str:
            if not address.is_encrypted and not self._greetings[address].get("tls_required"):
                return "none: what travels can be read on the way"
            return await reaching.secure(address, context)

        return await self._each(shaken)

    # ---- the broker

    async def _who(self) -> str:
        self._standing = standing_of(self._place)
        await enter(self._connection, self._place, self._standing, DEADLINE_S)
        self._requests = Requests(self._connection)  # not before: its inbox is that of who we are
        self._jetstream = JetStream(self._connection, self._requests)
        await self._requests.open()
        began = time.perf_counter()
        await self._connection.flush(DEADLINE_S)
        took = f"{1000 * (time.perf_counter() - began):.1f} ms away and back"
        greetings = [greeting for greeting in self._greetings.values() if greeting]
        if greetings and not any(greeting.get("auth_required") for greeting in greetings):
            return f"nobody is asked who he is, {took}"
        return f"{self._standing}, {took}{self._standing.exposed}"

    async def _permission(self) -> str:
        return await Permitted(self._connection).check(self._standing, DEADLINE_S)

    async def _ask(self, path: str) -> dict[str, Any]:
        return await self._jetstream.api(path, None, deadline_s=DEADLINE_S, what=path.lower())

    async def _storage(self) -> str:
        try:
            if self._standing.permissions is not None:
                return await self._storage_of_a_member()
            info = await self._ask("INFO")
        except BusError as error:
            advice = "turn it on in the broker's settings (`jetstream {}`), or use the one of `fedbus up`"
            raise BrokenError(str(error), advice) from error
        limits = info.get("limits", {})
        return f"on; {size(info.get('storage', 0))} of {_limit(limits.get('max_storage', -1))} on disk"

    async def _storage_of_a_member(self) -> str:
        """Ask for a model that there is not, as every role may: figures of the account are not for members."""
        subjects = self._subjects
        subject = subjects.blob(f"doctor-{secrets.token_hex(4)}", "manifest")
        asked = f"$JS.API.DIRECT.GET.{subjects.stream('blob')}.{subject}"
        if not self._standing.may_publish(asked):
            return "not for this role to ask"
        try:
            await self._requests.call(asked, deadline_s=DEADLINE_S, what="a model that there is not")
        except NobodyListens as error:
            found = f"no stream of models of workspace {subjects.workspace}"
            raise BrokenError(found, "its coordinator makes it: `fedbus up`, or `fedbus coordinator`") from error
        return "on, and answers us"

    async def _payload(self) -> str:
        allowed, needed = self._connection.payload_max, CHUNK_BYTES + HEADERS_BYTES_MAX + BROKER_HEADERS_BYTES
        found = f"messages up to {size(allowed)}; a chunk with its headers has {size(needed)}"
        if allowed < needed:
            raise BrokenError(found, f"set max_payload of the broker to {needed} or more")
        return found

    async def _streams(self) -> str:
        missing, held = [], 0
        specs = [
            spec
            for spec in streams_of(self._subjects)
            if self._standing.may_publish(f"$JS.API.STREAM.INFO.{spec.name}")
        ]
        for spec in specs:
            sent = time.time()
            try:
                info = await self._ask(f"STREAM.INFO.{spec.name}")
            except BusError:
                missing.append(spec.name)
                continue
            held += int(info["state"]["bytes"])
            if "ts" in info:
                middle = (sent + time.time()) / 2
                self._clocks["broker"] = _epoch(info["ts"]) - middle
        if missing:
            who = f"a coordinator of workspace {self._subjects.workspace}"
            advice = f"{who} makes them: `fedbus up`, or `fedbus coordinator`"
            raise BrokenError(f"not there: {names_text(missing)}", advice)
        return f"all there, {size(held)}" if specs else "not for this role to look at"

    async def _asked(self) -> None:
        """Ask the coordinator what a client may ask: what there is to do for it."""
        await self._hop("coordinator", self._board)
        await self._hop("clocks", self._own_clock)

    async def _board(self) -> str:
        claims = self._standing.credentials.claims if self._standing.credentials is not None else None
        subject = "" if claims is None else self._subjects.board(Peer(claims.role, claims.name))
        if claims is None or not self._standing.may_publish(subject):
            return "not for this role to ask"
        envelope = Envelope(f"doctor-{secrets.token_hex(4)}", claims.workspace, claims.name, BoardAsked())
        began = time.perf_counter()
        try:
            await self._requests.call(
                subject, encode(envelope), deadline_s=DEADLINE_S, what="what stands on our board?"
            )
        except BusError as error:
            raise BrokenError(f"none answers: {error}", "the operator has to start one: `fedbus up`") from error
        return f"answers in {1000 * (time.perf_counter() - began):.1f} ms"

    async def _own_clock(self) -> str:
        return check_clock(self._standing)

    async def _roles(self) -> None:
        """Ask the coordinator who is there; without it the rest is not known."""
        place, path = self._place, self._standing.path
        credentials = "" if path is None else str(path)
        async with Federation(place.url, credentials=credentials, workspace=place.workspace) as federation:
            seen: dict[str, list[Seen]] = {}

            async def coordinator() -> str:
                began = time.perf_counter()
                try:
                    async with asyncio.timeout(DEADLINE_S):
                        seen["combiner"] = await federation.combiners()
                        took = time.perf_counter() - began
                        seen["client"] = await federation.clients()
                except (TimeoutError, BusError) as error:
                    why = str(error) or f"no answer within {DEADLINE_S:g} s"
                    raise BrokenError(
                        f"none answers: {why}", "start one: `fedbus up`, or `fedbus coordinator`"
                    ) from error
                return f"answers in {1000 * took:.1f} ms"

            if not await self._hop("coordinator", coordinator):
                return
            await self._hop(
                "combiners", lambda: _present(seen["combiner"], "`fedbus up`, or `fedbus combiner --name NAME`")
            )
            await self._hop("clients", lambda: _present(seen["client"], "`fedbus client run MODULE:APP --name NAME`"))
            everybody = [*seen["combiner"], *seen["client"]]
            if everybody:
                # heard at most a heartbeat ago: between 0 and HEARD_S_MAX is right, only what is outside tells
                age = time.time() - max(peer.seen_at for peer in everybody)
                self._clocks["coordinator"] = -min(age, 0.0) if age < 0 else -max(0.0, age - HEARD_S_MAX)
            await self._hop("clocks", self._clock)

    async def _clock(self) -> str:
        check_clock(self._standing)
        text = ", ".join(f"{who} {difference:+.2f} s" for who, difference in self._clocks.items()) or "not known"
        if any(abs(difference) > CLOCK_S_MAX for difference in self._clocks.values()):
            raise BrokenError(f"differ from here: {text}", "let NTP set the clocks: deadlines are wall time")
        return f"agree with here: {text}"


async def _present(seen: list[Seen], advice: str) -> str:
    if not seen:
        raise BrokenError("none is there", f"start one: {advice}")
    return f"{len(seen)}: {names_text(sorted(peer.name for peer in seen))}"


def _limit(nbytes: int) -> str:
    return "no limit" if nbytes < 0 else size(nbytes)


def _epoch(text: str) -> float:
    """Return an RFC 3339 time of the broker's, which has nanoseconds, as seconds since the epoch."""
    head, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}+00:00").timestamp() + float(f"0.{rest or 0}")
