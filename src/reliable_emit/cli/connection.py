"""Makes a connection, and says in a user's words why there is none and what becomes of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable

import socketio
import tenacity

from reliable_emit import ReliableClient
from reliable_emit.cli.output import CommandError
from reliable_emit.cli.running import cancelled, first_of
from reliable_emit.cli.target import Target
from reliable_emit.link.reason import why
from reliable_emit.policy import backoff_seconds

# Somebody waits for the command to end, so it does not wait as long as a client that runs for ever.
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.2, max=2.0)


def quiet_client() -> socketio.AsyncClient:
    """Return an ``AsyncClient`` that prints nothing and leaves signals alone.

    Given loggers, it and Engine.IO add no handlers of their own, which print to standard error.
    """
    return socketio.AsyncClient(
        handle_sigint=False,
        logger=logging.getLogger("reliable_emit.cli.socketio"),
        engineio_logger=logging.getLogger("reliable_emit.cli.engineio"),
    )


class Connection:
    """The connection of a `ReliableClient`, which keeps it: how it is begun, when it is given up, and what is said.

    Args:
        client: Whose connection.
        target: Where to connect to.
        say: Told in words what happens.
        input_over: If messages are accepted while there is no connection: set when there are no more to be accepted.
            As long as there are, nothing that goes wrong is final.
    """

    def __init__(
        self,
        client: ReliableClient,
        target: Target,
        say: Callable[[str], object],
        *,
        input_over: asyncio.Event | None = None,
    ) -> None:
        self._client = client
        self._target = target
        self._say = say
        self._input_over = input_over
        self._patience = 0.0
        self._failure = "no answer"
        self._told = ""
        self._was_connected = False
        self._refused_at, self._refused_since = 0, 0.0
        self._given_up = asyncio.Event()
        client.on("connecting", self._on_connecting)
        client.on("connected", self._on_connected)
        client.on("disconnected", self._on_disconnected)
        client.on("gave_up", self._on_gave_up)

    async def open(self, timeout: float) -> None:
        """Connect, trying again while nobody answers; the time counts from the end of the input on, if that matters.

        Raises:
            CommandError: There is no connection after `timeout` seconds, or there never will be one.
        """
        self._target.check()
        self._patience = timeout
        opening = asyncio.ensure_future(self._open())
        try:
            if self._input_over is not None:
                await first_of(opening, self._input_over.wait())
            await asyncio.wait([opening], timeout=timeout)
            if not opening.done():
                raise self._cannot_connect(f" (gave up after {timeout:g} s)")
            opening.result()
        finally:
            await cancelled(opening)

    async def _open(self) -> None:
        for failures in itertools.count(1):
            try:
                await self._connect()
                return
            except Exception as error:
                reason = why(error)
                pause = backoff_seconds(_BACKOFF, failures, error)
            self._failure = reason.words
            if reason.final and self._may_give_up():
                raise self._cannot_connect()
            if self._input_over is not None:
                self._tell_failure(reason.words)
            await asyncio.sleep(pause)

    async def _connect(self) -> None:
        target = self._target
        await self._client.connect(
            target.url,
            auth=target.auth,
            transports=None if target.transport == "auto" else target.transport,
            namespaces=[target.namespace],
            socketio_path=target.path,
            wait_timeout=self._patience,
            # Whether the first connection is worth another attempt depends on why there is none.
            retry=False,
            reconnect_backoff=_BACKOFF,
            final=self._is_final,
        )

    async def keep(self) -> None:
        """Wait for the end of it, and until then for nothing: the client connects again by itself. Never returns.

        Raises:
            CommandError: The server has refused to have us back for as many seconds as `open` may take.
        """
        await self._given_up.wait()
        raise CommandError(f"{self._target.address} does not let us in again: {self._failure}", 1)

    def _is_final(self, _said: object) -> bool:
        # A server that restarts may refuse us for a moment, so only one that goes on refusing means it.
        attempt, now = self._client.stats.connect_attempts, time.monotonic()
        if attempt != self._refused_at + 1 or not self._may_give_up():
            self._refused_since = now
        self._refused_at = attempt
        return now - self._refused_since > self._patience

    def _cannot_connect(self, more: str = "") -> CommandError:
        return CommandError(f"cannot connect to {self._target.address}: {self._failure}{more}", 1)

    def _may_give_up(self) -> bool:
        return self._input_over is None or self._input_over.is_set()

    def _tell_failure(self, reason: str) -> None:
        if reason != self._told:
            self._say(f"not connected: {reason}; trying again")
            self._told = reason

    # What the client tells.

    def _on_connecting(self, attempt: int) -> None:
        if attempt > 1:  # since the connection was lost
            self._tell_failure(self._client.state.error or "no answer")

    def _on_connected(self, _socket_id: str) -> None:
        self._say("connected again" if self._was_connected else f"connected to {self._target.address}")
        self._was_connected = True

    def _on_disconnected(self, reason: str) -> None:
        if reason == "client disconnect":
            return  # our own doing, at the end
        self._say(f"disconnected: {reason}; {self._client.pending} waiting")
        self._told = ""

    def _on_gave_up(self, error: Exception) -> None:
        self._failure = why(error).words
        self._given_up.set()
