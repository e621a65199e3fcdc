"""The words between the sender of an update (or of a partial) and the combiner that folds it.

``UploadBegin`` announces what is to come, by digest; the combiner answers with ``UploadState``: the chunk that it
expects next, up to which chunk it has room for (credit), and the verdict once there is one. Either may be repeated at
will: the answer to any ``UploadBegin`` is how things stand, so an upload resumes wherever it was cut. Chunks are raw
bytes, in order, one message each; what they are stands in their subject.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedbus.messages.access import Jwt
from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, Digest, Metrics, Name, Reason, SpentTold

INLINE_BYTES_MAX = 32 * 1024
"""Updates up to this travel in their announcement: one message instead of four, little where it is not wanted."""


class UploadBegin(Body):
    """What will be sent: the update of a client, or the partial of a combiner (which has no weight of its own).

    ``spec`` is the digest of names, shapes and dtypes; ``digest`` that of the bytes. ``weight`` is checked by the
    receiver. ``fetched``: bytes of the model that the sender had to download for this update. ``inline``: of an update
    of at most `INLINE_BYTES_MAX`, all of its bytes: then nothing else is sent, and the answer is the verdict. Where the
    model's chunks are shared out among combiners, an upload is one part of an update: spec and weight are those of the
    whole, digest, bytes and chunks those of the part; ``update`` is the same for all parts of one update, and for no
    other that its sender makes. ``stale``: for how many rounds ago it was made; its weight is the lessened one.
    ``number``: the how manieth announcement of this upload by this process. ``packed``: chunks that shrink so travel
    as zstd frames (`fedbus.exchange.packing`); digests and bytes are those of the chunks. ``spent``: where the client's
    time went, its ``upload_s`` still 0. ``signature``: of all that is announced (`fedbus.access.signing`), by the key
    of ``identity``, the sender's JWT; both empty of who is no member of a secured workspace.
    """

    session: Name
    round: Count
    attempt: Count
    spec: Digest
    digest: Digest
    nbytes: Count
    chunks: Count
    weight: float
    metrics: Metrics = {}
    fetched: Count = 0
    inline: Annotated[bytes, Field(max_length=INLINE_BYTES_MAX)] = b""
    update: Annotated[str, Field(max_length=64)] = ""
    stale: Count = 0
    number: Count = 0
    packed: bool = False
    spent: SpentTold | None = None
    signature: Annotated[bytes, Field(max_length=64)] = b""
    identity: Jwt = ""


class UploadState(Body):
    """How an upload stands: send up to, not including, chunk ``credit``.

    With ``resend``, from ``next_chunk`` on again. ``answers``: the number of the announcement that this is the answer
    to; what was sent behind that is not known yet, and is not asked for again by this. None: nobody has asked.
    """

    session: Name
    round: Count
    attempt: Count
    next_chunk: Count
    credit: Count
    resend: bool = False
    answers: Count | None = None
    verdict: Literal["pending", "accepted", "refused"] = "pending"
    reason: Reason = ""
