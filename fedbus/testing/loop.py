"""An asyncio event loop whose time is a number: nothing ever sleeps, and the same program runs the same way each time.

When no callback is ready the loop jumps to the next timer. When there is no timer either, nothing can ever happen
again: `Deadlock`. No file, socket or thread may be waited for on it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = 1_700_000_000.0
"""Wall time when a virtual loop begins."""


class Deadlock(RuntimeError):
    """Every task waits for something that nothing will bring about."""


class _Selector(selectors.BaseSelector):
    """Waits for nothing: it tells the loop to jump instead."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:  # noqa: ANN401 - as in the base
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:  # noqa: ANN401 - as in the base
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert self.loop is not None
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set")
        self.loop.jump(timeout)
        return []

    def get_map(self) -> dict[int, selectors.SelectorKey]:  # type: ignore[override]  # a plain dict is all that is asked of it
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `time` starts at 0."""

    def __init__(self) -> None:
        self._virtual = 0.0
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        """Return virtual seconds since the beginning."""
        return self._virtual

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        if seconds > 0:
            self._virtual += seconds


class VirtualClock:
    """Wall time of a virtual loop: `EPOCH` and what has passed. ``skew_s`` makes it a wrong clock."""

    def __init__(self, skew_s: float = 0.0) -> None:
        self._skew_s = skew_s

    def now(self) -> float:
        """Return seconds since the epoch."""
        return EPOCH + asyncio.get_running_loop().time() + self._skew_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a fresh virtual loop to its end, and cancel what it leaves behind."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
