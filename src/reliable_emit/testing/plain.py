"""A proxy that passes everything on, and can be watched."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeVar

from reliable_emit import policy
from reliable_emit.testing.network import Network
from reliable_emit.testing.weather import DIRECTIONS, Direction, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Proxy = TypeVar("_Proxy", bound="PlainProxy")
_MAX_PORT = 65_535
# Seconds that another thread waits for the proxy's to do what takes no time.
_PROMPT = 10.0


def anywhere(method: Callable[Concatenate[_Proxy, _P], _T]) -> Callable[Concatenate[_Proxy, _P], _T]:
    """Let a method be called from any thread: it runs in the proxy's, and the caller waits for that."""

    @functools.wraps(method)
    def wrapper(self: _Proxy, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = self._loop
        if loop is None or not loop.is_running() or loop is _running_loop():
            return method(self, *args, **kwargs)
        done: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def run() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(method(self, *args, **kwargs))
                except BaseException as error:
                    done.set_exception(error)

        loop.call_soon_threadsafe(run)
        concurrent.futures.wait([done], _PROMPT)
        if done.cancel():
            raise TimeoutError(
                f"the proxy's event loop was busy for {_PROMPT:g} s, so {method.__name__}() was not done; "
                "do not block it, or start the proxy in a loop of its own"
            )
        return done.result()  # what runs takes the time that it takes

    return wrapper


class PlainProxy:
    """What :class:`~reliable_emit.testing.FaultProxy` is as long as it is told nothing; see there."""

    def __init__(
        self, target_host: str, target_port: int, *, host: str = "127.0.0.1", port: int = 0, seed: int | None = None
    ) -> None:
        if seed is not None:
            whole("seed", seed)
        self._network = Network(seed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._host = _host("host", host)
        self._port = _port("port", port, least=0)
        self.target = (target_host, target_port)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; returns when clients can connect.

        Raises:
            OSError: The port is taken, or the address is not one of this machine.
            RuntimeError: It was started before.
        """
        if self._loop is not None:
            raise RuntimeError("a proxy starts once; make another")
        self._port = self._network.open(self._host, self._port)
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """End all connections, and let go of the port; takes 2 seconds at the most. Does nothing if it is not running.

        Whoever waits for something that the proxy should see gets a `RuntimeError`.

        Raises:
            RuntimeError: The event loop that started it does not run any more, so that nothing can be closed there.
            TimeoutError: That loop is another one, and was busy for 10 seconds.
        """
        if not self._network.running:
            return
        try:
            async with asyncio.timeout(_PROMPT):
                await self._carry(self._network.close)
        except TimeoutError:
            raise TimeoutError(
                f"the proxy's event loop was busy for {_PROMPT:g} s; it is closed when it goes on"
            ) from None

    @property
    def target(self) -> tuple[str, int]:
        """Where the server is, host and port. Another one, set at any time, holds for connections made from then on."""
        return self._network.target

    @target.setter
    def target(self, target: tuple[str, int]) -> None:
        if not isinstance(target, tuple) or len(target) != 2:  # noqa: PLR2004
            raise TypeError(f"target is {target!r}; give host and port, such as ('127.0.0.1', 8000)")
        target = (_host("the target's host", target[0]), _port("the target's port", target[1], least=1))
        if target == (self._host, self._port):
            raise ValueError(f"the target is {target!r}, the proxy itself; give the server's address")
        self._network.target = target

    @property
    def port(self) -> int:
        """The port it listens on; before it has started the one it was given."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect to.

        Raises:
            RuntimeError: It has not started, or it is closed.
        """
        if not self._network.running:
            raise RuntimeError("the proxy is not running; use it in `async with`")
        return f"http://[{self._host}]:{self._port}" if ":" in self._host else f"http://{self._host}:{self._port}"

    @property
    def connections(self) -> int:
        """How many connections reach through to the server now. Those in a black hole count, those cut do not."""
        return self._network.through

    @property
    def connected_total(self) -> int:
        """How many connections have reached the server since the start."""
        return self._network.joined_total

    @property
    def to_server(self) -> Traffic:
        """What has gone to the server since the start."""
        return self._network.traffic["to_server"]

    @property
    def to_client(self) -> Traffic:
        """What has gone to clients since the start."""
        return self._network.traffic["to_client"]

    async def until(self, true: Callable[[], object], *, timeout: float | None = 10.0) -> None:
        """Wait until this is true; it is asked whenever something has changed that the proxy can see.

        Args:
            true: Looks at the proxy. It must be quick, and is called in the thread of the proxy.
            timeout: Seconds to wait at the most; ``None``: no bound.

        Raises:
            TimeoutError: It did not come true in time. Says what the proxy has seen.
            RuntimeError: The proxy is not running, or was closed.
            TypeError: What is given cannot be called, or is a coroutine function.
        """
        if not callable(true) or inspect.iscoroutinefunction(true):
            raise TypeError(f"{true!r} is no function that returns at once; give one, such as a lambda")
        try:
            async with asyncio.timeout(None if timeout is None else policy.seconds("timeout", timeout, zero=True)):
                await self._carry(lambda: self._network.wait(true))
        except TimeoutError:
            raise TimeoutError(f"not in {timeout} s; the proxy has seen {self!r}") from None

    async def connected(self, total: int = 1, *, timeout: float | None = 10.0) -> None:
        """Wait until so many connections have reached the server since the start, over or not; see `until`."""
        policy.count("total", total, least=0)
        await self.until(lambda: self.connected_total >= total, timeout=timeout)

    async def disconnected(self, *, timeout: float | None = 10.0) -> None:
        """Wait until there is no connection through to the server; see `until`."""
        await self.until(lambda: not self.connections, timeout=timeout)

    async def passed(
        self,
        direction: Direction,
        *,
        bytes: int = 0,  # noqa: A002 - as in `Traffic`
        frames: int = 0,
        timeout: float | None = 10.0,
    ) -> None:
        """Wait until so much was passed on in one direction since the start, over all connections; see `until`."""
        policy.one_of("direction", direction, DIRECTIONS)
        policy.count("bytes", bytes, least=0)
        policy.count("frames", frames, least=0)
        traffic = self._network.traffic[direction]
        await self.until(lambda: traffic.bytes >= bytes and traffic.frames >= frames, timeout=timeout)

    @anywhere
    def run(self, function: Callable[[], _T]) -> _T:
        """Call this in the thread of the proxy, and return the result; nothing passes between two calls that it makes.

        It is only of use from another thread: in the proxy's own, all that is done without ``await`` is like that.
        """
        return function()

    async def _carry(self, make: Callable[[], Coroutine[object, object, _T]]) -> _T:
        """Run a coroutine in the loop of the proxy."""
        if self._loop is None or not self._network.running:
            raise RuntimeError("the proxy is not running; use it in `async with`")
        if self._loop is asyncio.get_running_loop():
            return await make()
        if not self._loop.is_running():
            raise RuntimeError(
                "the event loop that started the proxy does not run; await this there, or start it in one that goes on"
            )
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), self._loop))

    def __repr__(self) -> str:
        host, port = self.target
        return (
            f"<{type(self).__name__} on port {self._port} to {host}:{port}: {self.connections} connections, "
            f"{self.connected_total} in total, to server {self.to_server}, to client {self.to_client}>"
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def whole(name: str, value: object) -> None:
    """Raise unless `value` is a whole number, naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; give a whole number")


def _host(name: str, host: str) -> str:
    if not isinstance(host, str):
        raise TypeError(f"{name} is {host!r}; give a str, such as '127.0.0.1'")
    try:
        sound = bool(host.encode("idna")) and not set(host) & set("/@[]\0 ")
    except UnicodeError:
        sound = False
    if not sound:
        raise ValueError(f"{name} is {host!r}; give a name or an address alone, such as '127.0.0.1'")
    return host


def _port(name: str, port: int, *, least: int) -> int:
    whole(name, port)
    if not least <= port <= _MAX_PORT:
        raise ValueError(f"{name} is {port!r}; give {least} to {_MAX_PORT}")
    return port
