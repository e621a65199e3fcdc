"""What is asked of JetStream, in its own JSON: streams, appends, reads. nats-py's layer for it is not used.

Reasons: its asynchronous publish hangs for ever on an error of the broker, its errors tell a full store from a lost
race only by text, it has no batched direct get. The subjects used, for permissions:
``$JS.API.STREAM.CREATE|UPDATE|INFO|PURGE.<stream>``, ``$JS.API.STREAM.MSG.DELETE|GET.<stream>``,
``$JS.API.DIRECT.GET.<stream>[.<subject>]``, ``$JS.API.CONSUMER.CREATE|DELETE.<stream>.>`` and
``$JS.API.CONSUMER.MSG.NEXT.<stream>.>``, the streams' own subjects, and the inbox.

Everything here may be sent twice (after a reconnection) without harm: reads, descriptions, removals by name, and
appends, since each carries a message id.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from nats.aio.msg import Msg

from fedbus.bus.base import Message, Storage, StreamSpec, Usage
from fedbus.bus.checks import NO_HEADERS, REPEAT_WINDOW_S, patterns_text
from fedbus.bus.nats.connection import Connection
from fedbus.bus.nats.requests import NobodyListens, Requests, next_answer, status_of
from fedbus.bus.patterns import matcher
from fedbus.errors import BadMessage, BusDenied, BusError, BusFull, BusUnavailable, ConfigError, Conflict

T = TypeVar("T")

NEWEST_SUBJECTS_MAX = 1000
"""As `base.Bus.newest` says; nats-server itself answers 413 beyond 1,024."""

SILENCE_S_MAX = 2.0
"""Within an answer of many messages: longer, and one was lost with a connection or a leader; it is asked for again."""

REPLICA_S_MAX = 1.0
REPLICA_RETRY_S = 0.1
"""Until when, and how often, a replica is asked again for what is not there, by who may not ask the leader."""

RETRY_S = (0.02, 0.5)
"""First and longest pause before asking again what is not ready (a broker recovering, a leader being elected)."""

_CONFLICT = {10071, 10164}
_FULL = {10023, 10028, 10047, 10054, 10077, 10167}
_NO_STREAM = 10059
_OTHER_CONFIG = 10058
_WRONG_STREAM = 10060
_NO_MESSAGE = {10037, 10043, 10057}
_NEVER = {10057, 10110}
"""To delete and to purge have failed; that a stream denies it, to whoever may, is told by the text only."""

_OVERLOADED = 10167
_NO_PEERS = 10005
_NOT_CLUSTERED = 10074
_CHANGING = {10124, 10226}
_NO_STORE = (10049, "error creating store")
"""An account that a nats-server takes in is tried whether it can be written to: a directory is made and removed. Who
comes meanwhile, and makes a stream, has it removed under the stream: the next try finds none of that."""

_IN_PROCESS = 10158
"""A cluster has this very message, by its id, on its way through: asked again, it says where it was stored."""

HOW_TO_CLUSTER = "`fedbus broker settings --kind cluster` writes the settings of a cluster"


class NoStream(BusUnavailable):
    """There is no such stream now: its owner has not made it yet, or the broker has lost it."""


class NotReady(BusUnavailable):
    """The broker can't answer this now, ask again."""


class JetStream:
    """The streams of one connection."""

    def __init__(self, connection: Connection, requests: Requests) -> None:
        self._connection = connection
        self._requests = requests
        self._no_leader: set[str] = set()

    # ---- the plain API

    async def api(self, path: str, body: Mapping[str, Any] | None, *, deadline_s: float, what: str) -> dict[str, Any]:
        """Ask ``$JS.API.<path>``; returns its answer, raises its error translated."""
        data = json.dumps(body).encode() if body is not None else b""

        async def once(left_s: float) -> dict[str, Any]:
            answer = await self._requests.call(f"$JS.API.{path}", data, deadline_s=left_s, what=what)
            found: dict[str, Any] = json.loads(bytes(answer.data))
            raise_refusal(found, what)
            return found

        return await self.until_ready(once, deadline_s)

    async def until_ready(self, once: Callable[[float], Awaitable[T]], deadline_s: float) -> T:
        """Try until the broker is ready to answer, within the deadline. `once` is told how many seconds are left."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        pause, longest = RETRY_S
        while True:
            try:
                return await once(max(0.0, end - loop.time()))
            except (NobodyListens, NotReady):
                if loop.time() + pause >= end:
                    raise
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)

    # ---- streams

    async def ensure(self, spec: StreamSpec, deadline_s: float) -> None:
        """Create a stream or bring it to this description."""
        what, config = f"ensure {spec.name}", _config(spec)
        try:
            try:
                await self.api(f"STREAM.CREATE.{spec.name}", config, deadline_s=deadline_s, what=what)
            except _OtherConfig:
                info = await self.api(f"STREAM.INFO.{spec.name}", None, deadline_s=deadline_s, what=what)
                for step in _steps(spec, config, info["config"]):
                    await self.api(f"STREAM.UPDATE.{spec.name}", step, deadline_s=deadline_s, what=what)
        except _NoPeers as error:
            if "insufficient" in str(error):  # the servers are there
                raise BusFull(f"{error}: free room or raise the limits of {max(1, spec.replicas)} servers") from error
            text = f"{error}: {max(1, spec.replicas)} servers with JetStream are needed"
            where = f" that fit {spec.placement}" if spec.placement else ""
            raise ConfigError(f"{text}{where}: are all of them there, and tagged so? {HOW_TO_CLUSTER}") from error

    async def state(self, stream: str, deadline_s: float) -> tuple[str, int, list[str]]:
        """Return when a stream was made (as text), its last sequence and its subjects."""
        info = await self.api(f"STREAM.INFO.{stream}", None, deadline_s=deadline_s, what=f"look at {stream}")
        return str(info["created"]), int(info["state"]["last_seq"]), list(info["config"]["subjects"])

    async def usage(self, stream: str, deadline_s: float) -> Usage | None:
        """Return how full a stream is, None where there is none."""
        try:
            info = await self.api(f"STREAM.INFO.{stream}", None, deadline_s=deadline_s, what=f"usage of {stream}")
        except NoStream:
            return None
        state, config = info["state"], info["config"]
        storage = Storage(str(config["storage"]))
        return Usage(storage, int(state["messages"]), int(state["bytes"]), int(config["max_bytes"]))

    async def count(self, stream: str, pattern: str, deadline_s: float) -> int:
        """Count the messages of a pattern; the broker gives subjects page by page."""
        total = seen = 0
        while True:
            body = {"subjects_filter": pattern, "offset": seen}
            info = await self.api(f"STREAM.INFO.{stream}", body, deadline_s=deadline_s, what=f"pending {pattern}")
            page = info["state"].get("subjects") or {}
            total += sum(int(n) for n in page.values())
            seen += len(page)
            if not page or seen >= info.get("total", 0):
                return total

    async def purge(self, stream: str, pattern: str, deadline_s: float) -> None:
        """Remove all messages of a pattern."""
        body = {"filter": pattern}
        await self.api(f"STREAM.PURGE.{stream}", body, deadline_s=deadline_s, what=f"purge {pattern}")

    async def delete(self, stream: str, sequence: int, deadline_s: float) -> None:
        """Remove one message, if it is there."""
        try:
            # no_erase: overwriting the bytes with noise first would cost a write of its size
            body = {"seq": sequence, "no_erase": True}
            await self.api(f"STREAM.MSG.DELETE.{stream}", body, deadline_s=deadline_s, what=f"delete {sequence}")
        except _NoMessage:
            return

    async def advance(self, stream: str, sequence: int, deadline_s: float) -> None:
        """Let the next message of an empty stream have at least this sequence: a purge up to it says so."""
        what = f"advance {stream} to {sequence}"
        state = (await self.api(f"STREAM.INFO.{stream}", None, deadline_s=deadline_s, what=what))["state"]
        if int(state["last_seq"]) + 1 >= sequence:
            return
        if state["messages"]:
            raise Conflict(f"{what}: it holds {state['messages']} messages up to {state['last_seq']}")
        body = {"seq": sequence}
        answer = await self.api(f"STREAM.PURGE.{stream}", body, deadline_s=deadline_s, what=what)
        if answer["purged"]:
            raise Conflict(f"{what}: {answer['purged']} messages came in between, and were removed: append them again")

    # ---- appends

    async def append(
        self, stream: str, subject: str, data: bytes, headers: Mapping[str, str], deadline_s: float
    ) -> int:
        """Publish to the stream's subject and return the acknowledged sequence."""
        what = f"append {subject}"

        async def once(left_s: float) -> int:
            try:
                answer = await self._requests.call(subject, data, deadline_s=left_s, what=what, headers=headers)
            except NobodyListens:
                await self._check_taken(stream, subject, left_s)
                raise
            try:
                found = json.loads(bytes(answer.data))
                raise_refusal(found, what)
                return int(found["seq"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{what}: somebody else answers there, not a stream: {bytes(answer.data[:60])!r}"
                ) from error

        return await self.until_ready(once, deadline_s)

    async def _check_taken(self, stream: str, subject: str, deadline_s: float) -> None:
        """Find out why no stream takes a subject: the wrong subject, no such stream, or one that is not ready yet."""
        _, _, subjects = await self.state(stream, deadline_s)
        if not any(matcher(pattern)(subject) for pattern in subjects):
            raise ConfigError(f"stream {stream!r} takes {subjects}, not {subject!r}")

    # ---- reads

    async def last(self, stream: str, subject: str, deadline_s: float) -> tuple[Message, str] | None:
        """Return the newest message of a subject and its message id."""
        asked, what = f"$JS.API.DIRECT.GET.{stream}.{subject}", f"last {subject}"
        end = asyncio.get_running_loop().time() + min(deadline_s, REPLICA_S_MAX)
        while True:
            try:
                answer = await self._requests.call(asked, deadline_s=deadline_s, what=what)
            except NobodyListens as error:
                raise NoStream(_no_stream(stream, what)) from error
            if answer.data or status_of(answer) != "404":
                return stored_message(answer), (answer.headers or {}).get("Nats-Msg-Id", "")
            # a replica, which may not have it yet: a model that is announced must not be missed for that
            if stream not in self._no_leader:
                try:
                    return await self.last_of_leader(stream, subject, deadline_s)
                except BusDenied:
                    self._no_leader.add(stream)  # who may only get what it can name asks the replicas again
            if asyncio.get_running_loop().time() >= end:
                return None
            await asyncio.sleep(REPLICA_RETRY_S)

    async def last_of_leader(self, stream: str, subject: str, deadline_s: float) -> tuple[Message, str] | None:
        """Return the newest message of a subject as its leader has it: not behind, but in JSON, which costs more."""
        asked = f"STREAM.MSG.GET.{stream}"
        try:
            found = await self.api(
                asked, {"last_by_subj": subject}, deadline_s=deadline_s, what=f"last {subject} at the leader"
            )
        except _NoMessage:
            return None
        return _message_of_leader(found["message"])

    async def at(self, stream: str, sequence: int, deadline_s: float) -> Message | None:
        """Return the message with a sequence."""
        asked, what = f"$JS.API.DIRECT.GET.{stream}", f"message {sequence} of {stream}"
        body = {"seq": sequence}
        try:
            answer = await self._requests.call(asked, json.dumps(body).encode(), deadline_s=deadline_s, what=what)
        except NobodyListens as error:
            raise NoStream(_no_stream(stream, what)) from error
        if answer.data or status_of(answer) != "404":
            return stored_message(answer)
        try:  # a replica, which may not have it yet
            found = await self.api(f"STREAM.MSG.GET.{stream}", body, deadline_s=deadline_s, what=what)
        except _NoMessage:
            return None
        return _message_of_leader(found["message"])[0]

    async def newest(self, stream: str, patterns: Sequence[str], deadline_s: float) -> list[Message]:
        """Return the newest message of each subject, in order of sequence."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        what = f"newest {patterns_text(patterns)}"
        found: dict[int, Message] = {}
        up_to = 0
        while True:
            left_s = end - loop.time()
            if left_s <= 0:
                raise self._connection.unavailable(f"{what}: not complete within {deadline_s:g} s")
            body: dict[str, Any] = {"multi_last": patterns, "batch": NEWEST_SUBJECTS_MAX + 1}
            if up_to:
                # go on behind what has come, in the stream as it was when we began
                body |= {"up_to_seq": up_to, "seq": max(found, default=0) + 1}
            try:
                async with asyncio.timeout(left_s):
                    up_to, more = await self._page(stream, what, body, found)
            except TimeoutError:
                continue
            if len(found) > NEWEST_SUBJECTS_MAX:
                raise BusFull(f"{what}: more than {NEWEST_SUBJECTS_MAX} subjects at once: follow it instead")
            if not more:
                return [found[sequence] for sequence in sorted(found)]

    async def _page(self, stream: str, what: str, body: dict[str, Any], found: dict[int, Message]) -> tuple[int, bool]:
        asked = f"$JS.API.DIRECT.GET.{stream}"
        async with self._requests.asking(asked, json.dumps(body).encode(), repeat=False) as answers:
            while True:
                try:
                    async with asyncio.timeout(SILENCE_S_MAX):
                        answer = await next_answer(answers, asked)
                except TimeoutError:
                    return 0, True
                except NobodyListens as error:
                    raise NoStream(_no_stream(stream, what)) from error
                status = "" if answer.data else status_of(answer)
                if not status:
                    message = stored_message(answer)
                    found[message.sequence] = message
                elif status == "204":
                    headers = answer.headers or {}
                    return int(headers.get("Nats-UpTo-Sequence", 0)), int(headers.get("Nats-Num-Pending", 0)) > 0
                elif status == "404":
                    return 0, False
                elif status == "413":
                    raise BusFull(f"{what}: more than {NEWEST_SUBJECTS_MAX} subjects at once: follow it instead")
                else:
                    text = (answer.headers or {}).get("Description", "")
                    raise BusError(f"{what}: the broker answered {status} {text}")


class _OtherConfig(ConfigError):
    """The stream is there, described otherwise."""


class _NoPeers(NotReady):
    """Not enough servers take this stream: of a cluster that is just starting, they may come."""


class _NoMessage(BusError):
    """There is no such message."""


def raise_refusal(answer: Mapping[str, Any], what: str) -> None:
    """Raise the error that an answer of the API carries, if any."""
    error = answer.get("error")
    if not error:
        return
    code, reason, text = error.get("err_code", 0), error.get("code", 0), error.get("description", "no reason given")
    if code == _NO_STREAM:
        raise NoStream(f"{what}: {text}: its owner has not made it (`ensure`), or the broker has lost it")
    if code in _CONFLICT:
        raise Conflict(f"{what}: {text}: somebody else has written first, read again, then decide")
    if code in _NO_MESSAGE or code in _NEVER:
        _raise_nothing_removed(code, what, text)
    if code == _OTHER_CONFIG:
        raise _OtherConfig(f"{what}: {text}")
    if code == _NO_PEERS:
        raise _NoPeers(f"{what}: {text} (error {code})")
    if code == _NOT_CLUSTERED:
        how = f"ask for 1 replica, or start a cluster: {HOW_TO_CLUSTER}"
        raise ConfigError(f"{what}: {text}, and this server is alone (error {code}): {how}")
    if code in _FULL or any(word in text for word in ("resource limits", "maximum bytes", "insufficient")):
        kind = _Overloaded if code == _OVERLOADED else BusFull
        raise kind(f"{what}: {text} (error {code}): free room or raise the limit")
    if reason == 503 or code in _CHANGING or code == _IN_PROCESS or (code == _NO_STORE[0] and _NO_STORE[1] in text):
        raise NotReady(f"{what}: {text} (error {code})")
    raise ConfigError(f"{what}: the broker refuses: {text} (error {code})")


def _raise_nothing_removed(code: int, what: str, text: str) -> None:
    """Raise what it means that a message was not found, or was not removed."""
    if code in _NEVER and "not permitted" in text:
        raise BusDenied(f"{what}: {text}: the stream is append-only")
    if code in _NO_MESSAGE:
        raise _NoMessage(f"{what}: {text}")
    raise ConfigError(f"{what}: the broker refuses: {text} (error {code})")


class _Overloaded(BusFull, NotReady):
    """More is coming in than the broker can store at this moment: it is asked again, within the deadline."""


def _no_stream(stream: str, what: str) -> str:
    return f"{what}: there is no stream {stream!r}: its owner has not made it (`ensure`), or the broker has lost it"


def _steps(spec: StreamSpec, config: dict[str, Any], there: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the updates that bring an existing stream to its description; what that does not say stays as it is.

    The broker refuses to move a stream and to change its replicas at once: it moves while it has fewer.
    """
    replicas = {"num_replicas": there["num_replicas"]}
    placement = {"placement": there["placement"]} if there.get("placement") else {}
    last = config | ({} if spec.replicas else replicas) | (placement if spec.placement is None else {})
    if last["num_replicas"] == there["num_replicas"] or last.get("placement") == there.get("placement"):
        return [last]
    if last["num_replicas"] > there["num_replicas"]:
        return [last | replicas, last]
    return [{**{name: last[name] for name in last if name != "placement"}, **placement}, last]


def _config(spec: StreamSpec) -> dict[str, Any]:
    age_ns = round(spec.age_max_s * 1e9)
    repeat_ns = round(REPEAT_WINDOW_S * 1e9)
    config: dict[str, Any] = {
        "name": spec.name,
        "subjects": list(spec.subjects),
        "storage": "file" if spec.storage is Storage.FILE else "memory",
        "retention": "limits",
        # a full stream refuses, unless it says otherwise: to drop the oldest of a journal in silence would be a lie
        "discard": "old" if spec.drop_oldest else "new",
        "max_bytes": spec.bytes_max,
        "max_msgs_per_subject": spec.per_subject_max or -1,
        "max_age": age_ns,
        # the broker refuses a window longer than the messages' life
        "duplicate_window": min(repeat_ns, age_ns) if age_ns else repeat_ns,
        "num_replicas": max(1, spec.replicas),
        "allow_direct": True,
        "no_ack": not spec.answers,
    }
    if spec.append_only:  # left out of others: a broker that has it for a stream refuses to take it back
        config |= {"deny_delete": True, "deny_purge": True}
    if spec.placement:
        config["placement"] = {"cluster": spec.placement.cluster, "tags": list(spec.placement.tags)}
    return config


def headers_of(message: Msg) -> Mapping[str, str]:
    """Return the sender's headers, without the broker's own."""
    headers = message.headers
    if not headers:
        return NO_HEADERS
    return {name: value for name, value in headers.items() if not name.startswith("Nats-")}


def is_answer(message: Msg) -> bool:
    """Whether JetStream has said this, answering a direct get: it comes from nobody who may publish there."""
    headers = message.headers
    return headers is not None and ("Nats-Stream" in headers or "Status" in headers)


def stored_message(answer: Msg) -> Message:
    """Return a message that came by direct get: its subject and sequence travel in headers."""
    headers = answer.headers or {}
    try:
        return Message(headers["Nats-Subject"], answer.data, headers_of(answer), int(headers["Nats-Sequence"]))
    except (KeyError, ValueError) as error:
        raise BadMessage(f"expected a stored message of the broker, got one without a place: {error}") from error


def _message_of_leader(stored: Mapping[str, Any]) -> tuple[Message, str]:
    """Return a message, and its id, as the plain API writes them: bytes and headers in base64."""
    try:
        return _read_of_leader(stored)
    except (KeyError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise BadMessage(f"expected a stored message of the broker, got something else: {error!r:.100}") from error


def _read_of_leader(stored: Mapping[str, Any]) -> tuple[Message, str]:
    lines = base64.b64decode(stored.get("hdrs", "")).decode(errors="surrogateescape").split("\r\n")[1:]
    headers = {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
    own = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
    data = base64.b64decode(stored.get("data", ""))
    return Message(str(stored["subject"]), data, own or NO_HEADERS, int(stored["seq"])), headers.get("Nats-Msg-Id", "")
