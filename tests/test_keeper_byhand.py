"""The user drives the wrapped client herself, while it is kept connected: she is neither fought nor left alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import socketio
import tenacity

from keeper_support import QUICK, kept, until, works
from reliable_emit import ReliableClient
from support import Server, within


async def test_a_connect_by_hand_that_fails_does_not_end_the_keeping(server: Server) -> None:
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(0.2)}) as it:
        await server.stop()
        await it.downs.has(1)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await it.sio.connect(server.url, transports=["websocket"])
        await server.start()
        await it.ups.has(2)
        await works(it)
        server.cut()
        await it.ups.has(3)


async def test_a_connect_by_hand_that_is_refused_does_not_end_the_keeping(server: Server) -> None:
    """python-socketio disconnects it then, as a user would."""
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(0.2)}) as it:
        server.sio.on("connect", lambda *_: False)
        server.cut()
        await it.downs.has(1)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await it.sio.connect(server.url, transports=["websocket"])
        server.sio.on("connect", lambda *_: None)
        await it.ups.has(2)
        await works(it)
        server.cut()
        await it.ups.has(3)


async def test_a_connect_by_hand_that_takes_its_time_is_not_overtaken(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(0.02)}) as it:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_sid: str, _environ: object, _auth: object = None) -> None:
            begun.set()
            await go_on.wait()

        server.sio.on("connect", slow)
        server.cut()
        await it.downs.has(1)
        connecting = asyncio.ensure_future(it.sio.connect(server.url, transports=["websocket"], wait_timeout=20))
        await within(begun.wait())
        pauses = []
        keeper = it.client._driver.link._tap.keeper
        original = keeper.pause

        async def pause(*given: Any) -> None:
            pauses.append(given)
            await original(*given)

        monkeypatch.setattr(keeper, "pause", pause)
        await until(lambda: len(pauses) >= 3)
        go_on.set()
        await within(connecting)
        await works(it)
        await until(lambda: "_handle_reconnect" not in it.sio.__dict__)
        assert len(it.attempts) == 1
        assert len(it.ups) == 2


@pytest.mark.parametrize("how", ["a kick", "a lost connection"])
@pytest.mark.parametrize("phase", ["at once", "later"])
async def test_closing_leaves_a_connection_made_by_hand_alone(server: Server, how: str, phase: str) -> None:
    pause = 3600 if phase == "at once" else 0.02
    options = QUICK | {"reconnect_after_kick": False, "reconnect_backoff": tenacity.wait_fixed(pause)}
    sio = socketio.AsyncClient(handle_sigint=False)
    async with kept(None, sio=sio) as it:
        await within(it.client.connect(server.url, **options))
        if how == "a kick":
            await server.sio.disconnect(sio.get_sid())
            await within(sio.wait())
        else:
            server.cut()
            await it.downs.has(1)
        await sio.connect(server.url, transports=["websocket"])
        if phase == "later":
            await until(lambda: how == "a kick" or "_handle_reconnect" not in sio.__dict__)
        await it.client.close(timeout=0)
        assert "_handle_reconnect" not in sio.__dict__
        assert sio.connected
        assert await within(sio.call("echo", "hers")) == "hers"


async def test_closing_after_a_connect_by_hand_that_failed_ends_the_reconnecting(server: Server) -> None:
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(3600)}) as it:
        await server.stop()
        await it.downs.has(1)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await it.sio.connect(server.url, transports=["websocket"])
        await within(it.client.close(timeout=0))
        assert it.sio._reconnect_task is None
        assert "_handle_reconnect" not in it.sio.__dict__


async def test_the_state_tells_when_nobody_tries_any_more(server: Server) -> None:
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(3600)}) as it:
        await server.stop()
        await until(lambda: it.client.state.next_in is not None)
        assert it.client.state.phase == "connecting"
        await within(it.sio.shutdown())
        assert str(it.client.state) == "not connected: the connection was lost; 0 waiting"


async def test_the_state_tells_that_connecting_was_cancelled(server: Server) -> None:
    await server.stop()
    async with kept(None) as it:
        connecting = asyncio.ensure_future(it.client.connect(server.url, **QUICK))
        await it.attempts.has(2)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(connecting)
        assert str(it.client.state) == "not connected: connecting was cancelled; 0 waiting"


def test_the_state_can_be_looked_at_without_an_event_loop() -> None:
    async def lose() -> ReliableClient:
        async with Server() as server:
            sio = socketio.AsyncClient(handle_sigint=False)
            client = ReliableClient(sio)
            await client.connect(server.url, **(QUICK | {"reconnect_backoff": tenacity.wait_fixed(3600)}))
            await server.stop()
            await until(lambda: client.state.next_in is not None)
            return client

    client = asyncio.run(lose())
    assert client.state.phase in {"connecting", "disconnected"}


async def test_connecting_in_a_disconnect_handler_is_refused(server: Server) -> None:
    async with kept(server) as it:

        async def on_disconnect(_reason: str) -> None:
            await it.sio.disconnect()
            try:
                await it.client.connect(server.url, **QUICK)
            except RuntimeError as error:
                it.seen.add(str(error))

        it.sio.on("disconnect", on_disconnect)
        await server.sio.disconnect(it.sio.get_sid())
        await it.seen.has(1)
        assert "inside a disconnect handler" in it.seen[0]
        it.sio.on("disconnect", lambda _reason: None)
        await until(lambda: it.sio.eio.state == "disconnected")
        await within(it.client.connect(server.url, **QUICK))
        await works(it)


async def test_a_connection_made_while_a_disconnect_handler_waits_for_it_is_made_again(server: Server) -> None:
    """python-socketio ends whatever connection there is when the handler of the last namespace has returned."""
    async with kept(server) as it:

        async def on_disconnect(_reason: str) -> None:
            it.sio.on("disconnect", lambda _reason: None)
            await it.sio.disconnect()
            await asyncio.ensure_future(it.client.connect(server.url, **QUICK))
            it.seen.add("connected")

        it.sio.on("disconnect", on_disconnect)
        await server.sio.disconnect(it.sio.get_sid())
        await it.seen.has(1)
        await it.ups.has(3)
        await works(it)


async def test_a_namespace_that_is_wrapped_too_late_is_told_so_and_never_called_connecting() -> None:
    async with Server("/", "/b") as server:
        sio = socketio.AsyncClient(handle_sigint=False)
        async with kept(server, sio=sio) as it, kept(None, sio=sio, namespace="/b") as late:
            with pytest.raises(socketio.exceptions.ConnectionError, match="without '/b': wrap all namespaces before"):
                await within(late.client.connect(server.url, **QUICK))
            server.cut()
            await it.ups.has(2)
            assert late.attempts == []
            assert late.client.state.phase == "disconnected"
            await sio.disconnect()
            await within(late.client.connect(server.url, **QUICK))
            await works(late)
