"""Tasks that live and die together, with errors as callers expect them.

`asyncio.TaskGroup` wraps what its tasks raise into groups, and groups of groups. A caller of `Client.run` wants to
catch `BusClosed`: the first error is raised as itself, the group chained behind it. And a cancellation is never lost: a
task group that is cancelled while one of its tasks fails raises the failure only, so that a caller who handles it lives
on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


class _Group(asyncio.TaskGroup):
    """A task group that knows its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: set[asyncio.Task[Any]] = set()

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = super().create_task(coro, name=name, context=context)
        self.alive.add(task)
        task.add_done_callback(self.alive.discard)
        return task


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first error is raised bare, and whose cancellation wins over errors."""
    try:
        async with _Group() as group:
            yield group
            # Waited for here and not in the group's exit: there, up to Python 3.12, the group's own cancellation of us
            # is never taken back, and could not be told from somebody else's below.
            while group.alive:
                await asyncio.wait(group.alive)
    except BaseExceptionGroup as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from error
        raise _first(error) from error


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
