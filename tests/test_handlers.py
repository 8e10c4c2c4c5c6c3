"""The wrapped client stays the user's: a program sees the same, wrapped and unwrapped."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import socketio

from reliable_emit import ReliableClient
from support import Log, Server, within

Seen = Log[tuple[Any, ...]]


class ClassBased(socketio.AsyncClientNamespace):  # type: ignore[misc]  # socketio is untyped
    def __init__(self, namespace: str, seen: Seen) -> None:
        super().__init__(namespace)
        self.seen = seen

    async def on_connect(self) -> None:
        self.seen.add(("class", "connect"))

    async def on_disconnect(self, reason: str) -> None:
        self.seen.add(("class", "disconnect", reason))

    async def on_news(self, *arguments: Any) -> str:
        self.seen.add(("class", "news", arguments))
        return "class-based reply"


def program(sio: socketio.AsyncClient, seen: Seen) -> None:
    """An existing program: handlers of each kind, one of which raises."""

    async def on_connect() -> None:
        seen.add(("connect", sio.get_sid() is not None, sio.connected))

    def on_disconnect(reason: str) -> None:
        seen.add(("disconnect", reason, sio.connected))

    async def on_news(*arguments: Any) -> tuple[str, int]:
        seen.add(("news", arguments))
        return "reply", 2

    def on_anything(event: str, *arguments: Any) -> None:
        seen.add(("*", event, arguments))
        if event == "raise":
            raise LookupError("the program's own mistake")

    sio.on("connect", on_connect)
    sio.on("disconnect", on_disconnect)
    sio.on("news", on_news)
    sio.on("*", on_anything)
    sio.on("connect_error", lambda *error: seen.add(("connect_error", error)))
    sio.on("disconnect", lambda reason: seen.add(("other disconnect", reason)), namespace="/other")
    sio.register_namespace(ClassBased("/class", seen))


async def live(server: Server, sio: socketio.AsyncClient, seen: Seen) -> None:
    """What happens to the program: events, questions, a drop, a reconnect, a kick of one namespace, the end."""
    names = ["/", "/class", "/other"]
    connections = len(server.connections)
    await sio.connect(server.url, namespaces=names, transports=["websocket"])
    await server.connections.has(connections + 3)
    sids = {name: sio.get_sid(name) for name in names}
    await server.sio.emit("news", ("a", b"binary", None), to=sids["/"])
    await server.sio.emit("unknown", {"b": [1, 2]}, to=sids["/"])
    seen.add(("server got", await within(server.sio.call("news", "question", to=sids["/"]))))
    seen.add(("server got", await within(server.sio.call("news", "question", to=sids["/class"], namespace="/class"))))
    seen.add(("reply", await within(sio.call("echo", ("x", b"y")))))
    await seen.until(lambda items: ("*", "unknown", ({"b": [1, 2]},)) in items)
    before = len(seen)
    server.cut()
    await seen.until(lambda items: len([item for item in items[before:] if "connect" in item]) >= 2)
    for name in names:
        async with asyncio.timeout(20):
            while sio.get_sid(name) in {None, sids[name]} or not sio.connected:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
    await server.sio.disconnect(sio.get_sid("/class"), namespace="/class")
    await seen.until(lambda items: ("class", "disconnect", "server disconnect") in items)
    await sio.disconnect()
    seen.add(("end", sio.connected, sio.sid, dict(sio.namespaces)))


def client() -> socketio.AsyncClient:
    return socketio.AsyncClient(
        handle_sigint=False, reconnection_delay=0.02, reconnection_delay_max=0.05, randomization_factor=0
    )


@pytest.mark.parametrize("registered", ["before wrapping", "after wrapping"])
async def test_a_program_sees_the_same_wrapped_and_unwrapped(registered: str) -> None:
    async with Server("/", "/class", "/other") as server:
        plain, wrapped = Log[tuple[Any, ...]](), Log[tuple[Any, ...]]()
        sio = client()
        program(sio, plain)
        await live(server, sio, plain)

        sio = client()
        if registered == "before wrapping":
            program(sio, wrapped)
        wrappers = [ReliableClient(sio, namespace=name) for name in ("/", "/class", "/other")]
        if registered == "after wrapping":
            program(sio, wrapped)
        deliveries = [await wrapper.emit("sink", "on the side") for wrapper in wrappers]
        await live(server, sio, wrapped)
        assert [await within(delivery) for delivery in deliveries] == [None, None, None]
        for wrapper in wrappers:
            await wrapper.close()
    assert by_source(wrapped) == by_source(plain)
    assert len(plain) > 12


def by_source(seen: Seen) -> dict[str, list[tuple[Any, ...]]]:
    """Each handler's own sequence; python-socketio runs the handlers of different namespaces concurrently."""
    sources: dict[str, list[tuple[Any, ...]]] = {}
    for item in seen:
        sources.setdefault(str(item[0]), []).append(item)
    return sources


async def test_a_handler_that_raises_raises_as_before(server: Server) -> None:
    loop = asyncio.get_running_loop()
    problems: Log[dict[str, Any]] = Log()
    loop.set_exception_handler(lambda _, context: problems.add(context))
    seen: list[list[str]] = []
    for wrap in (False, True):
        sio = client()
        program(sio, Log())
        wrapper = ReliableClient(sio) if wrap else None
        await sio.connect(server.url, transports=["websocket"], namespaces=["/"])
        await server.sio.emit("raise", to=sio.get_sid())
        await within(sio.call("echo", "the connection lives on"))
        await sio.disconnect()
        if wrapper is not None:
            await wrapper.close()
        gc.collect()
        seen.append([repr(problem.get("exception")) for problem in problems])
        problems.clear()
    assert seen[0] == seen[1] == ['LookupError("the program\'s own mistake")']


async def test_an_emit_before_connecting_goes_out_before_one_from_the_connect_handler(server: Server) -> None:
    sio = client()
    handling = asyncio.Event()
    async with ReliableClient(sio) as wrapper:

        async def on_connect() -> None:
            await wrapper.call("echo", "from the handler")  # waits for its reply inside the handler
            handling.set()

        sio.on("connect", on_connect)
        await wrapper.emit("echo", "early")
        await wrapper.connect(server.url, transports="websocket")
        await within(handling.wait())
        await wrapper.flush()
    assert server.arguments() == ["early", "from the handler"]


async def test_a_connect_handler_that_takes_its_time_does_not_hold_up_the_queue(server: Server) -> None:
    sio = client()
    release = asyncio.Event()
    async with ReliableClient(sio) as wrapper:

        async def on_connect() -> None:
            await release.wait()

        sio.on("connect", on_connect)
        delivery = await wrapper.emit("echo", "early")
        connecting = asyncio.ensure_future(wrapper.connect(server.url, transports="websocket"))
        assert await within(delivery) == "early"
        release.set()
        await within(connecting)
