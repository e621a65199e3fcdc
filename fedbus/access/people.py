"""People who are known to the gateways, and what they may do there.

Removing somebody leaves a person without roles on the board, so that everybody who follows it hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

from fedbus.access.boards import Boards
from fedbus.access.names import id_of
from fedbus.errors import ConfigError, Conflict, NotFound
from fedbus.messages.access import Person, PersonRole


class People:
    """The people of a workspace."""

    def __init__(self, boards: Boards) -> None:
        self._boards = boards

    def get(self, name: str) -> Person | None:
        """Return a person by her name, as she is known in memory; None where there is none, or she was removed."""
        return self.by_id(id_of(name))

    def by_id(self, id_: str) -> Person | None:
        """Return a person by the id of her name, which is what an API token says."""
        found = self._boards.people.get(id_)
        return found if found is not None and found.roles else None

    def by_subject(self, subject: str) -> Person | None:
        """Return who an OIDC provider means by ``<issuer>#<sub>``."""
        for person in self._boards.people.values():
            if person.roles and subject in person.subjects:
                return person
        return None

    def all(self) -> list[Person]:
        """Return all people that are known in memory, by name."""
        return sorted((one for one in self._boards.people.values() if one.roles), key=lambda person: person.name)

    async def add(self, name: str, roles: Iterable[str], *, by: str, subjects: Iterable[str] = ()) -> Person:
        """Let a person use the gateways. `Conflict` where there is one of this name."""
        now = self._now()
        person = Person(name=_name(name), roles=_roles(roles), subjects=tuple(subjects), at=now, by=by, since=now)

        def decide(known: Person | None) -> Person:
            if known is not None and known.roles:
                raise Conflict(f"{name} is there already, as {', '.join(known.roles)}", state=known.state)
            return person

        return await self._change(name, decide)

    async def change(
        self,
        name: str,
        *,
        by: str,
        roles: Iterable[str] | None = None,
        state: Literal["active", "suspended"] | None = None,
        subjects: Iterable[str] | None = None,
    ) -> Person:
        """Change what is given of a person. `NotFound` where there is none."""
        told: dict[str, object] = {"at": self._now(), "by": by}
        if roles is not None:
            told["roles"] = _roles(roles)
        if state is not None:
            if state not in ("active", "suspended"):
                raise ConfigError(f"expected active or suspended, got {state!r}")
            told["state"] = state
        if subjects is not None:
            told["subjects"] = tuple(subjects)

        def decide(known: Person | None) -> Person:
            return Person.model_validate({**_there(name, known).model_dump(), **told})

        return await self._change(name, decide)

    async def remove(self, name: str, *, by: str) -> Person:
        """Let a person in no more; returns who it was. `NotFound` where there is none."""
        was: list[Person] = []

        def decide(known: Person | None) -> Person:
            was[:] = [_there(name, known)]
            return Person(name=name, roles=(), state="suspended", at=self._now(), by=by)

        await self._change(name, decide)
        return was[0]

    async def _change(self, name: str, decide: Callable[[Person | None], Person | None]) -> Person:
        return await self._boards.change(self._boards.subjects.access_person(id_of(name)), Person, decide)

    def _now(self) -> float:
        return self._boards.clock.now()


def _there(name: str, known: Person | None) -> Person:
    if known is None or not known.roles:
        raise NotFound(f"{name}: there is nobody of this name; `fedbus person list` shows who is known")
    return known


def _name(name: str) -> str:
    if (
        not name
        or len(name) > 200
        or not all(char.isascii() and (char.isalnum() or char in "_@.:/+-") for char in name)
    ):
        raise ConfigError(f"name: expected 1 to 200 of the characters A-Z a-z 0-9 _ @ . : / + -, got {name!r}")
    return name


def _roles(roles: Iterable[str]) -> tuple[PersonRole, ...]:
    """Return roles, each once, in the order in which they are always told; `ConfigError` for what is none."""
    asked = set(roles)
    every: tuple[PersonRole, ...] = get_args(PersonRole)
    if not asked or not asked <= set(every):
        raise ConfigError(
            f"roles: expected one or more of {', '.join(every)}, got {', '.join(sorted(asked)) or 'none'}"
        )
    return tuple(role for role in every if role in asked)
