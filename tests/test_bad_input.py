"""Bad input gets an error at the call that made it, which names the thing and says what to do, with nothing queued."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from reliable_emit import MemoryOutbox, ReliableClient
from support import Server, rig

if TYPE_CHECKING:
    from collections.abc import Callable

CIRCULAR: list[object] = []
CIRCULAR.append(CIRCULAR)


def sio() -> socketio.AsyncClient:
    return socketio.AsyncClient(handle_sigint=False)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"namespace": "chat"}, ValueError, "namespace is 'chat'; give a str that starts with a slash"),
        ({"namespace": None}, ValueError, "namespace is None"),
        ({"ack_timeout": -1}, ValueError, "ack_timeout is -1; give a finite number of seconds, 0 or more"),
        ({"ack_timeout": float("nan")}, ValueError, "ack_timeout is nan"),
        ({"ack_timeout": "10"}, TypeError, "ack_timeout is '10'; give seconds"),
        ({"ack_timeout": None}, TypeError, "ack_timeout is None"),
        ({"ack_timeout": True}, TypeError, "ack_timeout is True"),
        ({"retries": -1}, ValueError, "retries is -1; give 0 or more"),
        ({"retries": 1.5}, TypeError, "retries is 1.5; give a whole number"),
        ({"max_losses": 0}, ValueError, "max_losses is 0; give 1 or more"),
        ({"max_pending": 0}, ValueError, "max_pending is 0; give 1 or more, or None for no limit"),
        ({"max_pending": True}, TypeError, "max_pending is True"),
        ({"overflow": "explode"}, ValueError, "overflow is 'explode'; choose one of 'raise', 'wait', 'drop_oldest'"),
        ({"on_exhausted": "retry"}, ValueError, "on_exhausted is 'retry'; choose one of 'dead_letter', 'hold'"),
        ({"backoff": 5}, TypeError, "backoff is 5; give a tenacity wait strategy"),
        ({"backoff": lambda _: -1.0}, ValueError, "the backoff strategy's answer is -1.0"),
        ({"backoff": lambda: 1.0}, TypeError, "positional argument"),
        ({"client_offset": "yes"}, TypeError, "client_offset is 'yes'; give True, False or a function"),
        ({"new_offset": "abc"}, TypeError, "new_offset is 'abc'; give a function"),
        ({"ack_timeout": 10**400}, ValueError, "ack_timeout is 1000"),
        ({"ack_timeout": 1e12}, ValueError, "give a finite number of seconds, 0 or more and up to 1e+09"),
        ({"outbox": "outbox.db"}, TypeError, "outbox is 'outbox.db'; give an outbox, such as MemoryOutbox()"),
        ({"outbox": MemoryOutbox}, TypeError, "give an outbox, such as MemoryOutbox()"),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
def test_wrapping(options: dict[str, Any], error: type[Exception], says: str) -> None:
    client = sio()
    before = dict(client.eio.handlers)
    with pytest.raises(error) as caught:
        ReliableClient(client, **options)
    assert says in str(caught.value)
    assert dict(client.eio.handlers) == before, "the client that was not wrapped is as it was"
    ReliableClient(client)  # and can be wrapped


@pytest.mark.parametrize("thing", [None, "http://localhost:3000", socketio.Client(), object(), socketio.AsyncClient])
def test_wrapping_something_else(thing: object) -> None:
    with pytest.raises(TypeError, match=r"give a socketio\.AsyncClient"):
        ReliableClient(thing)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda c: c.emit(None), TypeError, "the event is None; give its name, a str"),
        (lambda c: c.emit(b"x"), TypeError, "the event is b'x'"),
        *[
            (lambda c, name=name: c.emit(name), ValueError, f"'{name}' is a reserved event name")
            for name in ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
        ],
        (lambda c: c.emit_volatile("connect"), ValueError, "'connect' is a reserved event name"),
        (lambda c: c.call("disconnect"), ValueError, "'disconnect' is a reserved event name"),
        (lambda c: c.emit("e", object()), TypeError, "the data of 'e' cannot be encoded, nothing was queued"),
        (lambda c: c.emit("e", dt.datetime.now(dt.UTC)), TypeError, "datetime is not JSON serializable"),
        (lambda c: c.emit("e", {("a", 1): 2}), TypeError, "the data of 'e' cannot be encoded"),
        (lambda c: c.emit("e", CIRCULAR), ValueError, "the data of 'e' cannot be encoded"),
        (lambda c: c.emit_volatile("e", {1, 2}), TypeError, "the data of 'e' cannot be encoded"),
        (lambda c: c.emit("e", ack_timeout=-1), ValueError, "ack_timeout is -1"),
        (lambda c: c.emit("e", ack_timeout=None), TypeError, "ack_timeout is None"),
        (lambda c: c.emit("e", retries=-1), ValueError, "retries is -1"),
        (lambda c: c.emit("e", retries="many"), TypeError, "retries is 'many'"),
        (lambda c: c.emit("e", ttl=0), ValueError, "ttl is 0; give a finite number of seconds, above 0"),
        (lambda c: c.emit("e", ttl=float("inf")), ValueError, "ttl is inf"),
        (lambda c: c.emit("e", callback="print"), TypeError, "callback is 'print'; give a function"),
        (lambda c: c.call("e", timeout=-1), ValueError, "timeout is -1"),
        (lambda c: c.flush(timeout=-1), ValueError, "timeout is -1"),
        (lambda c: c.flush(timeout="soon"), TypeError, "timeout is 'soon'"),
        (lambda c: c.close(timeout=None), TypeError, "timeout is None"),
        (lambda c: c.connect("localhost:3000"), ValueError, "'localhost:3000' is not the URL of a Socket.IO server"),
        (lambda c: c.connect("ftp://localhost"), ValueError, "is not the URL of a Socket.IO server"),
        (lambda c: c.connect("http://"), ValueError, "is not the URL of a Socket.IO server"),
        (lambda c: c.connect("http://localhost:99999"), ValueError, "is not the URL of a Socket.IO server"),
        (lambda c: c.connect(None), TypeError, "the url is None"),
        (lambda c: c.connect("http://localhost", namespaces=["/a"]), ValueError, "leaves out '/'"),
        (lambda c: c.connect("http://localhost", wait_timeout=0), ValueError, "wait_timeout is 0"),
        (lambda c: c.connect("http://localhost", transports="pigeon"), ValueError, "has 'pigeon'; there are"),
    ],
)
async def test_calling(call: Callable[[ReliableClient], Any], error: type[Exception], says: str) -> None:
    client = ReliableClient(sio())
    with pytest.raises(error) as caught:
        await call(client)
    assert says in str(caught.value)
    assert client.pending == 0
    assert client.queue() == []
    assert client.stats.accepted == 0
    await client.close(timeout=0)


@pytest.mark.parametrize("offset", [None, "", 7])
async def test_a_new_offset_that_is_none(offset: object) -> None:
    client = ReliableClient(sio(), new_offset=lambda _: offset)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="new_offset returned"):
        await client.emit("e")
    await client.close(timeout=0)


def test_hooks() -> None:
    client = ReliableClient(sio())
    with pytest.raises(ValueError, match="there is no hook 'recieved'; choose one of sent, retried"):
        client.on("recieved", print)
    with pytest.raises(TypeError, match="the hook for 'sent' is 5; give a function"):
        client.on("sent", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), ("many", TypeError)])
def test_outbox(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_dead_letters"):
        MemoryOutbox(max_dead_letters=value)


async def test_connecting_what_is_connected_already(server: Server) -> None:
    async with rig(server) as it:
        with pytest.raises(socketio.exceptions.ConnectionError, match="connected already"):
            await it.client.connect(server.url)


async def test_a_refused_namespace_ends_the_first_connection(server: Server) -> None:
    refused: list[object] = []
    client = sio()
    client.on("connect_error", refused.append, namespace="/nowhere")
    async with ReliableClient(client) as wrapper:
        with pytest.raises(socketio.exceptions.ConnectionError, match="/nowhere"):
            await wrapper.connect(server.url, namespaces=["/", "/nowhere"], wait_timeout=1)
    assert refused


async def test_without_retry_the_first_connection_fails_at_once(server: Server) -> None:
    await server.stop()
    async with ReliableClient(sio()) as wrapper:
        with pytest.raises(socketio.exceptions.ConnectionError):
            await wrapper.connect(server.url, retry=False)
