"""Members: who has an identity at the broker, who waits for one, and what is decided about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from pydantic import Field

from fedbus.access.actions import Action
from fedbus.access.members import Members
from fedbus.errors import NotFound
from fedbus.gateway.deeds import WHY
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, page_of
from fedbus.gateway.problems import Refused
from fedbus.gateway.secured import author_of, has_text, members_of
from fedbus.gateway.views import Page
from fedbus.gateway.views_access import Decision, MemberState, MemberView
from fedbus.messages.access import BusRole, Member
from fedbus.messages.ids import Peer
from fedbus.messages.queries import Seen

There = Mapping[Peer, Seen]


class MembersAsked(Paged):
    """Which members."""

    role: BusRole | None = None
    """Only those of this role."""

    state: MemberState | None = None
    """Only those that stand so; `waiting`: for somebody to approve."""

    text: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Only those with this text in their name or owner."""


async def list_members(call: Call) -> Reply:
    """Members by role and name, with whether each is there now."""
    query = call.asked(MembersAsked)
    found = (await members_of(call)).all(role=query.role or "", state=query.state or "")
    there = await _there(call)
    wanted = [member_view(one, there) for one in found if has_text(query.text, one.name, one.owner)]
    wanted.sort(key=_place)
    return page_of(wanted, query, key=_place)


def _place(view: MemberView) -> str:
    return f"{view.role}/{view.member}"


async def get_member(call: Call) -> Reply:
    """A member: its state, its key, what it says of itself."""
    peer = _peer(call)
    found = (await members_of(call)).get(peer)
    if found is None:
        raise NotFound(f"{peer.role} {peer.name}: there is no such member")
    return member_view(found, await _there(call))


async def approve(call: Call) -> Reply:
    """Let in who waits: it gets its identity as soon as a registrar has signed it."""
    return await _decided(call, Members.approve)


async def suspend(call: Call) -> Reply:
    """Shut a member out until it is resumed: the broker cuts it off within a second."""
    _check_other(call)
    return await _decided(call, Members.suspend)


async def resume(call: Call) -> Reply:
    """Let a suspended member back in."""
    return await _decided(call, Members.resume)


async def expel(call: Call) -> Reply:
    """Shut a member out for good, under this key; of one that waits: refuse it."""
    _check_other(call)
    return await _decided(call, Members.expel)


async def _decided(call: Call, deed: Callable[..., Awaitable[Member]]) -> MemberView:
    members, reason = await members_of(call), call.given(Decision).reason
    call.request[WHY] = reason
    found = await deed(members, _peer(call), by=author_of(call), reason=reason)
    return member_view(found, await _there(call))


def _check_other(call: Call) -> None:
    """Raise `Refused` where a gateway is asked to shut itself out: nobody would hear what came of it."""
    if _peer(call) == call.gateway.station.peer:
        raise Refused(409, f"this is gateway {call.gateway.name} itself: ask another, or the command line")


def _peer(call: Call) -> Peer:
    return Peer(call.path["role"], call.path["member"])


async def _there(call: Call) -> There:
    """Return who says that it is there, by role and name."""
    known = await call.gateway.presence.look()
    everybody = (*known.clients, *known.combiners, *known.coordinators, *known.gateways)
    return {Peer(seen.role, seen.name): seen for seen in everybody}


def member_view(member: Member, there: There) -> MemberView:
    """Return a member as REST shows it."""
    seen = there.get(Peer(member.role, member.name)) if member.state == "active" else None
    return MemberView(
        role=member.role,
        member=member.name,
        state=member.state,
        at=member.at,
        by=member.by,
        reason=member.reason,
        attributes=dict(seen.attributes if seen is not None else member.attributes),
        owner=member.owner,
        joined_by=member.token,
        key=member.key,
        issued_at=member.issued_at or None,
        expires_at=member.expires_at or None,
        online=seen is not None,
        doing=seen.doing if seen is not None else "",
        seen_at=seen.seen_at if seen is not None else None,
    )


_OF = f"{API}/members/{{role}}/{{member}}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listMembers", "GET", f"{API}/members", "Who has an identity at the broker, or waits for one", list_members,
        "fedbus member list --json", "fedbus.access.members.Members.all", query=MembersAsked, answer=Page[MemberView],
        problems=(409,), needs=Action.MEMBER_READ,
    ),
    Operation(
        "getMember", "GET", _OF, "A member", get_member, "fedbus member show NAME --json",
        "fedbus.access.members.Members.get", answer=MemberView, problems=(404, 409), needs=Action.MEMBER_READ,
    ),
    Operation(
        "approveMember", "POST", f"{_OF}/approve", "Let in who waits", approve, "fedbus member approve NAME",
        "fedbus.access.members.Members.approve", body=Decision, answer=MemberView, problems=(404, 409),
        needs=Action.MEMBER_APPROVE, asks_again=True,
    ),
    Operation(
        "suspendMember", "POST", f"{_OF}/suspend", "Shut a member out until it is resumed", suspend,
        "fedbus member suspend NAME", "fedbus.access.members.Members.suspend", body=Decision, answer=MemberView,
        problems=(404, 409), needs=Action.MEMBER_SUSPEND,
    ),
    Operation(
        "resumeMember", "POST", f"{_OF}/resume", "Let a suspended member back in", resume,
        "fedbus member resume NAME", "fedbus.access.members.Members.resume", body=Decision, answer=MemberView,
        problems=(404, 409), needs=Action.MEMBER_RESUME, asks_again=True,
    ),
    Operation(
        "expelMember", "POST", f"{_OF}/expel", "Shut a member out for good", expel, "fedbus member expel NAME",
        "fedbus.access.members.Members.expel", body=Decision, answer=MemberView, problems=(404, 409),
        needs=Action.MEMBER_EXPEL, asks_again=True,
    ),
)  # fmt: skip
