"""One upload as a combiner knows it: where it stands, whether it can be folded at all, and what its sender is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Literal

from fedbus.combiner.events import Key, Prepared, Tell
from fedbus.errors import BadUpdate
from fedbus.messages import reports
from fedbus.messages.ids import SECONDS_MAX, Peer
from fedbus.messages.orders import Order
from fedbus.messages.plans import fold_weight, given_weight
from fedbus.messages.uploads import UploadBegin, UploadState

Verdict = Literal["pending", "accepted", "refused"]

WEIGHT_SPREAD = 2.0**-30
"""Smallest weight as a share of ``weight_max``: of a smaller one the fixed point keeps too little (docs: exactness)."""


class Standing(Enum):
    """Where one upload stands."""

    QUEUED = "queued"
    RECEIVING = "receiving"
    WHOLE = "whole"
    """All of it came with its announcement, and is on its way to the fold."""
    KEPT = "kept"
    """An earlier life of ours had accepted it; it is on its way from the spool into the fold again."""
    ACCEPTED = "accepted"
    REFUSED = "refused"


_VERDICTS: dict[Standing, Verdict] = {Standing.ACCEPTED: "accepted", Standing.REFUSED: "refused"}


@dataclass(slots=True)
class Upload:
    """One upload. ``next_chunk`` is expected next, ``folded`` of them are in the accumulator, ``credit`` was granted.

    ``weight`` is that of the fold. ``granted`` is the highest credit it ever had. ``serial`` tells it from an earlier
    upload of the same key, whose results may still be on their way. The lease says how far it was (``lease_chunk``)
    when its progress was last looked at and found enough. ``since_at``: when it was first announced, where this life
    has heard that.
    """

    begin: UploadBegin
    standing: Standing = Standing.QUEUED
    weight: float = 0.0
    next_chunk: int = 0
    folded: int = 0
    credit: int = 0
    granted: int = 0
    window: int = 0
    told: int = 0
    gap_told: int = -1
    serial: int = 0
    damages: int = 0
    excess: int = 0
    lease_at: float = 0.0
    lease_chunk: int = 0
    answered_at: float = float("-inf")
    reason: str = ""
    since_at: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there is a verdict."""
        return self.standing is Standing.ACCEPTED or self.standing is Standing.REFUSED

    def receive(self, window: int, now: float) -> None:
        """Go on from what is folded, with so many chunks under way."""
        self.standing, self.window = Standing.RECEIVING, window
        self.gap_told = -1
        self.renew(now)
        self._grant()
        self.told = self.credit

    def renew(self, now: float) -> None:
        """Begin a new lease."""
        self.lease_at, self.lease_chunk = now, self.next_chunk

    def extend(self) -> bool:
        """Grant more as chunks are folded; returns whether to say so: each half window, not for each chunk."""
        self._grant()
        grown = self.credit - self.told
        if not grown or (grown < max(1, self.window // 2) and self.credit < self.begin.chunks):
            return False
        self.told = self.credit
        return True

    def _grant(self) -> None:
        self.credit = min(self.begin.chunks, self.folded + self.window)
        self.granted = max(self.granted, self.credit)


def allowed_by(order: Order, name: str) -> frozenset[Key]:
    """Return what an order lets a combiner fold: updates of clients, and partials of those below it in the tree."""
    keys = {Key(Peer("client", client), order.round, attempt) for client, attempt in order.uploads.items()}
    if order.merge is not None:
        others = order.merge.partials.items()
        keys |= {Key(Peer("combiner", other), order.round, attempt) for other, attempt in others if other != name}
    return frozenset(keys)


def weight_of(base: Prepared, order: Order, sender: Peer, begin: UploadBegin) -> float:
    """Return the weight with which an announced upload is folded; `BadUpdate` says why it cannot be."""
    _check_form(base, order, sender, begin)
    if sender.role == "combiner":
        return begin.weight
    if not (isfinite(begin.weight) and begin.weight > 0):
        raise BadUpdate(f"expected a weight above 0 and at most {order.weight_max:g} (weight_max), got {begin.weight}")
    weight, largest = fold_weight(order.plan, begin.weight, begin.metrics, begin.stale), order.weight_max
    of = "" if weight == begin.weight else f" ({begin.weight} as given)"
    # Where it is divided by a metric, of the client's choice too, both enter the step: one that is small may be of two
    # that are not, and the mean of that metric then theirs alone.
    if not max(weight, given_weight(order.plan, begin.weight)) <= largest:
        raise BadUpdate(f"expected a weight above 0 and at most {largest:g} (weight_max), got {weight}{of}")
    if weight < largest * WEIGHT_SPREAD:
        least = largest * WEIGHT_SPREAD
        raise BadUpdate(
            f"expected a weight of at least {least:g} (2^-30 of weight_max), got {weight}{of}; lower weight_max"
        )
    return weight


def _check_form(base: Prepared, order: Order, sender: Peer, begin: UploadBegin) -> None:
    """Raise `BadUpdate` where an upload is not of the form that the round's updates, or partials, have."""
    if begin.spec != base.spec and not (base.payload_bytes_max and begin.stale):  # late, but no worse for it
        digests = f"digest {begin.spec[:16]}, expected {base.spec[:16]}"
        raise BadUpdate(f"the update's names, shapes or dtypes are not those of {order.version} ({digests})")
    _check_size(base, order, sender, begin)
    if begin.stale > order.stale_max:
        raise BadUpdate(f"expected an update of at most {order.stale_max} rounds ago, got one of {begin.stale}")
    if begin.inline and len(begin.inline) != begin.nbytes:
        raise BadUpdate(f"expected {begin.nbytes} bytes with the announcement, got {len(begin.inline)}")


def _check_size(base: Prepared, order: Order, sender: Peer, begin: UploadBegin) -> None:
    partial = sender.role == "combiner"
    if base.payload_bytes_max and not partial:
        largest, chunks = base.payload_bytes_max, -(-begin.nbytes // base.chunk_bytes)
        if not 0 < begin.nbytes <= largest:
            raise BadUpdate(f"expected a payload of 1 to {largest} bytes, announced were {begin.nbytes}")
        if begin.chunks != chunks:
            raise BadUpdate(f"expected {begin.nbytes} bytes in {chunks} chunks, announced were {begin.chunks}")
        return
    nbytes, chunks = (base.partial_nbytes, base.partial_chunks) if partial else (base.nbytes, base.chunks)
    if begin.nbytes != nbytes or begin.chunks != chunks:
        part = f" of part {order.part} of {order.parts}" if order.parts > 1 else ""
        raise BadUpdate(
            f"expected {nbytes} bytes in {chunks} chunks{part}, announced were {begin.nbytes} in {begin.chunks}"
        )


def verdict_of(key: Key, upload: Upload, *, accepted: bool, norm: float, now: float | None = None) -> reports.Verdict:
    """Return what the coordinator is told of an upload, whose last byte was folded ``now``."""
    begin, spent = upload.begin, upload.begin.spent
    if spent is not None and now is not None and upload.since_at is not None:
        spent = spent._replace(upload_s=min(max(now - upload.since_at, 0.0), SECONDS_MAX))
    return reports.Verdict(
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
        update=begin.update,
        stale=begin.stale,
        spent=spent,
    )


def state_of(
    session: str, key: Key, upload: Upload, *, resend: bool = False, reason: str = "", answers: int | None = None
) -> Tell:
    """Tell how an upload stands; ``answers``: which announcement, if it was one."""
    if upload.is_settled:
        return tell(
            session, key, upload.next_chunk, upload.credit, verdict=_VERDICTS[upload.standing], reason=upload.reason
        )
    return tell(session, key, upload.next_chunk, upload.credit, resend=resend, reason=reason, answers=answers)


def tell(
    session: str,
    key: Key,
    next_chunk: int = 0,
    credit: int = 0,
    *,
    resend: bool = False,
    verdict: Verdict = "pending",
    reason: str = "",
    answers: int | None = None,
) -> Tell:
    """Tell a sender; all values are ours, so they are not checked once more."""
    state = UploadState.model_construct(
        session=session,
        round=key.round,
        attempt=key.attempt,
        next_chunk=next_chunk,
        credit=credit,
        resend=resend,
        answers=answers,
        verdict=verdict,
        reason=reason,
    )
    return Tell(key.sender, state)
