"""A thread that does one job after the other, for a connection that only one thread may use."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_Job = tuple["Callable[[], Any]", "asyncio.Future[Any]"]


class Thread:
    """Does jobs in the order in which they were given, for one event loop.

    It is a daemon: a disk that hangs keeps no interpreter from exiting.

    Args:
        name: What it is called in a debugger.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopped = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def run(self, job: Callable[[], _T]) -> asyncio.Future[_T]:
        """Have a job done, and return a future for its result. Cancelling that takes nothing back.

        Raises:
            RuntimeError: The thread is told to stop already.
        """
        if self._stopped:
            raise RuntimeError("the store is closed")
        done: asyncio.Future[_T] = self._loop.create_future()
        self._jobs.put((job, done))
        return done

    def stop(self) -> None:
        """End after the jobs that were given so far."""
        if not self._stopped:
            self._stopped = True
            self._jobs.put(None)

    def _work(self) -> None:
        while (following := self._jobs.get()) is not None:
            job, done = following
            result: object = None
            error: BaseException | None = None
            try:
                result = job()
            except BaseException as raised:
                error = bearable(raised)
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is there to be told
                self._loop.call_soon_threadsafe(_tell, done, result, error)
            del following, job, done, result, error  # nothing is kept alive by a thread that waits


def bearable(error: BaseException) -> Exception:
    """Return what a future and whoever awaits it can be given in place of anything that may be raised."""
    if isinstance(error, StopIteration):  # next() in a job; neither futures nor coroutines let it through
        words = "StopIteration was raised; give next() a default, or catch it"
    elif isinstance(error, Exception):
        return error
    else:  # in the event loop it would end the program, or a task that has nothing to do with it
        words = f"{type(error).__name__} was raised"
    told = RuntimeError(words)
    told.__cause__ = error
    return told


def _tell(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.done():  # cancelled
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
