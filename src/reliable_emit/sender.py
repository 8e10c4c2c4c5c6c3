"""The brain: decides what is sent when, and what has become of it.

Theory of operation
-------------------

A `Sender` holds at most one message, the head of the outbox, and is in one of five phases:

===========  ====================================================  =============================================
phase        meaning                                               left by
===========  ====================================================  =============================================
IDLE         it holds no message                                   `load`
WAITING      the link is down, or sending is paused                `link_up`, `resume`: the message is sent
IN_FLIGHT    sent, the acknowledgement is awaited                  `acknowledged`, `timed_out`, `link_down`
BACKING_OFF  an attempt failed on a live link, the next one waits  `backoff_over`, `link_down` (to WAITING)
HELD         all attempts failed, and the policy is to hold        `release`, `resume`, `withdraw`
===========  ====================================================  =============================================

Events are methods; each returns the commands that the driver has to perform, in their order. The driver loads the next
message whenever the sender is idle. There is no clock, no randomness, no I/O and no asyncio in here, so that every
interleaving of losses, late acknowledgements, timeouts and cancels can be explored without waiting for any of them.

One timer is enough: at any moment either an acknowledgement is awaited or a backoff runs. `Send` and `Backoff` start
it, `EndAttempts` stops it, and the driver calls `timed_out` or `backoff_over` when it fires. An acknowledgement of an
attempt that timed out still counts, so the driver keeps listening for those of all attempts until `EndAttempts`.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from reliable_emit.delivery import Message, rejection_reason
from reliable_emit.errors import Reason
from reliable_emit.policy import OnExhausted


class Phase(enum.Enum):
    """Where the sender is with its message."""

    IDLE = enum.auto()
    WAITING = enum.auto()
    IN_FLIGHT = enum.auto()
    BACKING_OFF = enum.auto()
    HELD = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """Send the message, and call `timed_out` when its `ack_timeout` is over."""

    message: Message


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """Call `backoff_over` when the backoff that its `failures` ask for is over."""

    message: Message


@dataclasses.dataclass(frozen=True, slots=True)
class EndAttempts:
    """Stop the timer, if one runs, and listen no more for acknowledgements of the attempts so far."""


@dataclasses.dataclass(frozen=True, slots=True)
class Acknowledge:
    """Settle the message: the server acknowledged it."""

    message: Message
    reply: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Fail:
    """Settle the message: it is given up."""

    message: Message
    reason: Reason
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Hold:
    """Say that the message is held at the head, and why; it is not settled."""

    message: Message
    detail: str


Command = Send | Backoff | EndAttempts | Acknowledge | Fail | Hold


class Sender:
    """Delivers one message at a time; see above.

    Args:
        max_losses: How many times in a row the connection may be lost while a message is in flight, before the message
            itself is suspected of killing it; ``None``: any number.
        on_exhausted: ``"dead_letter"`` or ``"hold"``.
    """

    def __init__(self, *, max_losses: int | None = 10, on_exhausted: OnExhausted = "dead_letter") -> None:
        self._max_losses = max_losses
        self._on_exhausted = on_exhausted
        self._message: Message | None = None
        self._phase = Phase.IDLE
        self._up = False
        self._paused = False

    @property
    def phase(self) -> Phase:
        """Where the sender is with its message."""
        return self._phase

    @property
    def message(self) -> Message | None:
        """The message it holds, if any."""
        return self._message

    @property
    def paused(self) -> bool:
        """Whether sending is paused."""
        return self._paused

    def load(self, message: Message) -> list[Command]:
        """Take the next message; only while idle."""
        if self._phase is not Phase.IDLE:
            raise RuntimeError(f"the sender still has {self._message!r}")
        self._message = message
        self._phase = Phase.WAITING
        return self._proceed()

    def link_up(self) -> list[Command]:
        """The namespace is connected."""
        self._up = True
        return self._proceed()

    def link_down(self) -> list[Command]:
        """The connection is lost: the attempt in flight ends now, and costs no retry."""
        self._up = False
        if self._phase is Phase.BACKING_OFF:
            self._phase = Phase.WAITING
            return [EndAttempts()]
        if self._phase is not Phase.IN_FLIGHT:
            return []
        message = self._current()
        message.losses += 1
        if self._max_losses is not None and message.losses >= self._max_losses:
            # A message that itself kills every connection must not block the others for ever.
            detail = f"the connection was lost {message.losses} times in a row while it was in flight"
            return [EndAttempts(), *self._exhaust(detail)]
        message.state = "queued"
        self._phase = Phase.WAITING
        return [EndAttempts()]

    def acknowledged(self, message: Message, reply: tuple[Any, ...]) -> list[Command]:
        """An acknowledgement of any attempt of the message arrived, in time or late."""
        if message is not self._message:
            return []
        reason = rejection_reason(reply)
        if reason is not None:
            return self._fail("rejected", reason)
        self._message = None
        self._phase = Phase.IDLE
        message.state = "acknowledged"
        return [EndAttempts(), Acknowledge(message, reply)]

    def timed_out(self) -> list[Command]:
        """The attempt in flight got no acknowledgement in time, on a live connection."""
        if self._phase is not Phase.IN_FLIGHT:
            return []
        message = self._current()
        message.state = "queued"
        message.failures += 1
        message.losses = 0
        if message.retries is not None and message.failures > message.retries:
            return self._exhaust(f"no acknowledgement within {message.ack_timeout:g} s")
        self._phase = Phase.BACKING_OFF
        return [Backoff(message)]

    def backoff_over(self) -> list[Command]:
        """The wait between two attempts is over."""
        if self._phase is not Phase.BACKING_OFF:
            return []
        self._phase = Phase.WAITING
        return self._proceed()

    def withdraw(self, message: Message, reason: Reason, detail: str) -> list[Command]:
        """Give up a message that is not settled, whether or not it is the one at hand."""
        if message is self._message:
            return self._fail(reason, detail)
        message.state = "dead"
        return [Fail(message, reason, detail)]

    def pause(self) -> list[Command]:
        """Send nothing more; an attempt in flight still waits for its acknowledgement."""
        self._paused = True
        return []

    def resume(self) -> list[Command]:
        """Go on sending; a held message is tried again."""
        self._paused = False
        return self.release() if self._phase is Phase.HELD else self._proceed()

    def release(self) -> list[Command]:
        """Try the held message again, with all its retries."""
        if self._phase is not Phase.HELD:
            return []
        message = self._current()
        message.failures = message.losses = 0
        self._phase = Phase.WAITING
        return self._proceed()

    def _proceed(self) -> list[Command]:
        if self._phase is not Phase.WAITING or not self._up or self._paused:
            return []
        message = self._current()
        self._phase = Phase.IN_FLIGHT
        message.state = "in_flight"
        message.attempts += 1
        return [Send(message)]

    def _exhaust(self, detail: str) -> list[Command]:
        if self._on_exhausted == "hold":
            message = self._current()
            message.state = "queued"
            self._phase = Phase.HELD
            return [Hold(message, detail)]
        return self._fail("exhausted", detail)

    def _fail(self, reason: Reason, detail: str) -> list[Command]:
        message = self._current()
        message.state = "dead"
        self._message = None
        self._phase = Phase.IDLE
        return [EndAttempts(), Fail(message, reason, detail)]

    def _current(self) -> Message:
        if self._message is None:  # pragma: no cover - every phase but IDLE has a message
            raise RuntimeError("the sender holds no message")
        return self._message
