"""Our client and our sender, against a server in Node that is written after the tutorial."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest
import socketio
import tenacity

from cli_support import child, fast_dir, how_many, stored
from node_support import NodeServer, need_server
from reliable_emit import ReliableClient
from reliable_emit.testing import FaultProxy
from server_support import until
from support import PATIENCE, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["fast_dir"]

COUNT = 300


@pytest.fixture
async def node(fast_dir: Path) -> AsyncIterator[NodeServer]:
    need_server()
    async with NodeServer(fast_dir / "chat.db") as started:
        yield started


def offsets(db: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
        return [offset for (offset,) in connection.execute("SELECT client_offset FROM messages ORDER BY id")]


async def test_each_message_is_stored_once_and_in_order_though_the_server_is_killed_and_the_link_cut(
    node: NodeServer, fast_dir: Path
) -> None:
    db = fast_dir / "chat.db"
    sio = socketio.AsyncClient()
    texts = [f"message {number}" for number in range(COUNT)]
    async with (
        FaultProxy("127.0.0.1", node.port) as proxy,
        ReliableClient(sio, client_offset=True, retries=None) as client,
    ):
        await client.connect(proxy.url, transports="websocket", reconnect_backoff=tenacity.wait_fixed(0.05))
        deliveries = [await client.emit("chat message", text) for text in texts]
        await until(deliveries[50].done)
        await node.kill()
        await node.start()
        await until(deliveries[100].done)
        proxy.cut()
        await until(deliveries[150].done)
        proxy.reset()
        await until(deliveries[200].done)
        # A message that arrives, and whose acknowledgement does not.
        proxy.cut_at("to_server", frame=1, passing="all")
        await client.flush(timeout=PATIENCE)
        assert [await delivery for delivery in deliveries] == [None] * COUNT
    assert stored(db) == texts
    assert offsets(db) == [delivery.offset for delivery in deliveries]
    assert max(delivery.attempts for delivery in deliveries) > 1


async def test_a_message_stored_without_an_acknowledgement_is_sent_again_and_taken_for_the_same(
    node: NodeServer, fast_dir: Path
) -> None:
    db = fast_dir / "chat.db"
    sio = socketio.AsyncClient()
    async with FaultProxy("127.0.0.1", node.port) as proxy, ReliableClient(sio, client_offset=True) as client:
        await client.connect(proxy.url, transports="websocket", reconnect_backoff=tenacity.wait_fixed(0.05))
        proxy.half_open("to_client")
        delivery = await client.emit("chat message", "once")
        await until(lambda: how_many(db) == 1)
        proxy.heal()  # resets what has swallowed something
        await within(delivery)
        assert delivery.attempts == 2
    assert stored(db) == ["once"]


async def test_the_command_line_sender_survives_the_death_of_the_server(
    node: NodeServer, fast_dir: Path, tmp_path: Path
) -> None:
    db = fast_dir / "chat.db"
    texts = [f"line {number}" for number in range(1000)]
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{text}\n" for text in texts))
    async with child(
        "send", node.url, "--file", str(lines), "--outbox", str(tmp_path / "outbox.db"), "--summary", "json"
    ) as sender:
        await until(lambda: how_many(db) >= 200)
        await node.kill()
        seen = how_many(db)
        await node.start()
        result = await sender.ended()
    assert (result.status, result.clean) == (0, True), result
    assert result.summary["acknowledged"] == len(texts)
    assert 200 <= seen < len(texts)
    assert stored(db) == texts
