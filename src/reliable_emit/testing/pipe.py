"""One direction of one connection: bytes go in at one end, and come out when the weather lets them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import dataclasses
import struct
import sys
from typing import TYPE_CHECKING, Literal

from reliable_emit.testing.frames import FrameMeter

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    from reliable_emit.testing.connection import Connection
    from reliable_emit.testing.network import Network
    from reliable_emit.testing.weather import CutPoint, Direction, Ending

End = Literal["fin", "rst"]
"""The end of a stream, as its sender made it."""

# Bytes held at the most before the sender has to wait, and bytes passed on at once.
_MOST, _CHUNK = 1_048_576, 65_536
# Seconds between two chunks where the bandwidth is limited.
_TICK = 0.02
# Seconds for which a reset at a cut waits at the most until all that passes before it is sent, and how often it looks.
_UNSENT, _LOOK = 1.0, 0.005


class Pipe:
    """Carries bytes from one side to the other.

    Everything that changes anything ends in `pump`, which passes on what may pass now and sets a timer for the rest;
    there is no task.

    Args:
        direction: Which way it leads.
        connection: The connection it belongs to.
        network: What all connections share.

    Attributes:
        source: Where the bytes come from, once there is one.
        destination: Where they go.
        writable: Whether the destination has taken all that it was given.
        swallowing: Whether nothing comes out any more, and nobody is to notice.
        finished: Whether nothing comes out any more, because it has ended.
    """

    def __init__(self, direction: Direction, connection: Connection, network: Network) -> None:
        self._direction = direction
        self._connection = connection
        self._network = network
        self._weather = network.weather[direction]
        self._traffic = network.traffic[direction]
        self._loop = network.loop
        self._meter = FrameMeter()
        self._queue: collections.deque[tuple[float, memoryview | End]] = collections.deque()
        self._held = 0
        self._last_due = self._free = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        self._bytes = 0
        self._cut_now: Ending | None = None
        self._cut_by = 0.0
        self.source: asyncio.Transport | None = None
        self.destination: asyncio.Transport | None = None
        self.writable = True
        self.swallowing = self._weather.swallow_new
        self.finished = False
        self.aim(self._weather.cut_point)

    @property
    def cutting(self) -> bool:
        """Whether the point has been reached at which the connection is to be cut."""
        return self._cut_now is not None

    def feed(self, item: bytes | End) -> None:
        """Put in what the source has sent."""
        if self.swallowing:
            if isinstance(item, bytes):
                self._swallow(len(item))
        elif self.finished:
            # A reset tells more than the end that was passed on before.
            if item == "rst":
                self._connection.passed_end(self, "rst")
        else:
            due = self._loop.time() + self._weather.latency + self._weather.jitter * self._network.draw.random()
            self._last_due = max(self._last_due, due)
            if isinstance(item, bytes):
                self._hold(len(item))
            self._queue.append((self._last_due, memoryview(item) if isinstance(item, bytes) else item))
            self._network.changed()
            self.pump()

    def pump(self) -> None:
        """Pass on what may pass now, and come back for the rest."""
        self._stop_timer()
        while self.destination is not None and self.writable and not (self.finished or self._weather.frozen):
            if self._cut_now is not None:
                if self._cut_now == "rst" and self._loop.time() < self._cut_by and _unsent(self.destination):
                    self._timer = self._loop.call_later(_LOOK, self.pump)
                else:
                    self._connection.end(self._cut_now)
                break
            # Nor does anything go the other way meanwhile, such as the answer to what has passed.
            if self._connection.cutting or not self._queue:
                break
            due, item = self._queue[0]
            limited = self._weather.bandwidth is not None
            ready = max(due, self._free) if limited else due
            if ready > self._loop.time():
                self._timer = self._loop.call_at(ready, self.pump)
                break
            if isinstance(item, str):
                self._queue.popleft()
                self.finished = True
                self._connection.passed_end(self, item)
            else:
                self._pass_on(self.destination, item)
        self.regulate()

    def _pass_on(self, destination: asyncio.Transport, item: memoryview) -> None:
        bandwidth = self._weather.bandwidth
        most = _CHUNK if bandwidth is None else min(_CHUNK, max(1, round(bandwidth * _TICK)))
        size, frames = self._measure(item[:most])
        due, _ = self._queue.popleft()
        if size < len(item):
            self._queue.appendleft((due, item[size:]))
        self._hold(-size)
        self._bytes += size
        if bandwidth is not None:
            self._free = self._loop.time() + size / bandwidth
        if size:
            destination.write(bytes(item[:size]))
        self._traffic.bytes += size
        self._traffic.frames += frames
        self._network.changed()

    def _measure(self, data: memoryview) -> tuple[int, int]:
        """Return how many of these bytes pass, and how many frames are complete with them; notes if it cuts then."""
        before = self._meter.frames
        point = self._point
        if point is not None and point.byte is not None:
            # "nothing" waits for the byte that is lost, "all" for none.
            lost = point.passing == "nothing"
            left = point.byte - lost - self._bytes
            if len(data) >= left + lost:
                data = data[:left]
                self._reached(point)
        at = self._connection.handshake.skip(self._direction, data)
        while at < len(data):
            start, seen, number = at, self._meter.seen, self._meter.frames + 1
            here = point is not None and number == point.frame
            earlier = copy.deepcopy(self._meter) if here else self._meter
            at, size = self._meter.advance(data, at)
            if here and point is not None:
                end = _where(point, start, seen, size)
                if end is not None and end <= at:
                    # What is beyond the cut is measured when it passes, if the cut is called off.
                    self._meter = earlier
                    self._meter.advance(data[:end], start)
                    self._reached(point)
                    return end, self._meter.frames - before
        return len(data), self._meter.frames - before

    def aim(self, point: CutPoint | None) -> None:
        """Cut at that byte or frame from now on, instead of where it was to be cut; ``None``: nowhere."""
        self._point = point
        self._cut_now = None
        if point is not None:
            self._point = dataclasses.replace(
                point,
                byte=None if point.byte is None else self._bytes + point.byte,
                frame=None if point.frame is None else self._meter.begun + point.frame,
            )

    def swallow(self) -> None:
        """Throw away what is in here, and all that will come."""
        if not self.finished:
            self.swallowing = True
            self._cut_now = None
            self._swallow(self._held)
            self._clear()
            self.regulate()

    def hasten(self) -> None:
        """Pass on what was delayed as if it had arrived just now."""
        self._last_due = self._free = 0.0
        self._queue = collections.deque((0.0, item) for _, item in self._queue)
        self.pump()

    def close(self) -> None:
        """Let nothing come out any more."""
        self.finished = True
        self._clear()
        self.regulate()

    def regulate(self) -> None:
        """Let the source wait if the network is frozen or holds enough."""
        reading = self.finished or not (self._weather.frozen or self._held >= _MOST)
        if self.source is not None and reading != self._reading and not self.source.is_closing():
            self._reading = reading
            if reading:
                self.source.resume_reading()
            else:
                self.source.pause_reading()

    def _reached(self, point: CutPoint) -> None:
        # This order: it makes all pipes aim anew, and this one has been cut.
        self._network.reached(self._direction, point)
        self._cut_now = point.ending
        # A reset throws away what the operating system has not sent, and that was to pass.
        self._cut_by = self._loop.time() + _UNSENT

    def _swallow(self, size: int) -> None:
        self._traffic.swallowed += size
        self._network.changed()

    def _hold(self, size: int) -> None:
        self._held += size
        self._traffic.under_way += size

    def _clear(self) -> None:
        self._queue.clear()
        self._hold(-self._held)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _where(point: CutPoint, start: int, seen: int, size: int | None) -> int | None:
    """Where in the data to cut a frame, of which `seen` bytes were before `start`; ``None``: not known yet."""
    if point.passing == "nothing":
        return start
    if size is None:
        return None
    # A frame has two bytes at least, and its size is known before half of it has passed.
    return start + (size if point.passing == "all" else size // 2) - seen


def _unsent(transport: asyncio.Transport) -> bool:
    """Whether the other end has not acknowledged everything to our operating system, as far as that can be asked."""
    connection = transport.get_extra_info("socket")
    if connection is None or sys.platform != "linux":
        return False
    with contextlib.suppress(OSError):
        return struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))) != (0,)
    return False
