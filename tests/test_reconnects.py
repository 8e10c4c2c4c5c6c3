"""Many reconnections in a row: each one succeeds, and nothing of them is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import socketio
import tenacity

from reliable_emit import ReliableClient
from reliable_emit.server import ReferenceServer
from reliable_emit.testing import FaultProxy
from support import within

if TYPE_CHECKING:
    from reliable_emit.testing import Ending

AT_ONCE = tenacity.wait_none()


@pytest.mark.parametrize("ending", ["rst", "fin"])
async def test_a_connection_that_is_lost_as_soon_as_it_is_made(ending: Ending) -> None:
    async with (
        ReferenceServer(":memory:") as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        ReliableClient(socketio.AsyncClient(), client_offset=True, max_losses=None) as client,
    ):
        await client.connect(proxy.url, transports="websocket", reconnect_backoff=AT_ONCE)
        # The second frame is the one that accepts the namespace.
        proxy.cut_at("to_client", frame=2, passing="all", ending=ending, each=True)
        proxy.reset()
        await proxy.connected(50)
        proxy.heal()
        await within(client.call("chat message", "at last"))
