"""The server disconnects the client, or refuses it, at inconvenient moments."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import socketio

from keeper_support import QUICK, kept, until, works
from reliable_emit import ConnectionRejected
from reliable_emit.link import streak
from support import Log, Server, within


@pytest.mark.parametrize("come_back", [True, False])
async def test_a_kick_in_an_attempt_that_fails_is_forgotten(server: Server, come_back: bool) -> None:
    """It was of a connection that is gone; the next one is healthy."""
    async with kept(None) as it:
        handling, go_on = asyncio.Event(), asyncio.Event()

        async def on_connect() -> None:
            it.seen.add("connect")
            if len(it.seen) == 1:
                handling.set()
                await go_on.wait()

        it.sio.on("connect", on_connect)
        connecting = asyncio.ensure_future(it.client.connect(server.url, reconnect_after_kick=come_back, **QUICK))
        await within(handling.wait())
        await server.sio.disconnect(it.sio.get_sid())
        await it.downs.has(1)
        server.cut()
        await until(lambda: it.sio.eio.state == "disconnected")
        go_on.set()
        await within(connecting)
        await works(it)
        assert len(server.connections) == len(it.ups) == 2
        server.cut()
        await it.ups.has(3)
        await works(it)


async def test_a_kick_during_the_connect_handler_is_no_connection_either_if_nobody_comes_back(server: Server) -> None:
    async with kept(None) as it:

        async def on_connect() -> None:
            await server.sio.disconnect(it.sio.get_sid())
            await it.downs.has(1)

        it.sio.on("connect", on_connect)
        with pytest.raises(socketio.exceptions.ConnectionError, match="the server disconnected the client"):
            await within(it.client.connect(server.url, reconnect_after_kick=False, **QUICK))
        assert len(it.attempts) == 1
        assert (it.sio.connected, it.sio.eio.state) == (False, "disconnected")
        it.sio.on("connect", lambda: None)
        await within(it.client.connect(server.url, reconnect_after_kick=False, **QUICK))
        await works(it)


async def test_a_kick_during_the_connect_handler_of_a_reconnection_ends_the_keeping_if_nobody_comes_back(
    server: Server,
) -> None:
    async with kept(server, connect={"reconnect_after_kick": False}) as it:

        async def on_connect() -> None:
            await server.sio.disconnect(it.sio.get_sid())
            await it.downs.has(2)

        it.sio.on("connect", on_connect)
        server.cut()
        await it.downs.has(2)
        await until(lambda: not it.client._driver.link._tap.keeper.reconnects)
        assert len(it.attempts) == 2
        assert (it.sio.connected, it.sio.eio.state) == (False, "disconnected")
        assert it.client.state.phase == "disconnected"
        it.sio.on("connect", lambda: None)
        await within(it.client.connect(server.url, **QUICK))
        await works(it)


async def test_the_default_namespace_refused_for_good_ends_all_of_it() -> None:
    """python-socketio forgets all namespaces then, but leaves the connection open."""
    async with Server("/", "/b") as server:
        sio = socketio.AsyncClient(handle_sigint=False)
        async with kept(None, sio=sio) as it, kept(None, namespace="/b", sio=sio) as other:
            await within(it.client.connect(server.url, final=lambda _: True, **QUICK))
            await other.ups.has(1)
            server.sio.on("connect", lambda *_: False, namespace="/")
            await server.sio.disconnect(sio.get_sid("/"), namespace="/")
            await it.gave_up.has(1)
            await other.gave_up.has(1)
            await until(lambda: sio.eio.state == "disconnected")
            assert not sio.connected
            assert {it.client.state.phase, other.client.state.phase} == {"gave_up"}
            assert isinstance(it.gave_up[0], ConnectionRejected)
            server.sio.on("connect", lambda *_: None, namespace="/")
            await within(it.client.connect(server.url, **QUICK))
            await works(it)
            await works(other)


@pytest.mark.parametrize("handler", ["none", "slow", "raises"])
async def test_a_refusal_that_comes_after_connect_has_returned_is_minded(server: Server, handler: str) -> None:
    async with kept(None) as it:

        async def on_connect_error(_said: object) -> None:
            it.seen.add("refused")
            if handler == "raises":
                raise LookupError("the program's own mistake")
            await asyncio.sleep(0.1)

        if handler != "none":
            it.sio.on("connect_error", on_connect_error)
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        server.sio.on("connect", lambda *_: False)
        await within(it.client.connect(server.url, final=lambda _: True, wait=False, **QUICK))
        await it.gave_up.has(1)
        await until(lambda: it.sio.eio.state == "disconnected")
        assert (it.client.state.phase, it.sio.connected) == ("gave_up", False)
        server.sio.on("connect", lambda *_: None)
        await within(it.client.connect(server.url, **QUICK))
        await works(it)


async def test_connect_ends_what_a_refusal_has_left_of_a_connection_made_by_hand(server: Server) -> None:
    async with kept(None) as it:
        server.sio.on("connect", lambda *_: False)
        refused = asyncio.Event()
        it.sio.on("connect_error", lambda *_: refused.set())
        await it.sio.connect(server.url, transports=["websocket"], wait=False)
        await within(refused.wait())
        await until(lambda: not it.sio.connected)
        assert it.sio.eio.state == "connected"
        server.sio.on("connect", lambda *_: None)
        await within(it.client.connect(server.url, **QUICK))
        await works(it)


def recorded(pauses: Log[int]) -> dict[str, Any]:
    """A backoff that says which pause in a row it is asked for."""

    def backoff(state: Any) -> float:
        pauses.add(state.attempt_number)
        return 0.01

    return QUICK | {"reconnect_backoff": backoff}


@pytest.mark.parametrize("namespaces", [("/",), ("/", "/b")])
async def test_the_pauses_grow_while_a_namespace_is_kicked_as_soon_as_it_is_accepted(
    namespaces: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone it takes the connection with it, otherwise it is asked for again on that."""
    async with Server(*namespaces) as server:
        kicked, pauses = namespaces[-1], Log[int]()
        sio = socketio.AsyncClient(handle_sigint=False)
        async with kept(None, sio=sio, namespace=kicked) as it:

            async def kick(sid: str) -> None:
                await server.sio.disconnect(sid, namespace=kicked)

            await within(it.client.connect(server.url, namespaces=list(namespaces), **recorded(pauses)))
            pauses.clear()  # the backoff was tried when it was given
            it.client.on("connected", kick)
            await kick(sio.get_sid(kicked))
            await pauses.has(4)
            assert pauses[:4] == [1, 2, 3, 4]
            monkeypatch.setattr(streak, "_LASTED", 0.0)
            await pauses.until(lambda items: items[-2:] == [1, 1])


async def test_the_pauses_grow_while_nobody_answers(server: Server) -> None:
    pauses = Log[int]()
    async with kept(server, connect=recorded(pauses)) as it:
        pauses.clear()
        await server.stop()
        await pauses.has(4)
        assert pauses[:4] == [1, 2, 3, 4]
        await server.start()
        await works(it)


async def test_a_connection_that_brought_something_starts_the_pauses_again(server: Server) -> None:
    """On a bad network each connection is short; one that gets a message through has been worth it."""
    pauses = Log[int]()
    async with kept(server, connect=recorded(pauses)) as it:
        pauses.clear()
        for number in range(3):
            await works(it)
            for session in tuple(server.sio.eio.sockets):
                await server.sio.eio.disconnect(session)
            await it.ups.has(2 + number)
        assert pauses == [1, 1, 1]
