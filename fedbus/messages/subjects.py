"""Every subject of fedbus, built and parsed here and nowhere else.

``fb.<workspace>.`` stands before all:

==============================================  =======  ====================  ========================================
subject                                         carried  who publishes         what
==============================================  =======  ====================  ========================================
``journal.<session>``                           FILE     coordinator           `records.Entry`
``command.<role>.<name>``                       FILE     engineers, gateways   `commands.StartSession`, ``StopSession``
``task.<client>.<session>``                     MEMORY   coordinator           `tasks.Task` (board: newest counts)
``order.<combiner>.<session>``                  MEMORY   coordinator           `orders.Order` (board)
``blob.<blob>.manifest``, ``blob.<blob>.<i>``   FILE     combiners, engineers  a model's bytes
``model.<version>``                             FILE     coordinator           `records.ModelPublished` (board)
``registry.state``                              FILE     engineers,            `registry.RegistryState`
                                                         coordinator
``registry.note.<version>``                     FILE     engineers             `registry.VersionNote`
``object.<id>.head``, and below                 FILE     stores                an object of a store, and its pieces
``lead``                                        MEMORY   coordinators          `presence.Lease` (board)
``access.token.<id>``, ``access.member.``       FILE     admins, gateways      `access.TokenState`, ``Member``,
``<role>.<name>``, ``access.person.<id>``,                                     ``Person``, ``WorkspaceBounds``
``access.bounds``                                                              (boards, with some history)
``audit.<role>.<name>``                         FILE     all but clients       `access.AuditEntry`, a chain
``join.<token>``                                plain    who holds a token     `access.JoinAsked` (request)
``renew.<role>.<name>``                         plain    members               `access.RenewAsked` (request)
``board.<role>.<name>``                         plain    clients               `access.BoardAsked` (request)
``span.<role>.<name>``                          MEMORY   everybody             `spans.SpansEnded` (oldest dropped)
``presence.<role>.<name>``                      plain    everybody             `presence.Hello`, ``Bye``
``whois``                                       plain    coordinator           `presence.WhoIsThere`
``up.<combiner>.<role>.<name>``                 plain    clients, combiners    `uploads.UploadBegin`
``chunk.<combiner>.<role>.<name>`` (see below)  plain    clients, combiners    bytes of one chunk
``down.<role>.<name>.<combiner>``               plain    combiners             `uploads.UploadState`
``report.<role>.<name>``                        plain    clients, combiners    `reports.*`
``ack.<role>.<name>``                           plain    coordinator           `reports.ReportTaken`,
                                                                               `presence.NameIsTaken`
``query.<what>``                                plain    anybody (request)     `queries.*`
==============================================  =======  ====================  ========================================

Pieces of an object stand at ``object.<id>.<generation>.<i>``. Behind a chunk's sender stand
``<session>.<round>.<attempt>.<index>.<xxh3>``. A client's name stands at a fixed place in every subject it may publish
on or listen to, so that a broker's permissions can be written as patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from fedbus.errors import BadMessage
from fedbus.messages.ids import Peer, check_name, is_name

_COUNT = re.compile(r"[0-9]{1,16}")
_XXH3 = re.compile(r"[0-9a-f]{16}")

INBOX = "_INBOX"
"""What all inboxes begin with."""

MAPPED = "_R_"
"""What a nats-server calls an inbox of another account: it alone names those, whoever asks."""

ROLES = ("client", "crowd", "combiner", "coordinator", "gateway", "engineer")


class ChunkAddress(NamedTuple):
    """What the subject of a chunk says."""

    sender: Peer
    session: str
    round: int
    attempt: int
    chunk: int
    digest: int


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one workspace."""

    workspace: str

    def __post_init__(self) -> None:
        check_name("workspace", self.workspace)

    def _of(self, *tokens: str | int) -> str:
        return f"fb.{self.workspace}." + ".".join(map(str, tokens))

    def stream(self, what: str) -> str:
        """Name of the stream that holds ``what``: journal, command, board, blob, model or registry."""
        return f"fb-{self.workspace}-{what}"

    def journal(self, session: str = "*") -> str:
        """Where a session's journal is appended."""
        return self._of("journal", session)

    def command(self, sender: Peer = Peer("*", "*")) -> str:
        """Where a person's commands go."""
        return self._of("command", *sender)

    def task(self, client: str = "*", session: str = "*") -> str:
        """What a client is to do in a session."""
        return self._of("task", client, session)

    def order(self, combiner: str = "*", session: str = "*") -> str:
        """What a combiner is to do in a session."""
        return self._of("order", combiner, session)

    def blob(self, blob: str = "*", part: str | int = "*") -> str:
        """One chunk of a blob, or its ``manifest``."""
        return self._of("blob", blob, part)

    def objects(self) -> str:
        """Pattern of all that a store keeps on the bus (`fedbus.store.objects.jetstream`)."""
        return self._of("object", ">")

    def object(self, id_: str, *part: str | int) -> str:
        """Return the head of an object, or a piece of a generation of it."""
        return self._of("object", id_, *part)

    def model(self, version: str = "*") -> str:
        """The catalogue's entry of a version."""
        return self._of("model", version)

    def registry(self) -> str:
        """Pattern of all that people decide about versions."""
        return self._of("registry", ">")

    def registry_state(self) -> str:
        """Stages, retirements and retention, all in one."""
        return self._of("registry", "state")

    def registry_note(self, version: str = "*") -> str:
        """What is noted beside a version."""
        return self._of("registry", "note", version)

    def lead(self) -> str:
        """Which coordinator leads."""
        return self._of("lead")

    def span(self, peer: Peer = Peer("*", "*")) -> str:
        """Where a role puts the spans that it has ended."""
        return self._of("span", *peer)

    def access(self) -> str:
        """Pattern of all that is decided about who takes part."""
        return self._of("access", ">")

    def access_token(self, token: str = "*") -> str:  # noqa: S107 - a pattern
        """State of a token."""
        return self._of("access", "token", token)

    def access_member(self, member: Peer = Peer("*", "*")) -> str:
        """State of a member."""
        return self._of("access", "member", *member)

    def access_person(self, id_: str = "*") -> str:
        """State of a person; ``id_`` is made of the name (`fedbus.access.names.id_of`)."""
        return self._of("access", "person", id_)

    def access_bounds(self) -> str:
        """What the workspace may use."""
        return self._of("access", "bounds")

    def audit(self, writer: Peer = Peer("*", "*")) -> str:
        """Where deeds are written down."""
        return self._of("audit", *writer)

    def join(self, token: str = "*") -> str:  # noqa: S107 - a pattern
        """Where somebody with a token asks to be let in."""
        return self._of("join", token)

    def renew(self, member: Peer = Peer("*", "*")) -> str:
        """Where a member asks for a new JWT."""
        return self._of("renew", *member)

    def board(self, asker: Peer = Peer("*", "*")) -> str:
        """Where a client asks the coordinator what stands on the board for it."""
        return self._of("board", *asker)

    def presence(self, peer: Peer = Peer("*", "*")) -> str:
        """Where a role says that it lives."""
        return self._of("presence", *peer)

    def whois(self) -> str:
        """Where everybody is asked to say that they live."""
        return self._of("whois")

    def up(self, combiner: str, sender: Peer = Peer("*", "*")) -> str:
        """Where an upload is announced."""
        return self._of("up", combiner, *sender)

    def chunks(self, combiner: str) -> str:
        """Pattern of all chunks to a combiner."""
        return self._of("chunk", combiner, ">")

    def chunk(self, combiner: str, address: ChunkAddress) -> str:
        """Where one chunk of an upload goes."""
        sender, session, round_, attempt, chunk, digest = address
        return self._of("chunk", combiner, *sender, session, round_, attempt, chunk, f"{digest:016x}")

    def down(self, receiver: Peer, combiner: str = "*") -> str:
        """Where a combiner tells the sender how its upload stands."""
        return self._of("down", *receiver, combiner)

    def report(self, sender: Peer = Peer("*", "*")) -> str:
        """Where the coordinator is told what happened."""
        return self._of("report", *sender)

    def ack(self, receiver: Peer) -> str:
        """Where the coordinator confirms reports."""
        return self._of("ack", *receiver)

    def query(self, what: str = "*") -> str:
        """Where the coordinator answers questions."""
        return self._of("query", what)

    def check_inbox(self, subject: str, owner: Peer | None = None) -> None:
        """Raise `BadMessage` unless a subject is an inbox: whoever asks names where we answer, with our permissions.

        ``owner``: whose it has to be, or anybody's at a broker that asks nobody who he is (``_INBOX.<one token>...``).
        """
        tokens = subject.split(".")
        if tokens[0] == MAPPED and len(tokens) == 3 and all(map(is_name, tokens)):
            return
        if tokens[0] != INBOX or len(tokens) < 2 or not all(map(is_name, tokens)):
            raise BadMessage(f"{subject[:200]}: expected an inbox ({INBOX}.>) to answer at")
        if owner is not None and len(tokens) > 3 and tokens[1:3] != list(owner):
            raise BadMessage(f"{subject[:200]}: expected an inbox of {owner.role} {owner.name} to answer at")

    def tokens(self, subject: str, family: str, count: int) -> list[str]:
        """Return the tokens behind ``family`` of a received subject; `BadMessage` where it has another form."""
        tokens = subject.split(".")
        if len(tokens) != count + 3 or tokens[:3] != ["fb", self.workspace, family]:
            raise BadMessage(
                f"{subject[:200]}: expected a subject fb.{self.workspace}.{family} with {count} tokens behind it"
            )
        return tokens[3:]

    def check(self, subject: str) -> None:
        """Raise `BadMessage` unless every token is a name: a broker lets far more through."""
        if not all(map(is_name, subject.split("."))):
            raise BadMessage(f"{subject[:200]!r}: expected tokens of 1 to 64 of the characters A-Z a-z 0-9 _ -")

    def sender(self, subject: str, family: str, count: int, at: int) -> Peer:
        """Return who published on a subject whose role and name stand ``at`` and behind it."""
        tokens = self.tokens(subject, family, count)
        self.check(subject)
        return Peer(tokens[at], tokens[at + 1])

    def address(self, subject: str) -> ChunkAddress:
        """Parse the subject of a chunk."""
        _, role, name, session, round_, attempt, index, digest = self.tokens(subject, "chunk", 8)
        self.check(subject)
        if not all(map(_COUNT.fullmatch, (round_, attempt, index))) or not _XXH3.fullmatch(digest):
            raise BadMessage(f"{subject[:200]}: expected whole numbers as round, attempt and index, then a digest")
        return ChunkAddress(Peer(role, name), session, int(round_), int(attempt), int(index), int(digest, 16))
