"""ServerOffset: stands around the handlers of a program, and knows which events it has had."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import weakref
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

from reliable_emit import policy
from reliable_emit.policy import Backoff
from reliable_emit.server_offset.complaints import Complaints
from reliable_emit.server_offset.file import OffsetFile
from reliable_emit.server_offset.line import Line, Place
from reliable_emit.server_offset.numbers import Numbers, is_id

_logger = logging.getLogger("reliable_emit")


class ServerOffset:
    """Keeps the id of the last event that was handled, and asks the server for those after it at every connection.

    It is the client's side of ``auth: {serverOffset: 0}`` and ``socket.auth.serverOffset = ...`` of the Socket.IO
    tutorial. Put :meth:`track` below ``@sio.on(...)`` or ``@sio.event``, and give :attr:`auth` to ``connect``::

        seen = ServerOffset("seen.offset")

        @sio.on("chat message")
        @seen.track
        async def chat_message(text, server_offset): ...

        await client.connect(url, auth=seen.auth)

    The server has to send the events in the order of their ids, and after its answer to a connection all those whose
    ids are greater than the ``serverOffset`` in its ``auth``. The reference server does.

    Tracked handlers are called for one event at a time, in the order in which the events came, and each event is
    handed over once while the process lives. The offset moves when the handler has returned. So after a crash, with a
    `path`, the event that was being handled then is handed over again, and no other one.

    A handler that raises is called again with the same event, after a pause; the events behind it wait, and the offset
    stays. After 1 + `retries` failures another event is tried in between. If that succeeds where the first one fails
    once more, the first one is given up: this is logged as an error, and the exception goes to python-socketio. While
    all fail, all wait.

    Args:
        path: The file that keeps the offset over restarts, made if there is none; ``None``: memory does, for as long as
            this object lives. A file has one owner at a time.
        start: The offset to begin with, without a `path`: for handlers that store it themselves, in one transaction
            with what they do, which makes that exactly once.
        retries: How often a handler that raises is called again before another event is; ``None``: for ever, and
            nothing is given up.
        backoff: A tenacity wait strategy: seconds before a handler that raised is called again.
        find: Finds the id among the arguments of a handler; by default it is the last one. What is no whole number from
            0 to 2**63 - 1 is no id: such an event is handed over as it comes, and not tracked.
        key: The key in ``auth``. All namespaces of a client share one ``auth``, so that each needs a key of its own.

    Raises:
        ServerOffsetError: The file cannot be used.
        TypeError: An argument is of a wrong type.
        ValueError: An argument has a wrong value.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        start: int = 0,
        retries: int | None = 3,
        backoff: Backoff = policy.DEFAULT_BACKOFF,
        find: Callable[..., Any] | None = None,
        key: str = "serverOffset",
    ) -> None:
        if retries is not None:
            policy.count("retries", retries, least=0)
        policy.check_backoff("backoff", backoff)
        if find is not None and not callable(find):
            raise TypeError(f"find is {find!r}; give a function of the handler's arguments that returns the id")
        if not isinstance(key, str) or not key:
            raise TypeError(f"key is {key!r}; give a str, such as 'serverOffset'")
        if not is_id(start):
            raise ValueError(f"start is {start!r}; give the id of the last event that you have, or 0")
        if path is not None and start:
            raise ValueError("the offset begins with what the file has; give a path or a start, not both")
        self._backoff, self._find, self._key = backoff, find, key
        self._file = None if path is None else OffsetFile(_checked(path))
        if self._file is not None:
            start = self._file.number
            self._finalizer = weakref.finalize(self, self._file.close)
        self._line = Line(retries, start)
        self._complaints = Complaints()
        anew = f"without the file {self._file.path}" if self._file else "with a new ServerOffset"
        self._numbers = Numbers(start, self._complaints, key=key, anew=anew)

    def __repr__(self) -> str:
        where = "" if self._file is None else f" in {self._file.path}"
        return f"<ServerOffset {self.offset}{where}>"

    @property
    def offset(self) -> int:
        """The id of the last event that was handled, and before which all are; 0 if there was none."""
        return self._line.offset

    def auth(self) -> dict[str, Any]:
        """Return ``{"serverOffset": offset}``. Give the method itself to ``connect``, which asks it at each attempt."""
        self._numbers.tell(self.offset)
        return {self._key: self.offset}

    def auth_with(self, auth: Any) -> Callable[[], Coroutine[Any, Any, dict[str, Any]]]:
        """Return a function for ``connect`` that adds the offset to an ``auth`` of your own.

        Args:
            auth: What you would give to ``connect``: a dict, ``None``, or a function that returns one, plain or async;
                it is asked at each attempt. It may be another :attr:`auth`, with another `key`.

        Raises:
            TypeError: It is something else. If a function returns something else, ``connect`` gets that error.
        """
        if not callable(auth):
            _mapping(auth)

        async def both() -> dict[str, Any]:
            given = auth() if callable(auth) else auth
            given = _mapping(await given if inspect.isawaitable(given) else given)
            return {**given, **self.auth()}

        return both

    def track(self, handler: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return a handler that hands each event over once, in order, and keeps count.

        It is a coroutine function, for a plain `handler` too. It gets the arguments that it always got. What it returns
        is what the server gets as an acknowledgement, should it want one; that of an event dropped as a repetition is
        empty. A handler that is cancelled has not handled its event; the offset stays before it until the server sends
        it again. One that waits for another tracked event waits for ever, and so do all behind it: give what may take
        long a timeout.

        Raises:
            TypeError: `handler` is no function.
        """
        if not callable(handler):
            raise TypeError(f"the handler is {handler!r}; put @track below @sio.on(...), above a function")

        @functools.wraps(handler)
        async def tracked(*arguments: Any) -> Any:
            # Nothing waits up to the place in the line: python-socketio starts the handlers in the order of the events.
            number = self._number(arguments)
            if number is None:
                return await _call(handler, arguments)
            if number not in self._line.abandoned and not self._numbers.is_new(number):
                return None
            return await self._in_turn(self._line.join(number), handler, arguments)

        return tracked

    def close(self) -> None:
        """Let go of the file, so that another object or process can have it. The offset is not saved any more."""
        if self._file is not None:
            self._finalizer()

    # An event.

    def _number(self, arguments: tuple[Any, ...]) -> int | None:
        found: Any = None
        try:
            found = self._find(*arguments) if self._find else arguments[-1] if arguments else None
        except Exception:
            self._complaints.say("find", logging.ERROR, "find could not tell the id of an event", exc_info=True)
        if is_id(found):
            return int(found)
        self._complaints.say(
            "none",
            logging.WARNING,
            "an event has no server offset (where the id should be, there is %s): it is handed over, and not tracked; "
            "this is said once",
            "nothing" if found is None else f"a {type(found).__name__} that is none",
        )
        return None

    async def _in_turn(self, place: Place, handler: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        begun = False
        try:
            while True:
                await place.turn.wait()
                place.turn.clear()
                begun = True
                try:
                    result = await _call(handler, arguments)
                except (Exception, asyncio.CancelledError) as error:
                    if _is_cancelled():
                        # Whatever the error is: to call the handler again would swallow the one cancellation that
                        # there is, and a program that ends would wait for it for ever.
                        raise
                    await self._failed(place, error)
                else:
                    self._line.handled(place)
                    self._save()
                    return result
        except BaseException:
            if not place.done:
                self._line.left(place, begun=begun)
                self._save()
            raise

    async def _failed(self, place: Place, error: BaseException) -> None:
        if self._line.failed(place):
            self._save()
            _logger.error(
                "event %d is given up: its handler has failed %d times, and not with another event (%r)",
                place.number,
                place.failures,
                error,
            )
            _raise(error)
        try:
            reason = error if isinstance(error, Exception) else RuntimeError("something it waited for was cancelled")
            seconds = policy.backoff_seconds(self._backoff, place.failures, reason)
        except Exception:
            _logger.exception("the backoff strategy failed; waiting 1 s instead")
            seconds = 1.0
        _logger.warning(
            "the handler of event %d has failed, %d in a row: %r; the events behind it wait, trying again in %.1f s",
            place.number,
            place.failures,
            error,
            seconds,
            exc_info=error if place.failures == 1 else None,  # an hour without a database would fill the log with them
        )
        await asyncio.sleep(seconds)
        self._line.again(place)

    def _save(self) -> None:
        if self._file is None or self._file.number >= self.offset:
            return
        try:
            self._file.save(self.offset)
        except OSError as error:
            self._complaints.say(
                "save",
                logging.ERROR,
                "the offset could not be saved in %s (%s); events go on being handled, and those since event %d will "
                "come again after a restart",
                self._file.path,
                error,
                self._file.number,
            )
        else:
            self._complaints.over("save")


async def _call(handler: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    result = handler(*arguments)
    return await result if inspect.isawaitable(result) else result


def _is_cancelled() -> bool:
    """Whether the task itself is; not only something that it waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _raise(error: BaseException) -> NoReturn:
    raise error


def _mapping(auth: Any) -> Mapping[str, Any]:
    if auth is None:
        return {}
    if not isinstance(auth, Mapping):
        raise TypeError(f"auth is a {type(auth).__name__}; give a dict, or a function that returns one")
    return auth


def _checked(path: Any) -> Path:
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str):
        raise TypeError(f"path is {path!r}; give the path of a file, a str or a Path")
    if not name or "\0" in name:
        raise ValueError(f"path is {path!r}; give the path of a file, or None to keep the offset in memory")
    return Path(os.path.abspath(name))
