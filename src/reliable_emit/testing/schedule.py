"""A random sequence of faults that can be repeated."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import random
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from reliable_emit import policy
from reliable_emit.testing.weather import DIRECTIONS, ENDINGS, PASSINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reliable_emit.testing.proxy import FaultProxy

_logger = logging.getLogger("reliable_emit.testing")

ScheduledFault = Literal["latency", "bandwidth", "cut", "reset", "blackhole", "half_open", "freeze", "cut_at", "refuse"]
FAULTS: tuple[ScheduledFault, ...] = get_args(ScheduledFault)
"""The faults of a schedule, by the names of the methods of the proxy."""

_SEEDS = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One fault of a schedule, and the calm after it.

    Attributes:
        fault: The name of the method of the proxy.
        arguments: What it is called with.
        seconds: How long it lasts; then `FaultProxy.calm` ends it.
        calm: Seconds until the next one.
    """

    fault: ScheduledFault
    arguments: dict[str, Any]
    seconds: float
    calm: float

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.fault}({arguments}) for {self.seconds} s, then calm for {self.calm} s"


_EITHER = (None, *DIRECTIONS)
_ARGUMENTS: dict[ScheduledFault, Callable[[random.Random], dict[str, Any]]] = {
    "latency": lambda draw: {
        "seconds": round(draw.uniform(0.01, 0.2), 3),
        "jitter": round(draw.uniform(0, 0.1), 3),
        "direction": draw.choice(_EITHER),
    },
    "bandwidth": lambda draw: {"bytes_per_second": draw.randint(1_000, 50_000), "direction": draw.choice(_EITHER)},
    "cut": lambda _: {},
    "reset": lambda _: {},
    "blackhole": lambda draw: {"new": draw.choice((False, True))},
    "half_open": lambda draw: {"direction": draw.choice(DIRECTIONS), "new": draw.choice((False, True))},
    "freeze": lambda draw: {"direction": draw.choice(_EITHER)},
    "cut_at": lambda draw: {
        "direction": draw.choice(DIRECTIONS),
        "ending": draw.choice(ENDINGS),
        **draw.choice(
            (
                {"byte": draw.randint(1, 2_000)},
                {"frame": draw.randint(1, 10), "passing": draw.choice(PASSINGS)},
            )
        ),
    },
    "refuse": lambda draw: {"ending": draw.choice((None, *ENDINGS))},
}


def draw_steps(
    seed: int,
    faults: Sequence[ScheduledFault] = FAULTS,
    seconds: tuple[float, float] = (0.05, 0.5),
    calm: tuple[float, float] = (0.05, 0.5),
) -> Iterator[Step]:
    """Draw steps without end; the same arguments give the same ones."""
    draw = random.Random(seed)  # noqa: S311 - draws faults, guards nothing
    while True:
        fault = draw.choice(faults)
        arguments = _ARGUMENTS[fault](draw)
        lasting = 0.0 if fault in {"cut", "reset"} else round(draw.uniform(*seconds), 3)
        yield Step(fault, arguments, lasting, round(draw.uniform(*calm), 3))


class Schedule:
    """A random sequence of faults, one at a time, with calm between them.

    It begins with ``with`` (or ``async with``), and ends with the block, or after `steps` faults; the proxy is healed
    then. At the beginning it prints its seed, so that a test that fails tells how to repeat it. The seed determines the
    faults, their order, and how long each lasts; where they meet your messages depends on the speed of the machine.
    Each step ends all conditions, so do not set any yourself meanwhile.

    Args:
        proxy: The proxy, which runs.
        seed: A number; ``None``: a random one.
        faults: Which faults to draw from; one that is there twice is drawn twice as often.
        seconds: How long a fault lasts, at the least and at the most.
        calm: How long the calm after it lasts.
        steps: How many faults; ``None``: until the end of the block.

    Attributes:
        seed: As given, or as drawn.
        history: The steps so far.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is of the wrong type.
    """

    def __init__(
        self,
        proxy: FaultProxy,
        seed: int | None = None,
        *,
        faults: Sequence[ScheduledFault] = FAULTS,
        seconds: tuple[float, float] = (0.05, 0.5),
        calm: tuple[float, float] = (0.05, 0.5),
        steps: int | None = None,
    ) -> None:
        if seed is not None and not isinstance(seed, int):
            raise TypeError(f"seed is {seed!r}; give a whole number, or None for a random one")
        if not faults:
            raise ValueError(f"faults is empty; give some of {', '.join(FAULTS)}")
        for fault in faults:
            policy.one_of("a fault", fault, FAULTS)
        for name, (least, most) in {"seconds": seconds, "calm": calm}.items():
            if policy.seconds(name, least, zero=True) > policy.seconds(name, most, zero=True):
                raise ValueError(f"{name} is {(least, most)!r}; give the least first")
        if steps is not None:
            policy.count("steps", steps, least=1)
        self.seed = random.randrange(_SEEDS) if seed is None else seed  # noqa: S311
        self.history: list[Step] = []
        self._proxy = proxy
        self._steps = itertools.islice(draw_steps(self.seed, faults, seconds, calm), steps)
        self._timer: asyncio.TimerHandle | None = None
        self._begun = self._finished = False

    def __enter__(self) -> Self:
        """Begin.

        Raises:
            RuntimeError: It has begun before, or the proxy is not running.
        """
        if self._begun:
            raise RuntimeError("a schedule runs once; make another, with the same seed if it is to be the same")
        message = f"fault schedule for {self._proxy.url}: seed {self.seed}; repeat it with Schedule(proxy, {self.seed})"
        self._begun = True
        print(message)  # noqa: T201 - for the report of the test that fails
        _logger.info("%s", message)
        self._proxy.run(self._next)
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.run(self._stop)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    async def finished(self, *, timeout: float | None = None) -> None:
        """Wait until all steps are done, which is never if `steps` was not given.

        Raises:
            TimeoutError: They are not done after so many seconds.
            RuntimeError: The proxy is not running, or was closed.
        """
        await self._proxy.until(lambda: self._finished, timeout=timeout)

    def _next(self) -> None:
        step = next(self._steps, None)
        if step is None:
            self._stop()
            return
        _logger.info("seed %s, step %s: %s", self.seed, len(self.history) + 1, step)
        self.history.append(step)
        getattr(self._proxy, step.fault)(**step.arguments)
        self._timer = asyncio.get_running_loop().call_later(step.seconds, self._calm, step.calm)

    def _calm(self, seconds: float) -> None:
        self._proxy.calm()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._next)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._finished = True
        self._proxy.heal()
