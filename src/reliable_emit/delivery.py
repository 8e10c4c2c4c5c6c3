"""What is stored (the message), what the caller holds (the delivery), and what is left of a message given up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Generator
from typing import Any, Literal, Protocol

from reliable_emit.errors import ClientClosed, DeliveryFailed, Reason

State = Literal["queued", "in_flight", "acknowledged", "dead"]


@dataclasses.dataclass(frozen=True, slots=True)
class Unencoded:
    """The snapshot for a serializer that has to be asked again at each attempt: a copy of what was passed."""

    event: str
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """What a store holds in place of a snapshot, if it cannot be read: kept as it is, and never sent."""

    stored: bytes
    detail: str


Frames = str | bytes | tuple[str | bytes, ...] | Unencoded | Unreadable
"""A message as Engine.IO carries it, but for the ack's id: one frame, or a text frame and its attachments."""

CHAT_EVENT = "chat message"
"""The event of the Socket.IO tutorial's chat, which the reference server handles and the sender uses by default."""

_REJECTED = "reliable-emit:rejected"


def rejection(reason: str) -> dict[str, str]:
    """Return what a server acknowledges with to refuse a message for good.

    The Socket.IO protocol has no negative acknowledgement: a message that a server will never accept looks like silence
    and is sent again for nothing. Our client settles such a message as ``rejected``; any other sees a plain reply.
    """
    return {_REJECTED: reason}


def rejection_reason(reply: tuple[Any, ...]) -> str | None:
    """Return the reason if the arguments of an acknowledgement are a :func:`rejection`, else ``None``."""
    match reply:
        case ({**arguments},) if len(arguments) == 1 and isinstance(reason := arguments.get(_REJECTED), str):
            return reason
    return None


class Message:
    """A message as accepted: its snapshot, its rules, and what has become of it so far.

    The sender alone changes `state`, `attempts`, `failures` and `losses`.

    Attributes:
        offset: The client offset.
        event: The event's name.
        frames: The snapshot, encoded.
        sequence: Its place in the order of acceptance, 0 if it never had one.
        ack_timeout: Seconds to wait for the acknowledgement of one attempt.
        retries: Attempts after the first one, ``None``: until acknowledged.
        accepted_at: When it was accepted, seconds of Unix time.
        expires_at: When its time to live is over, in seconds of the event loop's clock; ``None``: never.
        state: ``queued``, ``in_flight``, ``acknowledged`` or ``dead``.
        attempts: How many times it was sent.
        failures: How many attempts in this round got no acknowledgement on a live connection; `retries` bounds them.
        losses: How many times in a row the connection was lost while it was in flight.
        doubtful: Whether a process that ended without a word may have sent it, once more than `attempts` tells.
    """

    __slots__ = (
        "__weakref__",
        "accepted_at",
        "ack_timeout",
        "attempts",
        "doubtful",
        "event",
        "expires_at",
        "failures",
        "frames",
        "losses",
        "offset",
        "retries",
        "sequence",
        "state",
    )

    def __init__(
        self,
        *,
        offset: str,
        event: str,
        frames: Frames,
        ack_timeout: float,
        retries: int | None,
        accepted_at: float,
        expires_at: float | None = None,
    ) -> None:
        self.offset = offset
        self.event = event
        self.frames = frames
        self.sequence = 0
        self.ack_timeout = ack_timeout
        self.retries = retries
        self.accepted_at = accepted_at
        self.expires_at = expires_at
        self.state: State = "queued"
        self.attempts = 0
        self.failures = 0
        self.losses = 0
        self.doubtful = False

    def __repr__(self) -> str:
        return f"<Message {self.event!r} {self.offset} {self.state}, attempts={self.attempts}>"

    @property
    def possibly_sent(self) -> bool:
        """``False`` only when it was certainly never sent."""
        return self.attempts > 0 or self.doubtful

    def renew(self) -> None:
        """Make it as good as new, under the same offset; what was sent of it stays counted."""
        self.state = "queued"
        self.failures = self.losses = 0
        self.expires_at = None


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up, kept to be looked at and redelivered.

    Attributes:
        message: The message.
        reason: Why, as in :class:`~reliable_emit.DeliveryFailed`.
        detail: What happened, in words.
        died_at: When, seconds of Unix time.
    """

    message: Message
    reason: Reason
    detail: str
    died_at: float
    _decode: Callable[[Frames], tuple[Any, ...]] = dataclasses.field(repr=False, compare=False)

    @property
    def offset(self) -> str:
        """The client offset, by which to redeliver or discard it."""
        return self.message.offset

    @property
    def event(self) -> str:
        """The event's name."""
        return self.message.event

    @property
    def data(self) -> tuple[Any, ...]:
        """The arguments, as sent: a client offset that was appended is among them."""
        return self._decode(self.message.frames)

    @property
    def attempts(self) -> int:
        """How many times it was sent."""
        return self.message.attempts

    @property
    def possibly_delivered(self) -> bool:
        """``False`` only when it was certainly never sent."""
        return self.message.possibly_sent

    @property
    def accepted_at(self) -> float:
        """When ``emit`` accepted it, seconds of Unix time."""
        return self.message.accepted_at


class Owner(Protocol):
    """What a delivery asks of the client that made it."""

    def cancel(self, message: Message) -> None:
        """Give the message up."""

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        """Return the arguments in a snapshot."""

    def awaited(self, delivery: Delivery) -> None:
        """Somebody is about to wait: keep the handle, or raise if it would be waiting for ever."""


class Delivery:
    """An awaitable handle on an accepted message.

    Awaiting it gives the server's reply, in the form that ``AsyncClient.call`` returns it (nothing: ``None``, one
    value: that value, several: a tuple), or raises :class:`~reliable_emit.DeliveryFailed`; or, if the client is closed
    while the message waits in a durable outbox, :class:`~reliable_emit.ClientClosed`. Any number of tasks may await it,
    any number of times. Cancelling an awaiting task never cancels the delivery. A delivery that nobody awaits makes no
    noise when it fails; the failure is logged and counted all the same.
    """

    __slots__ = ("__weakref__", "_callback", "_message", "_outcome", "_owner", "_waiters")

    def __init__(self, message: Message, owner: Owner, callback: Callable[..., object] | None = None) -> None:
        self._message = message
        self._owner = owner
        self._callback = callback
        self._outcome: tuple[Any, ...] | DeliveryFailed | ClientClosed | None = None
        self._waiters: list[asyncio.Future[None]] | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.event!r} {self.offset} {self.state}, attempts={self.attempts}>"

    @property
    def offset(self) -> str:
        """The client offset: the message's name, the same on every attempt."""
        return self._message.offset

    @property
    def event(self) -> str:
        """The event's name."""
        return self._message.event

    @property
    def data(self) -> tuple[Any, ...]:
        """The arguments, as sent: a client offset that was appended is among them. Decoded anew at each call."""
        return self._owner.decode(self._message.frames)

    @property
    def attempts(self) -> int:
        """How many times the message was sent so far."""
        # A dead letter that is redelivered gets a new handle; this one keeps to what it knew.
        return self._outcome.attempts if isinstance(self._outcome, DeliveryFailed) else self._message.attempts

    @property
    def state(self) -> State:
        """``queued``, ``in_flight``, ``acknowledged`` or ``dead``."""
        return "dead" if isinstance(self._outcome, DeliveryFailed) else self._message.state

    @property
    def failure(self) -> DeliveryFailed | None:
        """What awaiting raises, or ``None`` if the message is pending or acknowledged."""
        return self._outcome if isinstance(self._outcome, DeliveryFailed) else None

    def done(self) -> bool:
        """Whether it is settled: acknowledged or given up."""
        return self._outcome is not None and not isinstance(self._outcome, ClientClosed)

    def cancel(self) -> bool:
        """Give the message up, and say whether it was certainly never sent.

        Awaiting it then raises :class:`~reliable_emit.DeliveryFailed` with the reason ``cancelled``. A message that was
        sent already is not sent again, but the server may handle it all the same: then the answer is ``False``. So it
        is for a settled delivery, on which this does nothing.
        """
        if self.done():
            return False
        never_sent = not self._message.possibly_sent
        self._owner.cancel(self._message)
        return never_sent and self.done()

    def __await__(self) -> Generator[Any, None, Any]:
        if self._outcome is None:
            self._owner.awaited(self)
            # A future for each awaiting task: cancelling a task cancels the future it waits for.
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            try:
                yield from waiter
            finally:
                if self._waiters is not None and waiter.cancelled():
                    self._waiters.remove(waiter)
        match self._outcome:
            case DeliveryFailed() as failure:
                # One of its own for each awaiting task, or their tracebacks would pile up on a single exception.
                raise DeliveryFailed(self, failure.reason, failure.attempts, failure.possibly_delivered, failure.detail)
            case ClientClosed(detail=detail):
                raise ClientClosed(detail)
            case (reply,):
                return reply
            case ():
                return None
            case replies:
                return replies

    def _settle(self, outcome: tuple[Any, ...] | DeliveryFailed | ClientClosed) -> Callable[..., object] | None:
        """Wake those who wait, and return the callback that is due."""
        self._outcome = outcome
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = None
        callback, self._callback = self._callback, None
        return callback if isinstance(outcome, tuple) else None
