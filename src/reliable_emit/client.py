"""ReliableClient: what a program uses."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reliable_emit.admission import Admission
from reliable_emit.composing import DEFAULT, AckTimeout, Composer, Retries
from reliable_emit.delivery import DeadLetter, Delivery, Message
from reliable_emit.errors import CallTimeout, FlushTimeout, OutboxFull
from reliable_emit.hooks import Stats
from reliable_emit.lifetime import Lifetime
from reliable_emit.link import ConnectOptions
from reliable_emit.offsets import ClientOffsets
from reliable_emit.outbox import MemoryOutbox, Outbox
from reliable_emit.policy import (
    DEFAULT_BACKOFF,
    RECONNECT_BACKOFF,
    Backoff,
    OnExhausted,
    Overflow,
    Policy,
    check_backoff,
    seconds,
)
from reliable_emit.state import ClientState

if TYPE_CHECKING:
    import socketio

_CLOSE_TIMEOUT = 10.0
_BREATHER = 32
"""After so many messages ``emit`` lets the event loop run: a loop of emits would else hold up what they are for."""


class ReliableClient:
    """At-least-once ``emit`` for one namespace of an existing ``socketio.AsyncClient``.

    The wrapped client stays yours: its handlers see what they saw before, and it may be connected before or after, by
    you or with :meth:`connect`. Messages are sent one at a time, in the order in which :meth:`emit` was called.

    Args:
        sio: The client to wrap.
        namespace: The namespace; queues of different namespaces are independent.
        outbox: Where accepted messages wait; by default a :class:`MemoryOutbox` of its own.
        ack_timeout: Seconds to wait for the acknowledgement of one attempt.
        retries: Attempts after the first one that may fail on a live connection; ``None``: until acknowledged. Losing
            the connection costs no retry: the message goes out first after reconnection.
        max_losses: How many times in a row the connection may be lost while the same message is in flight, before that
            message is suspected of killing it and given up as exhausted; ``None``: any number.
        backoff: A tenacity wait strategy (``tenacity.wait_*``): seconds between attempts on a live connection.
        client_offset: ``True`` appends the client offset as the last argument, as the Socket.IO tutorial does; or a
            function ``(data, offset) -> data`` that puts it somewhere else.
        new_offset: Makes the offset of a message: called with the socket id, ``None`` while there is none.
        on_exhausted: ``"dead_letter"`` gives an exhausted message up; ``"hold"`` keeps it at the head and stops, until
            :meth:`redeliver`, :meth:`discard` or :meth:`resume`.
        max_pending: How many messages may wait, ``None``: any number.
        overflow: What happens to one more: ``"raise"`` :class:`OutboxFull`, ``"wait"`` for room (first come, first
            served), ``"drop_oldest"`` (one that is not in flight, if there is one) or ``"drop_newest"``, the message
            itself.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: An argument has a wrong value, or the namespace of that client is wrapped already.
    """

    def __init__(
        self,
        sio: socketio.AsyncClient,
        *,
        namespace: str = "/",
        outbox: Outbox | None = None,
        ack_timeout: float = 10.0,
        retries: int | None = 3,
        max_losses: int | None = 10,
        backoff: Backoff = DEFAULT_BACKOFF,
        client_offset: bool | Callable[[Any, str], Any] = False,
        new_offset: Callable[[str | None], str] | None = None,
        on_exhausted: OnExhausted = "dead_letter",
        max_pending: int | None = 10_000,
        overflow: Overflow = "raise",
    ) -> None:
        if not (hasattr(sio, "eio") and hasattr(sio, "is_asyncio_based") and sio.is_asyncio_based()):
            raise TypeError(f"the client to wrap is {sio!r}; give a socketio.AsyncClient")
        if not isinstance(namespace, str) or not namespace.startswith("/"):
            raise ValueError(f"namespace is {namespace!r}; give a str that starts with a slash, such as '/'")
        if outbox is not None and (isinstance(outbox, type) or not isinstance(outbox, Outbox)):
            raise TypeError(f"outbox is {outbox!r}; give an outbox, such as MemoryOutbox()")
        self._policy = Policy(
            ack_timeout=ack_timeout,
            retries=retries,
            max_losses=max_losses,
            backoff=backoff,
            on_exhausted=on_exhausted,
            max_pending=max_pending,
            overflow=overflow,
        )
        self._outbox: Outbox = MemoryOutbox() if outbox is None else outbox
        self._admission = Admission(max_pending if overflow == "wait" else None, lambda: len(self._outbox))
        self._lifetime = Lifetime(sio, namespace, self._outbox, self._policy, self._admission)
        self._driver = self._lifetime.driver
        try:
            self._composer = Composer(
                self._driver.link, self._policy, client_offset=client_offset, new_offset=new_offset or ClientOffsets()
            )
        except TypeError:
            self._driver.link.detach()
            raise

    async def __aenter__(self) -> Self:
        try:
            await self._lifetime.opened()
        except BaseException:
            await self.close(timeout=0)  # nobody has it: the namespace can be wrapped again
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever is interrupted wants to leave; whoever failed still wants her messages delivered.
        in_time = kind is None or issubclass(kind, Exception)
        remaining = await self.close(timeout=_CLOSE_TIMEOUT if in_time else 0.0)
        if remaining and error is None and not self._outbox.durable:
            raise FlushTimeout(remaining, "they were given up, and are among the dead letters of the closed client")

    # Connecting.

    async def connect(
        self,
        url: str | Callable[[], Any],
        headers: Mapping[str, str] | Callable[[], Any] | None = None,
        auth: Any = None,
        transports: str | Sequence[str] | None = None,
        namespaces: str | Sequence[str] | None = None,
        socketio_path: str = "socket.io",
        wait: bool = True,
        wait_timeout: float = 10.0,
        retry: bool = True,
        *,
        reconnect_backoff: Backoff = RECONNECT_BACKOFF,
        reconnect_after_kick: bool = True,
        final: Callable[[Any], bool] | None = None,
    ) -> None:
        """Connect the wrapped client, and keep it connected until :meth:`close` or ``sio.disconnect()``.

        The connection is made again whenever it is lost, also where python-socketio would not. Only with
        ``AsyncClient(reconnection=False)`` it is not; the numbers that one takes for reconnecting do not apply.

        Args:
            url: As for ``AsyncClient.connect``, like those that follow: functions are asked at every attempt.
            headers: Likewise.
            auth: Likewise.
            transports: Likewise; by default websocket, and polling where that does not pass.
            namespaces: Likewise; by default those with handlers, and those that are wrapped.
            socketio_path: Likewise.
            wait: Likewise.
            wait_timeout: Seconds that the server may take to answer, and again to accept the namespaces.
            retry: Whether the first connection is tried again while nobody answers, for ever; bound it with
                ``asyncio.timeout``.
            reconnect_backoff: A tenacity wait strategy: seconds between attempts to connect.
            reconnect_after_kick: Whether to connect again after the server has disconnected the client.
            final: Called with what the server said when it refused a namespace: whether to give up. Without it, a
                refusal ends the first connection, and later ones are tried again.

        Raises:
            ValueError: The URL or the namespaces cannot work.
            ConnectionRejected: The server refused a namespace. It is a ``socketio.exceptions.ConnectionError``.
            socketio.exceptions.ConnectionError: Without `retry`: there is no connection.
            ClientClosed: The client is closed.
            RuntimeError: It is called in a disconnect handler.
            Exception: What a function given for the url, the headers, the auth or `final` raised.
        """
        options = ConnectOptions(
            url=url,
            headers=headers,
            auth=auth,
            transports=transports,
            namespaces=namespaces,
            socketio_path=socketio_path,
            wait=wait,
            wait_timeout=seconds("wait_timeout", wait_timeout),
            retry=retry,
            reconnect_backoff=reconnect_backoff,
            reconnect_after_kick=reconnect_after_kick,
            final=final,
        )
        check_backoff("reconnect_backoff", reconnect_backoff)
        if final is not None and not callable(final):
            raise TypeError(f"final is {final!r}; give a function of what the server said")
        await self._lifetime.opened()
        await self._driver.link.connect(options)

    @property
    def connected(self) -> bool:
        """Whether the namespace is connected."""
        return self._driver.link.is_up

    @property
    def state(self) -> ClientState:
        """What the client is doing; ``print(client.state)`` says it in a line."""
        return self._driver.state

    # Sending.

    async def emit(
        self,
        event: str,
        data: Any = None,
        *,
        callback: Callable[..., object] | None = None,
        ack_timeout: AckTimeout = DEFAULT,
        retries: Retries = DEFAULT,
        ttl: float | None = None,
    ) -> Delivery:
        """Accept a message: return once it is stored, in its place in the order.

        Cancelling the call before it returns may or may not have stored the message; waiting for room
        (``overflow="wait"``) can be cancelled safely.

        Args:
            event: The event's name.
            data: As for ``AsyncClient.emit``: a tuple is several arguments, ``None`` none at all, everything else one.
                What it is now is what is sent, however it changes afterwards.
            callback: Called with the arguments of the acknowledgement.
            ack_timeout: For this message, instead of the client's.
            retries: For this message, instead of the client's.
            ttl: Seconds after which the message is given up as expired, wherever it is then.

        Returns:
            The handle: await it for the server's reply.

        Raises:
            TypeError: The data cannot be encoded, or an argument is of a wrong type; nothing was queued.
            ValueError: The event's name is reserved, or an argument has a wrong value; nothing was queued.
            OutboxFull: `max_pending` messages wait and `overflow` is ``"raise"``; nothing was queued.
            OutboxLocked: A durable outbox has another owner; nothing was queued.
            OutboxCorrupt: A durable outbox cannot be read; nothing was queued.
            OutboxUnavailable: A durable outbox cannot be opened or written to; nothing was queued.
            ClientClosed: The client is closed; nothing was queued.
        """
        if callback is not None and not callable(callback):
            raise TypeError(f"callback is {callback!r}; give a function")
        message = self._message(event, data, ack_timeout, retries, ttl)
        return await self._accept(message, callback)

    def _message(self, event: str, data: Any, ack_timeout: AckTimeout, retries: Retries, ttl: float | None) -> Message:
        self._lifetime.check()
        message = self._composer.message(event, data, ack_timeout=ack_timeout, retries=retries, ttl=ttl)
        self._driver.check_offset(message.offset)
        return message

    async def _accept(self, message: Message, callback: Callable[..., object] | None = None) -> Delivery:
        self._lifetime.begin()
        await self._admission.enter()
        self._driver.check_offset(message.offset)  # others have entered meanwhile
        limit, overflow = self._policy.max_pending, self._policy.overflow
        if limit is not None and len(self._outbox) >= limit:
            if overflow == "raise":
                raise OutboxFull(limit)
            if overflow == "drop_newest":
                return self._driver.refuse(message, f"{limit} messages were pending, and the newest is dropped")
        delivery = await self._driver.accept(message, callback)
        if message.sequence % _BREATHER == 0:
            await asyncio.sleep(0)
        return delivery

    async def send(self, data: Any, **options: Any) -> Delivery:
        """:meth:`emit` an event named ``message``, as ``AsyncClient.send`` does."""
        return await self.emit("message", data, **options)

    async def call(
        self,
        event: str,
        data: Any = None,
        *,
        timeout: float | None = None,
        ack_timeout: AckTimeout = DEFAULT,
        retries: Retries = DEFAULT,
        ttl: float | None = None,
    ) -> Any:
        """:meth:`emit` and await the server's reply, in the form that ``AsyncClient.call`` returns it.

        Cancelling the call never cancels the delivery, and neither does its `timeout`: an accepted message is delivered
        if it can be. To have it given up in time, use `ttl`.

        Args:
            event: As for :meth:`emit`.
            data: As for :meth:`emit`.
            timeout: Seconds to wait for the reply, ``None``: until there is one or the message is given up.
            ack_timeout: As for :meth:`emit`.
            retries: As for :meth:`emit`.
            ttl: As for :meth:`emit`.

        Raises:
            CallTimeout: No reply within `timeout`. It is a ``socketio.exceptions.TimeoutError``.
            DeliveryFailed: The message was given up.
            Exception: What :meth:`emit` raises.
        """
        if timeout is not None:
            seconds("timeout", timeout, zero=True)
        self._driver.check_wait()
        message = self._message(event, data, ack_timeout, retries, ttl)
        try:
            async with asyncio.timeout(timeout):
                return await (await self._accept(message))
        except TimeoutError:
            if timeout is None:  # somebody else's
                raise
            # With a place in the order it is accepted, or on its way to the disk.
            delivery = self._driver.delivery(message) if message.sequence else None
            raise CallTimeout(event, delivery, timeout) from None

    async def emit_volatile(self, event: str, data: Any = None) -> bool:
        """Send a message now, or drop it: it is never queued, never repeated, and outside the order of the queue.

        It is dropped while the namespace is not connected, and while the connection is busy with what was sent before.

        Returns:
            Whether it was sent; that it arrived, nobody knows.

        Raises:
            TypeError: The data cannot be encoded.
            ValueError: The event's name is reserved.
            ClientClosed: The client is closed.
        """
        self._lifetime.check()
        sent = self._driver.link.send_volatile(self._composer.volatile(event, data))
        self._driver.stats.volatile_sent += sent
        self._driver.stats.volatile_dropped += not sent
        return sent

    # Waiting and ending.

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until every message accepted before this call is settled: acknowledged or given up.

        Args:
            timeout: Seconds to wait; ``None``: as long as it takes, also while offline, paused or held.

        Raises:
            FlushTimeout: Messages are still pending; they stay so.
        """
        if timeout is None:
            self._driver.check_wait()
        else:
            seconds("timeout", timeout, zero=True)
        await self._lifetime.flush(timeout)

    async def close(self, *, timeout: float = _CLOSE_TIMEOUT) -> int:
        """Flush, and end: within `timeout` seconds and two more for disconnecting, whatever the network does.

        Nothing is accepted from the call on. What is still pending then stays in a durable outbox; otherwise it is
        given up as ``dropped``, and is among :meth:`dead_letters`. The wrapped client is disconnected if
        :meth:`connect` connected it, once the last ReliableClient around it is closed, and left alone otherwise.
        Calling it again waits for the same end. Cancelling the call skips the waiting, not the ending; so does calling
        it in a disconnect handler, before whose return nothing is acknowledged.

        Args:
            timeout: Seconds to wait for what is pending; 0: none.

        Returns:
            How many messages remained.
        """
        return await self._lifetime.end(seconds("timeout", timeout, zero=True))

    # Looking and steering.

    @property
    def pending(self) -> int:
        """How many messages are accepted and not settled; of a durable outbox, once it is open."""
        return self._lifetime.pending

    def queue(self) -> list[Delivery]:
        """Return the deliveries of all pending messages, in order; the list is a snapshot, the handles are live."""
        return [self._driver.delivery(message) for message in self._outbox]

    @property
    def stats(self) -> Stats:
        """A copy of the counters since the client was made."""
        return dataclasses.replace(self._driver.stats)

    def dead_letters(self) -> list[DeadLetter]:
        """Return the messages that were given up (but not those that you cancelled), oldest first."""
        letters = self._outbox.dead_letters()
        # An outbox that is not open cannot know how they are read.
        return [dataclasses.replace(letter, _decode=self._driver.decode) for letter in letters]

    def redeliver(self, offset: str) -> Delivery:
        """Send a dead letter again, or a held message, under the same offset and with all its retries.

        A dead letter joins the end of the queue, whatever `max_pending` says: it was accepted before. It has no time to
        live any more, and the callback it was emitted with is not called: await the new delivery.

        Raises:
            KeyError: There is no dead letter and no held message with that offset.
            ClientClosed: The client is closed.
        """
        self._lifetime.check()
        self._lifetime.begin()
        held = self._outbox.get(offset)
        if held is not None and self._driver.release(held):
            return self._driver.delivery(held)
        delivery = self._driver.revive(offset)
        if delivery is None:
            raise KeyError(f"no dead letter and no held message has the offset {offset!r}; see dead_letters()")
        return delivery

    def discard(self, offset: str) -> None:
        """Throw a dead letter away, or give a pending message up as ``cancelled``.

        Raises:
            KeyError: Nothing has that offset.
            ClientClosed: The client is closed, and the outbox, which is durable, may be another's by now.
        """
        if self._outbox.durable:
            self._lifetime.check()
        message = self._outbox.get(offset)
        if message is not None:
            self._driver.withdraw(message, "cancelled", "it was discarded")
        elif not self._outbox.forget(offset):
            raise KeyError(
                f"no pending message and no dead letter has the offset {offset!r}; see queue(), dead_letters()"
            )

    def pause(self) -> None:
        """Send nothing more; what is in flight may still be acknowledged, and ``emit`` goes on accepting."""
        self._driver.pause()

    def resume(self) -> None:
        """Go on sending after :meth:`pause`, and try a held message again."""
        self._driver.resume()

    def on(self, hook: str, function: Callable[..., object] | None = None) -> Any:
        """Have a function called when something happens; without `function` it is a decorator.

        ``sent``, ``retried``, ``acknowledged``, ``dead_lettered`` and ``dropped`` are called with the
        :class:`Delivery`; ``connecting`` with the number of the attempt, ``connected`` with the socket id,
        ``disconnected`` with the reason, ``recycled`` with the evidence that the connection was dead, ``gave_up`` with
        the error that is final. A message that is sent again is both sent and retried, one that overflowed both dropped
        and dead-lettered. Functions may be coroutine functions. They are called from the event loop, after the fact;
        whatever they raise is logged and stops nothing.

        Raises:
            ValueError: There is no such hook.
            TypeError: `function` cannot be called.
        """
        if function is not None:
            self._driver.hooks.add(hook, function)
            return function

        def register(decorated: Callable[..., object]) -> Callable[..., object]:
            self._driver.hooks.add(hook, decorated)
            return decorated

        return register
