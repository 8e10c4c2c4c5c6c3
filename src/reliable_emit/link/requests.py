"""Stands between Engine.IO's polling and HTTP, and mends what would lose messages there."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

PACKETS = 16
"""Engine.IO's ``max_decode_packets``: python-engineio's server drops a request of more whole, and answers 200."""
_SEPARATOR = "\x1e"
_OK = range(200, 300)


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """A part of a response, as far as Engine.IO looks at it."""

    status: int
    body: bytes

    async def read(self) -> bytes:
        return self.body


class Requests:
    """Takes the place of the method that an Engine.IO client sends its HTTP requests with.

    What is sent is the same, but for some things. More packets than a request may have go out in several requests, one
    after the other, and an answer with more than Engine.IO reads is given to it in parts. A request whose answer breaks
    off fails, where Engine.IO would believe for ever that it is connected. And when a request fails on a connection
    that stands, all others fail too: Engine.IO would notice that its packets are lost only when the server next answers
    a poll. For the same reason the last poll is given up when the client has said goodbye.

    Attributes:
        answered: How many answers have come.
    """

    def __init__(self, eio: Any) -> None:
        self._eio = eio
        self._original = eio._send_request  # noqa: SLF001 - nothing public stands between polling and HTTP
        self._under_way: set[asyncio.Timeout] = set()
        self._parts: list[_Part] = []
        self.answered = 0
        eio._send_request = self._send  # noqa: SLF001

    def detach(self) -> None:
        """Leave the Engine.IO client as it was, if nobody else has changed it meanwhile."""
        if self._eio.__dict__.get("_send_request") == self._send:
            del self._eio._send_request  # noqa: SLF001

    def fail(self) -> None:
        """Have all requests fail that are under way."""
        self._parts.clear()
        under_way, self._under_way = self._under_way, set()
        for bound in under_way:
            bound.reschedule(0)

    async def _send(
        self, method: str, url: str, headers: Any = None, body: Any = None, timeout: float | None = None
    ) -> Any:
        if method == "GET":
            if self._parts and self._eio.state == "connected":
                return self._parts.pop(0)
            self._parts.clear()
            return await self._get(url, headers, timeout)
        response: Any = None
        for part in _parts(body, _SEPARATOR) if isinstance(body, str) else [body]:
            response = await self._request(method, url, headers, part, timeout)
            if _has_failed(response) or self._eio.state == "disconnecting":
                self.fail()
            if _has_failed(response):
                break
        return response

    async def _get(self, url: str, headers: Any, timeout: float | None) -> Any:
        response = await self._request("GET", url, headers, None, timeout)
        if _has_failed(response):
            return response
        first, *self._parts = (
            _Part(response.status, part) for part in _parts(await response.read(), _SEPARATOR.encode())
        )
        return first if self._parts else response

    async def _request(self, method: str, url: str, headers: Any, body: Any, timeout: float | None) -> Any:
        try:
            async with asyncio.timeout(None) as bound:
                self._under_way.add(bound)
                try:
                    response = await self._original(method, url, headers=headers, body=body, timeout=timeout)
                    if not _has_failed(response):
                        await response.read()  # it is kept, and read again by Engine.IO
                finally:
                    self._under_way.discard(bound)
        except TimeoutError:
            return "no answer"
        except Exception as error:
            return str(error) or type(error).__name__
        if not isinstance(response, str):
            self.answered += 1
        return response


def _has_failed(response: Any) -> bool:
    """Whether Engine.IO ends the connection upon this."""
    return response is None or isinstance(response, str) or response.status not in _OK


def _parts(body: Any, separator: Any) -> list[Any]:
    packets = body.split(separator)
    return [separator.join(packets[at : at + PACKETS]) for at in range(0, len(packets), PACKETS)]
