"""An asyncio event loop whose time is a number: nothing ever sleeps, and the same program runs the same way each time.

When no callback is ready the loop jumps to the next timer. When there is no timer either, nothing can ever happen
again: `Deadlock`. No file, socket or thread may be waited for on it.

A role can be frozen, as SIGSTOP does: what was begun in its context (`run_as`) - its tasks, its timers, the ends of its
links - does not run until it is thawed; then all of it is due at once, in order. Messages for it wait at its door
meanwhile, and what it had sent and not yet got rid of waits too.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

_ROLE: ContextVar[str] = ContextVar("role", default="")
"""Whose callbacks these are; tasks and timers inherit it from whoever makes them."""

EPOCH = 1_700_000_000.0
"""Wall time when a virtual loop begins."""

RESOLUTION_S = 1e-9
"""Timers so close together are due at once, as on a loop that asks `time.monotonic`."""

TIMERS_KEPT = 100
"""Up to so many timers are kept queued, whatever part of them was cancelled."""


class Deadlock(RuntimeError):
    """Every task waits for something that nothing will bring about."""


class _Selector(selectors.BaseSelector):
    """Knows what an event loop registers when it is made; nothing ever waits for that."""

    def __init__(self) -> None:
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:  # noqa: ANN401 - as in the base
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:  # noqa: ANN401 - as in the base
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:  # noqa: ARG002 - as in the base
        raise AssertionError("a virtual loop jumps to its next timer: it waits for no file")

    def get_map(self) -> dict[int, selectors.SelectorKey]:  # type: ignore[override]  # a plain dict is all that is asked of it
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `time` starts at 0."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self) -> None:
        self._virtual = 0.0
        self._frozen: dict[str, list[asyncio.Handle]] = {}
        super().__init__(_Selector())

    def time(self) -> float:
        """Return virtual seconds since the beginning."""
        return self._virtual

    def _run_once(self) -> None:
        """Run what is ready; if nothing is, jump to the next timer.

        In place of the base's, which asks a selector at each turn: a world has a hundred thousand of them.
        """
        self._forget_cancelled()
        scheduled, ready = self._scheduled, self._ready
        if not (ready or self._stopping):
            if not scheduled:
                raise Deadlock("nothing is ready and no timer is set")
            self._virtual += max(0.0, scheduled[0].when() - self._virtual)
        due = self._virtual + RESOLUTION_S
        while scheduled and scheduled[0].when() < due:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]  # noqa: SLF001 - as the base does
            ready.append(timer)
        for _ in range(len(ready)):  # not what these add: that is of the next turn
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()  # noqa: SLF001 - as the base does

    def _forget_cancelled(self) -> None:
        """Take timers that were cancelled off the queue: those at its head, or all where they are most of it."""
        scheduled = self._scheduled
        if len(scheduled) > TIMERS_KEPT and self._timer_cancelled_count > len(scheduled) / 2:
            gone = [timer for timer in scheduled if timer.cancelled()]
            scheduled[:] = [timer for timer in scheduled if not timer.cancelled()]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        else:
            gone = []
            while scheduled and scheduled[0].cancelled():
                self._timer_cancelled_count -= 1
                gone.append(heapq.heappop(scheduled))
        for timer in gone:
            timer._scheduled = False  # type: ignore[attr-defined]  # noqa: SLF001 - as the base does

    def freeze(self, role: str) -> None:
        """Let nothing of a role run until `thaw`, from the next turn of the loop on."""
        self._frozen.setdefault(role, [])
        # on this object, not on the class: most worlds have nobody who is frozen, and these are called for everything
        self.__dict__.update(
            call_at=self._call_at_if_awake, _call_soon=self._call_soon_if_awake, _run_once=self._run_once_without
        )

    def thaw(self, role: str) -> None:
        """Let a role go on: what became due meanwhile is due now, in the order in which it would have run."""
        for handle in self._frozen.pop(role, ()):
            if isinstance(handle, asyncio.TimerHandle):
                heapq.heappush(self._scheduled, handle)
            else:
                self._ready.append(handle)
        if not self._frozen:
            for name in ("call_at", "_call_soon", "_run_once"):
                self.__dict__.pop(name, None)

    def thaw_all(self) -> None:
        """Let everybody go on."""
        for role in list(self._frozen):
            self.thaw(role)

    def is_frozen(self, role: str) -> bool:
        """Whether a role stands still now."""
        return role in self._frozen

    def _call_at_if_awake(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,  # noqa: ANN401 - whatever the callback takes
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call something later; if its role is frozen, when it is thawed at the earliest."""
        kept = self._kept(context)
        if kept is None:
            return super().call_at(when, callback, *args, context=context)
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]  # noqa: SLF001 - as the base does
        kept.append(timer)
        return timer

    def _call_soon_if_awake(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        kept = self._kept(context)
        if kept is None:
            handle: asyncio.Handle = super()._call_soon(callback, args, context)  # type: ignore[misc]
            return handle
        handle = asyncio.Handle(callback, args, self, context)
        kept.append(handle)
        return handle

    def _run_once_without(self) -> None:
        """Run a turn of the loop without those who are frozen."""
        del self.__dict__["_run_once"]  # what comes later is kept at once
        self._set_aside()
        self._run_once()

    def _set_aside(self) -> None:
        """Take what is of frozen roles off the queues; what comes later is kept at once."""
        for queue in (self._ready, self._scheduled):
            handles = list(queue)
            queue.clear()
            for handle in handles:
                context = handle._context  # type: ignore[attr-defined]  # noqa: SLF001 - no other way to tell whose
                kept = self._kept(context)
                (queue if kept is None else kept).append(handle)  # type: ignore[arg-type]
        heapq.heapify(self._scheduled)

    def _kept(self, context: Context | None) -> list[asyncio.Handle] | None:
        """Return where callbacks of a context are kept, if its role is frozen."""
        role = _ROLE.get() if context is None else context.get(_ROLE, "")
        return self._frozen.get(role)


def run_as(role: str, action: Callable[..., T], *args: Any) -> T:  # noqa: ANN401 - whatever the action takes
    """Call something in the context of a role: the tasks and timers that come of it stand still when it is frozen."""
    context = copy_context()
    context.run(_ROLE.set, role)
    return context.run(action, *args)


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
        return runner.run(_thawed(main))


async def _thawed(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, where who stands still has to be able to end too."""
    try:
        return await main
    finally:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.thaw_all()
