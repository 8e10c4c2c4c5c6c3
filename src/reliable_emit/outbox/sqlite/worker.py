"""The thread that owns the file.

A commit that waits for the disk must not hold up the event loop, so it runs elsewhere; and since a hop to a thread and
back costs about as much as a commit, whatever has come meanwhile shares the next one (group commit).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from reliable_emit.outbox.sqlite.store import Batch, Store

_logger = logging.getLogger("reliable_emit")

_GROUP = 16
"""Batches in a transaction; each is bounded by who makes it."""
_IDLE = 0.25
"""Seconds without anything to do after which space is given back."""

_TIDY = 0.25
"""Seconds at its end."""
_PATIENCE = 1.0

Done = Callable[[Any, BaseException | None], None]
_T = TypeVar("_T")
Job = Batch | Callable[[Store], Any]

_owners: weakref.WeakValueDictionary[str, Worker] = weakref.WeakValueDictionary()
"""By the file, who owns it in this process."""


class Worker:
    """Does jobs one after the other, and tells the event loop what became of them, in their order.

    The thread is a daemon: it keeps no interpreter from exiting, and what it was about to write is lost then as it is
    with a kill. A job is a `Batch` to write, or a function of the open `Store`.

    Args:
        make: Opens the store; called in the thread.
        path: The file.
    """

    def __init__(self, make: Callable[[], Store], path: Path) -> None:
        self._make = make
        self._path = path
        self._abandoned = False
        self._last_words: Callable[[], Callable[[], None] | None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[Job, Done] | bool] = queue.SimpleQueue()
        self._untidy = False
        self._thread = threading.Thread(target=self._run, name=f"reliable-emit outbox {path.name}", daemon=True)
        self._opened = self._loop.create_future()
        self._ended = self._loop.create_future()

    def start(self) -> asyncio.Future[None]:
        """Begin, and return a future for the opening; its error is what `make` raised."""
        self._thread.start()
        return self._opened

    def submit(self, job: Job, done: Done) -> None:
        """Do a job, and call `done` with its result or its error: for a batch, the sequences that were refused."""
        self._jobs.put((job, done))

    def ask(self, job: Callable[[Store], _T]) -> asyncio.Future[_T]:
        """Do a job, and return a future for its result."""
        result: asyncio.Future[_T] = self._loop.create_future()

        def done(value: _T, error: BaseException | None) -> None:
            if result.done():
                return
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)

        self.submit(job, done)
        return result

    def stop(self, *, closed: bool) -> asyncio.Future[None]:
        """Close the store after the jobs so far, and return a future for that.

        Args:
            closed: Whether all that happened was written down.
        """
        self._jobs.put(closed)
        return self._ended

    def abandon(self) -> None:
        """End without a word, after the jobs so far; for who cannot wait. May be called from anywhere."""
        self._abandoned = True
        self._jobs.put(False)

    @property
    def left(self) -> bool:
        """Whether nobody uses it any more: it was abandoned, or its event loop has ended without a word."""
        return self._abandoned or self._loop.is_closed()

    def set_last_words(self, function: Callable[[], None]) -> None:
        """Have a bound method called when its event loop has ended without a word; it is not kept alive for that."""
        self._last_words = weakref.WeakMethod(function)

    async def outlive(self) -> None:
        """Wait for one that was left to let go of the file, for a second at the most."""
        if not self._abandoned:
            last_words = self._last_words()
            if last_words is not None:
                with contextlib.suppress(RuntimeError):  # whatever an event loop that is closed may say
                    last_words()
            self.abandon()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _PATIENCE)

    def _run(self) -> None:
        try:
            store = self._make()
        except BaseException as error:
            self._post(_set, self._opened, error)
            return
        _owners[os.path.realpath(self._path)] = self
        self._post(_set, self._opened, None)
        try:
            closed = self._work(store)
        except BaseException:
            _logger.exception("the outbox's thread failed")
            closed = False
        deadline = time.monotonic() + _TIDY
        while closed and time.monotonic() < deadline and store.tidy():
            pass
        store.close(closed=closed)
        self._post(_set, self._ended, None)

    def _work(self, store: Store) -> bool:
        closed = None
        while closed is None:
            closed = self._round(store)
        return closed

    def _round(self, store: Store) -> bool | None:
        """Do what there is to do, and return how to end, if that is what comes next.

        While it waits it remembers nothing of the round before, which would keep the outbox and its client alive.
        """
        try:
            following: Any = self._jobs.get(timeout=_IDLE) if self._untidy else self._jobs.get()
        except queue.Empty:
            self._untidy = store.tidy()
            while self._untidy and self._jobs.empty():
                self._untidy = store.tidy()
            return None
        group: list[tuple[Batch, Done]] = []
        while isinstance(following, tuple) and isinstance(following[0], Batch):
            group.append((following[0], following[1]))
            if len(group) == _GROUP:
                following = None
                break
            try:
                following = self._jobs.get_nowait()
            except queue.Empty:
                following = None
        if group:
            self._write(store, group)
            self._untidy = True
        if isinstance(following, tuple):
            self._do(store, *following)
            return None
        return cast("bool | None", following)

    def _write(self, store: Store, group: list[tuple[Batch, Done]]) -> None:
        try:
            refused = store.write([batch for batch, _ in group])
        except BaseException as error:
            self._post(_tell, [(done, None, error) for _, done in group])
        else:
            self._post(_tell, [(done, result, None) for (_, done), result in zip(group, refused, strict=True)])

    def _do(self, store: Store, job: Callable[[Store], Any], done: Done) -> None:
        try:
            result = job(store)
        except BaseException as error:
            self._post(_tell, [(done, None, error)])
        else:
            self._post(_tell, [(done, result, None)])

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is there to be told
            self._loop.call_soon_threadsafe(function, *arguments)


def owner_of(path: Path) -> Worker | None:
    """Return the last one in this process that owned a file, if it is there still."""
    return _owners.get(os.path.realpath(path))


def _tell(results: list[tuple[Done, Any, BaseException | None]]) -> None:
    for done, result, error in results:
        done(result, error)


def _set(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
