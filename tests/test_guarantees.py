"""Points of failure, each from the emit to the database and the reader; `docs/delivery-guarantees.md` has them all."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import socketio
import tenacity

from reliable_emit import DeliveryFailed, ReliableClient
from reliable_emit.server import FAULTS, Fault, Faults, ReferenceServer
from server_support import plain
from support import NO_ACK, PATIENCE, Clock, Server, rig, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[asyncio.subprocess.Process]]

EVENT = "chat message"
SOON: dict[str, Any] = {"client_offset": True, "ack_timeout": 0.3}
"""For faults that end in silence: the clock cannot be turned, the reference server lives by it too."""


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Runs programs in processes of their own."""
    processes: list[asyncio.subprocess.Process] = []

    async def run(program: str, *arguments: object) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *map(str, arguments), stdout=asyncio.subprocess.PIPE
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def says(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await within(process.stdout.readline())).decode().strip()


# The network and the server fail.


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_the_server_does_wrong_a_message_is_stored_once_in_its_place(fault: Fault) -> None:
    faults = Faults(late=60)
    faults.script(None, fault, fault)
    async with ReferenceServer(faults=faults) as server, plain(server.url) as reader, rig(server.url, **SOON) as it:
        deliveries = [await it.client.emit(EVENT, text) for text in ("before", "at", "after")]
        assert list(await within(asyncio.gather(*deliveries))) == [1, 2, 3]
        await reader.has(3)
        await reader.quiet()
        assert reader.rows == [("before", 1), ("at", 2), ("after", 3)]
        assert [(row.text, row.client_offset) for row in await server.messages()] == [
            (delivery.data[0], delivery.offset) for delivery in deliveries
        ]
        assert deliveries[1].attempts > 1
        assert faults.counts[fault] == 2


# A server that kills itself, as `kill -9` does, at the given point of the first message it gets.
_SERVER = """
import asyncio, os, signal, sys
from reliable_emit.server import ReferenceServer

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main(path, port, where):
    server = ReferenceServer(path, port=int(port))
    chat, keep = server._chat, server._chat._keep

    async def keep_and_hang(*message):
        await keep(*message)
        await asyncio.Event().wait()  # until somebody kills us

    if where == "before the commit":
        server._history.add = die
    elif where == "between commit and broadcast":
        server._feed.tell = die
    elif where == "between broadcast and acknowledgement":
        chat._keep = keep_and_hang
    async with server:
        print(server.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("where", "seen"),
    [("before the commit", 0), ("between commit and broadcast", 0), ("between broadcast and acknowledgement", 1)],
)
async def test_a_server_that_is_killed_loses_and_doubles_nothing(
    tmp_path: Path, start: Start, where: str, seen: int
) -> None:
    dying = await start(_SERVER, tmp_path / "chat.db", 0, where)
    port = await says(dying)
    url = f"http://127.0.0.1:{port}"
    async with plain(url) as reader, rig(url, client_offset=True) as it:
        first = await it.client.emit(EVENT, "first")
        second = await it.client.emit(EVENT, "second")
        if seen:
            await reader.has(seen)
            os.kill(dying.pid, signal.SIGKILL)
        assert await within(dying.wait()) == -signal.SIGKILL
        await within(reader.gone.wait())
        assert len(reader.rows) == seen
        assert await says(await start(_SERVER, tmp_path / "chat.db", port, "nowhere")) == port
        assert list(await within(asyncio.gather(first, second))) == [1, 2]
        assert first.attempts == 2
        async with plain(url, {"serverOffset": seen}) as again:
            await again.has(2 - seen)
            await again.quiet()
            assert reader.rows + again.rows == [("first", 1), ("second", 2)]


async def test_a_message_written_to_a_connection_that_is_dead_already_is_sent_on_the_next_one(server: Server) -> None:
    async with rig(server, retries=0, client_offset=True) as it:
        server.cut()
        delivery = await it.client.emit("sink", "x")  # nobody has noticed yet: it is sent, and lost
        assert delivery.state == "in_flight"
        await within(delivery)
        assert delivery.attempts == 2
        assert it.client.stats.lost == 1
    assert [item.arguments for item in server.received] == [("x", delivery.offset)]


async def test_after_a_kick_messages_wait_for_somebody_to_connect(server: Server) -> None:
    async with rig(server) as it:
        await server.sio.disconnect(it.sio.get_sid())
        await it.downs.has(1)
        delivery = await it.client.emit("echo", "x")
        await within(it.sio.wait())  # python-socketio does not come back after this
        assert delivery.state == "queued"
        await it.connect()
        assert await within(delivery) == "x"


async def test_a_disconnect_handler_that_raises_leaves_messages_waiting(server: Server) -> None:
    async with rig(server) as it:

        def on_disconnect(_reason: str) -> None:
            raise LookupError("the program's own mistake")

        it.sio.on("disconnect", on_disconnect)
        server.cut()
        await it.downs.has(1)
        delivery = await it.client.emit("echo", "x")
        assert it.sio.connected, "python-socketio believes so from now on, and does not reconnect"
        assert (it.client.connected, delivery.state) == (False, "queued")


# The server's application fails.


async def test_a_handler_that_raises_sends_no_acknowledgement_and_is_asked_again(server: Server, clock: Clock) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))

    def handler(_sid: str, text: str) -> str:
        if len(server.received) < 3:
            raise LookupError("the server's own mistake")
        return text

    server.handlers["fragile"] = handler
    async with rig(server, retries=2) as it:
        delivery = await it.client.emit("fragile", "x")
        for attempt in (1, 2):
            await server.received.has(attempt)
            await clock.forward(11)
        assert await within(delivery) == "x"
        assert delivery.attempts == 3


async def test_a_database_that_is_down_for_longer_than_the_retries_loses_nothing() -> None:
    faults = Faults(fail_database=1.0)
    async with ReferenceServer(faults=faults) as server, rig(server.url, retries=1, **SOON) as it:
        given_up = await it.client.emit(EVENT, "one")
        with pytest.raises(DeliveryFailed, match="exhausted after 2 attempts"):
            await within(given_up)
        patient = await it.client.emit(EVENT, "two", retries=None)
        faults.calm()
        await within(patient)
        await within(it.client.redeliver(given_up.offset))
        assert [row.text for row in await server.messages()] == ["two", "one"]  # the order is lost


async def test_holding_keeps_the_order_while_the_database_is_down() -> None:
    faults = Faults(fail_database=1.0)
    async with (
        ReferenceServer(faults=faults) as server,
        rig(server.url, retries=1, on_exhausted="hold", **SOON) as it,
    ):
        deliveries = [await it.client.emit(EVENT, text) for text in ("one", "two")]
        async with asyncio.timeout(PATIENCE):
            while faults.counts["fail_database"] < 2 or deliveries[0].state == "in_flight":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [delivery.state for delivery in deliveries] == ["queued", "queued"]
        faults.calm()
        it.client.resume()
        await within(it.client.flush())
        assert [row.text for row in await server.messages()] == ["one", "two"]


async def test_a_server_that_looks_at_no_offset_handles_a_repetition_again(server: Server) -> None:
    answered: list[str] = []

    def handler(_sid: str, text: str, _offset: str) -> object:
        answered.append(text)
        if len(answered) == 1:
            server.cut()
            return NO_ACK
        return None

    server.handlers["naive"] = handler
    async with rig(server, client_offset=True) as it:
        await within(it.client.call("naive", "x"))
    assert answered == ["x", "x"]


# The sender fails.

_SENDER = """
import asyncio, sys, socketio
from reliable_emit import ReliableClient

async def main(url):
    client = ReliableClient(socketio.AsyncClient(), client_offset=True)
    await client.connect(url, transports="websocket")
    await client.call("chat message", "acknowledged")
    for text in ("in flight", "waiting"):
        await client.emit("chat message", text)
    print("accepted", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_sender_loses_what_waited_in_memory(start: Start) -> None:
    faults = Faults(fail_database=1.0)
    faults.script(None)
    async with ReferenceServer(faults=faults) as server:
        sender = await start(_SENDER, server.url)
        assert await says(sender) == "accepted"
        os.kill(sender.pid, signal.SIGKILL)
        await within(sender.wait())
        assert [row.text for row in await server.messages()] == ["acknowledged"]


async def test_two_senders_that_start_offline_do_not_make_the_same_offset() -> None:
    async with ReferenceServer() as server:
        senders = [ReliableClient(socketio.AsyncClient(handle_sigint=False), client_offset=True) for _ in "ab"]
        deliveries = [await sender.emit(EVENT, "good morning") for sender in senders]
        for sender in senders:
            await sender.connect(server.url, transports="websocket")
            await sender.close()
        assert sorted([await within(delivery) for delivery in deliveries]) == [1, 2]
        assert len(await server.messages()) == 2


async def test_somebody_elses_offset_can_be_taken_where_nobody_logs_in() -> None:
    async with ReferenceServer() as server, rig(server.url, client_offset=True) as it, plain(server.url) as other:
        delivery = await it.client.emit(EVENT, "zero")
        await within(delivery)
        prefix, _, counter = delivery.offset.rpartition("-")
        assert await other.say("forged", f"{prefix}-{int(counter) + 1}") == 2
        with pytest.raises(DeliveryFailed, match="belongs to another message") as caught:
            await within(it.client.call(EVENT, "mine"))
        assert caught.value.reason == "rejected"


async def test_an_offset_that_is_taken_harms_nobody_who_has_logged_in() -> None:
    async def authenticate(auth: dict[str, str], _: dict[str, Any]) -> str:
        return auth["user"]

    async with (
        ReferenceServer(authenticate=authenticate) as server,
        plain(server.url, {"user": "mallory"}) as mallory,
        rig(server.url, connect=False, client_offset=True, backoff=tenacity.wait_none()) as it,
    ):
        await it.connect(auth={"user": "alice"})
        first = await it.client.emit(EVENT, "zero")
        await within(first)
        prefix, _, counter = first.offset.rpartition("-")
        assert await mallory.say("forged", f"{prefix}-{int(counter) + 1}") == 2
        assert await within(it.client.call(EVENT, "mine")) == 3
