"""Conformance with the volatile packets of socket.io-client 4.8: cases 7 to 9."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support import rig, within

if TYPE_CHECKING:
    from support import Server


async def test_case_07_a_volatile_message_is_dropped_while_offline(server: Server) -> None:
    """JavaScript: only the emit that is not volatile is sent after connecting."""
    async with rig(server, connect=False) as it:
        assert await it.client.emit_volatile("echo", "volatile") is False
        delivery = await it.client.emit("echo", "kept")
        assert it.client.pending == 1
        await it.connect()
        assert await within(delivery) == "kept"
        assert it.wire == ["0{}", '21["echo","kept"]']
        assert (it.client.stats.volatile_sent, it.client.stats.volatile_dropped) == (0, 1)


async def test_case_08_a_volatile_message_is_dropped_while_the_connection_is_not_writable(server: Server) -> None:
    """An emit and, in the same step, a volatile one.

    JavaScript: the transport is busy with the first, so the second is dropped.
    """
    async with rig(server) as it:
        delivery = await it.client.emit("echo", "kept")
        assert await it.client.emit_volatile("echo", "volatile") is False
        assert await within(delivery) == "kept"
        assert it.wire == ["0{}", '21["echo","kept"]']
        assert server.arguments() == ["kept"]


async def test_case_09_a_volatile_message_is_delivered_while_the_connection_is_idle(server: Server) -> None:
    """JavaScript: `2["echo","volatile"]`, without an id if no callback is given. Ours takes none."""
    async with rig(server) as it:
        assert await it.client.emit_volatile("echo", "volatile") is True
        await server.received.has(1)
        assert server.arguments() == ["volatile"]
        assert it.wire == ["0{}", '2["echo","volatile"]']
        assert it.client.pending == 0
