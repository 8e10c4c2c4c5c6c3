"""How the commands run, and how they end: in bounded time, whatever hangs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from reliable_emit.cli.output import STDERR, STDOUT

_T = TypeVar("_T")

_THREADS = "reliable-emit-cli"
# Seconds that tasks and threads get to end by themselves, together well below the two seconds promised after Ctrl-C.
_TASKS_END, _THREADS_END = 0.3, 0.2
_SIGNAL_STATUS = 128


class Interrupt:
    """The first SIGINT or SIGTERM, as something to wait for; only inside a running event loop.

    Attributes:
        status: The exit status it asks for, ``None`` while there was none.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self._happened = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self._on_signal, number)
            except NotImplementedError:  # Windows; there Ctrl-C cancels the main task
                return

    def _on_signal(self, number: int) -> None:
        if self.status is None:
            self.status = _SIGNAL_STATUS + number
            self._happened.set()

    async def wait(self) -> None:
        """Return when the signal has come."""
        await self._happened.wait()

    async def unless(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """Do the work, and return its result; or, if the signal comes first, cancel it and return ``None``."""
        working = asyncio.ensure_future(work)
        await first_of(working, self.wait())
        if working.done():
            return working.result()
        await cancelled(working)
        return None

    async def unless_over(self, *works: Coroutine[Any, Any, None]) -> None:
        """Do all of it at once, until one of them is over or the signal comes; what is not over then is cancelled.

        Raises:
            Exception: What one of them raised.
        """
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            await first_of(*tasks, self.wait())
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await cancelled(*tasks)


async def first_of(*awaitables: Awaitable[object]) -> None:
    """Wait until one of them is done. Coroutines among them are cancelled then, tasks are not."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, awaitable in zip(tasks, awaitables, strict=True):
            if task is not awaitable:
                task.cancel()


async def cancelled(*tasks: asyncio.Task[Any], within: float = 1.2) -> None:
    """Cancel the tasks and wait until they have ended, in bounded time."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=within)


def run_loop(main: Callable[[Interrupt], Coroutine[Any, Any, int]]) -> int:
    """Run a command's coroutine and return the exit status that it gives.

    ``asyncio.run`` waits for the threads of the event loop at its end: a look-up of a host name that hangs would hold
    the program up for half a minute. Here nothing is waited for longer than it takes to notice.
    """
    # Whatever the user has to know is said by the commands themselves. Without a handler, logging would print warnings
    # of the libraries in between.
    logging.getLogger().addHandler(logging.NullHandler())
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=_THREADS))

    async def interruptible() -> int:
        return await main(Interrupt())

    try:
        status = loop.run_until_complete(interruptible())
        loop.run_until_complete(_end_tasks())
    finally:
        loop.close()
    _end_threads(status)
    return status


async def _end_tasks() -> None:
    await cancelled(*(asyncio.all_tasks() - {asyncio.current_task()}), within=_TASKS_END)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _end_threads(status: int) -> None:
    deadline = time.monotonic() + _THREADS_END
    ours = [thread for thread in threading.enumerate() if thread.name.startswith(_THREADS)]
    for thread in ours:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in ours):
        # The interpreter would wait for it.
        STDOUT.flush()
        STDERR.flush()
        os._exit(status)
