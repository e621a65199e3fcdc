"""The way from here to the clients, hop by hop: what works, where it breaks, what to do.

    broker -> JetStream -> payload -> streams -> coordinator -> combiners -> clients -> clocks

A hop that depends on a broken one is not looked at: its failure would tell nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fedbus.bus.checks import BROKER_HEADERS_BYTES, HEADERS_BYTES_MAX
from fedbus.bus.nats.identity import identify_by
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.jetstream import JetStream
from fedbus.bus.nats.requests import Requests
from fedbus.cli.output import names_text, print_json, size
from fedbus.cli.roles import Place
from fedbus.errors import BusError, FedbusError
from fedbus.federation.service import Federation
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


class _BrokenError(Exception):
    """This hop is broken; the arguments are what was found and what to do."""


async def examine(place: Place) -> list[Check]:
    """Look at every hop in its order, until one that others depend on is broken."""
    return await _Examination(place).run()


def report(checks: list[Check], *, json: bool) -> None:
    """Print what was found."""
    if json:
        print_json({"ok": all(check.ok for check in checks), "checks": checks})
        return
    for check in checks:
        print(f"{'ok    ' if check.ok else 'FAILED'}  {check.hop:12s} {check.found}")
        if check.advice:
            print(f"        {'':12s} -> {check.advice}")


class _Examination:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._subjects = Subjects(place.workspace)
        self._connection = Connection(place.url, "fedbus-doctor")
        self._requests = Requests(self._connection)
        self._jetstream = JetStream(self._connection, self._requests)
        self._clocks: dict[str, float] = {}
        self._checks: list[Check] = []

    async def run(self) -> list[Check]:
        try:
            for hop, look in (
                ("broker", self._broker),
                ("JetStream", self._storage),
                ("payload", self._payload),
                ("streams", self._streams),
            ):
                if not await self._hop(hop, look):
                    return self._checks
            await self._roles()
        finally:
            await self._connection.close()
        return self._checks

    async def _hop(self, hop: str, look: Callable[[], Awaitable[str]]) -> bool:
        try:
            check = Check(hop, True, await look())
        except _BrokenError as broken:
            check = Check(hop, False, *broken.args)
        except FedbusError as error:
            check = Check(hop, False, str(error))
        self._checks.append(check)
        return check.ok

    async def _broker(self) -> str:
        try:
            await self._connection.open(
                identify=identify_by(self._place.credentials), tls=None, inbox_prefix="_INBOX", deadline_s=DEADLINE_S
            )
        except BusError as error:
            advice = "start one (`fedbus up`), or name another: --nats URL, FEDBUS_URL"
            raise _BrokenError(str(error), advice) from error
        await self._requests.open()
        began = time.perf_counter()
        await self._connection.flush(DEADLINE_S)
        return f"{self._connection.where}, {1000 * (time.perf_counter() - began):.1f} ms away and back"

    async def _ask(self, path: str) -> dict[str, Any]:
        return await self._jetstream.api(path, None, deadline_s=DEADLINE_S, what=path.lower())

    async def _storage(self) -> str:
        try:
            info = await self._ask("INFO")
        except BusError as error:
            advice = "turn it on in the broker's settings (`jetstream {}`), or use the one of `fedbus up`"
            raise _BrokenError(str(error), advice) from error
        limits = info.get("limits", {})
        return f"on; {size(info.get('storage', 0))} of {_limit(limits.get('max_storage', -1))} on disk"

    async def _payload(self) -> str:
        allowed, needed = self._connection.payload_max, CHUNK_BYTES + HEADERS_BYTES_MAX + BROKER_HEADERS_BYTES
        found = f"messages up to {size(allowed)}; a chunk with its headers has {size(needed)}"
        if allowed < needed:
            raise _BrokenError(found, f"set max_payload of the broker to {needed} or more")
        return found

    async def _streams(self) -> str:
        missing, held = [], 0
        for spec in streams_of(self._subjects):
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
            raise _BrokenError(f"not there: {names_text(missing)}", advice)
        return f"all there, {size(held)}"

    async def _roles(self) -> None:
        """Ask the coordinator who is there; without it the rest is not known."""
        place = self._place
        async with Federation(place.url, credentials=place.credentials, workspace=place.workspace) as federation:
            seen: dict[str, list[Seen]] = {}

            async def coordinator() -> str:
                began = time.perf_counter()
                seen["combiner"] = await federation.combiners()
                took = time.perf_counter() - began
                seen["client"] = await federation.clients()
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
        text = ", ".join(f"{who} {difference:+.2f} s" for who, difference in self._clocks.items()) or "not known"
        if any(abs(difference) > CLOCK_S_MAX for difference in self._clocks.values()):
            raise _BrokenError(f"differ from here: {text}", "let NTP set the clocks: deadlines are wall time")
        return f"agree with here: {text}"


async def _present(seen: list[Seen], advice: str) -> str:
    if not seen:
        raise _BrokenError("none is there", f"start one: {advice}")
    return f"{len(seen)}: {names_text(sorted(peer.name for peer in seen))}"


def _limit(nbytes: int) -> str:
    return "no limit" if nbytes < 0 else size(nbytes)


def _epoch(text: str) -> float:
    """Return an RFC 3339 time of the broker's, which has nanoseconds, as seconds since the epoch."""
    head, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}+00:00").timestamp() + float(f"0.{rest or 0}")
