"""The workspace: what it may use, and what it uses."""

from __future__ import annotations

from collections import Counter

from fedbus.access.actions import Action
from fedbus.access.members import Members
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.secured import author_of, members_of
from fedbus.gateway.views_access import Bounds, UsageView, WorkspaceView
from fedbus.messages.access import WorkspaceBounds


async def get_workspace(call: Call) -> Reply:
    """What the workspace may use, what it uses, and how many members stand how."""
    members = await members_of(call)
    return await _view(call, members, members.bounds)


async def set_workspace(call: Call) -> Reply:
    """Decide what the workspace may use. What runs and who is in stays, also beyond a bound that is lower now."""
    members, given = await members_of(call), call.given(Bounds)
    bounds = await members.set_bounds(
        by=author_of(call),
        clients_max=given.clients_max,
        sessions_max=given.sessions_max,
        bytes_max=given.bytes_max,
        approval=given.approval,
    )
    return await _view(call, members, bounds)


async def _view(call: Call, members: Members, bounds: WorkspaceBounds) -> WorkspaceView:
    await call.gateway.sessions.wait()
    known = await call.gateway.presence.look()
    return WorkspaceView(
        workspace=call.gateway.federation.subjects.workspace,
        clients_max=bounds.clients_max,
        sessions_max=bounds.sessions_max,
        bytes_max=bounds.bytes_max,
        approval=bounds.approval,
        at=bounds.at or None,
        by=bounds.by,
        usage=UsageView(
            clients=members.active_clients(),
            sessions=sum(not info.ended for info in call.gateway.sessions.folded.sessions.values()),
            bytes=sum(stream.nbytes for stream in known.streams.values()),
        ),
        members=Counter(member.state for member in members.all()),
    )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "getWorkspace", "GET", f"{API}/workspace", "What the workspace may use, and uses", get_workspace,
        "fedbus workspace show --json", "fedbus.access.members.Members.read_bounds", answer=WorkspaceView,
        problems=(409,), needs=Action.WORKSPACE_READ,
    ),
    Operation(
        "setWorkspace", "PUT", f"{API}/workspace", "Decide what the workspace may use", set_workspace,
        "fedbus workspace set", "fedbus.access.members.Members.set_bounds", body=Bounds, answer=WorkspaceView,
        problems=(409,), needs=Action.WORKSPACE_SET, asks_again=True,
    ),
)  # fmt: skip
