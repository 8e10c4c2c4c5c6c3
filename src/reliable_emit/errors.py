"""Every error of the library, under one root; each carries its data as attributes and says what to do next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from socketio import exceptions as socketio_exceptions

if TYPE_CHECKING:
    from reliable_emit.delivery import Delivery

Reason = Literal["exhausted", "expired", "rejected", "cancelled", "dropped"]
"""Why a message was given up.

``exhausted``: all attempts failed. ``expired``: its time to live ran out. ``rejected``: the server refused it for good.
``cancelled``: you cancelled or discarded it. ``dropped``: the overflow policy chose it, a client whose outbox is not
durable was closed while it was pending, or what a durable outbox has of it cannot be read.
"""


class ReliableEmitError(Exception):
    """The root of all errors that this library raises on its own account.

    Wrong arguments are the exception to it: they raise ``ValueError`` or ``TypeError`` at the call that made them.
    """


class OutboxFull(ReliableEmitError):
    """The outbox holds as many messages as it may, and the overflow policy is ``"raise"``.

    Attributes:
        limit: The ``max_pending`` that was reached.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the outbox is full: {limit} messages are pending. Nothing was queued; emit again later, raise "
            f'max_pending, or choose overflow="wait", "drop_oldest" or "drop_newest"'
        )
        self.limit = limit


class OutboxLocked(ReliableEmitError):
    """Somebody else owns the outbox; it has one owner at a time.

    Attributes:
        path: The outbox, as its maker named it.
        process: The process that owns it, if that is known.
    """

    def __init__(self, path: str, process: int | None = None) -> None:
        if process is None:
            owner = "another client; end that one first"
        elif process == os.getpid():
            owner = "another client in this process; close that one first"
        else:
            owner = f"process {process}; end that one first"
        super().__init__(f"the outbox {path} is in use by {owner}, or use an outbox each")
        self.path = path
        self.process = process


class OutboxCorrupt(ReliableEmitError):
    """The outbox cannot be read.

    Attributes:
        path: The outbox, as its maker named it.
        detail: What is wrong, in words.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(
            f"the outbox {path} cannot be read: {detail}. Move it aside to start a new one; nothing deletes it"
        )
        self.path = path
        self.detail = detail


class OutboxUnavailable(ReliableEmitError):
    """The outbox cannot be opened or written to; what it has accepted before stays in it.

    Attributes:
        path: The outbox, as its maker named it.
        detail: What is wrong, in words.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"the outbox {path} cannot be used: {detail}. Nothing was queued by this call")
        self.path = path
        self.detail = detail


class ServerOffsetError(ReliableEmitError):
    """The file of a :class:`~reliable_emit.ServerOffset` cannot be used; nothing in it was changed.

    Attributes:
        path: The file.
        detail: What is wrong, and what to do, in words.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"the server offset in {path} cannot be used: {detail}")
        self.path = path
        self.detail = detail


class ClientClosed(ReliableEmitError):
    """The client is closed: it accepts nothing, and delivers nothing, any more."""

    def __init__(self, detail: str = "nothing was queued. Wrap the AsyncClient in a new ReliableClient") -> None:
        super().__init__(f"the client is closed; {detail}")
        self.detail = detail


class FlushTimeout(ReliableEmitError, TimeoutError):
    """Messages were still pending when the time was over.

    Attributes:
        pending: How many.
        where: Where they are now, in words.
    """

    def __init__(self, pending: int, where: str) -> None:
        super().__init__(f"{pending} {'message is' if pending == 1 else 'messages are'} still pending: {where}")
        self.pending = pending
        self.where = where


class DeliveryFailed(ReliableEmitError):
    """A message was given up.

    Attributes:
        delivery: The delivery that failed.
        reason: One of ``exhausted``, ``expired``, ``rejected``, ``cancelled``, ``dropped``.
        attempts: How many times the message was sent.
        possibly_delivered: ``False`` only when the message was certainly never sent.
        detail: What happened, in words; for ``rejected`` the server's own.
    """

    def __init__(
        self, delivery: Delivery, reason: Reason, attempts: int, possibly_delivered: bool, detail: str
    ) -> None:
        super().__init__(
            f"{delivery.event!r} (offset {delivery.offset}) was not delivered: {reason} after {attempts} "
            f"{'attempt' if attempts == 1 else 'attempts'}: {detail}. "
            + ("The server may have handled it" if possibly_delivered else "It was never sent")
            + (_NEXT[reason] if detail != CLOSED else "")
        )
        self.delivery = delivery
        self.reason: Reason = reason
        self.attempts = attempts
        self.possibly_delivered = possibly_delivered
        self.detail = detail


CLOSED = "the client was closed; a new ReliableClient on the same outbox can redeliver(offset) it"

_SHELF = "; it is in dead_letters(), redeliver(offset) sends it again under the same offset"

_NEXT: dict[Reason, str] = {
    "exhausted": _SHELF,
    "expired": _SHELF,
    "rejected": "; it is in dead_letters(), and as it is the server will refuse it again",
    "cancelled": "",
    "dropped": _SHELF,
}


class ConnectionRejected(ReliableEmitError, socketio_exceptions.ConnectionError):  # type: ignore[misc]  # untyped
    """The server refused a namespace, for instance because of a wrong token.

    It is a ``socketio.exceptions.ConnectionError`` too, which is what ``AsyncClient.connect`` raises.

    Attributes:
        namespace: The namespace.
        said: What the server said of it, as it came.
    """

    def __init__(self, namespace: str, said: object) -> None:
        super().__init__(
            f"the server refuses {namespace}: {_said(said)}. Connect with what it asks for; what is queued stays so"
        )
        self.namespace = namespace
        self.said = said

    @property
    def words(self) -> str:
        """What the server said, in a line."""
        return _said(self.said)


def _said(said: object) -> str:
    message = said.get("message", said) if isinstance(said, dict) else said
    return " ".join(str("" if message is None else message).split())[:500] or "no reason given"


class CallTimeout(ReliableEmitError, socketio_exceptions.TimeoutError):  # type: ignore[misc]  # socketio is untyped
    """No reply within the ``timeout`` of a ``call``; a message that was accepted is still being delivered.

    It is a ``socketio.exceptions.TimeoutError`` too, which is what ``AsyncClient.call`` raises.

    Attributes:
        delivery: The delivery, still pending: await it, or ``cancel()`` it. ``None`` if there was no room for the
            message in that time; nothing was queued then.
        timeout: Seconds.
    """

    def __init__(self, event: str, delivery: Delivery | None, timeout: float) -> None:
        super().__init__(
            f"no room for {event!r} within {timeout} s; nothing was queued"
            if delivery is None
            else f"no reply to {event!r} (offset {delivery.offset}) within {timeout} s; it is still being delivered: "
            f"await the error's delivery, or cancel() it; ttl= gives a message up in time"
        )
        self.delivery = delivery
        self.timeout = timeout
