"""The one timer of a queue: when an attempt is over, and when the next one is due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from reliable_emit.delivery import Message
from reliable_emit.policy import Policy

_logger = logging.getLogger("reliable_emit")


class Timing:
    """Says when the message in flight has waited for long enough, and when to send it again.

    Args:
        policy: The backoff.
        probe: Called a while before an attempt is over, if it has no acknowledgement by then.
        timed_out: Called when it is over.
        backoff_over: Called when the next one is due.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        probe: Callable[[], None],
        timed_out: Callable[[], None],
        backoff_over: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._probe = probe
        self._timed_out = timed_out
        self._backoff_over = backoff_over
        self._timer: asyncio.TimerHandle | None = None

    def attempt(self, ack_timeout: float) -> None:
        """An attempt begins."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ack_timeout
        self._timer = loop.call_at(deadline - _listening(ack_timeout), self._listen, deadline)

    def _listen(self, deadline: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(deadline, self._over, self._timed_out)
        self._probe()

    def back_off(self, message: Message) -> None:
        """An attempt has failed."""
        try:
            seconds = self._policy.backoff_seconds(message.failures)
        except Exception:
            _logger.exception("the backoff strategy failed; waiting 1 s instead")
            seconds = 1.0
        _logger.info(
            "no acknowledgement for %r (offset %s) within %g s, attempt %d; trying again in %.2f s",
            message.event,
            message.offset,
            message.ack_timeout,
            message.attempts,
            seconds,
        )
        self._timer = asyncio.get_running_loop().call_later(seconds, self._over, self._backoff_over)

    def _over(self, then: Callable[[], None]) -> None:
        self._timer = None
        then()

    def stop(self) -> None:
        """Nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _listening(ack_timeout: float) -> float:
    """Return for how many seconds to listen for a sign of life, before an attempt is over: half of it, or a second."""
    return max(ack_timeout / 2, min(1.0, 0.9 * ack_timeout))
