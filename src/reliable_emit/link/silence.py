"""Whether the connection on which an attempt waits is dead: what a namespace knows of its messages to judge that."""

from __future__ import annotations

import time

from reliable_emit.delivery import Frames
from reliable_emit.link.pulse import Probe, Pulse


class Silence:
    """The attempts of one namespace, and what has arrived since each.

    Args:
        pulse: That of the connection.
    """

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._probe: Probe | None = None
        self._sent_at = 0.0
        self._heard_at_send = 0
        # Over polling: how much had arrived when the attempt was sent, and the one before it, of the same message.
        self._polled_at_send: int | None = None
        self._unpolled: int | None = None
        self._frames: Frames | None = None
        self._recycled_for: Frames | None = None

    def sent(self, frames: Frames) -> None:
        """An attempt begins."""
        if frames is not self._frames:
            self._unpolled = None
        self._frames, self._sent_at, self._heard_at_send = frames, time.monotonic(), self._pulse.heard
        self._polled_at_send = self._pulse.polled

    def lost(self) -> None:
        """The connection is gone; what was asked on it is not answered."""
        self._probe = self._unpolled = None

    def probe(self) -> None:
        """Ask the other end for a sign of life, unless that question is open still."""
        if self._probe is None or self._pulse.is_answered(self._probe):
            self._probe = self._pulse.probe(self._sent_at, self._heard_at_send)

    def judge(self) -> str | None:
        """The attempt was not acknowledged in time; return in words that the connection is dead, if it is.

        Then it is taken for dead, and the next one is given more time.
        """
        pulse = self._pulse
        lasted = time.monotonic() - self._sent_at
        sure, evidence = pulse.is_sure, None if self._probe is None else pulse.silence(self._probe, lasted)
        if evidence is None and self._unpolled is not None and self._unpolled == pulse.polled:
            # Requests are answered, but not the poll that would bring the acknowledgement.
            sure, evidence = False, "no poll was answered during two attempts"
        self._unpolled = self._polled_at_send
        if evidence is None or (not sure and self._recycled_for is self._frames):
            # Where a pong is not noticed, a slow handler looks dead too.
            return None
        self._recycled_for = self._frames
        pulse.recycled()
        return evidence
