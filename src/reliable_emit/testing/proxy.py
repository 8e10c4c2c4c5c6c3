"""The proxy that does to a connection what bad networks do."""

from __future__ import annotations

from reliable_emit import policy
from reliable_emit.testing.plain import PlainProxy, anywhere
from reliable_emit.testing.weather import DIRECTIONS, ENDINGS, PASSINGS, CutPoint, Direction, Ending, Passing

_FASTEST = 10**12
"""Bytes a second; no machine is faster."""


class FaultProxy(PlainProxy):
    """A TCP proxy between a client and a server that misbehaves when told.

    Let the client connect to `url`. Until told otherwise it passes on everything, also how a connection ends: the end
    of a stream in one direction, and a reset. What it does then is of two kinds. *Conditions* hold for the connections
    there are and for all that come, until changed: `latency`, `bandwidth`, `freeze`, `refuse`, `cut_at`. *Cuts* concern
    the connections there are: `cut`, `reset`, `blackhole`, `half_open`. `heal` ends all of it.

    These methods may be called from any thread, and have done it when they return. What is awaited may be awaited in
    any event loop. Use it with ``async with``, or `start` and `close`, once.

    Args:
        target_host: Where the server is; see `target`.
        target_port: The server's port.
        host: The address to listen on.
        port: The port to listen on, 0 for a free one (then see `port`).
        seed: Makes the jitter repeatable; ``None`` does not.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A port is out of range, a host is no name or address, or the target is the proxy itself.
    """

    # Conditions.

    @anywhere
    def latency(self, seconds: float, jitter: float = 0.0, *, direction: Direction | None = None) -> None:
        """Let bytes read from now on be under way for that long; 0 ends it. The order of bytes never changes.

        Args:
            seconds: How long, in each direction: a reply takes twice that.
            jitter: Up to so many seconds more, drawn anew for all that is read at once.
            direction: In which direction; ``None``: both.

        Raises:
            ValueError: An argument is out of range.
        """
        seconds, jitter = policy.seconds("seconds", seconds, zero=True), policy.seconds("jitter", jitter, zero=True)
        for weather in self._network.weathers(direction):
            weather.latency, weather.jitter = seconds, jitter

    @anywhere
    def bandwidth(self, bytes_per_second: int | None, *, direction: Direction | None = None) -> None:
        """Let each connection carry at most so many bytes a second in each direction; ``None``: as many as it can.

        Raises:
            ValueError: An argument is out of range.
        """
        if bytes_per_second is not None:
            policy.count("bytes_per_second", bytes_per_second, least=1)
            if bytes_per_second > _FASTEST:
                raise ValueError(
                    f"bytes_per_second is {bytes_per_second!r}; give up to {_FASTEST}, or None for no limit"
                )
        for weather in self._network.weathers(direction):
            weather.bandwidth = bytes_per_second
        self._network.pump()

    @anywhere
    def freeze(self, *, direction: Direction | None = None) -> None:
        """Read nothing and pass nothing on, until `thaw`. Nothing is lost: what is sent waits in the sockets' buffers.

        Once these are full, senders are not able to write. Connections that are made now are frozen too. The end of a
        connection is not passed on either, but `cut`, `reset` and `heal` do what they say.
        """
        for weather in self._network.weathers(direction):
            weather.frozen = True
        self._network.pump()

    @anywhere
    def thaw(self, *, direction: Direction | None = None) -> None:
        """End `freeze`: what has waited arrives."""
        for weather in self._network.weathers(direction):
            weather.frozen = False
        self._network.pump()

    @anywhere
    def refuse(self, *, ending: Ending | None = None) -> None:
        """Refuse new connections, as if no server were there. The port remains the proxy's.

        Args:
            ending: End those that there are too; see `cut`, `reset` and `blackhole`. ``None``: they stay.

        Raises:
            ValueError: There is no such ending.
        """
        if ending is not None:
            policy.one_of("ending", ending, ENDINGS)
        self._network.accept(accept=False)
        if ending is not None:
            self._network.end(ending)

    @anywhere
    def accept(self) -> None:
        """End `refuse`."""
        self._network.accept(accept=True)

    @anywhere
    def cut_at(
        self,
        direction: Direction,
        *,
        byte: int | None = None,
        frame: int | None = None,
        passing: Passing = "nothing",
        ending: Ending = "fin",
        each: bool = False,
    ) -> None:
        """Cut a connection at its n-th byte or WebSocket frame in one direction.

        The first one is the first that passes from now on (of a frame that is passing now, the next one), or the first
        of a connection made later. The connection that gets there first is cut, no other one. A second call for the
        same direction replaces the first.

        Args:
            direction: In which direction to count.
            byte: Cut at this byte.
            frame: Cut at this frame. Pings, pongs and fragments are frames too.
            passing: ``"nothing"``: the cut is made when that frame comes, and all before it have passed. ``"half"``:
                its first half passes too. ``"all"``: the cut is made as soon as it has passed.
            ending: How; see `cut`, `reset` and `blackhole`. On Linux an RST waits, for a second at the most, until
                what passes before it has arrived; elsewhere it may overtake that.
            each: Cut every connection that gets there, until `heal`.

        Raises:
            ValueError: An argument is out of range, or not one of `byte` and `frame` is given.
        """
        policy.one_of("direction", direction, DIRECTIONS)
        policy.one_of("passing", passing, PASSINGS)
        policy.one_of("ending", ending, ENDINGS)
        if (byte is None) == (frame is None):
            raise ValueError("give either byte or frame: where to cut")
        policy.count("byte" if frame is None else "frame", byte if frame is None else frame, least=1)
        if byte is not None and passing == "half":
            raise ValueError("passing is 'half'; a byte passes or does not, so give 'nothing' or 'all'")
        self._network.aim(direction, CutPoint(ending, passing, each, byte, frame))
        self._network.pump()

    # Cuts.

    @anywhere
    def cut(self) -> None:
        """End all connections as a process does that ends: each side sees the end of the stream (FIN).

        What is under way in the proxy is lost. The sockets are closed when the sides have closed theirs, or in a
        second.
        """
        self._network.end("fin")

    @anywhere
    def reset(self) -> None:
        """Reset all connections: each side gets `ConnectionResetError` (RST). What is under way is lost."""
        self._network.end("rst")

    @anywhere
    def blackhole(self, *, new: bool = False) -> None:
        """Swallow everything on all connections, their ends too, and tell neither side: as when a router forgets them.

        The sockets stay open until both sides have given up, until `heal`, or until the proxy is closed.

        Args:
            new: Do that to connections made from now on as well: they are accepted, and the server hears nothing of
                them. Without it, they work.
        """
        for weather in self._network.weathers():
            weather.swallow_new = bool(new)
        self._network.end("blackhole")

    @anywhere
    def half_open(self, direction: Direction, *, new: bool = False) -> None:
        """Swallow what goes one way on all connections, the end too; what goes the other way arrives.

        Args:
            direction: What is swallowed.
            new: Do that to connections made from now on as well.

        Raises:
            ValueError: There is no such direction.
        """
        policy.one_of("direction", direction, DIRECTIONS)
        for weather in self._network.weathers(direction):
            weather.swallow_new = bool(new)
        self._network.swallow(direction)

    @anywhere
    def heal(self) -> None:
        """Go back to normal: end all conditions, and deliver at once what was delayed.

        Connections that have swallowed something are reset: their sides could never agree on what was said.
        """
        self._network.calm()
        self._network.end_swallowing()

    @anywhere
    def calm(self) -> None:
        """As `heal`, but leave alone the connections that swallow: they stay as dead as they are."""
        self._network.calm()
