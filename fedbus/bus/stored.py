"""What stands in a stream now: a follow that ends where there is nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fedbus.bus.base import Message, Subscription


async def until_now(subscription: Subscription) -> AsyncGenerator[Message, None]:
    """Yield the messages of a follow up to the one behind which none is pending, then close it.

    Only of a follow for which there is something: it waits for the first one. Whoever may leave early, or fail, takes
    it with ``contextlib.aclosing``.
    """
    try:
        async for message in subscription:
            yield message
            if not message.pending:
                return
    finally:
        await subscription.close()
