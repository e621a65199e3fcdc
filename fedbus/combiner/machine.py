"""What a combiner does with a session's uploads: who may send, how much, what counts, when the round is merged.

            OrderSeen(fold | merge)            Prepared
   IDLE ---------------------------> PREPARING ---------> FOLDING <-----------------+
    ^                                    |                   |  merge, and all that   | another order: what
    |                                    | (another round)   |  counts is folded      | no longer counts is
    |  OrderSeen(rest)                   v                   v                        | undone first
    +------------------------------- (any phase)   MERGED: partial sent, or model ---+
                                                             stored and reported

   one upload:   QUEUED --slot--> RECEIVING --last chunk, digest right--> ACCEPTED --no longer counts--> (undone)
                    ^                 |   |
                    +----- stalled ---+   +--digest wrong, not finite, ...--> REFUSED (undone)

`allowed` is what may be folded now: the attempts of clients that the order names, and, for a root, the partials of the
others. Whatever is folded and no longer allowed is undone from the spool, exactly; so a change of mind of the
coordinator costs no more than that. Credits bound memory: at most `slots_max` uploads receive at once, each with
`window_chunks` under way; the others are told to wait. Chunks come in order; one that is missing or damaged is asked
for again, one that comes twice is ignored. A sender that stalls gives its slot to the next in line and keeps what it
has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from math import isfinite

from fedbus.combiner.events import (
    Begun,
    ChunkArrived,
    Damaged,
    Effect,
    Event,
    Fold,
    Folded,
    Key,
    OrderSeen,
    PartialSent,
    Prepare,
    Prepared,
    PrepareFailed,
    Report,
    Reset,
    SendPartial,
    StopPartial,
    Store,
    Stored,
    StoreFailed,
    Tell,
    Ticked,
    Undo,
    Unfit,
)
from fedbus.messages import reports
from fedbus.messages.ids import Peer
from fedbus.messages.orders import Order
from fedbus.messages.uploads import UploadBegin, UploadState

SLOTS_MAX = 8
"""Uploads that receive at once.

Eight windows of 4 MiB: 32 MiB under way keep the fold busy whatever one sender does.
"""

WINDOW_CHUNKS = 8
"""Chunks of one upload under way: 4 MiB by default, a link of 100 ms at 300 Mbit/s."""

STALL_S = 5.0
"""A sender that holds a slot and sends nothing for so long gives it to the next in line, if there is one."""

DAMAGES_MAX = 16
"""Damaged chunks after which an upload is refused: bits that flip so often are not chance."""

WEIGHT_SPREAD = 2.0**-30
"""Smallest weight as a share of ``weight_max``: of a smaller one the fixed point keeps too little (docs: exactness)."""

EARLY_MAX = 10_000
"""Senders that are remembered because they announced before our order came; the others ask again by themselves."""

RECORDS_MAX = 200_000
"""Uploads that are remembered: no stranger's flood of announcements may fill the memory."""


class Phase(Enum):
    """Where a session's round stands in this combiner."""

    IDLE = "idle"
    PREPARING = "preparing"
    FOLDING = "folding"
    MERGED = "merged"


class Standing(Enum):
    """Where one upload stands."""

    QUEUED = "queued"
    RECEIVING = "receiving"
    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(slots=True)
class Upload:
    """One upload. ``next_chunk`` is expected next, ``folded`` of them are in the accumulator, ``credit`` was granted.

    ``serial`` tells it from an earlier upload of the same key, whose results may still be on their way.
    """

    begin: UploadBegin
    standing: Standing = Standing.QUEUED
    next_chunk: int = 0
    folded: int = 0
    credit: int = 0
    told: int = 0
    gap_told: int = -1
    serial: int = 0
    damages: int = 0
    heard_at: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class Machine:
    """The decisions of one session in one combiner."""

    session: str
    name: str
    incarnation: str
    slots_max: int = SLOTS_MAX
    window_chunks: int = WINDOW_CHUNKS
    phase: Phase = Phase.IDLE
    order: Order | None = None
    base: Prepared | None = None
    uploads: dict[Key, Upload] = field(default_factory=dict)
    allowed: frozenset[Key] = frozenset()
    queue: list[Key] = field(default_factory=list)
    receiving: set[Key] = field(default_factory=set)
    verdicts: list[reports.Verdict] = field(default_factory=list)
    partial_under_way: bool = False
    early: dict[Peer, Begun] = field(default_factory=dict)
    begun: int = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take note of an event; returns what is to be done."""
        return _TABLE[type(event)](self, event, now)

    def flush(self) -> list[Effect]:
        """Report the verdicts gathered since the last time, together."""
        if not self.verdicts or self.order is None:
            return []
        size = reports.fitting([len(verdict.metrics) for verdict in self.verdicts])
        batch, self.verdicts = self.verdicts[:size], self.verdicts[size:]
        judged = reports.UpdatesJudged(
            session=self.session, round=self.order.round, incarnation=self.incarnation, verdicts=tuple(batch)
        )
        return [Report(judged), *self.flush()]

    def check(self) -> None:
        """Assert what must hold after every step."""
        assert len(self.receiving) <= self.slots_max
        assert self.receiving.isdisjoint(self.queue)
        for key in self.receiving:
            upload = self.uploads[key]
            assert upload.standing is Standing.RECEIVING
            assert upload.folded <= upload.next_chunk <= max(upload.credit, upload.next_chunk)
            assert upload.next_chunk - upload.folded <= self.window_chunks, "more under way than was granted"
        if self.phase is Phase.MERGED:
            assert all(self._is_accepted(key) for key in self.allowed), "merged without all that counts"

    # --- orders ---

    def _order_seen(self, event: OrderSeen, now: float) -> list[Effect]:
        order, known = event.order, self.order
        if order.incarnation != self.incarnation or (known is not None and order.revision < known.revision):
            return []
        self.order = order
        if order.state in ("rest", "ended"):
            return self._rest()
        allowed = _allowed(order, self.name)
        if known is None or known.state in ("rest", "ended") or known.round != order.round or self.phase is Phase.IDLE:
            effects = self._rest()
            self.phase, self.allowed = Phase.PREPARING, allowed
            return [*effects, Prepare(order)]
        if allowed == self.allowed and known.state == order.state and known.merge == order.merge:
            return []
        return self._change(allowed, now)

    def _rest(self) -> list[Effect]:
        """Drop everything of the session."""
        effects: list[Effect] = [StopPartial()] if self.partial_under_way else []
        if self.phase is not Phase.IDLE:
            effects.append(Reset())
        self.phase, self.base, self.allowed, self.partial_under_way = Phase.IDLE, None, frozenset(), False
        self.uploads, self.queue, self.receiving, self.verdicts = {}, [], set(), []
        return effects

    def _change(self, allowed: frozenset[Key], now: float) -> list[Effect]:
        """The order changed within the round: undo what no longer counts, go on with the rest."""
        effects: list[Effect] = [StopPartial()] if self.partial_under_way else []
        self.partial_under_way = False
        if self.phase is Phase.MERGED:
            self.phase = Phase.FOLDING
        self.allowed = allowed
        for key in [key for key in self.uploads if key not in allowed]:
            effects += self._drop(key)
        return effects + self._fill_slots(now) + self._hear_early(now) + self._merge_if_complete()

    def _drop(self, key: Key) -> list[Effect]:
        """Forget an upload; what is folded of it, or on its way to be, is undone behind it."""
        upload = self.uploads.pop(key)
        self.receiving.discard(key)
        if key in self.queue:
            self.queue.remove(key)
        # Refused, it was undone then. Else always: the fold may know an upload of which it has no chunk (all damaged).
        return [] if upload.standing is Standing.REFUSED else [Undo(key)]

    def _prepared(self, event: Prepared, now: float) -> list[Effect]:
        if self.phase is not Phase.PREPARING or self.order is None or event.round != self.order.round:
            return []
        self.phase, self.base = Phase.FOLDING, event
        return self._hear_early(now) + self._merge_if_complete()

    def _prepare_failed(self, event: PrepareFailed, now: float) -> list[Effect]:
        if self.phase is not Phase.PREPARING or self.order is None or event.round != self.order.round:
            return []
        self.phase = Phase.IDLE  # the next order, perhaps of clients that are moved here, tries again
        if self.order.merge is not None and self.order.merge.root == self.name:
            return [Report(self._merge_failed(event.reason))]
        clients = {key.sender.name: key.attempt for key in self.allowed if key.sender.role == "client"}
        self.verdicts += [
            reports.Verdict(client=name, attempt=attempt, accepted=False, reason=event.reason[:2000])
            for name, attempt in sorted(clients.items())
        ]
        return []

    # --- uploads ---

    def _begun(self, event: Begun, now: float) -> list[Effect]:
        begin, order = event.begin, self.order
        key = Key(event.sender, begin.round, begin.attempt)
        if order is None or begin.round > order.round or self.phase in (Phase.IDLE, Phase.PREPARING):
            if (
                order is not None
                and begin.round <= order.round
                and (order.state in ("rest", "ended") or begin.round < order.round)
            ):
                return [self._refusal(key, f"round {begin.round} is closed")]
            return self._too_early(key, event)
        if begin.round < order.round:
            return [self._refusal(key, f"round {begin.round} is closed; round {order.round} is under way")]
        if key not in self.allowed:
            return self._begun_not_allowed(key, order, event)
        known = self.uploads.get(key)
        if known is not None and known.begin.digest == begin.digest:
            known.heard_at = now
            return [self._state(key, known, resend=True)]
        if known is not None and known.standing is Standing.ACCEPTED:
            # The client was restarted and trained again, not bit for bit the same: the first one counts.
            return [self._state(key, known)]
        effects = self._drop(key) if known is not None else []
        reason = self._unfit(event.sender, begin)
        if reason:
            self.uploads[key] = Upload(begin, Standing.REFUSED, reason=reason)
            return effects + self._judge(key, accepted=False)
        self.begun += 1
        self.uploads[key] = Upload(begin, serial=self.begun, heard_at=now)
        self.queue.append(key)
        effects += self._fill_slots(now)
        return effects if key in self.receiving else [*effects, self._wait(key)]

    def _too_early(self, key: Key, event: Begun) -> list[Effect]:
        """Let a sender wait that knows more than we do yet; it is answered again when we do, not only when it asks."""
        if event.sender in self.early or len(self.early) < EARLY_MAX:
            self.early[event.sender] = event
        return [self._wait(key)]

    def _hear_early(self, now: float) -> list[Effect]:
        """Answer those who were too early, now that an order is here or the fold is ready."""
        early, self.early = self.early, {}
        return [effect for event in early.values() for effect in self._begun(event, now)]

    def _begun_not_allowed(self, key: Key, order: Order, event: Begun) -> list[Effect]:
        """Refuse what cannot be allowed any more; let wait what an order under way may allow."""
        attempts = [known.attempt for known in self.allowed if known.sender == key.sender]
        if attempts and key.attempt < attempts[0]:
            return [self._refusal(key, f"attempt {key.attempt} was replaced by attempt {attempts[0]}")]
        # A later attempt is of a client that was moved here: the order that allows it is on its way.
        fixed = order.merge is not None and key.attempt < order.merge.attempt
        if key.sender.role == "client" and fixed and not attempts:
            return [self._refusal(key, f"round {order.round} has closed without this update")]
        return self._too_early(key, event)

    def _unfit(self, sender: Peer, begin: UploadBegin) -> str:
        """Return why an announced upload cannot be folded; empty if it can."""
        base, order = self.base, self.order
        assert base is not None and order is not None
        partial = sender.role == "combiner"
        nbytes, chunks = (base.partial_nbytes, base.partial_chunks) if partial else (base.nbytes, base.chunks)
        if begin.spec != base.spec:
            digests = f"digest {begin.spec[:16]}, expected {base.spec[:16]}"
            return f"the update's names, shapes or dtypes are not those of {order.version} ({digests})"
        if begin.nbytes != nbytes or begin.chunks != chunks:
            return f"expected {nbytes} bytes in {chunks} chunks, announced were {begin.nbytes} in {begin.chunks}"
        if not partial and not (isfinite(begin.weight) and 0 < begin.weight <= order.weight_max):
            return f"expected a weight above 0 and at most {order.weight_max:g} (weight_max), got {begin.weight}"
        if not partial and begin.weight < order.weight_max * WEIGHT_SPREAD:
            least = order.weight_max * WEIGHT_SPREAD
            return (
                f"expected a weight of at least {least:g} (2^-30 of weight_max), got {begin.weight}; lower weight_max"
            )
        if len(self.uploads) >= RECORDS_MAX:
            return f"this combiner holds {RECORDS_MAX} uploads already"
        return ""

    def _chunk_arrived(self, event: ChunkArrived, now: float) -> list[Effect]:
        address = event.address
        key = Key(address.sender, address.round, address.attempt)
        upload = self.uploads.get(key)
        if upload is None or upload.standing is not Standing.RECEIVING or address.chunk >= upload.credit:
            return []  # nobody asked for it: of another round, beyond its credit, or its slot was given away
        upload.heard_at = now
        if address.chunk < upload.next_chunk:
            return []  # a repeat
        if address.chunk > upload.next_chunk:
            if upload.gap_told == upload.next_chunk:
                return []
            upload.gap_told = upload.next_chunk
            return [self._state(key, upload, resend=True)]
        upload.next_chunk += 1
        last = upload.next_chunk == upload.begin.chunks
        return [Fold(key, upload.serial, address.chunk, event.data, address.digest, upload.begin.weight, last)]

    def _folded(self, event: Folded, now: float) -> list[Effect]:
        upload = self._under_way(event.key, event.serial)
        if upload is None:
            return []
        upload.folded = event.chunk + 1
        if upload.folded >= upload.begin.chunks:
            return self._complete(event, upload, now)
        return self._extend(event.key, upload)

    def _under_way(self, key: Key, serial: int) -> Upload | None:
        """Return the upload that a result of the fold belongs to, if it is still being received."""
        upload = self.uploads.get(key)
        if upload is None or upload.serial != serial or upload.standing not in (Standing.RECEIVING, Standing.QUEUED):
            return None
        return upload

    def _complete(self, event: Folded, upload: Upload, now: float) -> list[Effect]:
        """Accept an upload of which everything is folded, if it is what was announced."""
        if event.digest != upload.begin.digest:
            return self._refuse(event.key, f"expected the digest {upload.begin.digest}, got {event.digest}", now)
        upload.standing = Standing.ACCEPTED
        self._leave_slot(event.key)
        effects = self._judge(event.key, accepted=True, norm=event.norm)
        return effects + self._fill_slots(now) + self._merge_if_complete()

    def _damaged(self, event: Damaged, now: float) -> list[Effect]:
        upload = self._under_way(event.key, event.serial)
        if upload is None or event.chunk >= upload.next_chunk:
            return []
        upload.damages += 1
        if upload.damages > DAMAGES_MAX:
            return self._refuse(
                event.key, f"{upload.damages} chunks arrived damaged, the last was chunk {event.chunk}", now
            )
        upload.next_chunk = event.chunk
        return [self._state(event.key, upload, resend=True)]

    def _unfit_chunk(self, event: Unfit, now: float) -> list[Effect]:
        upload = self._under_way(event.key, event.serial)
        if upload is None:
            return []
        return self._refuse(event.key, event.reason, now)

    def _refuse(self, key: Key, reason: str, now: float) -> list[Effect]:
        """Refuse an upload that was being received: it is undone whole."""
        upload = self.uploads[key]
        upload.standing, upload.reason = Standing.REFUSED, reason[:2000]
        self._leave_slot(key)
        return [Undo(key), *self._judge(key, accepted=False), *self._fill_slots(now)]

    def _judge(self, key: Key, *, accepted: bool, norm: float = 0.0) -> list[Effect]:
        """Tell the sender, and note for the coordinator."""
        upload = self.uploads[key]
        begin = upload.begin
        if key.sender.role == "client":
            self.verdicts.append(
                reports.Verdict(
                    client=key.sender.name,
                    attempt=key.attempt,
                    accepted=accepted,
                    reason=upload.reason,
                    weight=begin.weight,
                    nbytes=begin.nbytes,
                    fetched=begin.fetched,
                    norm=norm,
                    digest=begin.digest,
                    metrics=begin.metrics,
                )
            )
        return [self._state(key, upload)]

    # --- slots and credits ---

    def _leave_slot(self, key: Key) -> None:
        self.receiving.discard(key)
        if key in self.queue:
            self.queue.remove(key)

    def _fill_slots(self, now: float) -> list[Effect]:
        """Give free slots to those who wait longest."""
        effects: list[Effect] = []
        while self.queue and len(self.receiving) < self.slots_max:
            key = self.queue.pop(0)
            upload = self.uploads[key]
            upload.standing, upload.heard_at = Standing.RECEIVING, now
            self.receiving.add(key)
            upload.next_chunk = upload.folded
            upload.credit = min(upload.begin.chunks, upload.folded + self.window_chunks)
            upload.told, upload.gap_told = upload.credit, -1
            effects.append(self._state(key, upload, resend=True))
            if upload.begin.chunks == 0:
                effects.append(Fold(key, upload.serial, 0, b"", 0, upload.begin.weight, last=True))
        return effects

    def _extend(self, key: Key, upload: Upload) -> list[Effect]:
        """Grant more as chunks are folded; say so each half window, not for each chunk."""
        if upload.standing is not Standing.RECEIVING:
            return []
        upload.credit = min(upload.begin.chunks, upload.folded + self.window_chunks)
        if upload.credit - upload.told < max(1, self.window_chunks // 2) and upload.credit < upload.begin.chunks:
            return []
        if upload.credit == upload.told:
            return []
        upload.told = upload.credit
        return [self._state(key, upload)]

    def _ticked(self, event: Ticked, now: float) -> list[Effect]:
        """Take the slot of a sender that stalls, if somebody waits and none of its chunks is on its way to the fold."""
        effects: list[Effect] = []
        for key in sorted(self.receiving):
            upload = self.uploads[key]
            if self.queue and now > upload.heard_at + STALL_S and upload.folded == upload.next_chunk:
                self.receiving.discard(key)
                upload.standing, upload.credit = Standing.QUEUED, upload.folded
                self.queue.append(key)
                effects += self._fill_slots(now)
        return effects

    # --- closing ---

    def _is_accepted(self, key: Key) -> bool:
        upload = self.uploads.get(key)
        return upload is not None and upload.standing is Standing.ACCEPTED

    def _merge_if_complete(self) -> list[Effect]:
        """All that counts is folded and nothing else: close our part of the round, once."""
        order = self.order
        if self.phase is not Phase.FOLDING or order is None or order.merge is None or order.state != "merge":
            return []
        if not all(self._is_accepted(key) for key in self.allowed):
            return []
        self.phase = Phase.MERGED
        if order.merge.root == self.name:
            return [Store(order)]
        self.partial_under_way = True
        return [SendPartial(order)]

    def _partial_sent(self, event: PartialSent, now: float) -> list[Effect]:
        merge = self.order.merge if self.order else None
        if merge is None or merge.attempt != event.attempt or not self.partial_under_way:
            return []
        self.partial_under_way = False
        return (
            [] if event.accepted else [Report(self._merge_failed(f"{merge.root} refused our partial: {event.reason}"))]
        )

    def _stored(self, event: Stored, now: float) -> list[Effect]:
        order = self.order
        if order is None or order.merge is None or order.merge.attempt != event.attempt:
            return []
        stored = reports.ModelStored(
            session=self.session,
            round=order.round,
            revision=event.attempt,
            blob=order.merge.publish,
            digest=event.digest,
            nbytes=event.nbytes,
        )
        return [Report(stored)]

    def _store_failed(self, event: StoreFailed, now: float) -> list[Effect]:
        merge = self.order.merge if self.order else None
        if merge is None or merge.attempt != event.attempt:
            return []
        return [Report(self._merge_failed(event.reason))]

    def _merge_failed(self, reason: str) -> reports.MergeFailed:
        order = self.order
        assert order is not None
        attempt = order.merge.attempt if order.merge else 0
        return reports.MergeFailed(session=self.session, round=order.round, revision=attempt, reason=reason[:2000])

    # --- answers ---

    def _state(self, key: Key, upload: Upload, *, resend: bool = False) -> Tell:
        verdict = upload.standing.value if upload.standing in (Standing.ACCEPTED, Standing.REFUSED) else "pending"
        fields = {"next_chunk": upload.next_chunk, "credit": upload.credit, "resend": resend, "reason": upload.reason}
        return self._tell(key, fields | {"verdict": verdict})

    def _wait(self, key: Key) -> Tell:
        return self._tell(key, {"next_chunk": 0, "credit": 0})

    def _refusal(self, key: Key, reason: str) -> Tell:
        return self._tell(key, {"next_chunk": 0, "credit": 0, "verdict": "refused", "reason": reason})

    def _tell(self, key: Key, fields: dict[str, object]) -> Tell:
        names = {"session": self.session, "round": key.round, "attempt": key.attempt}
        return Tell(key.sender, UploadState.model_validate(names | fields))


def _allowed(order: Order, name: str) -> frozenset[Key]:
    """Return what an order lets us fold."""
    keys = {Key(Peer("client", client), order.round, attempt) for client, attempt in order.uploads.items()}
    if order.merge is not None and order.merge.root == name:
        keys |= {Key(Peer("combiner", other), order.round, attempt) for other, attempt in order.merge.partials.items()}
    return frozenset(keys)


_TABLE: dict[type[Event], Callable[..., list[Effect]]] = {
    OrderSeen: Machine._order_seen,
    Prepared: Machine._prepared,
    PrepareFailed: Machine._prepare_failed,
    Begun: Machine._begun,
    ChunkArrived: Machine._chunk_arrived,
    Folded: Machine._folded,
    Damaged: Machine._damaged,
    Unfit: Machine._unfit_chunk,
    PartialSent: Machine._partial_sent,
    Stored: Machine._stored,
    StoreFailed: Machine._store_failed,
    Ticked: Machine._ticked,
}
