"""How a client begins and ends: its outbox is opened once, and whatever the network does, closing is bounded."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from reliable_emit.admission import Admission
from reliable_emit.driver import Driver
from reliable_emit.errors import ClientClosed, FlushTimeout
from reliable_emit.outbox import Outbox
from reliable_emit.policy import Policy

_logger = logging.getLogger("reliable_emit")

_DISCONNECT_TIMEOUT = 1.0


class Lifetime:
    """Opens the outbox when it is first needed, and ends everything when the client is closed.

    Args:
        sio: The wrapped client.
        namespace: Its namespace.
        outbox: Where accepted messages wait.
        policy: What becomes of them.
        admission: Where those stand who want to put messages into the outbox.

    Attributes:
        driver: What delivers them, from the beginning to the end.

    Raises:
        ValueError: The namespace of that client is wrapped already.
    """

    def __init__(self, sio: Any, namespace: str, outbox: Outbox, policy: Policy, admission: Admission) -> None:
        self.driver = Driver(sio, namespace, outbox, policy, admission.call_in, self.begin)
        self._outbox = outbox
        self._admission = admission
        self._opening: asyncio.Task[int] | None = None
        self._closing: asyncio.Task[int] | None = None
        self._hurry = asyncio.Event()
        self._remained = 0

    def check(self) -> None:
        """Raise if the client is closed, or being closed."""
        if self._closing is not None:
            raise ClientClosed

    @property
    def pending(self) -> int:
        """How many messages are accepted and not settled; what was closed is not counted again."""
        return self._remained or len(self._outbox)

    # Beginning.

    def begin(self) -> None:
        """Open the outbox, once, whoever asks first."""
        if self._opening is None and self._closing is None:
            self._opening = asyncio.ensure_future(self._outbox.open(self.driver))
            self._opening.add_done_callback(self._opened)

    async def opened(self) -> None:
        """Return when the outbox is open.

        Raises:
            ClientClosed: The client is closed.
            Exception: The outbox cannot be opened.
        """
        self.check()
        self.begin()
        if self._opening is not None:
            await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[int]) -> None:
        error = asyncio.CancelledError() if opening.cancelled() else opening.exception()
        if error is None:
            self.driver.start(opening.result())
            self._admission.open()
        else:
            if self._closing is None:
                _logger.error("not opened: %s", error)
            self._opening = None  # so that the next call tries again
            self._admission.fail(error)

    # Ending.

    async def flush(self, timeout: float | None) -> None:
        """Wait until every message accepted before this call is settled; a closed client waits for its end.

        Raises:
            FlushTimeout: Messages are still pending after `timeout` seconds.
        """
        if self._closing is None:
            await self.opened()
        await self._flush(timeout)

    async def _flush(self, timeout: float | None, *or_until: asyncio.Task[Any]) -> None:
        flushed = self.driver.flushed()
        await asyncio.wait({flushed, *or_until}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not flushed.done():
            flushed.cancel()
            raise FlushTimeout(self.pending, self._outbox.where)
        flushed.result()

    async def end(self, timeout: float) -> int:
        """Flush for so many seconds, end, and return how many messages remained; called again, wait for the same end.

        Cancelling it skips the waiting, not the ending.
        """
        if self.driver.link.in_disconnect_handler():
            timeout = 0.0  # nothing is acknowledged before the handler has returned
        if self._closing is None:
            self._admission.close()
            self._closing = asyncio.ensure_future(self._close(timeout))
        try:
            return await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            self._hurry.set()
            await asyncio.wait({self._closing}, timeout=2 * _DISCONNECT_TIMEOUT)
            raise

    async def _close(self, timeout: float) -> int:
        if self._opening is not None:
            await asyncio.wait({self._opening}, timeout=_DISCONNECT_TIMEOUT)
        if timeout and not self.driver.paused:
            hurry = asyncio.ensure_future(self._hurry.wait())
            try:
                await self._flush(timeout, hurry)
            except FlushTimeout:
                pass
            finally:
                hurry.cancel()
        self.driver.stop()
        remaining = len(self._outbox)
        if self._outbox.durable:
            self._remained = remaining
        if remaining:
            _logger.warning("closed with %d pending, %s", remaining, self._outbox.where)
        self.driver.give_up_all()
        try:
            await self.driver.link.close(_DISCONNECT_TIMEOUT)
        finally:
            if self._opening is not None and not self._opening.done():
                self._opening.cancel()
            elif self._opening is not None:
                await self._outbox.close()
        return remaining
