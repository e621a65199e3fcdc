"""People: who may use the gateways, as what; and the table of what each role may do."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from fedbus.access.actions import ABOUT, ABOUT_ROLES, ROLES, Action, actions_of
from fedbus.errors import NotFound
from fedbus.gateway.operations import API, Call, Operation, Reply
from fedbus.gateway.paging import Paged, page_of
from fedbus.gateway.secured import author_of, has_text, members_of
from fedbus.gateway.views import Page
from fedbus.gateway.views_access import ActionView, PersonChange, PersonView, PersonWanted, RolesView, RoleView
from fedbus.messages.access import BusRole, Person, PersonRole


class PeopleAsked(Paged):
    """Which people."""

    role: PersonRole | None = None
    """Only those who have this role, perhaps besides others."""

    state: Literal["active", "suspended"] | None = None
    """Only those who stand so."""

    text: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Only those with this text in their name."""


async def list_people(call: Call) -> Reply:
    """People who are known to the gateways, by name."""
    query = call.asked(PeopleAsked)
    found = [
        person_view(one)
        for one in (await members_of(call)).people.all()
        if (query.role is None or query.role in one.roles)
        and query.state in (None, one.state)
        and has_text(query.text, one.name)
    ]
    return page_of(found, query, key=lambda person: person.person)


async def add_person(call: Call) -> Reply:
    """Let somebody use the gateways; she logs in with a token, or as one of her `subjects` by OIDC."""
    wanted = call.given(PersonWanted)
    people = (await members_of(call)).people
    found = await people.add(wanted.person, wanted.roles, by=author_of(call), subjects=wanted.subjects)
    return person_view(found), {"Location": f"{API}/people/{found.name}"}


async def get_person(call: Call) -> Reply:
    """A person with her roles."""
    found = (await members_of(call)).people.get(call.path["person"])
    if found is None:
        raise NotFound(f"{call.path['person']}: there is nobody of this name")
    return person_view(found)


async def change_person(call: Call) -> Reply:
    """Change roles, state or subjects; whoever is suspended is refused at the next request."""
    change = call.given(PersonChange)
    people = (await members_of(call)).people
    name, by = call.path["person"], author_of(call)
    found = await people.change(name, by=by, roles=change.roles, state=change.state, subjects=change.subjects)
    return person_view(found)


async def remove_person(call: Call) -> Reply:
    """Let a person use the gateways no more; the answer is who it was."""
    people = (await members_of(call)).people
    return person_view(await people.remove(call.path["person"], by=author_of(call)))


def person_view(person: Person) -> PersonView:
    """Return a person as REST shows her."""
    return PersonView(
        person=person.name,
        roles=person.roles,
        state=person.state,
        subjects=person.subjects,
        at=person.at,
        by=person.by,
    )


async def get_roles(call: Call) -> Reply:
    """Who may do what, with the operations that need it: the table that REST, the page and the command line go by."""
    from fedbus.gateway.table import OPERATIONS as EVERY  # noqa: PLC0415 - the table has this operation in it

    needed: dict[Action, list[str]] = {action: [] for action in Action}
    for operation in EVERY:
        if operation.needs is not None:
            needed[operation.needs].append(operation.id)
    return RolesView(
        roles=tuple(RoleView(role=role, about=ABOUT_ROLES[role], actions=actions_of((role,))) for role in ROLES),
        members=get_args(BusRole),
        actions=tuple(ActionView(action=a, about=ABOUT[a], operations=tuple(needed[a])) for a in Action),
    )


_OF = f"{API}/people/{{person}}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "listPeople", "GET", f"{API}/people", "Who may use the gateways", list_people, "fedbus person list --json",
        "fedbus.access.people.People.all", query=PeopleAsked, answer=Page[PersonView], problems=(409,),
        needs=Action.PERSON_READ,
    ),
    Operation(
        "addPerson", "POST", f"{API}/people", "Let somebody use the gateways", add_person,
        "fedbus person add NAME --role ROLE", "fedbus.access.people.People.add", body=PersonWanted, answer=PersonView,
        status=201, problems=(409,), headers={"Location": "Where the person is."}, needs=Action.PERSON_ADD,
        asks_again=True,
    ),
    Operation(
        "getPerson", "GET", _OF, "A person", get_person, "fedbus person list --json",
        "fedbus.access.people.People.get", answer=PersonView, problems=(404, 409), needs=Action.PERSON_READ,
    ),
    Operation(
        "changePerson", "PATCH", _OF, "Change a person's roles or state", change_person,
        "fedbus person set NAME", "fedbus.access.people.People.change", body=PersonChange, answer=PersonView,
        problems=(404, 409), needs=Action.PERSON_CHANGE, asks_again=True,
    ),
    Operation(
        "removePerson", "DELETE", _OF, "Let a person use the gateways no more", remove_person,
        "fedbus person remove NAME", "fedbus.access.people.People.remove", answer=PersonView, problems=(404, 409),
        needs=Action.PERSON_REMOVE, asks_again=True,
    ),
    Operation(
        "getRoles", "GET", f"{API}/roles", "Who may do what", get_roles, answer=RolesView, needs=Action.SELF_READ,
    ),
)  # fmt: skip
