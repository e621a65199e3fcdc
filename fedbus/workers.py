"""Work off the event loop: folding, digests, a user's training.

`Threads` is what runs; `Inline` runs at once on the loop, for simulations, where a thread would take time out of the
seed's hands.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol, TypeVar

T = TypeVar("T")


class Workers(Protocol):
    """Runs functions somewhere else and awaits their results."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)``; its exception is raised here."""
        ...

    def close(self) -> None:
        """Take no more work; what runs is left to finish."""
        ...


class Threads:
    """A pool of threads of its own, which ends with `close`."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)`` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def close(self) -> None:
        """Take no more work. A training that nobody waits for any more ends when it ends; we do not wait for it."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def aside(function: Callable[..., T], *args: object) -> T:
    """Run ``function(*args)`` in a thread of its own, which no end of a loop or of a process waits for.

    For what may never return, such as asking a person: the threads of a pool are waited for by whoever closes the loop.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(act: Callable[[], None]) -> None:
        if not done.done():
            act()

    def work() -> None:
        try:
            result = function(*args)
        except StopIteration as error:  # which no future takes
            failure: BaseException = RuntimeError(f"StopIteration: {error}")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where it is awaited
            failure = error
        else:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, lambda: done.set_result(result))
            return
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, lambda: done.set_exception(failure))

    threading.Thread(target=work, name="fedbus-aside", daemon=True).start()
    return await done


class Inline:
    """Runs at once, on the loop; yields once, as a thread would."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)`` here."""
        await asyncio.sleep(0)
        return function(*args)

    def close(self) -> None:
        """Nothing to end."""
