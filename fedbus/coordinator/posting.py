"""Puts tasks and orders on the boards, many at once, in the order in which they are given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf

from fedbus.access.envelopes import PostSigner
from fedbus.access.signing import ModelSigner
from fedbus.coordinator.events import NotPosted, PostOrder, PostTask
from fedbus.errors import BusFull, BusUnavailable
from fedbus.exchange.station import Station
from fedbus.messages.envelope import Envelope, encode
from fedbus.messages.tasks import Task
from fedbus.together import together

log = logging.getLogger("fedbus.coordinator")

POSTS_MAX = 256
"""Posts under way at once: a post takes a round trip, ten thousand clients must not wait for many of them.

10,000 posts took 1.1 s with 64 under way, 0.9 s with 128 or 256, 1.2 s with 1,024 (loopback, two cores); 256 is a
quarter of what the bus lets be under way, so that an append to the journal does not wait behind the boards.
"""

POST_DEADLINE_S = 3.0

SIGNED_MAX = 1024
"""Posts that are signed at once: 20 ms in which nothing else is done, and 10 steps, 330 bytes, from one to the root."""

Post = PostTask | PostOrder


class Poster:
    """The boards of a workspace, to be written; ``left_s``: for how many seconds from now we may.

    ``key_of``: of a blob that is sealed; a task brings it. ``signer``: signs the versions that tasks are about,
    ``post_signer`` the tasks and orders themselves, all that are posted together at once.
    What is under way when that is over may not arrive later: the newest word on a board counts, and it may be somebody
    else's by then.
    """

    def __init__(
        self,
        station: Station,
        left_s: Callable[[], float] = lambda: inf,
        key_of: Callable[[str], bytes] | None = None,
        signer: ModelSigner | None = None,
        post_signer: PostSigner | None = None,
    ) -> None:
        self._station = station
        self._signer = signer
        self._post_signer = post_signer
        self._key_of = key_of
        self._left_s = left_s
        self._board = station.subjects.stream("board")

    async def post(
        self, session: str, posts: list[Post], headers: Callable[[str], Mapping[str, str] | None] | None
    ) -> NotPosted | None:
        """Post what a session's machine asks for; returns what the bus did not take.

        ``headers(client)``: of a task; of an order those of no client, ''.

        After the first silence of the bus nothing more is tried: each try would wait for its deadline.
        """
        pending, unposted = iter(self._written(session, posts)), list[Post]()
        silent = False

        async def work() -> None:
            nonlocal silent
            for post, subject, envelope in pending:
                left_s = 0.0 if silent else self._left_s()
                if left_s <= 0:
                    unposted.append(post)
                    continue
                try:
                    client = post.client if isinstance(post, PostTask) else ""
                    about = headers(client) if headers is not None else None
                    await self._station.bus.append(
                        self._board, subject, encode(envelope), headers=about, deadline_s=min(POST_DEADLINE_S, left_s)
                    )
                except (BusUnavailable, BusFull) as error:
                    log.debug("%s: not posted: %s", session, error)
                    unposted.append(post)
                    if isinstance(error, BusUnavailable):
                        silent = True

        if len(posts) == 1:
            await work()
        else:
            async with together() as group:
                for _ in range(min(len(posts), POSTS_MAX)):
                    group.create_task(work())
        return _not_posted(unposted) if unposted else None

    def _written(self, session: str, posts: list[Post]) -> Iterator[tuple[Post, str, Envelope]]:
        """Give each post with its subject and what is posted there, `SIGNED_MAX` made at once."""
        for at in range(0, len(posts), SIGNED_MAX):
            some = posts[at : at + SIGNED_MAX]
            written = [self._envelope(session, post) for post in some]
            if self._post_signer is not None:
                signed = self._post_signer.sign_all(written)
                written = [(subject, envelope) for (subject, _), envelope in zip(written, signed, strict=True)]
            for post, (subject, envelope) in zip(some, written, strict=True):
                yield post, subject, envelope

    def _envelope(self, session: str, post: Post) -> tuple[str, Envelope]:
        """Return where a post goes, and what."""
        subjects, station = self._station.subjects, self._station
        if isinstance(post, PostTask):
            return subjects.task(post.client, session), station.envelope(self._opening(post.task))
        return subjects.order(post.combiner, session), station.envelope(post.order)

    def _opening(self, task: Task) -> Task:
        """Give a client the key of the model that it is to work on, and of no other, and the model's signature."""
        work = task.train or task.evaluate
        given: dict[str, bytes] = {}
        if work is not None and self._key_of is not None and (key := self._key_of(work.blob)):
            given["key"] = key
        if work is not None and self._signer is not None and work.digest:
            given["signature"] = self._signer.sign(work.version, work.digest)
        if work is None or not given:
            return task
        return task.model_copy(update={"train" if task.train else "evaluate": work.model_copy(update=given)})


def _not_posted(posts: Iterable[Post]) -> NotPosted:
    return NotPosted(
        frozenset(post.client for post in posts if isinstance(post, PostTask)),
        frozenset(post.combiner for post in posts if isinstance(post, PostOrder)),
    )
