"""Makes a connection and keeps it, and says in a user's words why it cannot."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import re
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Literal

import aiohttp
import socketio
import yarl
from socketio.exceptions import ConnectionError as NotConnected

from reliable_emit import ReliableClient
from reliable_emit.cli.output import CommandError
from reliable_emit.cli.running import cancelled, first_of
from reliable_emit.policy import check_url

Transport = Literal["websocket", "polling", "auto"]

# Seconds before the first attempt to reconnect, doubled with each further one, at the most; each is shortened at random
# so that the clients of a server that restarts do not all come at the same instant.
_FIRST_DELAY, _LONGEST_DELAY = 0.2, 2.0
_OK = range(200, 300)
_CLIENT_ERRORS = range(300, 500)
_BUSY = {408, 425, 429}
_STATUS = re.compile(r"status code (\d{3})")


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to, and as whom."""

    url: str
    namespace: str = "/"
    auth: dict[str, Any] | None = None
    path: str = "socket.io"
    transport: Transport = "websocket"

    @property
    def address(self) -> str:
        """Host and port, without the password that a URL may have in it."""
        parsed = urllib.parse.urlsplit(self.url)
        port = parsed.port or (443 if parsed.scheme in {"https", "wss"} else 80)
        return f"{parsed.hostname}:{port}"

    def check(self) -> None:
        """Look at the URL.

        Raises:
            CommandError: Nothing can be connected to by that URL.
        """
        try:
            check_url(self.url)
            yarl.URL(self.url)
            (urllib.parse.urlsplit(self.url).hostname or "").encode("idna")
        except ValueError as error:
            known = repr(self.url) in str(error)
            raise CommandError(str(error) if known else f"{self.url!r} cannot be connected to: {error}", 2) from None
        if (path := urllib.parse.urlsplit(self.url).path).strip("/"):
            # In JavaScript it would be the namespace, and python-socketio ignores it.
            raise CommandError(
                f"{self.url!r} has a path: use --namespace {path} if that is the namespace, and --path if the server "
                f"has Socket.IO somewhere else",
                2,
            )


def quiet_client() -> socketio.AsyncClient:
    """Return an ``AsyncClient`` that prints nothing, leaves signals alone and does not reconnect by itself.

    Given loggers, it and Engine.IO add no handlers of their own, which print to standard error. `Connection` does the
    reconnecting.
    """
    return socketio.AsyncClient(
        reconnection=False,
        handle_sigint=False,
        logger=logging.getLogger("reliable_emit.cli.socketio"),
        engineio_logger=logging.getLogger("reliable_emit.cli.engineio"),
    )


class _Failure(Exception):
    """An attempt to connect that failed; `final` if the next one would fail as well."""

    def __init__(self, reason: str, *, refused: bool = False, final: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused
        self.final = final


class Connection:
    """The connection of a `ReliableClient`: made once, then made again whenever it is lost, for whatever reason.

    python-socketio's own reconnection does not come back after the server has ended the connection, or after an answer
    that it did not expect; a sender that nobody watches has to.

    Args:
        client: Whose connection.
        sio: What it wraps, from `quiet_client`.
        target: Where to connect to.
        say: Told in words what happens.
        input_over: If messages are accepted while there is no connection: set when there are no more to be accepted.
            As long as there are, nothing that goes wrong is final.
    """

    def __init__(
        self,
        client: ReliableClient,
        sio: socketio.AsyncClient,
        target: Target,
        say: Callable[[str], object],
        *,
        input_over: asyncio.Event | None = None,
    ) -> None:
        self._client = client
        self._sio = sio
        self._target = target
        self._say = say
        self._input_over = input_over
        self._failure = "no answer"
        self._told = ""
        self._refusal = ""
        self._lost = asyncio.Event()
        sio.on("connect_error", self._on_connect_error, namespace=target.namespace)
        client.on("disconnected", self._on_disconnected)

    async def open(self, timeout: float) -> None:
        """Connect, trying again while nobody answers; the time counts from the end of the input on, if that matters.

        Raises:
            CommandError: There is no connection after `timeout` seconds, or there never will be one.
        """
        self._target.check()
        opening = asyncio.ensure_future(self._open(timeout))
        try:
            if self._input_over is not None:
                await first_of(opening, self._input_over.wait())
            await asyncio.wait([opening], timeout=timeout)
            if not opening.done():
                raise self._cannot_connect(f" (gave up after {timeout:g} s)")
            opening.result()
        finally:
            await cancelled(opening)
        self._say(f"connected to {self._target.address}")

    async def _open(self, timeout: float) -> None:
        for delay in _delays():
            try:
                async with asyncio.timeout(timeout):
                    await self._attempt()
                return
            except (_Failure, TimeoutError) as error:
                self._failure = str(error) or "no answer"
                hopeless = isinstance(error, _Failure) and (error.final or error.refused)
            if hopeless and self._may_give_up():
                raise self._cannot_connect()
            if self._input_over is not None:
                self._tell_failure(self._failure)
            await asyncio.sleep(delay)

    def _cannot_connect(self, more: str = "") -> CommandError:
        return CommandError(f"cannot connect to {self._target.address}: {self._failure}{more}", 1)

    def _may_give_up(self) -> bool:
        return self._input_over is None or self._input_over.is_set()

    def _tell_failure(self, reason: str) -> None:
        if reason != self._told:
            self._say(f"not connected: {reason}; trying again")
            self._told = reason

    async def keep(self, patience: float) -> None:
        """Connect again whenever the connection is lost. Never returns.

        Raises:
            CommandError: The server has refused to have us back for `patience` seconds.
        """
        while True:
            await self._lost.wait()
            self._lost.clear()
            if not self._client.connected:
                await self._reconnect(patience)
                self._say("connected again")

    async def _reconnect(self, patience: float) -> None:
        clock = asyncio.get_running_loop().time
        refused_since: float | None = None
        self._told = ""
        for delay in _delays():
            await asyncio.sleep(delay)
            try:
                async with asyncio.timeout(patience):
                    await self._attempt()
                return
            except (_Failure, TimeoutError) as error:
                refused = isinstance(error, _Failure) and error.refused
                reason = str(error) or "no answer"
                self._tell_failure(reason)
            # A server that restarts may refuse us for a moment, so only one that goes on refusing means it.
            if not refused or not self._may_give_up():
                refused_since = None
            elif refused_since is None:
                refused_since = clock()
            elif clock() - refused_since > patience:
                raise CommandError(f"{self._target.address} does not let us in again: {reason}", 1)

    async def _attempt(self) -> None:
        target = self._target
        if self._sio.connected and self._sio.eio.state == "disconnected":
            # The connection was lost while it was made: python-socketio then believes for ever that it is there.
            self._sio.connected = False
        self._refusal = ""
        try:
            await self._client.connect(
                target.url,
                auth=target.auth,
                transports=None if target.transport == "auto" else target.transport,
                namespaces=[target.namespace],
                socketio_path=target.path,
                retry=False,
            )
        except NotConnected as error:
            if self._sio.failed_namespaces:
                raise _Failure(
                    f"the server refuses the connection: {self._refusal or 'no reason given'}", refused=True
                ) from None
            raise _explain(error) from None
        except Exception as error:
            # Whatever comes of an answer that python-socketio did not expect; it leaves its HTTP session open then.
            await self._clean_up()
            raise _explain(error) from None
        if not self._client.connected:
            raise _Failure("the connection was lost at once")

    async def _clean_up(self) -> None:
        if self._sio.eio.state == "disconnected":
            await self._sio.eio.disconnect()

    def _on_connect_error(self, reason: object = None, *_: object) -> None:
        words = reason.get("message") if isinstance(reason, dict) else reason
        self._refusal = " ".join(str(words or "").split())[:500]

    def _on_disconnected(self, reason: str) -> None:
        if reason == "client disconnect":
            return  # our own doing, at the end
        self._say(f"disconnected: {reason}; {self._client.pending} waiting")
        self._lost.set()


def _delays() -> Iterator[float]:
    delay = _FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1)  # noqa: S311 - spreads clients, guards nothing
        delay = min(2 * delay, _LONGEST_DELAY)


def _explain(error: BaseException) -> _Failure:
    # python-socketio says "Connection error" of most; what really happened is what it came from.
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for link in chain:
        match link:
            case aiohttp.ClientConnectorCertificateError():
                return _Failure(f"its certificate is not accepted: {link}", final=True)
            case aiohttp.WSServerHandshakeError():
                return _status(link.status)
            case aiohttp.ClientResponseError():
                return _Failure("what answers there does not speak HTTP", final=True)
            case NotConnected() if found := _STATUS.search(str(link)):
                return _status(int(found[1]))
    if system := [link for link in chain if isinstance(link, OSError)]:
        return _Failure(_system_error(system[-1]))
    words = " ".join(str(error).split())[:200] or type(error).__name__
    # Not final: "Client is not in a disconnected state" is among them, and passes.
    return _Failure(
        words if isinstance(error, NotConnected) else f"it does not answer as a Socket.IO server does ({words})"
    )


def _status(status: int) -> _Failure:
    return _Failure(
        f"it answers with HTTP status {status}, there is no Socket.IO server at that address and path",
        final=(status in _CLIENT_ERRORS and status not in _BUSY) or status in _OK,
    )


def _system_error(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    inner = getattr(error, "os_error", None)  # aiohttp's wrapper
    if isinstance(inner, OSError):
        error = inner
    if isinstance(error, ConnectionRefusedError):
        return "connection refused, nobody listens there"
    text = error.strerror or str(error)
    return "connection refused, nobody listens there" if "Connect call failed" in text else " ".join(text.split())
