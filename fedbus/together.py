"""Tasks that live and die together, with errors as callers expect them.

`asyncio.TaskGroup` wraps what its tasks raise into groups, and groups of groups. A caller of `Client.run` wants to
catch `BusClosed`: the first error is raised as itself, the group chained behind it. And a cancellation is never lost: a
task group that is cancelled while one of its tasks fails raises the failure only, so that a caller who handles it would
live on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first error is raised bare."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from error
        raise _first(error) from error


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
