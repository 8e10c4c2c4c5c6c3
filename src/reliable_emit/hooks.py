"""What a user can watch: hooks that are called as things happen, and counters."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger("reliable_emit")

HOOKS = (
    *("sent", "retried", "acknowledged", "dead_lettered", "dropped"),
    *("connecting", "connected", "disconnected", "recycled", "gave_up"),
)


@dataclasses.dataclass(slots=True)
class Stats:
    """Counters since the client was made.

    A dead letter that is redelivered is accepted once, but can be acknowledged after it was counted as given up.

    Attributes:
        accepted: Messages that ``emit`` accepted.
        sent: Attempts, first ones and repeated ones.
        retried: Attempts after the first one of a message.
        timed_out: Attempts without an acknowledgement in time, on a live connection.
        lost: Attempts that a lost connection ended.
        acknowledged: Messages that the server acknowledged.
        rejected: Messages that the server refused for good.
        exhausted: Messages given up after all attempts.
        expired: Messages given up because their time to live was over.
        dropped: Messages given up by the overflow policy, or by closing a client whose outbox is not durable.
        cancelled: Messages cancelled or discarded.
        volatile_sent: Volatile messages that were sent.
        volatile_dropped: Volatile messages that were not.
        connect_attempts: Attempts to connect that :meth:`ReliableClient.connect` made, and those after it.
        connected: Connections made.
        disconnected: Connections lost or ended.
        recycled: Connections ended because nothing arrived on them any more.
    """

    accepted: int = 0
    sent: int = 0
    retried: int = 0
    timed_out: int = 0
    lost: int = 0
    acknowledged: int = 0
    rejected: int = 0
    exhausted: int = 0
    expired: int = 0
    dropped: int = 0
    cancelled: int = 0
    volatile_sent: int = 0
    volatile_dropped: int = 0
    connect_attempts: int = 0
    connected: int = 0
    disconnected: int = 0
    recycled: int = 0


class Hooks:
    """Calls the user's functions: from the event loop, never from inside the library; whatever they raise is logged.

    A hook may therefore call every method of the client, and finds it in a consistent state.
    """

    def __init__(self) -> None:
        self._hooks: dict[str, list[Callable[..., object]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, name: str, hook: Callable[..., object]) -> None:
        """Call `hook` from now on whenever `name` happens."""
        if name not in HOOKS:
            raise ValueError(f"there is no hook {name!r}; choose one of {', '.join(HOOKS)}")
        if not callable(hook):
            raise TypeError(f"the hook for {name!r} is {hook!r}; give a function")
        self._hooks.setdefault(name, []).append(hook)

    def fire(self, name: str, *arguments: Any) -> None:
        """Have the hooks of that name called soon."""
        for hook in self._hooks.get(name, ()):
            self.call_soon(f"hook {name!r}", hook, arguments)

    def call_soon(self, what: str, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        """Have a function of the user's called soon, in the order of the calls to this method."""
        asyncio.get_running_loop().call_soon(self._call, what, function, arguments)

    def _call(self, what: str, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            result = function(*arguments)
        except Exception:
            _logger.exception("%s raised; nothing else is affected", what)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(_await(what, result))
            self._tasks.add(task)  # the event loop alone does not keep a task alive
            task.add_done_callback(self._tasks.discard)


async def _await(what: str, awaitable: Any) -> None:
    try:
        await awaitable
    except Exception:
        _logger.exception("%s raised; nothing else is affected", what)
