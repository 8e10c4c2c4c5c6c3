"""Tells a connection that is dead from one whose server takes its time.

Half way through an attempt a WebSocket ping is sent, which every WebSocket server answers whatever its handlers do. If
nothing at all has arrived when the attempt is over, nobody is there. Where the kernel counts what arrives (on Linux),
that is asked: a pong counts, and so does the progress of an upload that takes longer than the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
import sys
import time
from typing import Any

from reliable_emit.link.engine import shut_down
from reliable_emit.link.requests import Requests

if sys.platform == "linux":
    import fcntl
    import termios

_LEAST = 0.8
"""Seconds of silence that say something. Of the real clock: a process that slept has not listened."""
_GROWTH = 3
"""How many times as long it has to be after each recycling that did not help."""
_ROUND_TRIPS = 4
_UPLOAD = 4096
"""Bytes; with fewer under way it is the peer's kernel that takes them, and it does so when the program is frozen."""
_FILLING = 0.3
"""Seconds for which the kernels' buffers take what is written although nobody reads it."""
_STUCK = 1.0
"""Seconds in which a goodbye gets on, if it does at all."""
_POLITE = 5.0
"""The same where the kernel does not tell."""

# struct tcp_info of Linux, as far as it matters.
_TCP_INFO = struct.Struct("=68xII44xQQ")
_TCP_INFO_SIZE = 192


@dataclasses.dataclass(frozen=True, slots=True)
class _Traffic:
    """What the kernel says of the connection's sockets, in bytes and seconds."""

    received: int = 0
    acked: int = 0
    under_way: int = 0
    round_trip: float = 0.0

    def __add__(self, other: _Traffic) -> _Traffic:
        return _Traffic(
            self.received + other.received,
            self.acked + other.acked,
            self.under_way + other.under_way,
            max(self.round_trip, other.round_trip),
        )


@dataclasses.dataclass(slots=True)
class Probe:
    """A question to the other end, and how things stood when it was asked."""

    connection: str
    polling: bool
    heard: int
    traffic: _Traffic | None
    since: float | None
    acked: int


class Pulse:
    """Feels the pulse of a wrapped client's connection, for all its namespaces.

    Args:
        sio: The wrapped client.
        requests: What its polling goes through.

    Attributes:
        acknowledgements: How many there were so far.
    """

    def __init__(self, sio: Any, requests: Requests) -> None:
        self._eio = sio.eio
        self._requests = requests
        self._received = 0
        self.acknowledgements = 0
        self._least = _LEAST
        self._asking: set[asyncio.Task[None]] = set()
        self._original = self._eio._receive_packet  # noqa: SLF001 - heartbeats are seen nowhere else
        self._eio._receive_packet = self._receive_packet  # noqa: SLF001

    def detach(self) -> None:
        """Leave the Engine.IO client as it was, if nobody else has changed it meanwhile."""
        if self._eio.__dict__.get("_receive_packet") == self._receive_packet:
            del self._eio._receive_packet  # noqa: SLF001

    @property
    def heard(self) -> int:
        """How many packets and answers have arrived so far."""
        return self._received + self._requests.answered

    def probe(self, since: float, heard: int) -> Probe | None:
        """Ask the other end for a sign of life.

        Args:
            since: When the attempt was sent, by the real clock.
            heard: What `heard` was then.
        """
        eio = self._eio
        if eio.state != "connected":
            return None
        traffic = self._traffic()
        acked = 0 if traffic is None else traffic.acked
        if eio.transport() == "websocket":
            probe = Probe(eio.sid, polling=False, heard=self.heard, traffic=traffic, since=None, acked=acked)
        else:
            # Over polling each request is answered, and there is nothing else to ask.
            probe = Probe(eio.sid, polling=True, heard=heard, traffic=traffic, since=since, acked=acked)
        asking = asyncio.ensure_future(self._ask(probe))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        return probe

    def is_answered(self, probe: Probe) -> bool:
        """Whether the other end has shown a sign of life since then, or the connection is another one."""
        if self.is_over(probe) or self.heard != probe.heard:
            return True
        now = self._traffic()
        if now is None or probe.traffic is None:
            return False
        if now.received != probe.traffic.received:
            return True
        return probe.traffic.under_way > _UPLOAD and now.acked > probe.acked

    def is_over(self, probe: Probe) -> bool:
        """Whether the connection is another one by now."""
        return bool(self._eio.state != "connected" or self._eio.sid != probe.connection)

    def silence(self, probe: Probe, attempt: float) -> str | None:
        """Return in words that the connection is dead, if it has been silent for long enough.

        Args:
            probe: The question.
            attempt: For how many seconds the attempt has lasted; more silence than that is not asked for.
        """
        if probe.since is None or self.is_answered(probe):
            return None
        silent = time.monotonic() - probe.since
        round_trip = 0.0 if probe.traffic is None else probe.traffic.round_trip
        if silent < max(_LEAST, min(self._least, attempt), _ROUND_TRIPS * round_trip):
            return None
        if probe.polling:
            return f"no request was answered for {silent:.1f} s"
        return f"nothing arrived for {silent:.1f} s, not even the answer to a ping"

    @property
    def polled(self) -> int | None:
        """Over polling, how many packets have arrived, and with them how many polls were answered."""
        return self._received if self._eio.transport() == "polling" else None

    @property
    def is_sure(self) -> bool:
        """Whether the kernel counts for us, so that an answered ping is noticed."""
        return self._traffic() is not None

    def recycled(self) -> None:
        """It was taken for dead: be slower to do so again."""
        self._least *= _GROWTH

    def acknowledged(self) -> None:
        """A message has come through."""
        self.acknowledgements += 1
        self._least = _LEAST

    def end(self) -> None:
        """End the connection, and let Engine.IO notice at once, also if it is stuck in writing."""
        if self._eio.transport() == "websocket":
            shut_down(self._eio.ws)
        else:
            self._requests.fail()

    def see_out(self) -> None:
        """The client says goodbye: end the connection when the other side does not take what was written before."""
        if self._eio.transport() == "websocket":
            self._see_out(self._eio.ws, None)

    def _see_out(self, ws: Any, before: _Traffic | None) -> None:
        if self._eio.state != "disconnecting" or self._eio.ws is not ws:
            return
        now = self._traffic()
        if before is not None and now in {before, None}:
            shut_down(ws)
            return
        patience = _POLITE if now is None else max(_STUCK, _ROUND_TRIPS * now.round_trip)
        asyncio.get_running_loop().call_later(patience, self._see_out, ws, now or _Traffic())

    async def _ask(self, probe: Probe) -> None:
        if not probe.polling:
            probe.since = time.monotonic()
            # It may wait for a peer that reads no more, or find that there is none.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._eio.ws.ping(), _FILLING)
        await asyncio.sleep(_FILLING)
        if (now := self._traffic()) is not None and not self.is_over(probe):
            probe.acked = now.acked

    async def _receive_packet(self, packet: Any) -> None:
        self._received += 1
        await self._original(packet)

    def _traffic(self) -> _Traffic | None:
        found = [_traffic(each) for each in self._sockets()]
        return sum((each for each in found if each is not None), _Traffic()) if all(found) and found else None

    def _sockets(self) -> list[Any]:
        eio = self._eio
        if eio.transport() == "websocket":
            return [] if eio.ws is None else [eio.ws.get_extra_info("socket")]
        connector = getattr(eio.http, "connector", None)
        transports = [getattr(each, "transport", None) for each in getattr(connector, "_acquired", ())]
        return [each.get_extra_info("socket") for each in transports if each is not None]


def _traffic(connection: Any) -> _Traffic | None:
    if connection is None or sys.platform != "linux":
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        round_trip, variation, acked, received = _TCP_INFO.unpack_from(info)
        (under_way,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    except (OSError, AttributeError, TypeError, struct.error):
        return None  # no TCP, an old kernel, or an event loop with sockets of its own
    return _Traffic(received, acked, under_way, (round_trip + variation) / 1e6)
