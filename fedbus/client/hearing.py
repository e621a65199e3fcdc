"""What comes in to the clients of a process, and which of it is theirs: tasks, words of combiners, confirmations.

Who may say what is guarded by its subject, so that decides how a message is read; of a secured workspace a task has to
be signed by it besides (`fedbus.access.envelopes`).
"""

from __future__ import annotations

import asyncio

from fedbus.access.envelopes import PostVerifier
from fedbus.bus.base import Message, Subscription
from fedbus.client.events import TaskSeen
from fedbus.client.inbox import Inbox, Told
from fedbus.client.parts import Parts
from fedbus.errors import BadMessage
from fedbus.exchange.outbox import Outbox
from fedbus.exchange.station import Heard, Station
from fedbus.messages.presence import NameIsTaken
from fedbus.messages.reports import ReportTaken
from fedbus.messages.tasks import Task
from fedbus.messages.uploads import UploadState


class Hearing:
    """Hears for all clients. ``doubted``: what is to be told of tasks that nobody has signed; '' where none came."""

    def __init__(
        self, station: Station, inbox: Inbox, parts: Parts, outbox: Outbox, posts: PostVerifier | None
    ) -> None:
        self._station = station
        self._inbox = inbox
        self._parts = parts
        self._outbox = outbox
        self._posts = posts
        self.doubted = ""

    async def run(self, heard: Subscription) -> None:
        """Hand on what is heard; runs until cancelled. Raises `NameTaken` where another lives under the name."""
        async for message in heard:
            self._take(message)

    def take_from_board(self, message: Message) -> None:
        """Take a task from the board, unless it is what was read there last time: a task is a state."""
        if self._inbox.is_full:
            return
        client, session = message.subject.split(".")[3:]
        part = self._parts.of(client, session)
        if part is not None:
            # Sequences begin anew when the broker loses the board: so the bytes count too.
            seen, part.seen = part.seen, (message.sequence, hash(bytes(message.data)))
            if seen == part.seen:
                return
        self._take(message)

    def _take(self, message: Message) -> None:
        found = self._station.read(message)
        if found is None:
            return
        _, _, family, *names = message.subject.split(".")
        body = found.envelope.body
        if family == "task" and isinstance(body, Task):
            if names[0] in self._parts and not self._inbox.is_full and self._is_asked(found):
                now = asyncio.get_running_loop().time()
                self._inbox.put(Told(names[0], body.session, TaskSeen(body), message.headers, since=now))
        elif family == "down" and isinstance(body, UploadState):
            part = self._parts.of(names[1], body.session)
            if part is not None and part.sending is not None:
                part.sending.hear(names[2], body)
        elif family == "ack" and isinstance(body, ReportTaken):
            self._outbox.taken(body)
        elif family == "ack" and isinstance(body, NameIsTaken):
            self._station.heed(body)

    def _is_asked(self, found: Heard) -> bool:
        """Whether a task is the workspace's: its owner's policy goes by what it says, and questions stand in it.

        One that is not is passed over, as if it had been lost: what it says is nobody's word, also of the round.
        """
        if self._posts is None:
            return True
        try:
            self._posts.check(found.message.subject, found.envelope)
        except BadMessage as error:
            self._station.refuse(error)
            self.doubted = "passes over tasks that its workspace has not signed"
            return False
        self.doubted = ""
        return True
