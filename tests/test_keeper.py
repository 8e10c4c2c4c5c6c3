"""What `client.connect` has connected stays connected, and what is wanted no longer ends at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from typing import Any

import aiohttp
import pytest
import socketio
import tenacity
from aiohttp import web
from socketio import base_client

from keeper_support import BOUND, QUICK, kept, until, works
from reliable_emit import ClientState, ConnectionRejected
from reliable_emit.testing import FaultProxy
from support import Log, Server, settle, within

# Losses.


async def test_a_lost_connection_is_made_again_at_once_and_the_hooks_tell(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reliable_emit")
    async with kept(server) as it:
        server.cut()
        await it.ups.has(2)
        await works(it)
        stats = it.client.stats
        assert (stats.connect_attempts, stats.connected, stats.disconnected) == (2, 2, 1)
        assert it.attempts == [1, 1]
        assert it.downs == ["transport error"]
    lines = [record.getMessage() for record in caplog.records if record.name == "reliable_emit"]
    for said in ("connecting /, attempt 1", "connected to / as", "disconnected from /: transport error"):
        assert [line for line in lines if line.startswith(said)], lines


async def test_a_server_that_takes_its_time_to_accept_is_reconnected() -> None:
    """python-socketio gives every reconnection one second, whatever was asked for, and so it never comes back."""
    async with Server() as server, kept(server) as it:

        async def slow(_sid: str, _environ: object, _auth: object = None) -> None:
            await asyncio.sleep(1.3)

        server.sio.on("connect", slow)
        server.cut()
        await works(it)
        assert it.client.stats.connect_attempts == 2


async def test_there_is_no_limit_to_the_attempts_and_later_losses_are_reconnected_too(server: Server) -> None:
    sio = socketio.AsyncClient(handle_sigint=False, reconnection_attempts=2)
    async with kept(server, sio=sio) as it:
        for _ in range(2):
            await server.stop()
            await it.attempts.has(len(it.attempts) + 5)
            await server.start()
            await works(it)


async def test_exhaustion_before_wrapping_is_forgotten(server: Server) -> None:
    """After its attempts are used up, python-socketio never reconnects again, also not a connection made later."""
    sio = socketio.AsyncClient(
        handle_sigint=False, reconnection_attempts=1, reconnection_delay=0.01, randomization_factor=0
    )
    await sio.connect(server.url, transports=["websocket"])
    await server.stop()
    await until(lambda: sio._reconnect_task is not None and sio._reconnect_task.done())
    await server.start()
    async with kept(server, sio=sio) as it:
        server.cut()
        await it.ups.has(2)
        await works(it)


async def test_a_connection_lost_during_the_connect_handler_of_a_reconnection_is_made_again(server: Server) -> None:
    """python-socketio believes for ever that it is connected."""
    async with kept(server) as it:
        handling, release = asyncio.Event(), asyncio.Event()

        async def on_connect() -> None:
            handling.set()
            await release.wait()

        it.sio.on("connect", on_connect)
        server.cut()
        await within(handling.wait())
        server.cut()
        await it.downs.has(2)
        release.set()
        await it.ups.has(3)
        await works(it)
        assert it.sio.connected
        assert it.sio.eio.state == "connected"


@pytest.mark.parametrize("how", ["a lost connection", "a kick", "the end of Engine.IO"])
async def test_a_disconnect_handler_that_raises_stops_nothing(server: Server, how: str) -> None:
    """python-socketio leaves everything as it was then, and does not reconnect."""
    async with kept(server) as it:

        async def on_disconnect(reason: str) -> None:
            it.seen.add(reason)
            raise LookupError("the program's own mistake")

        it.sio.on("disconnect", on_disconnect)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        if how == "a lost connection":
            server.cut()
        elif how == "a kick":
            await server.sio.disconnect(it.sio.get_sid())
        else:
            await server.sio.eio.disconnect(it.sio.sid)
        await it.seen.has(1)
        await it.ups.has(2)
        await works(it)
        it.sio.on("disconnect", lambda _reason: None)


async def test_reconnecting_waits_for_the_disconnect_handler(server: Server) -> None:
    async with kept(server) as it:
        release = asyncio.Event()

        async def on_disconnect(_reason: str) -> None:
            await release.wait()
            it.seen.add("disconnect handler is through")

        it.sio.on("disconnect", on_disconnect)
        it.sio.on("connect", lambda: it.seen.add("connected"))
        await server.sio.disconnect(it.sio.get_sid())
        await it.downs.has(1)
        await asyncio.sleep(0.2)
        release.set()
        await it.seen.has(2)
        assert it.seen == ["disconnect handler is through", "connected"]
        await works(it)


# Kicks.


@pytest.mark.parametrize("how", ["Socket.IO", "Engine.IO", "both"])
async def test_after_a_kick_the_client_comes_back(server: Server, how: str) -> None:
    async with kept(server) as it:
        it.sio.on("disconnect", it.seen.add)
        delivery = await it.client.emit("nobody answers this")
        eio_sid = it.sio.sid
        if how != "Engine.IO":
            await server.sio.disconnect(it.sio.get_sid())
        if how != "Socket.IO":
            await server.sio.eio.disconnect(eio_sid)
        await it.ups.has(2)
        assert it.downs == ["server disconnect"]
        assert delivery.state == "in_flight"
        delivery.cancel()
        await works(it)
        assert set(it.seen) == {"server disconnect"}
        assert it.client.stats.connect_attempts == 2


@pytest.mark.parametrize("how", ["Socket.IO", "Engine.IO"])
async def test_coming_back_after_a_kick_can_be_turned_off(server: Server, how: str) -> None:
    async with kept(server, connect={"reconnect_after_kick": False}) as it:
        if how == "Engine.IO":
            await server.sio.eio.disconnect(it.sio.sid)
        else:
            await server.sio.disconnect(it.sio.get_sid())
        await it.downs.has(1)
        await within(it.sio.wait())
        assert (len(it.attempts), it.client.state.phase) == (1, "disconnected")
        assert str(it.client.state) == "not connected: server disconnect; 0 waiting"
        await within(it.client.connect(server.url, **QUICK))
        server.cut()
        await it.ups.has(3)
        await works(it)


async def test_a_kick_during_the_first_connect_handler_is_answered_by_another_attempt(server: Server) -> None:
    async with kept(None) as it:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def on_connect() -> None:
            begun.set()
            await go_on.wait()

        it.sio.on("connect", on_connect)
        connecting = asyncio.ensure_future(it.client.connect(server.url, **QUICK))
        await within(begun.wait())
        await server.sio.disconnect(it.sio.get_sid())
        await it.downs.has(1)
        go_on.set()
        await within(connecting)
        await works(it)


async def test_a_kick_from_one_of_two_namespaces_leaves_the_other_alone() -> None:
    async with Server("/", "/b") as server:
        sio = socketio.AsyncClient(handle_sigint=False)
        async with kept(None, sio=sio) as it, kept(None, namespace="/b", sio=sio) as other:
            await within(it.client.connect(server.url, **QUICK))
            await other.ups.has(1)
            engine = sio.sid
            for times in (2, 3):
                await server.sio.disconnect(sio.get_sid("/b"), namespace="/b")
                await other.ups.has(times)
                await works(other)
            await server.sio.disconnect(sio.get_sid("/"))
            await it.ups.has(2)
            await works(it)
            assert sio.sid == engine
            assert len(other.ups) == 3
            assert it.client.stats.disconnected == 1


async def test_a_namespace_that_is_refused_on_a_connection_that_stands_is_asked_for_again() -> None:
    async with Server("/", "/b") as server:
        refusals = 2

        async def on_connect(_sid: str, _environ: object, _auth: object = None) -> None:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise socketio.exceptions.ConnectionRefusedError("not now")

        for refused in ("/b", "/"):
            sio = socketio.AsyncClient(handle_sigint=False)
            async with kept(None, sio=sio) as it, kept(None, namespace="/b", sio=sio) as other:
                refusals = 0
                await within(it.client.connect(server.url, **QUICK))
                await other.ups.has(1)
                refusals = 2
                server.sio.on("connect", on_connect, namespace=refused)
                await server.sio.disconnect(sio.get_sid(refused), namespace=refused)
                await (other if refused == "/b" else it).ups.has(2)
                await works(it)
                await works(other)
            server.sio.on("connect", lambda *_: None, namespace=refused)


async def test_a_namespace_is_asked_for_until_there_is_an_answer() -> None:
    """Whatever goes wrong meanwhile: the function for the token fails, the server does not answer."""
    async with Server("/", "/b") as server:
        problems: list[Exception] = []

        def token() -> dict[str, str]:
            if problems:
                raise problems.pop()
            return {"token": "fresh"}

        sio = socketio.AsyncClient(handle_sigint=False)
        async with kept(None, sio=sio) as it, kept(None, namespace="/b", sio=sio) as other:
            await within(it.client.connect(server.url, auth=token, wait_timeout=0.3, **QUICK))
            await other.ups.has(1)
            deliver = server.sio.eio.handlers["message"]
            swallowed: Log[str] = Log()

            async def swallow(eio_sid: str, data: Any) -> None:
                if not swallowed and str(data).startswith("0/b"):
                    swallowed.add(data)
                    return
                await deliver(eio_sid, data)

            server.sio.eio.on("message", swallow)
            problems.append(LookupError("no token"))
            await server.sio.disconnect(sio.get_sid("/b"), namespace="/b")
            await other.ups.has(2)
            await works(other)
            assert other.attempts == [1, 1, 2, 3]
            assert len(swallowed) == 1
            assert it.client.stats.disconnected == 0


async def test_a_namespace_that_is_refused_for_good_leaves_the_other_connected() -> None:
    async with Server("/", "/b") as server:
        sio = socketio.AsyncClient(handle_sigint=False)
        async with kept(None, sio=sio) as it, kept(None, namespace="/b", sio=sio) as other:
            await within(it.client.connect(server.url, final=lambda _: True, **QUICK))
            await other.ups.has(1)
            server.sio.on("connect", lambda *_: False, namespace="/b")
            await server.sio.disconnect(sio.get_sid("/b"), namespace="/b")
            await other.gave_up.has(1)
            assert (other.client.state.phase, it.client.state.phase) == ("gave_up", "connected")
            assert it.gave_up == []
            await works(it)
            server.cut()
            await it.gave_up.has(1)  # python-socketio connects all of them or none


# Refusals.


def refusing(server: Server, *said: Any) -> None:
    """Refuse as often as there is something to say; what is said is the data of the refusal."""
    words = list(said)

    async def on_connect(sid: str, _environ: object, _auth: object = None) -> None:
        if words:
            raise socketio.exceptions.ConnectionRefusedError(*words.pop(0))
        server.connections.add(("/", sid))

    server.sio.on("connect", on_connect)


async def test_a_refusal_ends_the_first_connect(server: Server) -> None:
    refusing(server, ("wrong token",))
    async with kept(None) as it:
        with pytest.raises(ConnectionRejected, match="the server refuses /: wrong token") as caught:
            await within(it.client.connect(server.url, **QUICK))
        assert (caught.value.namespace, caught.value.words) == ("/", "wrong token")
        assert caught.value.said == {"message": "wrong token"}
        assert isinstance(caught.value, socketio.exceptions.ConnectionError)
        assert it.client.state.phase == "disconnected"
        await within(it.client.connect(server.url, **QUICK))
        await works(it)


async def test_a_policy_decides_which_refusal_ends_the_first_connect(server: Server) -> None:
    def is_final(said: Any) -> bool:
        return bool(said.get("data") == "hopeless")

    refusing(server, ("busy",), ("busy", "later"))
    async with kept(server, connect={"final": is_final}) as it:
        await works(it)
        assert it.client.stats.connect_attempts == 3
    refusing(server, ("busy",), ("no", "hopeless"))
    async with kept(None) as it:
        with pytest.raises(ConnectionRejected, match="no"):
            await within(it.client.connect(server.url, **QUICK, final=is_final))
        assert it.client.stats.connect_attempts == 2


async def test_later_refusals_are_tried_again(server: Server) -> None:
    async with kept(server) as it:
        refusing(server, ("restarting",), ("restarting",))
        server.cut()
        await works(it)
        assert it.client.stats.connect_attempts == 4


async def test_a_later_refusal_that_is_final_ends_the_keeping(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with kept(server, connect={"final": lambda said: "token" in said["message"]}) as it:
        refusing(server, ("busy",), ("wrong token",))
        server.cut()
        await it.gave_up.has(1)
        assert isinstance(it.gave_up[0], ConnectionRejected)
        delivery = await it.client.emit("echo", "patient")
        await within(it.sio.wait())
        assert it.client.stats.connect_attempts == 3
        assert str(it.client.state).startswith("gave up connecting: the server refuses /: wrong token")
        assert delivery.state == "queued"
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert [record.getMessage().split(":")[0] for record in errors] == ["not connecting again"]
        await within(it.client.connect(server.url, **QUICK))
        assert await within(delivery) == "patient"


async def test_a_final_that_raises_is_logged_and_the_refusal_tried_again(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with kept(server, connect={"final": lambda said: said["no such thing"]}) as it:
        refusing(server, ("busy",))
        server.cut()
        await works(it)
        assert "the function given as final failed" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"final": "yes"}, TypeError),
        ({"reconnect_backoff": 3}, TypeError),
        ({"reconnect_backoff": tenacity.wait_fixed(-1)}, ValueError),
        ({"wait_timeout": 0}, ValueError),
    ],
)
async def test_wrong_arguments_raise_at_the_call(wrong: dict[str, Any], error: type[Exception]) -> None:
    async with kept(None) as it:
        with pytest.raises(error, match=f"{next(iter(wrong))} is|the backoff strategy's answer is"):
            await it.client.connect("http://127.0.0.1:1", **wrong)
        assert it.client.stats.connect_attempts == 0


# The address, the headers, the token.


async def test_the_server_is_found_at_its_new_address(server: Server) -> None:
    """Also while the function that knows the address fails for a while, or gives nonsense."""
    answers: list[Any] = []

    async def url() -> str:
        answer = answers.pop(0) if answers else server.url
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async with kept(None) as it:
        await within(it.client.connect(url, **QUICK))
        old = server.port
        await server.stop()
        answers[:] = [LookupError("no such host yet"), "", "not an address", "http://127.0.0.1:1"]
        server.port = 0
        await server.start()
        assert server.port != old
        await works(it)
        assert it.client.stats.connect_attempts == 6


async def test_a_function_that_takes_its_time_has_its_own(server: Server) -> None:
    async def url() -> str:
        await asyncio.sleep(0.5)
        return server.url

    async with kept(None) as it:
        await within(it.client.connect(url, wait_timeout=0.4, **QUICK))
        await works(it)
        assert it.client.stats.connect_attempts == 1


# Transports.


async def test_websocket_is_preferred_and_polling_the_way_where_it_does_not_pass(server: Server) -> None:
    async with kept(server, connect={"transports": None}) as it:
        assert it.sio.transport() == "websocket"
        assert it.sio.eio.upgrades == []
    server._options["transports"] = ["polling"]
    await server.restart()
    async with kept(server, connect={"transports": None}) as it:
        assert it.sio.transport() == "polling"
        await works(it)
        server._options["transports"] = ["polling", "websocket"]
        await server.restart()
        await it.ups.has(2)
        assert it.sio.transport() == "websocket"


@pytest.mark.parametrize("upgrade", ["ends", "never ends"])
async def test_a_proxy_that_swallows_websockets_does_not_keep_polling_from_passing(
    server: Server, upgrade: str
) -> None:
    """Without an answer to the handshake, or to that of the upgrade, engineio waits for minutes."""
    swallowed = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal swallowed
        if "upgrade" in request.headers:
            swallowed += 1
            if upgrade == "never ends" or swallowed == 1:
                await asyncio.sleep(3600)
            raise web.HTTPBadGateway
        async with session.request(
            request.method, f"{server.url}{request.rel_url}", data=await request.read()
        ) as response:
            return web.Response(status=response.status, body=await response.read())

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        async with aiohttp.ClientSession() as session:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with kept(url, connect={"transports": None, "wait_timeout": 0.3}) as it:
                assert it.sio.transport() == "polling"
                await works(it)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "how", [FaultProxy.freeze, lambda proxy: proxy.blackhole(new=True)], ids=["frozen", "swallowed"]
)
async def test_a_server_that_accepts_and_then_says_nothing_is_left_after_the_handshake_timeout(
    server: Server, how: Any
) -> None:
    async with FaultProxy("127.0.0.1", server.port) as proxy, kept(proxy.url, connect={"wait_timeout": 0.3}) as it:
        how(proxy)
        proxy.reset()
        await it.attempts.has(4)
        assert "no answer within 0.3 s" in str(it.client.state)
        proxy.calm()
        await works(it)


# Leaving alone what is the user's.


async def test_a_connection_of_the_users_is_only_watched(server: Server) -> None:
    async with kept(None, sio=socketio.AsyncClient(handle_sigint=False)) as it:
        before = dict(it.sio.__dict__)
        await it.sio.connect(server.url, transports=["websocket"])
        assert "_handle_reconnect" not in it.sio.__dict__
        await it.ups.has(1)
        await server.sio.disconnect(it.sio.get_sid())
        await it.downs.has(1)
        await within(it.sio.wait())
        assert len(it.attempts) == 0
        assert before.keys() - it.sio.__dict__.keys() == set()
        await it.sio.connect(server.url, transports=["websocket"])
        await works(it)
        await it.sio.disconnect()


async def test_without_reconnection_nothing_reconnects(server: Server) -> None:
    async with kept(server, sio=socketio.AsyncClient(handle_sigint=False, reconnection=False)) as it:
        server.cut()
        await it.downs.has(1)
        await within(it.sio.wait())
        assert len(it.attempts) == 1


async def test_disconnecting_by_hand_ends_the_keeping(server: Server) -> None:
    async with kept(server) as it:
        await it.sio.disconnect()
        await within(it.sio.wait())
        assert (len(it.attempts), it.client.state.phase) == (1, "disconnected")
        assert "_handle_reconnect" not in it.sio.__dict__
        await within(it.client.connect(server.url, **QUICK))
        await works(it)


async def test_disconnecting_by_hand_in_the_handler_of_a_kick_ends_the_keeping(server: Server) -> None:
    async with kept(server) as it:

        async def on_disconnect(_reason: str) -> None:
            await it.sio.disconnect()
            it.seen.add("by hand")

        it.sio.on("disconnect", on_disconnect)
        await server.sio.disconnect(it.sio.get_sid())
        await it.seen.has(1)
        await within(it.sio.wait())
        await until(lambda: it.sio._reconnect_task is None)
        assert len(it.attempts) == 1
        it.sio.on("disconnect", lambda _reason: None)


async def test_shutting_down_while_reconnecting_ends_it(server: Server) -> None:
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(3600)}) as it:
        final: Log[str] = Log()
        it.sio.on("__disconnect_final", lambda: final.add("told"))
        await server.stop()
        await until(lambda: it.sio._reconnect_task is not None)
        started = time.perf_counter()
        await within(it.sio.shutdown())
        assert time.perf_counter() - started < BOUND
        assert it.sio._reconnect_task is None
        assert final == ["told"]
        assert it.sio not in base_client.reconnecting_clients


async def test_the_user_may_connect_by_hand_while_we_reconnect(server: Server) -> None:
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(0.3)}) as it:
        server.cut()
        await it.downs.has(1)
        await it.sio.connect(server.url, transports=["websocket"])
        await works(it)
        await asyncio.sleep(0.5)
        assert len(it.attempts) == 1
        assert "_handle_reconnect" not in it.sio.__dict__
        await it.sio.disconnect()


async def test_a_connection_made_by_hand_after_a_kick_is_python_socketios_to_reconnect(server: Server) -> None:
    sio = socketio.AsyncClient(handle_sigint=False, reconnection_delay=0.02, randomization_factor=0)
    async with kept(server, sio=sio, connect={"reconnect_after_kick": False}) as it:
        await server.sio.disconnect(sio.get_sid())
        await within(sio.wait())
        await sio.connect(server.url, transports=["websocket"])
        server.cut()
        await it.ups.has(3)
        await works(it)
        assert len(it.attempts) == 1
        await sio.disconnect()


async def test_connect_takes_over_from_a_reconnection(server: Server) -> None:
    async with kept(server, connect={"reconnect_backoff": tenacity.wait_fixed(3600)}) as it:
        server.cut()
        await it.downs.has(1)
        started = time.perf_counter()
        await within(it.client.connect(server.url, **QUICK))
        assert time.perf_counter() - started < BOUND
        server.cut()
        await it.ups.has(3)
        await works(it)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_connect_takes_over_from_an_attempt_that_is_half_way(server: Server, transport: str) -> None:
    """What is left of that attempt would end the new connection: the mark that ends a write loop, say."""
    options = QUICK | {"transports": transport}
    async with kept(server, connect=options) as it:
        begun, taken_over = Log[str](), asyncio.Event()

        async def slow(sid: str, _environ: object, _auth: object = None) -> None:
            begun.add(sid)
            if len(begun) == 1:
                await taken_over.wait()

        server.sio.on("connect", slow)
        await server.sio.disconnect(it.sio.get_sid())
        await begun.has(1)
        await within(it.client.connect(server.url, **options))
        await works(it)
        taken_over.set()
        await settle()
        await works(it)
        assert len(begun) == len(it.ups) == 2


async def test_connect_takes_over_from_python_socketios_own_reconnection(server: Server) -> None:
    async with kept(None) as it:
        await it.sio.connect(server.url, transports=["websocket"])
        server.cut()
        await until(lambda: it.sio._reconnect_task is not None)  # for an hour
        await within(it.client.connect(server.url, **QUICK))
        await works(it)
        assert it.sio not in base_client.reconnecting_clients
        server.cut()
        await it.ups.has(3)


# Ending, and what goes on meanwhile.


async def test_a_program_that_waits_goes_on_waiting_while_we_reconnect(server: Server) -> None:
    async with kept(server) as it:
        waiting = asyncio.ensure_future(it.sio.wait())
        await server.sio.disconnect(it.sio.get_sid())
        await it.ups.has(2)
        await server.stop()
        await asyncio.sleep(1.5)  # it looks for the reconnection after a second
        assert not waiting.done()
        await server.start()
        await works(it)
        assert not waiting.done()
        await it.sio.disconnect()
        await within(waiting)


@pytest.mark.parametrize("phase", ["pause", "handshake", "namespaces"])
async def test_closing_while_reconnecting_is_prompt_and_leaves_nothing(server: Server, phase: str) -> None:
    before = asyncio.all_tasks()
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        pause = tenacity.wait_fixed(3600 if phase == "pause" else 0.02)
        async with kept(proxy.url, connect={"reconnect_backoff": pause}) as it:
            if phase == "handshake":
                proxy.freeze()
            begun = asyncio.Event()

            async def slow(_sid: str, _environ: object, _auth: object = None) -> None:
                begun.set()
                await asyncio.sleep(0.5)

            server.sio.on("connect", slow)
            proxy.reset()
            await it.downs.has(1)
            if phase == "namespaces":
                await within(begun.wait())
            elif phase == "handshake":
                await it.attempts.has(2)
                await proxy.connected(2)
            started = time.perf_counter()
            await it.client.close()
            assert time.perf_counter() - started < BOUND
            assert (it.sio.connected, it.sio.eio.state) == (False, "disconnected")
            assert it.sio.eio.http is None or it.sio.eio.http.closed
            assert "_handle_reconnect" not in it.sio.__dict__
            assert it.client.state.phase == "closed"
    await server.stop()
    await until(lambda: not [t for t in asyncio.all_tasks() - before if "AsyncSocket" not in str(t.get_coro())])


_PROGRAM = """
import asyncio, sys, socketio
from reliable_emit import ReliableClient

async def main(url):
    client = ReliableClient(socketio.AsyncClient())
    client.on("disconnected", lambda reason: print("lost", flush=True))
    await client.connect(url, transports="websocket")
    print("connected", flush=True)
    client.on("connecting", lambda attempt: attempt > 1 and print(f"connecting, attempt {attempt}", flush=True))
    async with client:
        await client._driver.link.sio.wait()

asyncio.run(main(sys.argv[1]))
"""


async def test_ctrl_c_while_reconnecting_ends_a_program_at_once(server: Server) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, server.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert await within(process.stdout.readline()) == b"connected\n"
        await server.stop()
        assert await within(process.stdout.readline()) == b"lost\n"
        assert await within(process.stdout.readline()) == b"connecting, attempt 2\n"
        started = time.perf_counter()
        process.send_signal(signal.SIGINT)
        await within(process.wait())
        assert time.perf_counter() - started < BOUND
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_fifty_reconnections_leave_nothing_behind(server: Server, transport: str) -> None:
    backoff = tenacity.wait_none()
    async with kept(server, connect={"transports": transport, "reconnect_backoff": backoff}) as it:
        await works(it)

        def ours(task: asyncio.Task[Any]) -> bool:  # not the server's
            path = task.get_coro().cr_code.co_filename  # type: ignore[union-attr]
            return "reliable_emit" in path or "async_client" in path

        def sizes() -> tuple[int, ...]:
            gc.collect()
            return (
                len([task for task in asyncio.all_tasks() if ours(task)]),
                len(it.sio.callbacks.get("/", {})),
                len(base_client.reconnecting_clients),
            )

        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

        await settle()
        before, files = sizes(), descriptors()
        for number in range(50):
            if number % 3 and transport == "websocket":  # aiohttp repeats a poll that was cut off
                server.cut()
            else:
                await server.sio.disconnect(it.sio.get_sid())
            await it.ups.has(number + 2)
            await works(it, str(number))
        assert it.client.stats.connected == 51
        await until(lambda: sizes() == before)
        await until(lambda: abs(descriptors() - files) <= 4)


# Looking.


async def test_the_state_is_a_line_for_a_person(server: Server) -> None:
    async with kept(None) as it:
        assert str(it.client.state) == "not connected; 0 waiting"
        await within(it.client.connect(server.url, transports="websocket", reconnect_backoff=tenacity.wait_fixed(7)))
        assert str(it.client.state) == f"connected as {it.sio.get_sid()} for 0 s, 0 waiting"
        await server.stop()
        await it.downs.has(1)
        await it.client.emit("echo", "x")
        await until(lambda: it.client.state.next_in is not None)
        words = str(it.client.state)
        assert words.startswith("connecting, next in ")
        assert words.endswith("s: the connection was lost; 1 waiting")
    assert str(it.client.state) == "closed, 0 remained"
    for seconds, words in ((59, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")):
        state = ClientState(phase="connected", pending=0, seconds=seconds, socket_id="Xy12")
        assert str(state) == f"connected as Xy12 for {words}, 0 waiting"
    state = ClientState(phase="connecting", pending=17, attempt=4, next_in=2.14, error="connection refused")
    assert str(state) == "connecting, attempt 4 failed, next in 2.1 s: connection refused; 17 waiting"
    assert str(ClientState(phase="connecting", pending=0, attempt=4)) == "connecting, attempt 4; 0 waiting"


async def test_the_reason_is_the_true_one(server: Server) -> None:
    await server.stop()
    async with kept(None) as it:
        connecting = asyncio.ensure_future(it.client.connect(server.url, **QUICK))
        await it.attempts.has(3)
        assert "connection refused" in str(it.client.state)
        await server.start()
        await within(connecting)
