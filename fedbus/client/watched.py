"""The one door by which a client's words leave: what is not to leave does not, and what leaves is written down before.

It stands before the bus, so that it sees every byte whoever sends it. Shut (the owner has paused) it lets nothing
through but that an update is withdrawn. Updates wait here for their owner's rate. What is small and says nothing about
data - heartbeats, traces, announcements said again, chunks sent again - is counted and summed up
(`fedbus.client.outgoing`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fedbus.bus.base import Bus, Message, Payload
from fedbus.client.outgoing import OutgoingLog
from fedbus.client.owner import Owner
from fedbus.errors import BusUnavailable
from fedbus.messages import reports
from fedbus.messages.envelope import Envelope, decode
from fedbus.messages.presence import Hello
from fedbus.messages.uploads import UploadBegin
from fedbus.tensors.digest import Hasher

log = logging.getLogger("fedbus.client")

KNOWN_MAX = 100_000
"""Updates and reports that are known to be written down: what is said again is not written again."""


@dataclass(frozen=True, slots=True)
class About:
    """What is known here of something that leaves: for which purpose, of which version, with which L2 norm."""

    purpose: str = ""
    version: str = ""
    norm: float | None = None


class WatchedBus:
    """A bus with an owner before it; ``about(client, session)``: what is known of what leaves.

    All but sending is the bus's own. ``outgoing``: where it is written down, if it is.
    """

    def __init__(self, bus: Bus, owner: Owner, about: Callable[[str, str], About]) -> None:
        self._bus = bus
        self._owner = owner
        self.outgoing: OutgoingLog | None = None
        self._about = about
        self._known: dict[object, None] = {}
        self._hello: object = None
        self._free_at = 0.0
        self._only: frozenset[str] | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a bus has
        """Return what is not about sending."""
        return getattr(self._bus, name)

    @property
    def as_bus(self) -> Bus:
        """Itself: it has all that a bus has, which `__getattr__` does not tell a type checker."""
        return cast("Bus", self)

    async def publish(self, subject: str, data: Payload, headers: Mapping[str, str] | None = None) -> None:
        """Send a plain message, if it is to leave; errors as of the bus, `BusUnavailable` where it is not logged."""
        family, *names = subject.split(".")[2:]
        policy = self._owner.policy
        if self._is_shut(family, data) or (family == "span" and policy is not None and not policy.outgoing.spans):
            return
        if self.outgoing is not None:
            self._write(self.outgoing, family, names, data)
        self._owner.spend(up=len(data))
        if policy is not None and policy.limits.bytes_up_per_s and family in ("chunk", "up"):
            await self._pace(len(data), policy.limits.bytes_up_per_s)
            if self._is_shut(family, data):
                return
        await self._bus.publish(subject, data, headers)

    def shut(self, but: str = "") -> None:
        """Let nothing through from now on, but one family of subjects, where that is named."""
        self._only = frozenset({but} - {""})

    def unshut(self) -> None:
        """Let everything through."""
        self._only = None

    def _is_shut(self, family: str, data: Payload) -> bool:
        if self._only is None or family in self._only:
            return False
        return family != "report" or not isinstance(decode(data, family).body, reports.Withdrawn)

    async def request(
        self, subject: str, data: Payload, *, deadline_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Ask, unless it is shut (`BusUnavailable`); questions have no data of the owner in them."""
        self._check_open()
        if self.outgoing is not None:
            self.outgoing.count("request", len(data))
        return await self._bus.request(subject, data, deadline_s=deadline_s, headers=headers)

    async def newest(self, stream: str, pattern: str | Sequence[str], **more: Any) -> list[Message]:  # noqa: ANN401
        """Read what stands on the board, unless it is shut (`BusUnavailable`): to read is to ask."""
        self._check_open()
        return await self._bus.newest(stream, pattern, **more)

    def _check_open(self) -> None:
        if self._only is not None:
            raise BusUnavailable("its owner has paused it: nothing is asked")

    async def append(self, stream: str, subject: str, data: Payload, **more: Any) -> int:  # noqa: ANN401 - as the bus
        """Append to a stream; no client does, and if one did it would be written down."""
        if self.outgoing is not None:
            digest = _digest(data)
            self.outgoing.write("append", {"subject": subject, "bytes": len(data), "digest": digest})
        return await self._bus.append(stream, subject, data, **more)

    async def _pace(self, nbytes: int, bytes_s: int) -> None:
        """Wait until so many bytes may follow those before."""
        now = asyncio.get_running_loop().time()
        begin = max(now, self._free_at)
        self._free_at = begin + nbytes / bytes_s
        if begin > now:
            await asyncio.sleep(begin - now)

    # --- writing down ---

    def _write(self, outgoing: OutgoingLog, family: str, names: list[str], data: Payload) -> None:
        if family == "chunk":
            self._write_chunk(outgoing, tuple(names[:6]), names[6], len(data))
        elif family in ("up", "report", "presence"):
            self._write_said(outgoing, family, names, decode(data, family), data)
        else:
            outgoing.count(family, len(data))

    def _write_chunk(self, outgoing: OutgoingLog, upload: tuple[str, ...], index: str, nbytes: int) -> None:
        """A chunk is part of an update that is written down; one that goes again is counted."""
        new = self._is_new(("chunk", *upload, index))
        if ("upload", *upload) not in self._known:
            told = dict(zip(("to", "role", "client", "session", "round", "attempt"), upload, strict=True))
            outgoing.write("chunk", told | {"index": index, "bytes": nbytes})
        elif not new:
            outgoing.count("chunk again", nbytes)

    def _write_said(self, outgoing: OutgoingLog, family: str, names: list[str], said: Envelope, data: Payload) -> None:
        match said.body:
            case UploadBegin() as begin:
                client = names[2]
                key = (client, begin.session, begin.round, begin.attempt, names[0], begin.digest)
                if self._is_new(key):
                    outgoing.write("update", self._of_update(client, names[0], begin))
                    self._is_new(("upload", *names[:3], begin.session, str(begin.round), str(begin.attempt)))
                    if not begin.inline:
                        outgoing.count("announcement", len(data))
                else:
                    outgoing.count("announcement again", len(data))
            case Hello() as hello:
                told = hello.model_copy(update={"doing": ""})
                if told == self._hello:
                    outgoing.count("presence", len(data))
                    return
                self._hello = told
                outgoing.write("hello", _of(data) | {"attributes": dict(hello.attributes), "members": hello.members})
            case body if family == "report" and self._is_new(("report", said.id)):
                outgoing.write(_NAMES.get(type(body), body.kind), self._of_report(names[1], body, data))
            case _:
                outgoing.count(f"{family} again" if family == "report" else family, len(data))

    def _is_new(self, key: object) -> bool:
        if key in self._known:
            return False
        self._known[key] = None
        if len(self._known) > KNOWN_MAX:
            self._known.pop(next(iter(self._known)))
        return True

    def _of_update(self, client: str, combiner: str, begin: UploadBegin) -> dict[str, Any]:
        about = self._about(client, begin.session)
        return {
            "client": client,
            "session": begin.session,
            "round": begin.round,
            "purpose": about.purpose,
            "version": about.version,
            "to": combiner,
            "bytes": begin.nbytes,
            "digest": begin.digest,
            "norm": about.norm,
            "weight": begin.weight,
            "metrics": dict(begin.metrics),
            "packed": begin.packed,
        }

    def _of_report(self, client: str, body: Any, data: Payload) -> dict[str, Any]:  # noqa: ANN401 - any report
        about = self._about(client, body.session)
        told = _of(data) | {"client": client, "session": body.session, "round": body.round, "purpose": about.purpose}
        match body:
            case reports.Evaluated():
                numbers = sum(map(len, body.sums.values()))
                return told | {"version": body.version, "metrics": dict(body.metrics), "sums": numbers}
            case reports.TaskFailed():
                return told | {"stage": body.stage, "reason": body.reason}
            case reports.Withdrawn():
                return told | {"reason": body.reason}
            case _:
                return told


_NAMES = {reports.Evaluated: "evaluation", reports.TaskFailed: "reason", reports.Withdrawn: "withdrawal"}


def _of(data: Payload) -> dict[str, Any]:
    return {"bytes": len(data), "digest": _digest(data)}


def _digest(data: Payload) -> str:
    hasher = Hasher()
    hasher.update(data)
    return hasher.hexdigest()
