"""For testing your own application: a proxy that misbehaves like a bad network, and a server to talk to."""

from reliable_emit.testing.background import RunningServer
from reliable_emit.testing.proxy import FaultProxy
from reliable_emit.testing.schedule import FAULTS, Schedule, Step
from reliable_emit.testing.weather import Direction, Ending, Passing, Traffic

__all__ = ["FAULTS", "Direction", "Ending", "FaultProxy", "Passing", "RunningServer", "Schedule", "Step", "Traffic"]
