"""Which deliveries there are: one handle on each message, and how long it is kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable, MutableMapping

from reliable_emit.delivery import Delivery, Message, Owner
from reliable_emit.errors import ClientClosed


class Handles:
    """The handles on pending messages, by offset.

    Of a durable outbox most messages may be in the file alone, so a handle lives as long as somebody has it, waits for
    it, or is to be called back; who asks later gets a new one. In memory the message itself is there, and its handle
    with it.

    Args:
        owner: What the deliveries ask.
        durable: Whether the messages are in a durable outbox.
    """

    def __init__(self, owner: Owner, *, durable: bool) -> None:
        self._owner = owner
        self._handles: MutableMapping[str, Delivery] = weakref.WeakValueDictionary() if durable else {}
        self._kept: set[Delivery] = set()
        self._left: str | None = None

    def __contains__(self, offset: str) -> bool:
        return offset in self._handles

    def new(self, message: Message, callback: Callable[..., object] | None = None) -> Delivery:
        """Make the handle on a new message."""
        delivery = self._handles[message.offset] = Delivery(message, self._owner, callback)
        if callback is not None:
            self._kept.add(delivery)
        return delivery

    def of(self, message: Message) -> Delivery:
        """Return the handle on a message."""
        delivery = self._handles.get(message.offset)
        if delivery is None:
            delivery = self.new(message)
            if self._left is not None:
                self._leave(delivery, self._left)
        return delivery

    def known(self, message: Message) -> Message:
        """Return the message itself, if this is a copy that was read while somebody has its handle."""
        delivery = self._handles.get(message.offset)
        return message if delivery is None else delivery._message  # noqa: SLF001 - this side of the handle

    def keep(self, delivery: Delivery) -> None:
        """Keep a handle until it is settled: somebody waits for it."""
        self._kept.add(delivery)

    def release(self, delivery: Delivery) -> None:
        """Keep a handle no longer: it is settled, or its message was not accepted."""
        self._handles.pop(delivery.offset, None)
        self._kept.discard(delivery)

    def rebind(self, message: Message) -> None:
        """The message was loaded from storage: the handle that somebody may have is one on this from now on."""
        delivery = self._handles.get(message.offset)
        if delivery is not None:
            delivery._message = message  # noqa: SLF001 - this side of the handle

    def leave_all(self, where: str) -> None:
        """Tell everybody who waits, and who will, that the messages stay where they are."""
        self._left = where
        for delivery in list(self._handles.values()):
            self._leave(delivery, where)
        self._kept.clear()

    def _leave(self, delivery: Delivery, where: str) -> None:
        detail = f"the message waits {where}, and a new ReliableClient on that outbox delivers it"
        delivery._settle(ClientClosed(detail))  # noqa: SLF001 - this side of the handle
