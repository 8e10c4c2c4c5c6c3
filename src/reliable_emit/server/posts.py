"""What a client that polls posts: taken whole or refused aloud, one at a time, in bounded time.

Engine.IO answers "ok" to whatever it cannot take, and its sender believes that the messages arrived. Here such a post
ends the session, as the protocol has it: the client connects again and repeats what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
from typing import TYPE_CHECKING, Any

from aiohttp import web
from engineio.async_drivers.aiohttp import translate_request
from engineio.payload import Payload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# What was read of the request that this task handles.
_body: contextvars.ContextVar[bytes] = contextvars.ContextVar("_body", default=b"")
SEPARATOR = "\x1e"
"""Stands between the packets of a post, and of a response."""

# What Engine.IO can decode, and Socket.IO sends: a digit for the kind, and after that of a message another one. Tried
# with anything else, python-engineio raises where nobody catches it, and leaves the connection half open.
_PACKET = re.compile(r"[0-35-6](probe)?\Z|4(\d|\Z)|b[A-Za-z0-9+/]*={0,2}\Z")


def is_packet(text: str) -> bool:
    """Return whether it looks like a packet of Engine.IO with one of Socket.IO in it."""
    return _PACKET.match(text) is not None


class _Body:
    """A body, read already, in the place of aiohttp's stream.

    Engine.IO would ask that once, which gives what has come so far: a request of more than some 64 kB is cut short.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self, _: int) -> bytes:
        return self._body


def translate(request: web.Request) -> dict[str, Any]:
    """As Engine.IO's own function of this name."""
    environ: dict[str, Any] = translate_request(request)
    environ["wsgi.input"] = _Body(_body.get())
    return environ


class Posts:
    """Looks at posts before Engine.IO does.

    Args:
        eio: The Engine.IO server; requests that it is attached for from now on come here.
        seconds: How long a client may take to send one.
        end: Called to end a session.
    """

    def __init__(self, eio: Any, seconds: float, end: Callable[[str], Awaitable[None]]) -> None:
        self._eio = eio
        self._seconds = seconds
        self._end = end
        self._handle: Callable[[web.Request], Awaitable[web.StreamResponse]] = eio.handle_request
        self._at_work: set[str] = set()
        eio.handle_request = self._take

    async def _take(self, request: web.Request) -> web.StreamResponse:
        sid = request.query.get("sid", "")
        if request.method != "POST" or sid not in self._eio.sockets:
            return await self._handle(request)
        if sid in self._at_work:  # each may hold as much as a packet may have, for as long as it waits
            return await self._refuse(sid, "one post at a time")
        self._at_work.add(sid)
        try:
            problem = await self._read(request)
            return await self._handle(request) if problem is None else await self._refuse(sid, problem)
        finally:
            self._at_work.discard(sid)

    async def _read(self, request: web.Request) -> str | None:
        length = request.content_length
        if length is None:
            return "its length is missing"
        if length > self._eio.max_http_buffer_size:
            return "it is too large"
        try:
            async with asyncio.timeout(self._seconds):
                body = await request.content.readexactly(length)
            packets = body.decode().split(SEPARATOR)
        except TimeoutError:
            return "it took too long"
        except (asyncio.IncompleteReadError, UnicodeDecodeError):
            return "it cannot be read"
        _body.set(body)
        return _problem(packets)

    async def _refuse(self, sid: str, problem: str) -> web.Response:
        await self._end(sid)
        return web.json_response(f"the post is refused, and the session over: {problem}", status=400)


def _problem(packets: list[str]) -> str | None:
    if len(packets) > Payload.max_decode_packets:
        return f"it has more than {Payload.max_decode_packets} packets"
    return None if all(map(is_packet, packets)) else "it has what is no packet"
