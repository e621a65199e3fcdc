"""Envelopes that are signed: by the member who sends them, or, many at once, by the workspace.

    client, combiner --report, by its own key, with its JWT--> coordinator    engineer, gateway --command--> coordinator
    coordinator --tasks and orders, by the workspace's model key--> clients, combiners

What is signed is where a message goes (its subject has the workspace, and who it is from or for), its kind, its id, and
its body as it was packed. So all that it says is covered, also what only a newer release can read.

Tasks of a round go to thousands, each another: their digests are the leaves of a tree, and its root is signed, once for
all. Each task carries its way to the root: 33 bytes for each doubling of their number. Leaves and nodes are told apart
by their first byte (as in RFC 9162), so that no way through the tree is taken for a leaf.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Protocol

import msgpack

from fedbus.access.credentials import Trust
from fedbus.access.keys import Key, verify
from fedbus.errors import BadMessage
from fedbus.messages.envelope import PROTOCOL, WAY_BYTES_MAX, Envelope, Signed, pack_body
from fedbus.messages.ids import Peer

ROOTS_MAX = 1024
"""Roots that were found to be right: of a crowd thousands of tasks have the same one."""

_MESSAGE = b"fedbus message\n"
_POSTS = b"fedbus posts\n"
_LEAF, _NODE = b"\0", b"\1"
_LEFT, _RIGHT = b"\0", b"\1"
_STEP = 33
"""Bytes of one step of a way: on which side the other node stands, and its digest."""


class Signer(Protocol):
    """A member who signs what it sends. ``identity``: the JWT that says whose key it is."""

    @property
    def identity(self) -> str:
        """Its JWT, as it stands now: it may be renewed."""
        ...

    def sign(self, statement: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        ...


class Verifier(Protocol):
    """Somebody who knows whose signatures count."""

    def check(self, sender: Peer, statement: bytes, identity: str, signature: bytes) -> None:
        """Raise `BadUpdate` with the reason unless this was signed by whoever it is said to be from."""
        ...


class PostSigner(Protocol):
    """Whoever signs tasks and orders in the name of a workspace."""

    def sign_all(self, posts: Sequence[tuple[str, Envelope]]) -> list[Envelope]:
        """Return envelopes, each with the subject that it goes to, as they are signed together."""
        ...


class PostVerifier(Protocol):
    """Whoever looks whether a task or an order is the workspace's. ``demands``: whether it says that it signs them."""

    @property
    def demands(self) -> bool:
        """Whether one that is not signed is not to be taken."""
        ...

    def check(self, subject: str, envelope: Envelope) -> None:
        """Raise `BadMessage` with the reason unless the workspace has signed it for this subject."""
        ...


def statement_of(subject: str, envelope: Envelope, said: bytes) -> bytes:
    """Return what is signed of a message; ``said``: its body, packed."""
    head: bytes = msgpack.packb((PROTOCOL, subject, envelope.body.kind, envelope.id), use_bin_type=True)
    return _MESSAGE + head + said


# --- members ---


def signed_by(signer: Signer, subject: str, envelope: Envelope) -> Envelope:
    """Return an envelope signed by a member, for the subject that it goes to."""
    said, identity = pack_body(envelope.body), signer.identity
    signature = signer.sign(statement_of(subject, envelope, said))
    return replace(envelope, signed=Signed(said, signature, identity))


def check_sender(verifier: Verifier, sender: Peer, subject: str, envelope: Envelope) -> None:
    """Raise `BadUpdate` with the reason unless the sender has signed an envelope for this subject."""
    signed = envelope.signed
    if signed is None:
        verifier.check(sender, b"", "", b"")
    else:
        verifier.check(sender, statement_of(subject, envelope, signed.said), signed.identity, signed.signature)


# --- the workspace ---


class PostKey:
    """Signs what a coordinator posts, with the workspace's model key."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def sign_all(self, posts: Sequence[tuple[str, Envelope]]) -> list[Envelope]:
        """Return envelopes, each with the subject that it goes to, as they are signed together."""
        if not posts:
            return []
        said = [pack_body(envelope.body) for _, envelope in posts]
        leaves = [
            _leaf(statement_of(subject, envelope, body)) for (subject, envelope), body in zip(posts, said, strict=True)
        ]
        root, ways = ways_of(leaves)
        signature = self._key.sign(_POSTS + root)
        return [
            replace(envelope, signed=Signed(body, signature, "", way))
            for (_, envelope), body, way in zip(posts, said, ways, strict=True)
        ]


class WorkspacePosts:
    """Knows the key with which a workspace's tasks and orders are signed.

    ``demands``: of a workspace that says so in what it trusts; of another, from the first signed one on that was seen.
    """

    def __init__(self, trust: Trust, *, demands: bool | None = None) -> None:
        self._trust = trust
        self.demands = trust.signs_posts if demands is None else demands
        self._known: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()

    def check(self, subject: str, envelope: Envelope) -> None:
        """Raise `BadMessage` with the reason unless the workspace has signed it for this subject."""
        signed, ours = envelope.signed, f"workspace {self._trust.workspace}"
        if signed is None:
            if self.demands:
                raise BadMessage(
                    f"{subject}: {ours} signs what it asks for, and this is not signed: is a coordinator of an earlier "
                    "release running?"
                )
            return
        root = _root_of(_leaf(statement_of(subject, envelope, signed.said)), signed.way)
        known = root, signed.signature
        if known not in self._known and not verify(self._trust.model_key, _POSTS + root, signed.signature):
            raise BadMessage(f"{subject}: its signature is not one by the key of {ours} of what it says")
        self.demands = True
        self._known[known] = None
        if len(self._known) > ROOTS_MAX:
            self._known.popitem(last=False)


def ways_of(leaves: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Return the root of a tree over leaves, and the way from each to it; one without a neighbour goes up as it is."""
    ways: list[list[bytes]] = [[] for _ in leaves]
    places, level = list(range(len(leaves))), list(leaves)
    while len(level) > 1:
        for way, place in zip(ways, places, strict=True):
            other = place ^ 1
            if other < len(level):
                way.extend((_LEFT if other < place else _RIGHT, level[other]))
        pairs = range(0, len(level) - 1, 2)
        above = [_node(level[at], level[at + 1]) for at in pairs]
        level = above + level[2 * len(above) :]
        places = [place // 2 for place in places]
    return level[0], [b"".join(way) for way in ways]


def _root_of(leaf: bytes, way: bytes) -> bytes:
    """Return where a way leads; of what is none somewhere else, which nobody has signed."""
    if len(way) % _STEP or len(way) > WAY_BYTES_MAX:
        return b""
    node = leaf
    for at in range(0, len(way), _STEP):
        other = way[at + 1 : at + _STEP]
        node = _node(other, node) if way[at : at + 1] == _LEFT else _node(node, other)
    return node


def _leaf(statement: bytes) -> bytes:
    return sha256(_LEAF + statement).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right).digest()
