"""What people ask for. Each command may be repeated: the second of its kind for a session changes nothing."""

from __future__ import annotations

from fedbus.config.session import SessionConfig
from fedbus.messages.envelope import Body
from fedbus.messages.ids import Count, Digest, MaybeName, Name, Reason, SessionName


class StartSession(Body):
    """Start a session from a model that is already stored as a blob; ``base``: the published version that it is."""

    session: SessionName
    config: SessionConfig
    blob: Name
    digest: Digest
    nbytes: Count
    base: MaybeName = ""


class StopSession(Body):
    """End a session: the round under way is given up, published models stay."""

    session: Name
    reason: Reason = "stopped by request"
