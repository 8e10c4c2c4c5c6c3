"""The port of the proxy, which it keeps while it refuses connections."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BACKLOG = 100
# Seconds before accepting again when the process has no file descriptor left.
_PAUSE = 0.1


class Listener:
    """Accepts connections on one port, or refuses them, as told.

    Args:
        host: The address.
        port: The port, 0 for a free one.
        on_accepted: Called with the socket of each new connection.

    Raises:
        OSError: The port is taken, or the address is not one of this machine.
    """

    def __init__(self, host: str, port: int, on_accepted: Callable[[socket.socket], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._host = host
        self._on_accepted = on_accepted
        self._listening = False
        self._task: asyncio.Task[tuple[socket.socket, object]] | None = None
        self._tasks: set[asyncio.Task[tuple[socket.socket, object]]] = set()
        self._closed = False
        self._socket = self._bound(port)
        self.port: int = self._socket.getsockname()[1]

    def listen(self) -> None:
        """Accept connections. Does nothing if it does.

        Raises:
            OSError: Somebody else listens on the port.
        """
        if not self._listening:
            _share(self._socket, share=True)
            self._socket.listen(_BACKLOG)
            self._listening = True
            self._watch()

    def refuse(self) -> None:
        """Refuse connections. Does nothing if it does."""
        if self._listening:
            self.drain()
            self._stop()
            # Bound but not listening: clients are refused, and nobody else can listen on the port.
            self._socket = self._bound(self.port)

    def drain(self) -> None:
        """Accept those whom the operating system has accepted, but has not told of: they believe to be connected."""
        while self._listening:
            try:
                accepted, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:
                if self._task is None:
                    self._loop.remove_reader(self._socket)
                    self._loop.call_later(_PAUSE, self._again, self._socket)
                return
            accepted.setblocking(False)
            self._on_accepted(accepted)

    async def close(self) -> None:
        """Let go of the port at once; returns when no connection is on its way in any more."""
        self._closed = True
        self._stop()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _stop(self) -> None:
        self._listening = False
        # The loop must not look for a descriptor that may be another's by then.
        with contextlib.suppress(NotImplementedError):
            self._loop.remove_reader(self._socket)
        task, self._task = self._task, None
        if task is not None:
            # Later, because it may have a connection already that it has not returned yet.
            self._loop.call_soon(lambda: self._loop.call_soon(task.cancel))
        self._socket.close()

    def _bound(self, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        try:
            made.setblocking(False)
            _share(made, share=True)
            made.bind((self._host, port))
            # On Linux, two that share can be bound to a port, and one of them can listen. Not with one that does not.
            _share(made, share=False)
        except BaseException:
            made.close()
            raise
        return made

    def _watch(self) -> None:
        try:
            self._loop.add_reader(self._socket, self.drain)
        except NotImplementedError:
            # A loop of Windows. Connections that it is about to return are not seen by `drain`.
            self._accept(self._socket)

    def _accept(self, listening: socket.socket) -> None:
        self._task = self._loop.create_task(self._loop.sock_accept(listening))
        self._tasks.add(self._task)
        self._task.add_done_callback(functools.partial(self._on_done, listening))

    def _on_done(self, listening: socket.socket, task: asyncio.Task[tuple[socket.socket, object]]) -> None:
        self._tasks.discard(task)
        failed = task.cancelled() or task.exception() is not None
        if not failed:
            accepted, _ = task.result()
            if self._closed:
                accepted.close()
            else:
                self._on_accepted(accepted)
        if task is self._task:
            if failed:
                self._loop.call_later(_PAUSE, self._again, listening)
            else:
                self._accept(listening)

    def _again(self, listening: socket.socket) -> None:
        if listening is self._socket and self._listening:
            self._watch()


def _share(bound: socket.socket, *, share: bool) -> None:
    """Let the port be used although connections of a former listener are still closing; Windows always does."""
    if os.name == "posix":
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, share)
