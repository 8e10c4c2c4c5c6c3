"""Performs what the sender decides: timers, sending, settling, the outbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from reliable_emit.delivery import Delivery, Frames, Message
from reliable_emit.errors import CLOSED, Reason
from reliable_emit.excess import Excess
from reliable_emit.expiry import Expiry
from reliable_emit.flushing import Flushes
from reliable_emit.handles import Handles
from reliable_emit.hooks import Hooks, Stats
from reliable_emit.link import Link
from reliable_emit.outbox import Outbox, offset_taken
from reliable_emit.policy import Policy
from reliable_emit.sender import Acknowledge, Backoff, Command, EndAttempts, Fail, Hold, Phase, Send, Sender
from reliable_emit.settling import Settling
from reliable_emit.state import ClientState
from reliable_emit.timing import Timing

_logger = logging.getLogger("reliable_emit")


class Driver:
    """Connects the sender with the link, the outbox, the clock and the caller's deliveries.

    Everything in here happens between two steps of the event loop: a command list is performed to its end before the
    next event is looked at, and the user's functions are only scheduled. So no event finds the state half changed.

    Args:
        sio: The wrapped client.
        namespace: Its namespace.
        outbox: Where accepted messages wait.
        policy: The limits, the backoff and what happens to an exhausted message.
        on_room: Called when a message left the outbox.
        on_up: Called soon when the namespace is connected and the outbox is not open.
    """

    def __init__(
        self,
        sio: Any,
        namespace: str,
        outbox: Outbox,
        policy: Policy,
        on_room: Callable[[], None],
        on_up: Callable[[], None],
    ) -> None:
        self.hooks = Hooks()
        self.stats = Stats()
        self.outbox = outbox
        self._on_room = on_room
        self._on_up = on_up
        self._sender = Sender(max_losses=policy.max_losses, on_exhausted=policy.on_exhausted)
        self._handles = Handles(self, durable=outbox.durable)
        self._sequence = 0
        self._expiry = Expiry(self.advance)
        self._flushes = Flushes(outbox)
        self._excess = Excess(policy, outbox, self.withdraw, lambda: self._sequence)
        self._started = self._stopped = False
        self.link = Link(sio, namespace, self)
        self._timing = Timing(policy, probe=self.link.probe, timed_out=self._timed_out, backoff_over=self._backoff_over)
        self._settling = Settling(outbox, self._handles, self.hooks, self.stats, self.link.codec.decode)
        self.link.look()

    # What the client asks for.

    def check_offset(self, offset: str) -> None:
        """Raise if a pending message is known to have that offset; the outbox itself has the last word."""
        if offset in self._handles:
            raise offset_taken(offset)

    async def accept(self, message: Message, callback: Callable[..., object] | None = None) -> Delivery:
        """Store a message and have it delivered in its turn."""
        self._sequence += 1
        message.sequence = self._sequence
        delivery = self._handles.new(message, callback)
        self._expiry.watch(message)
        try:
            await self.outbox.append(message)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):  # after which it may be stored all the same
                message.state = "dead"
                self._handles.release(delivery)
            self._left()
            raise
        self.stats.accepted += 1
        self.advance()
        self._excess.accepted()
        return delivery

    def revive(self, offset: str) -> Delivery | None:
        """Have a dead letter delivered after all."""
        message = self.outbox.revive(offset, self._sequence + 1)
        if message is None:
            return None
        self._sequence += 1
        delivery = self._handles.new(message)
        self._check(message)
        self.advance()
        return delivery

    def refuse(self, message: Message, detail: str) -> Delivery:
        """Make a message a dead letter that never was in the queue."""
        delivery = self._handles.new(message)
        self._perform(self._sender.withdraw(message, "dropped", detail))
        return delivery

    def withdraw(self, message: Message, reason: Reason, detail: str) -> None:
        """Give up a pending message."""
        message = self._handles.known(message)
        if message.state in {"queued", "in_flight"}:
            self._perform(self._sender.withdraw(message, reason, detail))

    def cancel(self, message: Message) -> None:
        """Give up a pending message because the user says so; what a closed client left is not hers any more."""
        if not self._stopped:
            self.withdraw(message, "cancelled", "it was cancelled")

    def delivery(self, message: Message) -> Delivery:
        """Return the handle on a pending message."""
        return self._handles.of(message)

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        """Return the arguments in a snapshot."""
        return self.link.codec.decode(frames)

    def awaited(self, delivery: Delivery) -> None:
        """Somebody is about to wait for a delivery."""
        self.check_wait()
        self._handles.keep(delivery)

    def check_wait(self) -> None:
        """Raise in a disconnect handler: nothing is acknowledged before it has returned."""
        if self.link.in_disconnect_handler():
            raise RuntimeError(
                "this waits inside a disconnect handler, and python-socketio reconnects only after that has returned: "
                "it would wait for ever. Start a task that waits, and return"
            )

    def pause(self) -> None:
        """Send nothing more."""
        self._perform(self._sender.pause())

    def resume(self) -> None:
        """Go on sending."""
        if not self._stopped:
            self._expire()
            self._perform(self._sender.resume())

    @property
    def state(self) -> ClientState:
        """What it is doing."""
        return self.link.state(len(self.outbox), stopped=self._stopped)

    @property
    def paused(self) -> bool:
        """Whether sending is paused."""
        return self._sender.paused

    def release(self, message: Message) -> bool:
        """Try the held message again, if it is that one."""
        if self._sender.phase is not Phase.HELD or self._sender.message is not message:
            return False
        self._perform(self._sender.release())
        return True

    def flushed(self) -> asyncio.Future[None]:
        """Return a future that is done when every message accepted before now is settled."""
        return self._flushes.add(self._sequence)

    def stop(self) -> None:
        """Send nothing more, ever."""
        self._stopped = True
        self._perform(self._sender.pause())
        self._timing.stop()
        self._expiry.stop()

    def give_up_all(self) -> None:
        """Settle what is pending as dropped; or, if it stays in a durable outbox, say so to those who wait."""
        if self.outbox.durable:
            self._handles.leave_all(self.outbox.where)
            self._flushes.end(len(self.outbox))
            return
        for message in list(self.outbox):
            self.withdraw(message, "dropped", CLOSED)

    # What happens.

    def link_up(self, socket_id: str) -> None:
        """The namespace is connected."""
        self.stats.connected += 1
        _logger.info("connected to %s as %s; %d pending", self.link.namespace, socket_id, len(self.outbox))
        self.hooks.fire("connected", socket_id)
        if not self._started:
            # Whoever connects the wrapped client herself may have nothing to emit for now.
            asyncio.get_running_loop().call_soon(self._on_up)
        self._expire()
        self._perform(self._sender.link_up())

    def link_down(self, reason: str) -> None:
        """The connection is lost."""
        self.stats.disconnected += 1
        if self._sender.phase is Phase.IN_FLIGHT:
            self.stats.lost += 1
        _logger.info("disconnected from %s: %s; %d pending", self.link.namespace, reason, len(self.outbox))
        self.hooks.fire("disconnected", reason)
        self._perform(self._sender.link_down())

    def connecting(self, attempt: int) -> None:
        """An attempt to connect is being made."""
        self.stats.connect_attempts += 1
        _logger.info("connecting %s, attempt %d; %d pending", self.link.namespace, attempt, len(self.outbox))
        self.hooks.fire("connecting", attempt)

    def recycled(self, evidence: str) -> None:
        """The connection is dead, and ended."""
        self.stats.recycled += 1
        self.hooks.fire("recycled", evidence)

    def gave_up(self, error: Exception) -> None:
        """No attempt to connect is made any more."""
        self.hooks.fire("gave_up", error)

    def start(self, sequence: int) -> None:
        """Send what the outbox has, now that it is open, and number new messages from there on."""
        self._sequence = max(self._sequence, sequence)
        self._started = True
        self.advance()

    def loaded(self, messages: Sequence[Message]) -> None:
        """The outbox has loaded what it had stored."""
        for message in messages:
            self._handles.rebind(message)
            if self._check(message):
                self._expiry.watch(message)
        self._excess.drop()
        self.advance()
        self._left()  # those before it have, and perhaps nobody knew

    def refused(self, message: Message) -> None:
        """A message whose `emit` was cancelled could not be stored."""
        message.state = "dead"
        self._handles.release(self._handles.of(message))
        self._left()

    def _check(self, message: Message) -> bool:
        """Give up a message that the client cannot send: what comes from storage may be damaged, or another's."""
        try:
            self.link.codec.check(message.frames)
        except TypeError as error:
            self._run(self._sender.withdraw(message, "dropped", f"it cannot be read: {error}"))
            return False
        return True

    def advance(self) -> None:
        """Give up what is due, and load the next message if the sender is idle."""
        self._expire()
        while (
            self._started
            and not self._stopped
            and self._sender.phase is Phase.IDLE
            and (message := self.outbox.head()) is not None
            and not self._expiry.is_due(message)
        ):
            self._run(self._sender.load(message))

    def _acknowledged(self, message: Message, reply: tuple[Any, ...]) -> None:
        self._perform(self._sender.acknowledged(message, reply))

    def _timed_out(self) -> None:
        if self.link.recycle_if_silent():
            return  # that has ended the attempt, and costs no retry
        self.stats.timed_out += 1
        self._perform(self._sender.timed_out())

    def _expire(self) -> None:
        for message in self._expiry.take_due():
            self._run(self._sender.withdraw(message, "expired", "its time to live is over"))

    def _backoff_over(self) -> None:
        self._expire()
        self._perform(self._sender.backoff_over())

    # What is done about it.

    def _perform(self, commands: Iterable[Command]) -> None:
        self._run(commands)
        self.advance()

    def _run(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Send(message):
                    self._send(message)
                case EndAttempts():
                    self._timing.stop()
                    self.link.forget()
                case Acknowledge(message, reply):
                    self._settling.acknowledged(message, reply)
                    self._left()
                case Backoff(message):
                    self._timing.back_off(message)
                case Fail(message, reason, detail):
                    # When a client is closed, that says it of all messages at once.
                    level = logging.DEBUG if self._stopped else logging.WARNING
                    self._settling.failed(message, reason, detail, level)
                    self._left()
                case Hold(message, detail):
                    _logger.error(
                        "%r (offset %s) is held at the head: %s; redeliver(offset), discard(offset) or resume()",
                        message.event,
                        message.offset,
                        detail,
                    )

    def _send(self, message: Message) -> None:
        # The timer first: whatever the wrapped client makes of the message, it is not waited for beyond that time.
        self._timing.attempt(message.ack_timeout)
        self._settling.sent(message)
        try:
            self.link.request(message.frames, lambda reply: self._acknowledged(message, reply))
        except Exception as error:
            # More than the transport takes, or a serializer that cannot repeat what it did at `emit`. A message must
            # not stop those behind it.
            self._run(self._sender.withdraw(message, "exhausted", f"it could not be sent: {error}"))

    def _left(self) -> None:
        self._flushes.look()
        self._on_room()
