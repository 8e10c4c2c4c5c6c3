"""The JavaScript client, with `retries` and `ackTimeout`, against our server; and both kinds of client in one chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import socketio
import tenacity

from cli_support import Served, stored
from node_support import NodeClient, need_client, node_client
from reliable_emit import ReliableClient
from reliable_emit.delivery import rejection_reason
from reliable_emit.server import Faults, ReferenceServer
from reliable_emit.testing import FaultProxy
from server_support import until
from support import PATIENCE, Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

COUNT = 300
ENDLESS: dict[str, Any] = {"retries": None, "ackTimeout": 5000, "transports": ["websocket"]}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    need_client()
    async with Served(tmp_path / "chat.db") as server:
        yield server


def emit(client: NodeClient, name: str, numbers: range) -> list[str]:
    texts = [f"{name} {number}" for number in numbers]
    for number, text in zip(numbers, texts, strict=True):
        client.tell(emit=[text, f"{name}-{number}"])
    return texts


async def test_each_message_is_stored_once_and_in_order_though_the_server_is_killed(
    served: Served, tmp_path: Path
) -> None:
    db = tmp_path / "chat.db"
    async with node_client(served.url, **ENDLESS) as sender, node_client(served.url, **ENDLESS) as reader:
        texts = emit(sender, "a", range(COUNT))
        await sender.has("settled", 100)
        await served.kill()
        killed = len(stored(db))
        await served.start()
        await sender.has("settled", COUNT)
        await reader.has("row", COUNT)
        assert sender.events("settled") == [[f"a-{number}", None, number + 1] for number in range(COUNT)]
        assert reader.events("row") == [[text, number] for number, text in enumerate(texts, 1)]
        assert reader.events("disconnect")
    assert 100 <= killed < COUNT
    assert stored(db) == texts


async def test_two_kinds_of_client_in_one_chat_each_read_each_row_once_in_order(served: Served, tmp_path: Path) -> None:
    auth = {"serverOffset": 0}
    rows: Log[tuple[str, int]] = Log()
    sio = socketio.AsyncClient()

    @sio.on("chat message")  # type: ignore[untyped-decorator]
    async def on_row(text: str, row: int) -> None:
        if row > auth["serverOffset"]:
            auth["serverOffset"] = row
            rows.add((text, row))

    async with (
        node_client(served.url, **ENDLESS) as theirs,
        ReliableClient(sio, client_offset=True, retries=None) as ours,
    ):
        await ours.connect(
            served.url, transports="websocket", auth=lambda: auth, reconnect_backoff=tenacity.wait_fixed(0.05)
        )
        sent = emit(theirs, "theirs", range(COUNT))
        mine = [f"ours {number}" for number in range(COUNT)]
        for text in mine:
            await ours.emit("chat message", text)
        await rows.has(150)
        await served.kill()
        await served.start()
        await rows.has(2 * COUNT)
        await theirs.has("row", 2 * COUNT)
        await ours.flush(timeout=PATIENCE)
        await theirs.has("settled", COUNT)
        kept = stored(tmp_path / "chat.db")
        assert rows == list(zip(kept, range(1, 2 * COUNT + 1), strict=True))
        assert theirs.events("row") == [list(row) for row in rows]
    assert [text for text in kept if text.startswith("theirs")] == sent
    assert [text for text in kept if text.startswith("ours")] == mine
    assert kept[:COUNT] != sent, "they took no turns"


async def flap(proxy: FaultProxy, client: NodeClient, losses: int) -> None:
    """Cut each connection when the client has sent its first message on it, so many times."""
    proxy.cut_at("to_server", frame=2, each=True)  # the first frame asks for the namespace
    await client.has("disconnect", losses)
    proxy.heal()


async def test_on_a_link_that_flaps_only_retries_without_end_deliver() -> None:
    need_client()
    async with ReferenceServer() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        options = {"ackTimeout": 10_000, "transports": ["websocket"], "autoConnect": False}
        async with (
            node_client(proxy.url, retries=3, **options) as three,
            node_client(proxy.url, retries=None, **options) as endless,
        ):
            emit(three, "three", range(2))
            three.tell(connect=True)
            await flap(proxy, three, 6)
            await three.has("settled", 2)
            emit(endless, "endless", range(2))
            endless.tell(connect=True)
            await flap(proxy, endless, 60)
            await endless.has("settled", 2)
            assert three.events("settled")[0] == ["three-0", "socket has been disconnected", None]
            assert three.events("sent").count("three-0") == 4
            assert [error for _, error, _ in endless.events("settled")] == [None, None]
            assert endless.events("sent").count("endless-0") > 60
        texts = [message.text for message in await server.messages()]
        assert texts[-2:] == ["endless 0", "endless 1"]
        assert "three 0" not in texts


async def test_disconnecting_by_hand_keeps_the_queue_of_the_client_and_connecting_goes_on_with_it() -> None:
    need_client()
    async with ReferenceServer() as server, node_client(server.url, **ENDLESS) as client:
        await client.has("connect", 1)
        client.tell(disconnect=True)
        await client.has("disconnect", 1)
        texts = emit(client, "a", range(5))
        client.tell(queue=True)
        await client.has("queue", 1)
        assert client.events("queue") == [5]
        client.tell(connect=True)
        await client.has("settled", 5)
        assert [message.text for message in await server.messages()] == texts


async def test_a_server_slower_than_the_ack_timeout_is_asked_again_and_stores_once() -> None:
    """The client ignores the late acknowledgement, and takes that of a repetition."""
    need_client()
    faults = Faults(seed=1, answer_late=0.5, late=0.6)
    async with ReferenceServer(faults=faults) as server:
        async with node_client(server.url, **(ENDLESS | {"ackTimeout": 300})) as client:
            texts = emit(client, "a", range(8))
            await client.has("settled", 8)
            assert len(client.events("sent")) > 8
        assert [message.text for message in await server.messages()] == texts


async def test_the_client_sees_a_refusal_as_a_reply_and_goes_on() -> None:
    need_client()
    async with ReferenceServer(max_text=10) as server, node_client(server.url, **ENDLESS) as client:
        client.tell(emit=["far too long for it", "a-0"])
        client.tell(emit=["short", "a-1"])
        await client.has("settled", 2)
        (_, error, refused), accepted = client.events("settled")
        assert error is None
        assert rejection_reason((refused,)) == "the text has 19 characters, more than 10"
        assert accepted == ["a-1", None, 1]
        await until(lambda: client.texts == ["short"])
