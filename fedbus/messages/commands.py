"""What people ask for. Each command may be repeated: the second of its kind for a session changes nothing.

``by``: the person for whom a gateway asks; of anybody else it is not believed.
"""

from __future__ import annotations

from fedbus.config.session import SessionConfig
from fedbus.messages.access import Who
from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, Digest, MaybeName, Name, Peer, Reason, SessionName


class StartSession(Body):
    """Start a session from a model that is already stored as a blob; ``base``: the published version that it is."""

    session: SessionName
    config: SessionConfig
    blob: Name
    digest: Digest
    nbytes: Count
    base: MaybeName = ""
    by: Who = ""


class StopSession(Body):
    """End a session: the round under way is given up, published models stay."""

    session: Name
    reason: Reason = "stopped by request"
    by: Who = ""


def author_of(sender: Peer, command: StartSession | StopSession) -> str:
    """Return who asks for it: whoever has sent it, or the person for whom a gateway did, which has let her in."""
    return command.by if sender.role == "gateway" and command.by else sender.author
