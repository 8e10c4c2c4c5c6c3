"""A random sequence of faults that can be repeated."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from reliable_emit import policy
from reliable_emit.testing.plain import whole
from reliable_emit.testing.proxy import FaultProxy
from reliable_emit.testing.weather import DIRECTIONS, ENDINGS, PASSINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_logger = logging.getLogger("reliable_emit.testing")

ScheduledFault = Literal["latency", "bandwidth", "cut", "reset", "blackhole", "half_open", "freeze", "cut_at", "refuse"]
FAULTS: tuple[ScheduledFault, ...] = get_args(ScheduledFault)
"""The faults of a schedule, by the names of the methods of the proxy."""

_SEEDS = 1_000_000
_SECONDS = (0.05, 0.5)


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
    seconds: tuple[float, float] = _SECONDS,
    calm: tuple[float, float] = _SECONDS,
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
    faults, their order, how long each lasts, and what is drawn for the jitter; where they meet your messages depends on
    the speed of the machine. Each step ends all conditions, so do not set any yourself meanwhile.

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
        seconds: tuple[float, float] = _SECONDS,
        calm: tuple[float, float] = _SECONDS,
        steps: int | None = None,
    ) -> None:
        if not isinstance(proxy, FaultProxy):
            raise TypeError(f"proxy is {proxy!r}; give a FaultProxy")
        if seed is not None:
            whole("seed", seed)
        if not isinstance(faults, Sequence) or isinstance(faults, str):
            raise TypeError(f"faults is {faults!r}; give a list: what a seed draws depends on the order")
        faults = tuple(faults)
        if not faults:
            raise ValueError(f"faults is empty; give some of {', '.join(FAULTS)}")
        for fault in faults:
            policy.one_of("a fault", fault, FAULTS)
        for name, bounds in {"seconds": seconds, "calm": calm}.items():
            if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:  # noqa: PLR2004
                raise TypeError(f"{name} is {bounds!r}; give the least and the most, such as {_SECONDS!r}")
            least, most = (policy.seconds(name, bound, zero=True) for bound in bounds)
            if least > most:
                raise ValueError(f"{name} is {bounds!r}; give the least first")
        if steps is not None:
            policy.count("steps", steps, least=1)
        self.seed = random.randrange(_SEEDS) if seed is None else seed  # noqa: S311
        self.history: list[Step] = []
        self._proxy = proxy
        self._steps = itertools.islice(draw_steps(self.seed, faults, seconds, calm), steps)
        given: dict[str, tuple[object, object]] = {
            "faults": (list(faults), list(FAULTS)),
            "seconds": (seconds, _SECONDS),
            "calm": (calm, _SECONDS),
            "steps": (steps, None),
        }
        self._arguments = [f"{name}={value!r}" for name, (value, default) in given.items() if value != default]
        self._timer: asyncio.TimerHandle | None = None
        self._begun = self._finished = False
        self._error: RuntimeError | None = None

    def __enter__(self) -> Self:
        """Begin.

        Raises:
            RuntimeError: It has begun before, or the proxy is not running.
        """
        if self._begun:
            raise RuntimeError("a schedule runs once; make another, with the same seed if it is to be the same")
        call = f"Schedule({', '.join(['proxy', str(self.seed), *self._arguments])})"
        message = f"fault schedule for {self._proxy.url}: seed {self.seed}; repeat it with {call}"
        self._begun = True
        print(message)  # noqa: T201 - for the report of the test that fails
        _logger.info("%s", message)
        self._proxy.run(self._begin)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End, and heal the proxy.

        Raises:
            RuntimeError: A step could not be made, and the block has not raised anything.
        """
        self._proxy.run(lambda: self._try("healing", self._stop))
        if self._error is not None and kind is None:
            raise self._error

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.__exit__(kind)

    async def finished(self, *, timeout: float | None = None) -> None:
        """Wait until all steps are done, which is never if `steps` was not given.

        Raises:
            TimeoutError: They are not done after so many seconds.
            RuntimeError: The proxy is not running, or was closed; or a step could not be made, which ends the schedule.
        """
        await self._proxy.until(lambda: self._finished, timeout=timeout)
        if self._error is not None:
            raise self._error

    def _begin(self) -> None:
        # The jitter belongs to what is repeated.
        self._proxy._network.draw.seed(self.seed)  # noqa: SLF001 - the proxy's own seed is for those without a schedule
        self._next()

    def _next(self) -> None:
        step = next(self._steps, None)
        if step is None:
            self._try("healing", self._stop)
            return
        _logger.info("seed %s, step %s: %s", self.seed, len(self.history) + 1, step)
        self.history.append(step)
        if self._try(str(step), lambda: getattr(self._proxy, step.fault)(**step.arguments)):
            self._timer = asyncio.get_running_loop().call_later(step.seconds, self._calm, step)

    def _calm(self, step: Step) -> None:
        if self._try(f"the calm after {step}", self._proxy.calm):
            self._timer = asyncio.get_running_loop().call_later(step.calm, self._next)

    def _try(self, what: str, call: Callable[[], object]) -> bool:
        """Do it and return whether that was possible; from a timer nobody would hear of an error."""
        try:
            call()
        except Exception as error:
            failed = RuntimeError(f"seed {self.seed}, step {len(self.history)} was not possible: {what}: {error}")
            failed.__cause__ = error
            _logger.warning("%s", failed)
            self._error = self._error or failed
            self._finished = True
            self._proxy._network.changed()  # noqa: SLF001 - wakes those who wait for the end
            return False
        return True

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._finished = True
        self._proxy.heal()
