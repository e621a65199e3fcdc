"""What each role may say and hear on the bus: the one table of it, from which the broker's templates are made.

    role --`_TABLE`--> grants: plain subjects, and per stream what it may do with it --> subjects of NATS and JetStream

A role's own name stands in the subjects that it may publish on, so that nobody speaks as another. Roles:

===========  =====================================================================================================
client       its own words; reads no stream but blobs by name, which are sealed (`fedbus.store.sealing`)
crowd        the same for any client's name: a load test's process, trusted by whoever hands out its identity
combiner     its own words; its orders; writes and reads blobs
coordinator  the journal, the board, the catalogue; makes the streams
gateway      what an engineer may, and who takes part
admin        all of a workspace, but to take anything out of the audit
engineer     commands, models, stages; reads all but who takes part
viewer       reads what happened: journal, catalogue, registry, spans
auditor      the same, the audit, and who takes part
joiner       asks to be let in with the token whose name it has, nothing else
probe        asks whether JetStream is there
===========  =====================================================================================================

An API call that names a stream by its body only (`STREAM.LIST`, ``ACCOUNT``) is permitted to nobody. To whom a consumer
is permitted it is by stream, as its name is in the middle of the subject: a role that may follow a stream may read all
of it. Whoever may describe a stream may have it copy any other of the workspace (``sources``), or say again elsewhere
what comes into it: hence only who may read and write them all makes streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fedbus.messages.access import BUS_ROLES
from fedbus.messages.ids import Peer
from fedbus.messages.subjects import INBOX, Subjects

NAME = "{{name()}}"
"""What a nats-server puts the member's name for, in a template."""

STREAMS = ("journal", "command", "board", "blob", "model", "registry", "access", "audit", "span", "object")
"""All streams of a workspace, as in `Subjects.stream`."""

ROLES = (*BUS_ROLES, "joiner", "probe")


AT_THE_DOOR = ("client", "crowd", "engineer", "viewer", "auditor", "joiner")
"""Roles each in an account of its own, from which a `Door` leads into the workspace's and back. Whoever asks JetStream
names where it answers, and a nats-server does so with its own rights, which a stream would take: in these accounts
there is no stream, whatever subject they name. Whoever stays in the workspace's account may write its boards anyway."""

WITHOUT_ANSWER = ("up", "chunk", "report", "presence", "span")
"""Families of subjects on which nobody answers. A nats-server copies every message that it passes on as a question."""

SHADOW = "$JS.API.INFO"
"""An account without JetStream answers questions about JetStream itself, that it has none, unless it imports this one
from elsewhere. No template permits it: what is answered is that of `Door.asked`."""

MAPPED = "_R_.>"
"""What a nats-server calls the inboxes of another account; it lets nobody name one himself."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Patterns of subjects that may be published on and subscribed to; all else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Door:
    """What all of a role may together do: what they ask and say goes in; what they hear, and answers, come out."""

    asked: tuple[str, ...]
    said: tuple[str, ...]
    heard: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose permissions are made: subjects of the workspace, and its own name."""

    subjects: Subjects
    me: Peer

    @property
    def inbox(self) -> str:
        return f"{inbox_of(*self.me)}.>"

    # ---- what may be done with a stream

    def look(self, *streams: str) -> tuple[str, ...]:
        """How full it is, what subjects it has."""
        return tuple(f"$JS.API.STREAM.INFO.{self._stream(name)}" for name in streams)

    def get(self, *streams: str) -> tuple[str, ...]:
        """One message by its subject."""
        return tuple(f"$JS.API.DIRECT.GET.{self._stream(name)}.>" for name in streams)

    def read(self, *streams: str) -> tuple[str, ...]:
        """All of it: by sequence, the newest of many subjects, from a sequence on."""
        return (
            *self.look(*streams),
            *self.get(*streams),
            *(
                f"$JS.API.{call}"
                for stream in map(self._stream, streams)
                for call in (
                    f"DIRECT.GET.{stream}",
                    f"STREAM.MSG.GET.{stream}",
                    f"CONSUMER.CREATE.{stream}.>",
                    f"CONSUMER.DELETE.{stream}.>",
                    f"CONSUMER.MSG.NEXT.{stream}.>",
                )
            ),
        )

    def remove(self, *streams: str) -> tuple[str, ...]:
        """Messages out of it; never the stream."""
        return tuple(
            f"$JS.API.STREAM.{call}.{self._stream(name)}" for name in streams for call in ("PURGE", "MSG.DELETE")
        )

    def make(self, *streams: str) -> tuple[str, ...]:
        """Create it."""
        return tuple(f"$JS.API.STREAM.{call}.{self._stream(name)}" for name in streams for call in ("CREATE", "INFO"))

    def change(self, *streams: str) -> tuple[str, ...]:
        """Change its description: never that of the audit, which a bound on age or count would empty."""
        return tuple(f"$JS.API.STREAM.UPDATE.{self._stream(name)}" for name in streams if name != "audit")

    def _stream(self, name: str) -> str:
        return self.subjects.stream(name)

    # ---- words of many roles

    @property
    def here(self) -> tuple[str, ...]:
        """That it is there, what it has done, that it wants a new JWT."""
        subjects = self.subjects
        return subjects.presence(self.me), subjects.span(self.me), subjects.renew(self.me)

    @property
    def audits(self) -> str:
        return self.subjects.audit(self.me)

    def uploads(self, sender: Peer) -> tuple[str, ...]:
        """Announce and send what a combiner is to fold."""
        return self.subjects.up(
            "*", sender
        ), f"{self.subjects.chunks('*').removesuffix('.>')}.{sender.role}.{sender.name}.>"


def inbox_of(role: str, name: str) -> str:
    """Return what stands before every inbox of a member: answers to others cannot be heard."""
    return f"_INBOX.{role}.{name}"


def permissions(role: str, workspace: str, name: str) -> Permissions:
    """Return what a member of a workspace may do; `KeyError` for a role that there is not."""
    place = _Place(Subjects(workspace), Peer(role, name))
    made = _TABLE[role](place)
    return Permissions(_once(made.publish), _once(made.subscribe))


def door(role: str, workspace: str) -> Door:
    """Return what passes the door of a role; of patterns that contain each other the wider one."""
    may = permissions(role, workspace, "*")
    said = [pattern for pattern in may.publish if _family(pattern) in WITHOUT_ANSWER]
    heard = [pattern for pattern in may.subscribe if not pattern.startswith(f"{INBOX}.")]
    asked = [pattern for pattern in may.publish if pattern not in said]
    if any(pattern.startswith("$JS.API.") for pattern in asked):
        asked.append(SHADOW)
    return Door(widest(asked), widest(said), widest(heard))


def has_many(asked: str) -> bool:
    """Return whether JetStream gives several answers: messages of a consumer, the newest of many subjects."""
    tokens = asked.split(".")
    return tokens[2:5] == ["CONSUMER", "MSG", "NEXT"] or (tokens[2:4] == ["DIRECT", "GET"] and len(tokens) == 5)


def widest(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return those patterns that no other one contains: a nats-server takes no two of the same kind."""
    all_ = _once(tuple(patterns))
    return tuple(one for one in all_ if not any(contains(other, one) for other in all_ if other != one))


def contains(wide: str, narrow: str) -> bool:
    """Return whether all subjects of one pattern are also the other's."""
    wanted = narrow.split(".")
    for at, token in enumerate(wide.split(".")):
        if token == ">":
            return len(wanted) > at
        if at >= len(wanted) or wanted[at] == ">" or token not in ("*", wanted[at]):
            return False
    return len(wanted) == len(wide.split("."))


def _family(pattern: str) -> str:
    tokens = pattern.split(".")
    return tokens[2] if tokens[0] == "fb" else ""


def template(role: str, workspace: str) -> Permissions:
    """Return the same for all members of a role, with `NAME` in the name's place."""
    return permissions(role, workspace, NAME)


def _once(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(patterns))


def _client(at: _Place) -> Permissions:
    subjects, me = at.subjects, at.me
    return Permissions(
        (*at.here, *at.uploads(me), subjects.report(me), subjects.board(me), *at.get("blob")),
        (subjects.task(me.name), subjects.down(me), subjects.ack(me), subjects.whois(), at.inbox),
    )


def _crowd(at: _Place) -> Permissions:
    subjects, anybody = at.subjects, Peer("client", "*")
    said = tuple(
        subject
        for who in (at.me, anybody)
        for subject in (*at.uploads(who), subjects.report(who), subjects.presence(who), subjects.span(who))
    )
    heard = (subjects.task(), subjects.down(anybody), subjects.ack(anybody), subjects.down(at.me), subjects.ack(at.me))
    return Permissions(
        (*at.here, *said, *at.get("blob"), "$JS.API.DIRECT.GET." + subjects.stream("board"), *at.look("board")),
        (*heard, subjects.whois(), at.inbox),
    )


def _combiner(at: _Place) -> Permissions:
    subjects, me = at.subjects, at.me
    return Permissions(
        (
            *at.here,
            *at.uploads(me),
            subjects.report(me),
            subjects.down(Peer("*", "*"), me.name),
            subjects.blob(),
            *at.read("blob"),
            *at.remove("blob"),
            *at.read("board"),
            *at.get("model"),
        ),
        (
            subjects.up(me.name),
            subjects.chunks(me.name),
            subjects.order(me.name),
            subjects.ack(me),
            subjects.down(me),
            subjects.whois(),
            at.inbox,
        ),
    )


def _coordinator(at: _Place) -> Permissions:
    subjects, all_ = at.subjects, Peer("*", "*")
    return Permissions(
        (
            *at.here,
            subjects.whois(),
            subjects.ack(all_),
            "_INBOX.>",  # answers to whoever asks; only there, whatever they name to be answered at
            MAPPED,
            subjects.journal(),
            subjects.task(),
            subjects.order(),
            subjects.lead(),
            subjects.model(),
            subjects.registry(),
            at.audits,
            *at.make(*STREAMS),
            # not "access": told to copy messages of its own into there, it would decide who takes part
            *at.change(*(name for name in STREAMS if name != "access")),
            *at.read(*STREAMS),
            *at.remove("journal", "command", "board", "blob", "model", "registry"),
        ),
        (
            subjects.presence(),
            subjects.report(),
            subjects.query(),
            subjects.board(),
            subjects.whois(),
            subjects.ack(at.me),
            at.inbox,
        ),
    )


def _engineer(at: _Place) -> Permissions:
    subjects = at.subjects
    kept = ("journal", "command", "board", "blob", "model", "registry", "span", "object")
    return Permissions(
        (
            *at.here,
            subjects.command(at.me),
            subjects.query(),
            subjects.blob(),
            subjects.model(),
            subjects.registry(),
            subjects.objects(),
            at.audits,
            *at.read(*kept),
            *at.look("access", "audit"),
            # the head of the chain, to add to it; by name, the newest of a pattern
            *at.get("audit"),
            *at.remove("blob", "model", "registry", "object"),
        ),
        (subjects.whois(), subjects.ack(at.me), at.inbox),
    )


def _gateway(at: _Place) -> Permissions:
    engineer, subjects = _engineer(at), at.subjects
    return Permissions(
        (*engineer.publish, "_INBOX.>", MAPPED, subjects.access(), *at.read("access", "audit"), *at.remove("access")),
        (*engineer.subscribe, subjects.join(), subjects.renew()),
    )


def _admin(at: _Place) -> Permissions:
    gateway, subjects = _gateway(at), at.subjects
    kept = tuple(name for name in STREAMS if name != "audit")
    restored = (subjects.journal(), subjects.audit(), subjects.access())
    return Permissions(
        (*gateway.publish, *restored, *at.make(*STREAMS), *at.change(*STREAMS), *at.read(*STREAMS), *at.remove(*kept)),
        (*_engineer(at).subscribe, subjects.presence()),
    )


def _viewer(at: _Place) -> Permissions:
    return Permissions(
        (*at.here, at.subjects.query(), *at.read("journal", "model", "registry", "span"), *at.look(*STREAMS)),
        (at.subjects.whois(), at.inbox),
    )


def _auditor(at: _Place) -> Permissions:
    viewer = _viewer(at)
    return Permissions((*viewer.publish, at.audits, *at.read("audit", "access")), viewer.subscribe)


def _joiner(at: _Place) -> Permissions:
    return Permissions((at.subjects.join(at.me.name),), (at.inbox,))


def _probe(at: _Place) -> Permissions:
    return Permissions(("$JS.API.INFO",), (at.inbox,))


_TABLE: Mapping[str, Callable[[_Place], Permissions]] = {
    "client": _client,
    "crowd": _crowd,
    "combiner": _combiner,
    "coordinator": _coordinator,
    "gateway": _gateway,
    "admin": _admin,
    "engineer": _engineer,
    "viewer": _viewer,
    "auditor": _auditor,
    "joiner": _joiner,
    "probe": _probe,
}
