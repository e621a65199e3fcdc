"""What people may do at a gateway: one table of roles and actions, read by REST, the page, the command line and docs.

Somebody may have several roles, and may do what any of them may. What is not in the table nobody may do. What
identities may do at the broker is another table (`fedbus.access.permissions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import get_args

from fedbus.messages.access import PersonRole


class Action(StrEnum):
    """One thing that somebody may be permitted to do; its value is what audit, texts and the page call it."""

    SELF_READ = "self.read"
    OVERVIEW_READ = "overview.read"
    METRICS_READ = "metrics.read"
    STRATEGY_READ = "strategy.read"
    SESSION_READ = "session.read"
    SESSION_INSPECT = "session.inspect"
    SESSION_START = "session.start"
    SESSION_STOP = "session.stop"
    EVENT_READ = "event.read"
    CLIENT_READ = "client.read"
    CLIENT_READ_ALL = "client.read-all"
    MODEL_READ = "model.read"
    MODEL_DOWNLOAD = "model.download"
    MODEL_IMPORT = "model.import"
    MODEL_ANNOTATE = "model.annotate"
    MODEL_PROMOTE = "model.promote"
    MODEL_REMOVE = "model.remove"
    RETENTION_SET = "retention.set"
    WORKSPACE_READ = "workspace.read"
    WORKSPACE_SET = "workspace.set"
    TOKEN_READ = "token.read"
    TOKEN_CREATE = "token.create"
    TOKEN_REVOKE = "token.revoke"
    MEMBER_READ = "member.read"
    MEMBER_APPROVE = "member.approve"
    MEMBER_SUSPEND = "member.suspend"
    MEMBER_RESUME = "member.resume"
    MEMBER_EXPEL = "member.expel"
    PERSON_READ = "person.read"
    PERSON_ADD = "person.add"
    PERSON_CHANGE = "person.change"
    PERSON_REMOVE = "person.remove"
    AUDIT_READ = "audit.read"
    AUDIT_VERIFY = "audit.verify"


ABOUT: Mapping[Action, str] = {
    Action.SELF_READ: "see who one is here and what one may, and log out",
    Action.OVERVIEW_READ: "see what runs, what it waits for, combiners and coordinators",
    Action.METRICS_READ: "read the gateway's numbers, as Prometheus does",
    Action.STRATEGY_READ: "see which strategies, codecs and settings there are",
    Action.SESSION_READ: "see sessions, their rounds and curves",
    Action.SESSION_INSPECT: "see of a session which client gave what: rounds, evaluations, traces, the export",
    Action.SESSION_START: "start and clone sessions",
    Action.SESSION_STOP: "stop sessions",
    Action.EVENT_READ: "read events; those that name clients only with `session.inspect`",
    Action.CLIENT_READ: "see clients: one's own",
    Action.CLIENT_READ_ALL: "see all clients",
    Action.MODEL_READ: "see versions, their cards and lineage, stages and retention",
    Action.MODEL_DOWNLOAD: "take a model away",
    Action.MODEL_IMPORT: "bring a model in",
    Action.MODEL_ANNOTATE: "note something beside a version",
    Action.MODEL_PROMOTE: "give stages versions, and take them away",
    Action.MODEL_REMOVE: "remove a version",
    Action.RETENTION_SET: "decide which versions are kept, and collect the others",
    Action.WORKSPACE_READ: "see what the workspace may use",
    Action.WORKSPACE_SET: "decide what the workspace may use",
    Action.TOKEN_READ: "see which tokens were handed out; never their secrets",
    Action.TOKEN_CREATE: "hand out tokens",
    Action.TOKEN_REVOKE: "revoke tokens",
    Action.MEMBER_READ: "see members and their state",
    Action.MEMBER_APPROVE: "let a member in",
    Action.MEMBER_SUSPEND: "shut a member out for a while",
    Action.MEMBER_RESUME: "let a suspended member back in",
    Action.MEMBER_EXPEL: "shut a member out for good",
    Action.PERSON_READ: "see people and their roles",
    Action.PERSON_ADD: "add people",
    Action.PERSON_CHANGE: "change roles and state of people",
    Action.PERSON_REMOVE: "remove people",
    Action.AUDIT_READ: "read and export what was done by whom",
    Action.AUDIT_VERIFY: "check that nothing was taken out of it",
}
"""What each action is, after "may"."""

_OWNED = frozenset(
    {
        Action.SELF_READ,
        Action.OVERVIEW_READ,
        Action.STRATEGY_READ,
        Action.SESSION_READ,
        Action.EVENT_READ,
        Action.CLIENT_READ,
        Action.MODEL_READ,
    }
)
_SEEN = _OWNED | {Action.METRICS_READ, Action.SESSION_INSPECT, Action.CLIENT_READ_ALL}

PERMITTED: Mapping[PersonRole, frozenset[Action]] = {
    "admin": frozenset(Action),
    "engineer": _SEEN
    | {
        Action.SESSION_START,
        Action.SESSION_STOP,
        Action.MODEL_DOWNLOAD,
        Action.MODEL_IMPORT,
        Action.MODEL_ANNOTATE,
        Action.MODEL_PROMOTE,
        Action.MODEL_REMOVE,
        Action.RETENTION_SET,
        Action.WORKSPACE_READ,
        Action.MEMBER_READ,
    },
    "data-owner": _OWNED,
    "viewer": _SEEN,
    "auditor": _SEEN
    | {
        Action.WORKSPACE_READ,
        Action.TOKEN_READ,
        Action.MEMBER_READ,
        Action.PERSON_READ,
        Action.AUDIT_READ,
        Action.AUDIT_VERIFY,
    },
}
"""What each role may do."""

ABOUT_ROLES: Mapping[PersonRole, str] = {
    "admin": "runs the workspace: may do everything",
    "engineer": "runs sessions and keeps models; sees who takes part, decides nothing about them",
    "data-owner": "owns clients: sees how sessions stand, and of the clients only her own",
    "viewer": "sees what is going on",
    "auditor": "sees what is going on, who may what, and what was done by whom; changes nothing, takes no model away",
}
"""Who has each role."""

ROLES: tuple[PersonRole, ...] = get_args(PersonRole)
"""All roles, from the most to the least that changes something."""


def may(roles: Iterable[str], action: Action) -> bool:
    """Whether somebody with these roles may do it; a role that nobody knows permits nothing."""
    return any(action in PERMITTED.get(role, ()) for role in roles)  # type: ignore[call-overload]


def permitted_to(action: Action) -> tuple[PersonRole, ...]:
    """Return the roles that may do it, in the order of `ROLES`."""
    return tuple(role for role in ROLES if action in PERMITTED[role])


def actions_of(roles: Iterable[str]) -> tuple[Action, ...]:
    """Return all that somebody with these roles may do, in the order of `Action`."""
    found = tuple(roles)
    return tuple(action for action in Action if may(found, action))
